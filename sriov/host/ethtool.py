"""What ethtool sets on a netdev: wanted offloads, numbers of channels, ring sizes, interrupt coalescing.

By ioctl on any socket of the netdev's namespace (a descriptor): a dump by ethtool netlink is four times as long, in
words. All functions raise HostError, Gone where there is no netdev of that name.
Source: linux/ethtool.h, net/ethtool/ioctl.c.
"""

from __future__ import annotations

import array
import errno
import fcntl
import struct
from collections.abc import Sequence

from sriov.errors import Gone, HostError
from sriov.host.nlattr import encode_text
from sriov.model import printable

_SIOCETHTOOL = 0x8946
_GCOALESCE, _SCOALESCE, _GRINGPARAM, _SRINGPARAM, _GFEATURES, _SFEATURES = 0x0E, 0x0F, 0x10, 0x11, 0x3A, 0x3B
_GCHANNELS, _SCHANNELS = 0x3C, 0x3D
_MOST_WORDS = 8        # of 32 features each; Linux 6.12 has 2
# Words of struct ethtool_channels, ethtool_ringparam and ethtool_coalesce behind the command; the former two begin
# with the most that each may be.
_CHANNELS, _RINGS, _MAXIMA = 8, 8, 4
_COALESCING, _ADAPTIVE_RX, _ADAPTIVE_TX = 22, 9, 10
_RX, _TX = range(0, 4), range(4, 8)


def read_features(socket: int, name: str) -> tuple[int, ...] | None:
    """The wanted features, a bit each, in words of 32; None where the kernel has no such list for it."""
    blocks = _read_features(socket, name)
    return None if blocks is None else tuple(requested & available for available, requested, _, _ in blocks)


def set_features(socket: int, name: str, wanted: tuple[int, ...]) -> None:
    """Want these, as far as they can be changed."""
    blocks = _read_features(socket, name) or []
    words = [(available, want & available) for (available, *_), want in zip(blocks, wanted, strict=False)]
    if words:
        data = struct.pack("=II", _SFEATURES, len(words)) + b"".join(struct.pack("=II", *word) for word in words)
        _call(socket, name, data, "set the offloads")


def read_channels(socket: int, name: str) -> tuple[int, ...] | None:
    """Queues with interrupts of their own for receiving, for sending, for neither, for both; None where its driver
    does not tell.
    """
    words = _read(socket, name, _GCHANNELS, _CHANNELS, "read the channels")
    return None if words is None else words[_MAXIMA:]


def set_channels(socket: int, name: str, channels: tuple[int, ...]) -> None:
    """Refused (EINVAL) where the RSS table or an ntuple rule sends to a queue that is not among these."""
    _set(socket, name, _SCHANNELS, (0,) * _MAXIMA + channels, "set the channels")


def read_rings(socket: int, name: str) -> tuple[int, ...] | None:
    """Descriptors for receiving, in mini and jumbo rings, for sending; None where its driver does not tell."""
    words = _read(socket, name, _GRINGPARAM, _RINGS, "read the ring sizes")
    return None if words is None else words[_MAXIMA:]


def set_rings(socket: int, name: str, rings: tuple[int, ...]) -> None:
    _set(socket, name, _SRINGPARAM, (0,) * _MAXIMA + rings, "set the ring sizes")


def read_coalescing(socket: int, name: str) -> tuple[int, ...] | None:
    """How interrupts are put off, as in struct ethtool_coalesce; None where its driver does not tell.

    0 is what the driver adapts by itself: it may be another number at each look.
    """
    words = _read_coalescing(socket, name)
    if words is None:
        return None
    adapted = _adapted(words)
    return tuple(0 if number in adapted else word for number, word in enumerate(words))


def set_coalescing(socket: int, name: str, wanted: tuple[int, ...]) -> None:
    """As `read_coalescing` told; what the driver adapts by itself is left to it."""
    now, adapted = _read_coalescing(socket, name), _adapted(wanted)
    if now is not None:
        words = [now[number] if number in adapted else word for number, word in enumerate(wanted)]
        _set(socket, name, _SCOALESCE, words, "set the coalescing")


def _adapted(coalescing: Sequence[int]) -> set[int]:
    """The places of what the driver adapts."""
    return {number for adaptive, places in ((_ADAPTIVE_RX, _RX), (_ADAPTIVE_TX, _TX))
            if coalescing[adaptive] for number in places}


def _read_coalescing(socket: int, name: str) -> tuple[int, ...] | None:
    return _read(socket, name, _GCOALESCE, _COALESCING, "read the coalescing")


def _read_features(socket: int, name: str) -> list[tuple[int, int, int, int]] | None:
    """Available, requested, active, never changed: of each word."""
    data = struct.pack("=II", _GFEATURES, _MOST_WORDS) + bytes(16 * _MOST_WORDS)
    answer = _ask(socket, name, data, "read the offloads")
    if answer is None:
        return None
    (count,) = struct.unpack_from("=I", answer, 4)
    return list(struct.iter_unpack("=IIII", answer[8 : 8 + 16 * count]))


def _read(socket: int, name: str, command: int, count: int, what: str) -> tuple[int, ...] | None:
    """The words behind the command."""
    answer = _ask(socket, name, struct.pack("=I", command) + bytes(4 * count), what)
    return None if answer is None else struct.unpack_from(f"={count}I", answer, 4)


def _set(socket: int, name: str, command: int, words: Sequence[int], what: str) -> None:
    _call(socket, name, struct.pack(f"={1 + len(words)}I", command, *words), what)


def _ask(socket: int, name: str, data: bytes, what: str) -> bytes | None:
    """None where the driver does not know of it."""
    try:
        return _call(socket, name, data, what)
    except HostError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise


def _call(socket: int, name: str, data: bytes, what: str) -> bytes:
    buffer = array.array("B", data)
    request = struct.pack("16sP16x", encode_text(name), buffer.buffer_info()[0])
    try:
        fcntl.ioctl(socket, _SIOCETHTOOL, request)
    except OSError as error:
        text = f"cannot {what} of {printable(name)}"
        if error.errno == errno.ENODEV:
            raise Gone(text) from None
        raise HostError(text, errno=error.errno or 0) from None
    return buffer.tobytes()
