"""What sriov-cni attached on this node before vfpool came: whose each VF is by its files, and its way into ours."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from cni.kernel import Kernel
from cni.leftover import Leftover
from cni.locks import Busy
from cni.netns import find_file_system, is_netns, links_in, netns_cookie, open_netns
from cni.protocol import Code
from cni.record import Delegation, Owner, Phase, Record
from cni.sriovcache import SriovCache
from cni.store import Attachment
from sriov.clock import boot_time
from sriov.errors import Gone, InputError, Refused
from sriov.model import is_userspace
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

FOLDER = Path("/var/lib/cni/sriov")


class Forerunner:
    """What sriov-cni left; `folder` is where its files are on this node, FOLDER if not said.

    It may run beside this process: who acts on a leftover does so in `hold`. Every method raises HostError.
    """

    def __init__(self, kernel: Kernel, folder: Path | None = None) -> None:
        self._kernel = kernel
        self._cache = SriovCache(folder or FOLDER, self._wait)
        self._booted = boot_time()

    def _wait(self, seconds: float) -> None:
        with self._kernel.calls.aside():
            time.sleep(seconds)

    def find(self, attachment: Attachment, netns_fd: int | None) -> Leftover | None:
        """What the attachment left; `netns_fd` is its namespace where the caller has that open."""
        leftover = self._cache.find(attachment)
        if leftover is None or _sees_netns(netns_fd) or not self._set_aside_outdated(leftover):
            return leftover
        return None

    def of_network(self, network: str) -> Iterator[Leftover]:
        """All that the network's pods left."""
        return (leftover for leftover in self._all() if leftover.network == network)

    def had(self, vf: PciAddress) -> bool:
        """Whether some pod has or had this VF and no DEL came; raise Refused where that one lives."""
        noted = self._cache.read_netns(vf)
        if noted is not None and not self._is_outdated(*noted) and self._may_live(vf, noted[0]):
            raise Refused(f"VF {vf} is in use: sriov-cni gave it to {noted[0]}")
        return noted is not None

    def _may_live(self, vf: PciAddress, netns: str) -> bool:
        """Whether the namespace lives that sriov-cni gave the VF to, or may: where it cannot be seen from here, and
        the VF is not on the host.
        """
        sysfs = self._kernel.sysfs
        if netns_cookie(netns) is not None:
            return True
        if sysfs.find_netdev(vf) is not None:
            return False
        driver = sysfs.read_driver(vf)
        elsewhere = driver is not None and not is_userspace(driver)
        # A plain file is how a mount looks that did not propagate; /proc has the pods of its own container only.
        return elsewhere or os.path.lexists(netns) or netns.startswith("/proc/")

    def of_vf(self, vf: PciAddress) -> list[Leftover]:
        """What dead pods left of this VF, the first that had it first; raises as `had`. In `hold`."""
        if not self.had(vf):
            return []
        found = [leftover for leftover in self._all() if leftover.vf == vf]
        if not found:            # its file about the VF was damaged, or its DEL was told of no namespace
            log.warning("VF %s: sriov-cni gave it to a pod that is gone, and left no word of how the VF was "
                        "before: it is taken as it is now", vf)
            self._cache.delete_netns(vf)
        return sorted(found, key=lambda leftover: leftover.since)

    def hold(self, vf: PciAddress, deadline: float) -> AbstractContextManager[None]:
        """Keep sriov-cni off the VF; Busy where it is at it until `deadline` (time.monotonic)."""
        return self._cache.hold(vf, deadline)

    def reread(self, leftover: Leftover) -> Leftover | None:
        """The same as it is now; None where sriov-cni ended it. Busy where that is about another VF by now."""
        now = self._cache.reread(leftover)
        if now is not None and now.vf != leftover.vf:
            raise Busy(Code.TRY_AGAIN_LATER, f"VF {leftover.vf}: sriov-cni has changed {leftover.name} just now")
        return now

    def is_anothers(self, leftover: Leftover, netns: str, netns_fd: int | None) -> bool:
        """Whether sriov-cni gave the VF to another attachment since: then this one's end must not touch it.

        `netns`: the attachment's own by the runtime, empty where that does not say it; `netns_fd`: the same where
        the caller has it open.
        """
        noted = self._cache.read_netns(leftover.vf)
        if noted is None:
            return False
        if not netns:
            told = self._cache.read_result(leftover).get("netns")
            netns = told if isinstance(told, str) else ""
        if netns and _real_path(netns) == _real_path(noted[0]):
            return False
        own_place, place = _find_place(netns, netns_fd), _find_place(noted[0], None)
        if own_place is not None and place is not None:
            return own_place != place
        # The names differ, and one leads nowhere now. Its cache and the namespace are written in one go.
        age = abs(leftover.since - noted[1])
        return any(other.vf == leftover.vf and abs(other.since - noted[1]) < age for other in self._all())

    def make_record(self, leftover: Leftover, netns_fd: int | None, delegation: Delegation | None,
                    pod: str) -> Record | None:
        """A record whose VF is on its way home; None where the VF is gone, or in no namespace of this pod.

        `netns_fd` is the pod's namespace where the caller has it open; `delegation`: who gave it addresses; `pod`:
        as in Owner.
        """
        try:
            vf = self._kernel.locate(leftover.vf)
        except (Gone, InputError):
            return None
        cookie = self._find_cookie(leftover, netns_fd)
        if leftover.netns is None and cookie is None:
            return None          # sriov-cni ended before it said whose the VF is, and nothing else says it
        container, ifname = leftover.attachment
        netns = leftover.netns or ""
        return Record(
            vf=vf.address, pf=vf.pf, index=vf.index, identity=self._kernel.identity(vf.address),
            boot_id=self._kernel.boot_id, phase=Phase.DETACHING, baseline=leftover.baseline,
            sets_mac=leftover.sets_mac, ipam=delegation,
            owner=Owner(container_id=container, ifname=ifname, network=leftover.network, netns=netns,
                        cookie=cookie or 0, pod=pod,
                        file_system=None if netns_fd is None else find_file_system(netns, netns_fd)),
        )

    def forget(self, leftover: Leftover) -> None:
        """Remove sriov-cni's files about it: a record of ours is in their place, or there is nothing to do."""
        self._cache.delete(leftover)
        if leftover.netns is not None:
            self._cache.delete_netns(leftover.vf)

    def disown(self, leftover: Leftover) -> None:
        """Remove what the attachment left of a VF that is another's by now, whose files stay."""
        log.warning("VF %s: sriov-cni gave it to %s after container %s had it", leftover.vf, leftover.netns,
                    leftover.attachment[0])
        self._cache.delete(leftover)

    def _find_cookie(self, leftover: Leftover, netns_fd: int | None) -> int | None:
        """Of the namespace that has the VF; None where that is dead, or does not have it."""
        if netns_fd is None or not is_netns(netns_fd):
            return netns_cookie(leftover.netns) if leftover.netns else None
        with links_in(netns_fd) as pod:
            has_it = leftover.netns is not None or pod.find_pci(leftover.vf) is not None
            return pod.cookie if has_it else None

    def _all(self) -> Iterator[Leftover]:
        return (leftover for leftover in self._cache.all() if not self._set_aside_outdated(leftover))

    def _set_aside_outdated(self, leftover: Leftover) -> bool:
        """Whether it is of before the node's boot, and so about a VF that went with it.

        One that names no namespace proves itself in `make_record`, or does not.
        """
        if leftover.netns is None or not self._is_outdated(leftover.netns, leftover.since):
            return False
        log.warning("set aside sriov-cni's file %s: by the clock the node was booted since, and %s, which had "
                    "VF %s, is gone", leftover.name, leftover.netns, leftover.vf)
        self._cache.set_outdated(leftover)
        return True

    def _is_outdated(self, netns: str, since: float) -> bool:
        """Whether what was written at `since` of this namespace is of before the node's boot.

        Its time says so, and no living namespace says otherwise: a clock that is set after the boot makes files
        of this one look older. Under /proc that another lives says nothing: PIDs are given out again.
        """
        self._booted = min(self._booted, boot_time())
        return since < self._booted and (netns.startswith("/proc/") or netns_cookie(netns) is None)


def _sees_netns(fd: int | None) -> bool:
    return fd is not None and is_netns(fd)


def _find_place(path: str, fd: int | None) -> tuple[int, int] | None:
    """st_dev and st_ino of the namespace: no two that live have the same. None where there is none."""
    try:
        if fd is None:
            with open_netns(path) as opened:
                found = os.fstat(opened)
        elif is_netns(fd):
            found = os.fstat(fd)
        else:
            return None
    except Gone:
        return None
    return found.st_dev, found.st_ino


def _real_path(path: str) -> str:
    """By the FHS /var/run is a link to /run on the host, whatever it is in this process's container."""
    real = os.path.realpath(path)
    return real.removeprefix("/var") if real.startswith("/var/run/") else real
