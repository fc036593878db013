"""What the socket itself refuses; its messages are tried on a kernel, in tests/kernel."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from sriov.errors import HostError
from sriov.host.nlsocket import NetlinkSocket


class Refusing:
    """A socket of a kernel that does not know an option, or has something else against it."""

    def __init__(self, reason: int) -> None:
        self._reason = reason

    def setsockopt(self, *_: int) -> None:
        pass

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option, size) == (socket.SOL_SOCKET, 71, 8)
        raise OSError(self._reason, os.strerror(self._reason))


@pytest.mark.parametrize(("reason", "hint"), [
    (errno.ENOPROTOOPT, "this needs Linux 5.14 or newer on the node"), (errno.EPERM, None)])
def test_a_kernel_without_cookies_is_named_as_such(reason: int, hint: str | None) -> None:
    sock: Any = Refusing(reason)
    with pytest.raises(HostError, match=errno.errorcode[reason]) as caught:
        _ = NetlinkSocket(sock).cookie
    assert (caught.value.errno, caught.value.hint) == (reason, hint)
