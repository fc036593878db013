"""News of links, for who looks again when something happened.

Source: the multicast groups of linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket

_RTMGRP_LINK, _RTMGRP_IPV6_IFADDR = 0x1, 0x100


class LinkEvents:
    """Messages that a link of the calling thread's namespace changed, and with `addresses` an IPv6 address of one;
    `fileno` turns readable when there are any.
    """

    def __init__(self, *, addresses: bool = False) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, 0)
        self._socket.bind((0, _RTMGRP_LINK | (_RTMGRP_IPV6_IFADDR if addresses else 0)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> bool:
        """Throw away what is queued; whether there was any."""
        found = False
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return found
            except OSError as error:
                # More came than the buffer holds: the lost ones would have said the same.
                if error.errno != errno.ENOBUFS:
                    raise
            found = True
