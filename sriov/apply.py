"""Carry a plan out on the host: make VFs, bind drivers. Each PF apart; a failing one stops no other."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sriov.errors import HostError, Refused, SriovError
from sriov.model import Host, PhysicalFunction
from sriov.netlink import Links
from sriov.pci import PciAddress
from sriov.plan import BindDriver, CreateVfs, InUse, plan_host, wanted_driver
from sriov.poolfile import PoolFile
from sriov.pools import Driver, Pool
from sriov.sysfs import Sysfs

log = logging.getLogger(__name__)

# Seconds before each try to bind a VF. The kernel does nothing, and reports success, while a driver is about to
# let go of the VF or tries it in vain (bus_rescan_devices_helper in drivers/base/bus.c), as any driver does that
# udev loads when VFs appear.
_PROBE_PAUSES = 0.0, 0.05, 0.2, 0.5


def scan_host(sysfs: Sysfs) -> Host:
    """One look at sysfs and one netlink dump."""
    with Links.open() as links:
        return sysfs.scan(links.dump())


def apply_pool_file(sysfs: Sysfs, pool_file: PoolFile, in_use: InUse,
                    tended: Container[PciAddress] = ()) -> tuple[str, ...]:
    """Make the host fit the file. Returns what was refused or failed, a sentence each; () is all done."""
    plan = plan_host(scan_host(sysfs), pool_file.physical_functions, pool_file.pools, in_use, tended)
    problems = _each([_creation(sysfs, step, pool_file.pools) for step in plan.creations])
    # What VFs there are now decides what to bind.
    plan = plan_host(scan_host(sysfs), pool_file.physical_functions, pool_file.pools, in_use, tended)
    by_pf: dict[str, list[BindDriver]] = {}
    for step in plan.bindings:
        by_pf.setdefault(step.vf.pf, []).append(step)
    problems += _each([_bindings(sysfs, steps, in_use) for steps in by_pf.values()])
    return (*plan.refused, *problems)


def _each(jobs: Sequence[Callable[[], list[str]]]) -> list[str]:
    """A thread for each PF: the kernel takes a lock per PF for this, and seconds."""
    if not jobs:
        return []
    with ThreadPoolExecutor(len(jobs), thread_name_prefix="pf") as pool:
        return [problem for problems in pool.map(lambda job: job(), jobs) for problem in problems]


def _creation(sysfs: Sysfs, step: CreateVfs, pools: Sequence[Pool]) -> Callable[[], list[str]]:
    def job() -> list[str]:
        try:
            _create_vfs(sysfs, step, pools)
        except SriovError as error:
            return [f"cannot {step.describe()}: {error}"]
        log.info("done: %s", step.describe())
        return []

    return job


def _create_vfs(sysfs: Sysfs, step: CreateVfs, pools: Sequence[Pool]) -> None:
    pf = step.pf
    if pf.link is None:
        raise HostError("it has no netdev on the host", hint="bind the PF to its kernel driver")
    if not pf.link.up or step.mtu not in (None, pf.link.mtu):
        # A VF driver asks its PF while it probes; igbvf gets no answer from one that is down.
        with Links.open() as links:
            links.change(pf.link.index, f"set {pf.link.name} up", mtu=step.mtu, up=True)
    probing = sysfs.read_autoprobe(pf.address)
    sysfs.write_autoprobe(pf.address, False)
    try:
        sysfs.write_num_vfs(pf.address, step.count)
        _override_drivers(sysfs, pf, pools)
    finally:
        sysfs.write_autoprobe(pf.address, probing)
    made = sysfs.read_num_vfs(pf.address)
    if made != step.count:
        raise HostError(f"the driver made {made}")


def _override_drivers(sysfs: Sysfs, pf: PhysicalFunction, pools: Sequence[Pool]) -> None:
    """Keep new VFs from a driver that they would lose again, such as one that udev loads when it sees them."""
    made = replace(sysfs.scan_pf(pf.address, ()), link=pf.link)
    for vf in made.vfs:
        driver = wanted_driver(made, vf, pools)
        if driver is not None and driver != Driver.KERNEL:
            sysfs.set_driver_override(vf.address, driver)


def _bindings(sysfs: Sysfs, steps: Sequence[BindDriver], in_use: InUse) -> Callable[[], list[str]]:
    def job() -> list[str]:
        problems = []
        for step in steps:
            try:
                if in_use(step.vf):      # since the plan was made: the binds before this one took their time
                    raise Refused("it is in use")
                _bind(sysfs, step)
            except SriovError as error:
                problems.append(f"cannot {step.describe()}: {error}")
            else:
                log.info("done: %s", step.describe())
        return problems

    return job


def _bind(sysfs: Sysfs, step: BindDriver) -> None:
    vf = step.vf
    kernel = step.driver == Driver.KERNEL
    if vf.driver is not None and "vfio" in vf.driver:
        _check_closed(sysfs, vf.address, vf.driver)
    if not kernel and not sysfs.driver_exists(step.driver):
        _load_module(step.driver)
    sysfs.set_driver_override(vf.address, None if kernel else step.driver)
    for pause in _PROBE_PAUSES:
        time.sleep(pause)
        sysfs.unbind(vf.address)
        sysfs.probe(vf.address)
        bound = sysfs.read_driver(vf.address)
        if bound == step.driver or (kernel and bound is not None):
            return
    if bound is None and not kernel and vf.iommu_group is None:
        raise HostError(f"{step.driver} did not take it, and it has no IOMMU group",
                        hint="enable the IOMMU in firmware and on the kernel's command line")
    raise HostError(f"the kernel bound {bound or 'nothing'}")


def _check_closed(sysfs: Sysfs, vf: PciAddress, driver: str) -> None:
    """Raise Refused where a process has the VF open: unbinding would block until it closes it."""
    # A vfio driver enables its device at the first open and disables it at the last close (vfio_pci_core.c).
    # A group that is open without its device keeps nothing from unbinding. To open the group, to see whether it is
    # in use, is what the device cgroup forbids in a container.
    if sysfs.is_enabled(vf):
        raise Refused(f"a process has it open through {driver}", hint="end the pod or the process that uses it")


def _load_module(name: str) -> None:
    """Once for a driver, at the first VF that wants it."""
    try:
        done = subprocess.run(["modprobe", name], capture_output=True, text=True, timeout=60, check=False)
        said = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said is not None:
        raise HostError(f"driver {name} is not loaded and modprobe failed: {said}",
                        hint="load it at boot, by a file in the host's /etc/modules-load.d; an agent in a "
                             "container may not")
