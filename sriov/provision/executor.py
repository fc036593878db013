"""Carries out single steps on the running kernel, and reads back what each was to do."""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Protocol

from sriov.errors import Gone, HostError, Refused, SriovError
from sriov.host.devlink import Devlink
from sriov.host.discovery import DevlinkFacts, LinkTables, discover
from sriov.host.linkevents import LinkEvents
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link, PhysicalFunction, VfSettings, is_userspace
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver
from sriov.provision.loader import has_module, load_module
from sriov.provision.state import difference
from sriov.provision.steps import (
    NO_DRIVER,
    BindDriver,
    MakeVfs,
    SetAutoprobe,
    SetEswitch,
    SetPfMtu,
    SetUp,
    SetVfMtu,
    SetVfSettings,
    Step,
)

# Seconds before each try to bind a VF. The kernel does nothing, and reports success, while a driver is about to
# let go of the VF or tries it in vain (bus_rescan_devices_helper in drivers/base/bus.c), as any driver does that
# udev loads when VFs appear.
_PROBE_PAUSES = 0.0, 0.05, 0.2, 0.5

# Seconds for a netdev to come. Most drivers make it while they probe; iavf does later, once its PF has answered.
_NETDEV_PATIENCE = 10.0
# Seconds for a VF to get out of its reset: until then i40e answers EAGAIN, ice EBUSY, and neither says when it is.
_RESET_PATIENCE, _RESET_PAUSE = 1.0, 0.05
_IN_RESET = (errno.EAGAIN, errno.EBUSY)
_ETHERNET = 0x0200                    # class and subclass; an InfiniBand VF's netdev is another module's to make

# A PF of another driver that has no netdev here has it in a pod, which VFs that are made would interrupt.
_NO_NETDEV = ("pci-pf-stub",)

Choose = Callable[[PhysicalFunction], Mapping[PciAddress, Driver]]


def choose_none(_: PhysicalFunction) -> Mapping[PciAddress, Driver]:
    """Whatever probes VFs that were just made may have them."""
    return {}


class LinkChanges(LinkTables, Protocol):
    """What `Links` does for steps."""

    def find(self, key: int | str) -> Link | None: ...
    def change(self, index: int, what: str, *, mtu: int | None = None, up: bool | None = None) -> None: ...
    def vf_settings(self, pf_index: int) -> dict[int, VfSettings]: ...
    def set_vf(self, pf_index: int, vf: int, changes: VfSettings, what: str) -> None: ...


class EswitchChanges(DevlinkFacts, Protocol):
    """What `Devlink` does for steps."""

    def set_eswitch_mode(self, address: PciAddress, mode: str) -> None: ...


class LinkNews(Protocol):
    """What `LinkEvents` tells: readable when a link changed."""

    def fileno(self) -> int: ...
    def drain(self) -> object: ...
    def close(self) -> None: ...


