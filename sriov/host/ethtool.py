"""Offloads of a netdev: which of its features somebody wants on. Source: linux/ethtool.h, net/ethtool/ioctl.c.

By ioctl on any socket of the netdev's namespace: a dump by ethtool netlink is four times as long, in words.
"""

from __future__ import annotations

import array
import errno
import fcntl
import struct

from sriov.errors import Gone, HostError
from sriov.host.nlattr import encode_text
from sriov.model import printable

_SIOCETHTOOL, _GFEATURES, _SFEATURES = 0x8946, 0x3A, 0x3B
_MOST_WORDS = 8        # of 32 features each; Linux 6.12 has 2


def read_features(socket: int, name: str) -> tuple[int, ...] | None:
    """The wanted features, a bit each, in words of 32; None where the kernel has no such list for it.

    `socket` is a descriptor. Raises HostError, Gone where there is no such netdev.
    """
    blocks = _read(socket, name)
    return None if blocks is None else tuple(requested & available for available, requested, _, _ in blocks)


def set_features(socket: int, name: str, wanted: tuple[int, ...]) -> None:
    """Want these, as far as they can be changed; raises as `read_features`."""
    blocks = _read(socket, name) or []
    words = [(available, want & available) for (available, *_), want in zip(blocks, wanted, strict=False)]
    if words:
        data = struct.pack("=II", _SFEATURES, len(words)) + b"".join(struct.pack("=II", *word) for word in words)
        _call(socket, name, data, "set")


def _read(socket: int, name: str) -> list[tuple[int, int, int, int]] | None:
    """Available, requested, active, never changed: of each word."""
    data = struct.pack("=II", _GFEATURES, _MOST_WORDS) + bytes(16 * _MOST_WORDS)
    try:
        answer = _call(socket, name, data, "read")
    except HostError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
    (count,) = struct.unpack_from("=I", answer, 4)
    return list(struct.iter_unpack("=IIII", answer[8 : 8 + 16 * count]))


def _call(socket: int, name: str, data: bytes, verb: str) -> bytes:
    buffer = array.array("B", data)
    request = struct.pack("16sP16x", encode_text(name), buffer.buffer_info()[0])
    try:
        fcntl.ioctl(socket, _SIOCETHTOOL, request)
    except OSError as error:
        text = f"cannot {verb} the offloads of {printable(name)}"
        if error.errno == errno.ENODEV:
            raise Gone(text) from None
        raise HostError(text, errno=error.errno or 0) from None
    return buffer.tobytes()
