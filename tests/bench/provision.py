"""Making all VFs of all PFs, with two drivers: at once and one PF after another, beside the bare writes.

`python -m tests.bench.provision [rounds]`, inside a lab machine with 8 PFs. Each starts from PFs that are down and
have no VFs, and ends in the same state, which is checked. The floor is what must be written, by nobody who reads,
plans, waits for a driver or keeps account: for each PF its link and the VFs' number, for each VF which driver may
have it, and the probe.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction
from sriov.pools.assignment import PoolFile
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import Report, Terms, apply_pool_file, pool_file_jobs, run
from sriov.provision.executor import Executor
from tests.bench.turns import show
from tests.lab.topology import VFS_PER_PF
from tests.support import node

FREE = Terms(in_use=lambda vf: False)
USERSPACE = 4                         # VFs from this on get vfio-pci
DRIVERS = ["igbvf"] * USERSPACE + ["vfio-pci"] * (VFS_PER_PF - USERSPACE)
POOLS = f"""\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - {{match: {{vendor: 8086, device: 10c9}}, numVfs: {VFS_PER_PF}}}
pools:
  - {{resource: net, driver: kernel, select: [{{vfs: 0-{USERSPACE - 1}}}]}}
  - {{resource: dpdk, driver: vfio-pci, select: [{{vfs: {USERSPACE}-{VFS_PER_PF - 1}}}]}}
"""


def at_once(file: PoolFile, terms: Terms) -> Report:
    """As the agent and `vfpool apply` do it."""
    return apply_pool_file(Executor(Sysfs()), file, terms)


def one_by_one(file: PoolFile, terms: Terms) -> Report:
    executor = Executor(Sysfs())
    reports = [run(executor, [job], terms) for job in pool_file_jobs(executor.look(), file)]
    return Report(done=tuple(step for report in reports for step in report.done),
                  refused=tuple(refusal for report in reports for refusal in report.refused),
                  failed=tuple(failure for report in reports for failure in report.failed))


def write_bare(pfs: tuple[PhysicalFunction, ...]) -> Report:
    for pf in pfs:
        device = Path("/sys/bus/pci/devices", pf.address)
        node.run("ip", "link", "set", node.netdev_name(pf), "up")
        (device / "sriov_drivers_autoprobe").write_text("0")
        (device / "sriov_numvfs").write_text(str(VFS_PER_PF))
        (device / "sriov_drivers_autoprobe").write_text("1")
        for index, driver in enumerate(DRIVERS):
            vf = device / f"virtfn{index}"
            if driver == "vfio-pci":
                (vf / "driver_override").write_text(driver)
            Path("/sys/bus/pci/drivers_probe").write_text(vf.resolve().name)
    return Report()


def remove_vfs(pfs: tuple[PhysicalFunction, ...]) -> None:
    for pf in pfs:
        Sysfs().write_num_vfs(pf.address, 0)
        node.run("ip", "link", "set", node.netdev_name(pf), "down")
    node.run("udevadm", "settle")


def check(report: Report) -> None:
    """Nothing was refused or failed, and every VF has its driver."""
    if report.problems:
        raise AssertionError("; ".join(report.problems))
    for pf in node.pfs():
        if [vf.driver for vf in pf.vfs] != DRIVERS:
            raise AssertionError(f"{pf.address}: {[vf.driver for vf in pf.vfs]}")


def main(rounds: int = 2) -> None:
    for module in ("igbvf", "vfio-pci"):
        node.run("modprobe", module)
    pfs, file = node.pfs(), parse_pool_file(POOLS, "pools.yaml")
    ways: dict[str, Callable[[], Report]] = {
        "floor: bare writes, one PF after another": lambda: write_bare(pfs),
        "vfpool, one PF after another": lambda: one_by_one(file, FREE),
        "vfpool, all PFs at once": lambda: at_once(file, FREE),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            remove_vfs(pfs)
            started = time.perf_counter()
            report = way()
            times[name].append(time.perf_counter() - started)
            check(report)
    remove_vfs(pfs)
    show(f"{f'seconds, {len(pfs)} PFs x {VFS_PER_PF} VFs, 2 drivers':46}{'p50':>8}{'best':>9}{'x floor':>9}")
    floor = statistics.median(times[next(iter(ways))])
    for name, took in times.items():
        p50 = statistics.median(took)
        show(f"{name:46}{p50:8.2f}{min(took):9.2f}{p50 / floor:9.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
