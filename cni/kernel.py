"""The node's kernel as attach and home need it: adapters, the queue for changes, and where a VF is."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ParamSpec

from cni.queue import CALLS_WIDTH, QUEUE_WIDTH, FairQueue
from cni.steps import MacOrder, mac_order
from sriov.errors import Gone, HostError
from sriov.host.bpf import read_tcx
from sriov.host.devlink import Devlink
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import VLAN_PROTOCOLS, Link, VfSettings, printable, show_setting
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

P = ParamSpec("P")

RESETTING = (errno.EBUSY, errno.EAGAIN)
RESET_PATIENCE = 3.0      # seconds that a VF may be in reset: more than a PF needs for all of its own
_RESET_POLL = 0.05
_KEYS = {"vlan_qos": "vlanQoS", "vlan_proto": "vlanProto"}      # of a network configuration, where not the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Vf:
    """Where a VF stands: its PF's netdev, its index there, how its PF's driver wants MACs set."""

    address: PciAddress
    index: int
    pf: PciAddress
    pf_name: str
    pf_index: int              # ifindex of the PF's netdev
    order: MacOrder

    def __str__(self) -> str:
        return f"VF {self.address} ({printable(self.pf_name)} vf {self.index})"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Adapters of one node. `netns_fd` is the host's network namespace. `calls` is the queue of those who use them:
    who waits for anything but `changes` steps aside there.

    `settle(ifindex)` returns once udev is done with a netdev, true if that took waiting; `trace` hears of
    each step of a change.
    """

    sysfs: Sysfs
    changes: FairQueue
    netns_fd: int
    boot_id: str
    settle: Callable[[int], bool]
    trace: Callable[[str], None]
    calls: FairQueue = field(default_factory=lambda: FairQueue(
        CALLS_WIDTH, busy="other calls came before this one, and take their time"))

    def locate(self, address: PciAddress) -> Vf:
        """Raise Gone where there is no such VF, InputError where the address is not a VF's, HostError."""
        pf, index = self.sysfs.locate_vf(address)
        netdev = self.sysfs.find_netdev(pf)
        if netdev is None:
            raise HostError(f"VF {address}: its PF {pf} has no netdev on the host",
                            hint="bind the PF to its kernel driver")
        return Vf(address=address, index=index, pf=pf, pf_name=netdev[0], pf_index=netdev[1],
                  order=mac_order(self.sysfs.read_driver(pf)))

    def identity(self, address: PciAddress) -> int | None:
        """As Sysfs.identify; None where there is no such device."""
        try:
            return self.sysfs.identify(address)
        except Gone:
            return None

    def eswitch_mode(self, pf: PciAddress) -> str | None:
        """As Devlink.eswitch_mode."""
        with Devlink.open(self._devlink_family) as devlink:
            return devlink.eswitch_mode(pf)

    @cached_property
    def _devlink_family(self) -> int | None:
        with Devlink.open() as devlink:
            return devlink.family

    def find_link(self, host: Links, address: PciAddress) -> Link | None:
        """The device's netdev on the host, under whatever name."""
        netdev = self.sysfs.find_netdev(address)
        return None if netdev is None else host.find(netdev[1])

    def inspect_link(self, host: Links, address: PciAddress) -> tuple[Link, LinkTraits] | None:
        """As `find_link`, with all its traits."""
        netdev = self.sysfs.find_netdev(address)
        return None if netdev is None else self.inspect(host, netdev[1])

    def inspect(self, host: Links, key: int | str) -> tuple[Link, LinkTraits] | None:
        """As Links.inspect of the host's links, in whose namespace the calling thread is; with their tcx programs,
        None where those cannot be read.
        """
        found = host.inspect(key)
        if found is None:
            return None
        link, traits = found
        try:
            return link, replace(traits, tcx=read_tcx(link.index))
        except (Gone, HostError) as error:
            log.warning("%s: %s", printable(link.name), error)
            return found

    def await_udev(self, index: int) -> bool:
        """Until udev is done with netdev `index`; whether that took waiting."""
        with self.calls.aside():
            return self.settle(index)

    def inspect_vf(self, host: Links, vf: Vf) -> tuple[Link, VfSettings]:
        """The PF's netdev, and what it enforces on the VF now: one message says both."""
        found = host.inspect_vf(vf.pf_index, vf.index)
        if found is None:
            raise HostError(f"{vf}: the PF's driver does not report its VFs")
        return found

    def settings(self, host: Links, vf: Vf) -> VfSettings:
        """What the PF enforces on the VF now."""
        return self.inspect_vf(host, vf)[1]

    def persist(self, deadline: float, change: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """As `changes.run`, again and again while the VF is in reset, but not after `deadline` (time.monotonic).

        For a new MAC or VLAN PFs reset a VF, and until it is back its own driver and the PF's answer EBUSY or
        EAGAIN (iavf_open, i40e_ndo_set_vf_mac, ice_check_vf_ready_for_cfg).
        """
        until = min(deadline, time.monotonic() + RESET_PATIENCE)
        while True:
            try:
                return self.changes.run(change, *args, **kwargs)
            except HostError as error:
                if error.errno not in RESETTING or time.monotonic() > until:
                    raise
            self.pause()

    def pause(self) -> None:
        """Between two tries at a VF in reset."""
        with self.calls.aside():
            time.sleep(_RESET_POLL)

    def set_mac(self, links: Links, vf: Vf, index: int, mac: MacAddress) -> None:
        """Set the MAC of netdev `index` and its link up: the kernel tells the driver of a MAC that the netdev
        already has only then.
        """
        what = f"set MAC {mac} on the netdev of {vf}"
        try:
            self.changes.run(links.change, index, what, mac=mac, up=True)
        except HostError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # igb forgets its VFs when it is reset, and refuses their messages until each has been up once.
            self.changes.run(links.change, index, what, up=True)
            self.changes.run(links.change, index, what, mac=mac)

    def set_vf(self, host: Links, vf: Vf, changes: VfSettings, deadline: float) -> None:
        """As `persist`."""
        shown = ", ".join(describe_settings(changes))
        try:
            self.persist(deadline, host.set_vf, vf.pf_index, vf.index, changes, f"set {shown} on {vf}")
        except HostError as error:
            pf = host.find(vf.pf_index)
            if changes.max_tx_rate is not None and pf is not None and not pf.carrier:
                error.hint = f"a rate, 0 too, can be set only while the link of {printable(vf.pf_name)} is up"
            elif error.errno in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
                error.hint = (f"the driver of {printable(vf.pf_name)} does not have all of this: leave out of the "
                              "network what it lacks")
            raise


def describe_settings(changes: VfSettings) -> Iterator[str]:
    """`vlan 100`, `trust on`: what a network configuration has these for."""
    for name in VfSettings.__slots__:
        value = getattr(changes, name)
        if value is not None and (name, value) != ("vlan_proto", VLAN_PROTOCOLS["802.1q"]):
            yield f"{_KEYS.get(name, name)} {show_setting(name, value)}"


@contextmanager
def open_kernel(settle: Callable[[int], bool], trace: Callable[[str], None] = log.debug, *,
                width: int = QUEUE_WIDTH) -> Iterator[Kernel]:
    """The kernel of this machine; the calling thread must be in the host's network namespace."""
    netns_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        yield Kernel(sysfs=Sysfs(), changes=FairQueue(width), netns_fd=netns_fd, boot_id=boot_id, settle=settle,
                     trace=trace)
    finally:
        os.close(netns_fd)