class Executor:
    """The kernel as one node's plans need it. Threads may share it, each at another PF.

    Methods raise Gone, HostError and Refused.
    """

    def __init__(self, sysfs: Sysfs, open_links: Callable[[], AbstractContextManager[LinkChanges]] = Links.open,
                 open_devlink: Callable[[], AbstractContextManager[EswitchChanges]] = Devlink.open,
                 open_news: Callable[[], LinkNews] = LinkEvents, netdev_patience: float = _NETDEV_PATIENCE,
                 has_module: Callable[[str], bool | None] = has_module) -> None:
        self._sysfs = sysfs
        self._has_module = has_module
        self._open_news = open_news
        self._netdev_patience = netdev_patience
        self._open_links = open_links
        self._open_devlink = open_devlink

    # ---- looking ----------------------------------------------------------------------------------------

    def lacks_driver(self, name: str) -> bool:
        """Whether the node has no such driver: none is loaded, and its kernel has no module of that name."""
        return not self._sysfs.driver_exists(name) and self._has_module(name) is False

    def look(self) -> Host:
        """One look at the node, as `sriov.host.discovery`."""
        return discover(self._sysfs, open_links=self._open_links, open_devlink=self._open_devlink)

    def look_again(self, pf: PhysicalFunction) -> PhysicalFunction:
        """The PF as it is now; what ties it and its VFs down, and its firmware, as they were."""
        with self._open_links() as links:
            now = self._sysfs.scan_pf(pf.address, links.dump())
        ties = {vf.address: vf.ties for vf in pf.vfs}
        return replace(
            now, ties=pf.ties, last_link=pf.last_link, firmware_package=pf.firmware_package,
            eswitch=pf.eswitch and self._read_eswitch(pf.address),
            vfs=tuple(replace(vf, ties=ties.get(vf.address, ())) for vf in now.vfs),
        )

    def read_settings(self, pf: PhysicalFunction) -> Mapping[PciAddress, VfSettings]:
        """What the PF enforces on each of its VFs; of a PF without a netdev nothing is known."""
        if pf.link is None:
            return {}
        with self._open_links() as links:
            by_index = links.vf_settings(pf.link.index)
        return {vf.address: by_index[vf.index] for vf in pf.vfs if vf.index in by_index}

    def read_overrides(self, pf: PhysicalFunction) -> Mapping[PciAddress, str]:
        """What driver_override says for each VF, empty for nothing; one that cannot be read is left out."""
        found: dict[PciAddress, str] = {}
        for vf in pf.vfs:
            with suppress(SriovError):
                found[vf.address] = self._sysfs.read_driver_override(vf.address) or ""
        return found

    def find_kept(self, pf: PhysicalFunction) -> frozenset[PciAddress]:
        """The PF's VFs without a driver that driver_override keeps for one, or may where that cannot be read."""
        overrides = self.read_overrides(pf) if any(vf.driver is None for vf in pf.vfs) else {}
        return frozenset(vf.address for vf in pf.vfs if vf.driver is None and overrides.get(vf.address, "?"))

    def may_lack_iommu(self) -> bool:
        """Whether a vfio driver takes VFs that have no IOMMU, or may where that cannot be read."""
        try:
            return self._sysfs.allows_noiommu()
        except SriovError:
            return True

    def identify_vfs(self, pf: PhysicalFunction) -> int | None:
        """A number that tells the PF's VFs from others that are made later; None where it has none."""
        return self._sysfs.identify(pf.vfs[0].address) if pf.vfs else None

    def find_opened(self, pf: PhysicalFunction) -> frozenset[PciAddress]:
        """The VFs of a PF that a process has open through vfio, or may have where that cannot be read."""
        # A vfio driver enables its device at the first open and disables it at the last close (vfio_pci_core.c).
        # A group that is open without its device keeps nothing from unbinding. To open the group, to see whether
        # it is in use, is what the device cgroup forbids in a container.
        return frozenset(vf.address for vf in pf.vfs
                         if vf.driver is not None and "vfio" in vf.driver and self._may_be_enabled(vf.address))

    def _may_be_enabled(self, vf: PciAddress) -> bool:
        try:
            return self._sysfs.is_enabled(vf)
        except SriovError:
            return True

    # ---- doing ------------------------------------------------------------------------------------------

    def prepare(self, step: Step) -> tuple[Step, ...]:
        """The steps that will take this one back, exactly: with what only the kernel knew."""
        return tuple(
            replace(each, override=self._sysfs.read_driver_override(each.vf.address))
            if isinstance(each, BindDriver) else each for each in step.undo()
        )

    def do(self, step: Step, choose: Choose = choose_none) -> None:
        """Carry out and verify; what was begun when this raises may be half done.

        `choose` says which of the VFs that were just made no other driver than the given one may probe.
        """
        match step:
            case SetUp():
                # A VF driver asks its PF while it probes; igbvf gets no answer from one that is down.
                self._change_link(step.pf.address, step.describe(), up=step.up)
            case SetPfMtu():
                self._change_link(step.pf.address, step.describe(), mtu=step.mtu)
            case SetVfMtu():
                self._change_link(step.vf.address, step.describe(), mtu=step.mtu)
            case SetEswitch():
                self._set_eswitch(step)
            case SetAutoprobe():
                self._set_autoprobe(step)
            case MakeVfs():
                self._make_vfs(step, choose)
            case SetVfSettings():
                self._set_vf_settings(step)
            case BindDriver():
                self._bind(step)

    def _change_link(self, address: PciAddress, what: str, *, mtu: int | None = None, up: bool | None = None,
                     ) -> None:
        index = self._find_netdev(address)
        with self._open_links() as links:
            links.change(index, what, mtu=mtu, up=up)
            link = links.find(index)
        if link is None:
            raise Gone("its netdev went away meanwhile")
        if mtu not in (None, link.mtu) or up not in (None, link.up):
            raise HostError(f"the kernel reported success, but it is {'up' if link.up else 'down'} with MTU "
                            f"{link.mtu}")

    def _find_netdev(self, address: PciAddress) -> int:
        netdev = self._sysfs.find_netdev(address)
        if netdev is None:
            raise HostError("it has no netdev on the host", hint="bind it to its kernel driver")
        return netdev[1]

    def _set_eswitch(self, step: SetEswitch) -> None:
        with self._open_devlink() as devlink:
            devlink.set_eswitch_mode(step.pf.address, step.mode)
            mode = devlink.eswitch_mode(step.pf.address)
        if mode != step.mode:
            raise HostError(f"the driver made it {mode}")

    def _read_eswitch(self, pf: PciAddress) -> str | None:
        with self._open_devlink() as devlink:
            return devlink.eswitch_mode(pf)

    def _set_autoprobe(self, step: SetAutoprobe) -> None:
        self._sysfs.write_autoprobe(step.pf.address, step.on)
        if self._sysfs.read_autoprobe(step.pf.address) != step.on:
            raise HostError("the kernel reported success, but it is as it was")

    def _make_vfs(self, step: MakeVfs, choose: Choose) -> None:
        pf = step.pf
        if self._sysfs.read_num_vfs(pf.address) == step.count:
            return
        if step.count == 0 and (opened := self.find_opened(self._sysfs.scan_pf(pf.address, ()))):
            # The kernel would wait in here for as long as a process has one of them open.
            raise Refused(f"a process has {', '.join(sorted(opened))} open",
                          hint="end the pods or the processes that use them")
        if step.count and pf.link is None and pf.driver not in _NO_NETDEV:
            raise HostError("it has no netdev on the host", hint="bind the PF to its kernel driver")
        try:
            self._sysfs.write_num_vfs(pf.address, step.count)
        except HostError as error:
            if error.errno == errno.EBUSY and step.count and (others := self._sysfs.read_num_vfs(pf.address)):
                raise Refused(f"somebody made {others} meanwhile", hint="let one of the two make them") from None
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                error.hint = "bus numbers or addresses (MMIO) are short: vfpool explain says which, and what to do"
            raise
        made = replace(self._sysfs.scan_pf(pf.address, ()), link=pf.link)
        # Before any driver probes them again, such as one that udev loads when it sees them.
        for address, driver in choose(made).items():
            if driver != Driver.KERNEL:
                self._sysfs.set_driver_override(address, driver)
        if made.num_vfs != step.count:
            raise HostError(f"the driver made {made.num_vfs}")

    def _set_vf_settings(self, step: SetVfSettings) -> None:
        index = self._find_netdev(step.pf.address)
        with self._open_links() as links:
            self._set_vf(links, index, step)
            now = links.vf_settings(index).get(step.vf.index, VfSettings())
        if difference(step.settings, now) is not None:
            raise HostError(f"the driver reported success, but has {now}")

    def _set_vf(self, links: LinkChanges, index: int, step: SetVfSettings) -> None:
        deadline = time.monotonic() + _RESET_PATIENCE
        while True:
            try:
                links.set_vf(index, step.vf.index, step.settings, step.describe())
            except HostError as error:
                if error.errno not in _IN_RESET or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(_RESET_PAUSE)

    def _bind(self, step: BindDriver) -> None:
        vf = step.vf
        driver = self._sysfs.read_driver(vf.address)
        if driver is not None and "vfio" in driver and self._sysfs.is_enabled(vf.address):
            # Unbinding would block until the process closes it.
            raise Refused(f"a process has it open through {driver}",
                          hint="end the pod or the process that uses it")
        if step.driver not in (Driver.KERNEL, NO_DRIVER) and not self._sysfs.driver_exists(step.driver):
            load_module(step.driver)
        self._sysfs.set_driver_override(vf.address, step.override)
        if step.driver == NO_DRIVER:
            self._sysfs.unbind(vf.address)
            return
        with nullcontext() if step.override else self._letting_drivers_probe(vf.pf):
            bound = self._probe(step)
        if not is_userspace(bound) and vf.pci_class >> 8 == _ETHERNET:
            self._await_netdev(vf.address, bound)

    def _probe(self, step: BindDriver) -> str:
        """The driver that is bound then."""
        vf, bound = step.vf, None
        for pause in _PROBE_PAUSES:
            time.sleep(pause)
            self._sysfs.unbind(vf.address)
            self._sysfs.probe(vf.address)
            bound = self._sysfs.read_driver(vf.address)
            if bound is not None and step.driver in (bound, Driver.KERNEL):
                return bound
        if bound is None and step.driver != Driver.KERNEL and vf.iommu_group is None:
            raise HostError(f"{step.driver} did not take it, and it has no IOMMU group",
                            hint="enable the IOMMU in firmware and on the kernel's command line")
        raise HostError(f"the kernel bound {bound or 'nothing'}",
                        hint="vfpool explain says what stands in the way; if nothing does, dmesg may")

    def _await_netdev(self, vf: PciAddress, driver: str) -> None:
        deadline = time.monotonic() + self._netdev_patience
        with closing(self._open_news()) as news:
            while self._sysfs.find_netdev(vf) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([news], [], [], left)[0]:
                    raise HostError(f"{driver} has it, but made no netdev in {self._netdev_patience:.0f} s",
                                    hint="see what dmesg says of it; a PF that is down or resets answers no VF")
                news.drain()

    @contextmanager
    def _letting_drivers_probe(self, pf: PciAddress) -> Iterator[None]:
        # With autoprobe off the kernel refuses every driver for a VF without an override, whoever asks it to probe
        # (pci_device_can_probe in drivers/pci/pci-driver.c).
        if self._sysfs.read_autoprobe(pf):
            yield
            return
        self._sysfs.write_autoprobe(pf, True)
        try:
            yield
        finally:
            self._sysfs.write_autoprobe(pf, False)
