"""udev: kernel uevents as a hint that something changed, and whether udev is done with a netdev.

Events come from the kernel's own multicast group: in a container there is no udevd to pass them on.
"""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import pyudev

from sriov.errors import HostError

SETTLE_TIMEOUT = 10.0        # seconds
_POLL = 0.02


class Uevents:
    """Uevents of one subsystem, `pci` or `net`; `fileno` turns readable when there may be any.

    The socket's filter goes by what udevd adds to events: those of the kernel's group all come through, and which
    are of this subsystem only `drain` tells.
    """

    def __init__(self, subsystem: str) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.filter_by(subsystem)
        self._monitor.start()

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def drain(self) -> bool:
        """Throw away what is queued; whether any was of this subsystem."""
        found = False
        while True:
            try:
                if self._monitor.poll(timeout=0) is None:
                    return found
            except OSError as error:
                # More came than the buffer holds: the lost ones may have been.
                if error.errno != errno.ENOBUFS:
                    raise
            found = True


class Udev:
    """What udevd did on this host; `run` is its folder, which a container mounts from the host."""

    def __init__(self, run: Path = Path("/run/udev")) -> None:
        self._run = run

    def settle(self, ifindex: int, timeout: float = SETTLE_TIMEOUT) -> bool:
        """Return once udev is done with the netdev: until then it may still rename it or set its MAC.

        Says whether that took waiting, so that what was read before is old. Where no udevd runs there is
        nobody to wait for. Raises HostError after `timeout` seconds: an overloaded udevd is better waited for
        again than raced with.
        """
        deadline = time.monotonic() + timeout
        # systemd's sd-device calls a device initialized when udevd has written its database entry.
        entry = self._run / "data" / f"n{ifindex}"
        waited = False
        while not entry.exists() and self.runs():
            waited = True
            if time.monotonic() > deadline:
                raise HostError(f"udev is not done with the netdev of index {ifindex} after {timeout:.0f} s",
                                hint="see `udevadm info` and the journal of systemd-udevd")
            time.sleep(_POLL)
        return waited

    def runs(self) -> bool:
        """Whether a udevd listens; its socket file outlives it, an answering one does not."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(str(self._run / "control"))
            except OSError:
                return False
        return True
