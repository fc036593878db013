"""A netlink socket: one request at a time, dumps, the kernel's own words in errors.

A raw AF_NETLINK socket stays bound to the namespace it was made in, whichever thread uses it later. Give each
thread its own: a socket costs microseconds. Source: linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator

from sriov.errors import Gone, HostError
from sriov.host.nlattr import HEADER, Attributes

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_SO_NETNS_COOKIE = 71
_NLMSGERR_ATTR_MSG = 1
_DUMP_TRIES = 5


class NetlinkSocket:
    """Requests and their answers on `sock` (AF_NETLINK, any protocol)."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def cookie(self) -> int:
        """SO_NETNS_COOKIE: names the namespace for this boot and is never given out again.

        Raises HostError, on Linux before 5.14 always.
        """
        try:
            raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            unknown = error.errno == errno.ENOPROTOOPT
            raise HostError("cannot tell one network namespace from another: SO_NETNS_COOKIE",
                            errno=error.errno or 0,
                            hint="this needs Linux 5.14 or newer on the node" if unknown else None) from None
        return int.from_bytes(raw, "little")

    def change(self, kind: int, body: bytes, what: str, flags: int = 0) -> None:
        """Send a request that is answered by an acknowledgement only; `what` names it in errors.

        Raises HostError with the kernel's errno and, where it gives one, its own words; Gone for ENODEV.
        """
        self._request(kind, body, what, flags | _NLM_F_ACK)

    def get(self, kind: int, body: bytes, what: str) -> bytes:
        """The one message, header included, that answers a request; raises as `change`."""
        (raw,) = self._request(kind, body, what, 0)
        return raw

    def dump(self, kind: int, body: bytes, what: str, keep: Callable[[bytes], bool] = lambda _: True, *,
             filtered: bool = False) -> list[bytes]:
        """All messages, headers included, of a table that `keep` says yes to; raises as `change`.

        `filtered`: the kernel itself leaves out what does not fit to what `body` names (Linux 4.20).
        """
        if filtered:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            try:
                return self.dump(kind, body, what, keep)
            finally:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)
        # A table that changes during its dump is marked; the rest of the dump may lack entries.
        for _ in range(_DUMP_TRIES):
            try:
                return self._request(kind, body, what, _NLM_F_DUMP, keep)
            except InterruptedError:
                continue
        raise HostError(f"cannot {what}: it changed during each of {_DUMP_TRIES} reads", errno=errno.EINTR)

    def _request(self, kind: int, body: bytes, what: str, flags: int,
                 keep: Callable[[bytes], bool] = lambda _: True) -> list[bytes]:
        self._sequence += 1
        try:
            return self._exchange(kind, body, what, flags | _NLM_F_REQUEST, keep)
        except InterruptedError:
            raise
        except OSError as error:      # ENOBUFS, say
            raise HostError(f"cannot {what}: the netlink socket failed", errno=error.errno or 0) from None

    def _exchange(self, kind: int, body: bytes, what: str, flags: int,
                  keep: Callable[[bytes], bool]) -> list[bytes]:
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        replies: list[bytes] = []
        interrupted = False
        while True:
            for raw, reply, reply_flags in self._receive():
                interrupted = interrupted or bool(reply_flags & _NLM_F_DUMP_INTR)
                if reply == _NLMSG_ERROR:
                    _check(raw, what, capped=bool(reply_flags & _NLM_F_CAPPED),
                           tlvs=bool(reply_flags & _NLM_F_ACK_TLVS))
                    return replies
                if reply == _NLMSG_DONE:
                    if len(raw) >= 20:
                        _check(raw, what, capped=True, tlvs=False)      # a dump that the kernel gave up
                    if interrupted:
                        raise InterruptedError
                    return replies
                if keep(raw):
                    replies.append(raw)
                if not flags & (_NLM_F_DUMP | _NLM_F_ACK):
                    return replies

    def _receive(self) -> Iterator[tuple[bytes, int, int]]:
        """Messages of the next datagram that answer the current request: bytes, type, flags."""
        # A PF with many VFs answers in one message of over 64 KiB: ask for the size first.
        size = self._socket.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        data = self._socket.recv(max(size, 16384))
        offset = 0
        while offset < len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
            if sequence == self._sequence:
                yield data[offset : offset + length], kind, flags
            offset += (length + 3) & ~3


def _check(raw: bytes, what: str, *, capped: bool, tlvs: bool) -> None:
    (code,) = struct.unpack_from("=i", raw, 16)
    if code == 0:
        return
    words = _kernel_words(raw, capped=capped) if tlvs else ""
    text = f"cannot {what}: {os.strerror(-code)}" + (f" ({words})" if words else "")
    if -code == errno.ENODEV:
        raise Gone(text)
    raise HostError(text, errno=-code)


def _kernel_words(raw: bytes, *, capped: bool) -> str:
    """NLMSGERR_ATTR_MSG of an extended ACK; behind the request's header, or its whole where not capped."""
    (length,) = struct.unpack_from("=I", raw, 20)
    offset = 20 + (16 if capped else (length + 3) & ~3)
    return Attributes(raw[offset:]).text(_NLMSGERR_ATTR_MSG) or ""
