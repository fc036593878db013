"""Provisioning on a real kernel, igb and igbvf: reached and undone, and every write failing in turn."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sriov.errors import HostError
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction
from sriov.pools.assignment import PoolFile
from sriov.pools.override import Override
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import Report, Terms, apply_last_good, apply_pool_file, plan_jobs, pool_file_jobs, reset
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState, derive_mac, observe
from tests.support import node

pytestmark = pytest.mark.lab

FREE = Terms(in_use=lambda vf: False)
COUNT = 4


@pytest.fixture
def pfs() -> Iterator[tuple[PhysicalFunction, ...]]:
    """All PFs, without VFs, before and after; MTU and autoprobe as they were."""
    pfs = node.pfs()
    yield pfs
    for pf in pfs:
        assert pf.link is not None
        Sysfs().write_num_vfs(pf.address, 0)
        Sysfs().write_autoprobe(pf.address, True)
        node.run("ip", "link", "set", pf.link.name, "mtu", str(pf.link.mtu))
    node.run("udevadm", "settle")


def pool_file(text: str) -> PoolFile:
    return parse_pool_file(f"apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n{text}", "pools.yaml")


MIXED = """\
physicalFunctions:
  - {{match: {{address: '{pf}'}}, numVfs: {count}, mtu: 2000, vfMacs: derived}}
pools:
  - {{resource: dpdk, driver: vfio-pci, select: [{{vfs: 1}}]}}
  - {{resource: net, driver: kernel, select: [{{vfs: '0-'}}],
      defaults: {{mtu: 1400, vlan: 7, trust: on, spoofchk: off}}}}
"""


def mixed(pf: str = "*", count: int = COUNT) -> PoolFile:
    return pool_file(MIXED.format(pf=pf, count=count).replace("'0-'", f"0-{count - 1}"))


def state_of(pf: PhysicalFunction) -> PfState:
    executor = Executor(Sysfs())
    now = executor.look_again(pf)
    return observe(now, executor.read_settings(now), executor.read_overrides(now))


def states(pfs: tuple[PhysicalFunction, ...]) -> list[PfState]:
    return [state_of(pf) for pf in pfs]


def check_mixed(before: tuple[PhysicalFunction, ...], count: int) -> None:
    """All that MIXED says of these PFs is so, and all else of them is as ever."""
    executor, now = Executor(Sysfs()), node.pfs()
    assert [pf.address for pf in now] == [pf.address for pf in before]
    for was, pf in zip(before, now, strict=True):
        assert pf.link is not None
        assert was.link is not None
        assert (pf.num_vfs, pf.link.mtu, pf.link.up, pf.autoprobe) == (count, 2000, True, True)
        assert [vf.driver for vf in pf.vfs] == ["igbvf", "vfio-pci", *["igbvf"] * (count - 2)]
        settings = executor.read_settings(pf)
        for vf in pf.vfs:
            assert settings[vf.address].mac == derive_mac(was.link.mac, vf.index)
            if vf.index != 1:
                assert vf.link is not None
                assert (vf.link.mac, vf.link.mtu) == (settings[vf.address].mac, 1400)
                assert (settings[vf.address].vlan, settings[vf.address].trust) == (7, True)
                assert settings[vf.address].spoofchk is False


def test_mixed_drivers_on_all_pfs_and_back(pfs: tuple[PhysicalFunction, ...], tmp_path: Path) -> None:
    before = states(pfs)
    ledger = Ledger(tmp_path, "boot")
    terms = replace(FREE, ledger=ledger)
    executor = Executor(Sysfs())
    assert apply_pool_file(executor, mixed(), terms).problems == ()
    check_mixed(pfs, COUNT)
    after = states(pfs)
    host = executor.look()
    assert plan_jobs(executor, pool_file_jobs(host, mixed()), terms).describe() == ()
    assert apply_pool_file(executor, mixed(), terms) == Report()
    for pf in pfs:      # as a boot does
        Sysfs().write_num_vfs(pf.address, 0)
    assert apply_last_good(executor, FREE, ledger).problems == ()
    assert states(pfs) == after
    assert reset(executor, FREE, ledger).problems == ()
    assert states(pfs) == before
    assert ledger.records == {}


def test_another_number_by_its_override(pfs: tuple[PhysicalFunction, ...]) -> None:
    pf = pfs[0]
    executor = Executor(Sysfs())
    assert apply_pool_file(executor, mixed(pf.address, 3), FREE).problems == ()
    (refused,) = apply_pool_file(executor, mixed(pf.address, 4), FREE).refused
    assert refused.override == Override.DISTURB_VFS
    assert len(state_of(pf).vfs) == 3
    forced = replace(FREE, overrides={Override.DISTURB_VFS})
    assert apply_pool_file(executor, mixed(pf.address, 4), forced).problems == ()
    assert len(state_of(pf).vfs) == 4


TIES = {
    "port of a bridge": ("port of tie0 (bridge)", [
        "link add tie0 type bridge", "link set {pf} master tie0"]),
    "port of a bond": ("port of tie0 (bond)", [
        "link add tie0 type bond", "link set {pf} down", "link set {pf} master tie0"]),
    "port of a team": ("port of tie0 (team)", [
        "link add tie0 type team", "link set {pf} down", "link set {pf} master tie0"]),
    "default route": ("carries the default route", [
        "addr add 192.0.2.5/24 dev {pf}", "link set {pf} up", "route add default via 192.0.2.1"]),
    "IPv6 default route": ("carries the IPv6 default route", [
        "addr add 2001:db8::5/64 dev {pf} nodad", "link set {pf} up",
        "-6 route add default via 2001:db8::1 metric 512"]),      # the lab's way in may have one, of metric 1024
    "address of a VLAN": ("has address 192.0.2.5/24 (via tie0)", [
        "link add tie0 link {pf} type vlan id 5", "addr add 192.0.2.5/24 dev tie0"]),
    "default route of a VLAN of a bond": ("carries the default route (via tie0.5)", [
        "link add tie0 type bond", "link set {pf} down", "link set {pf} master tie0",
        "link add tie0.5 link tie0 type vlan id 5", "link set tie0 up", "link set tie0.5 up",
        "route add default dev tie0.5"]),
    "default route over two NICs": ("carries the default route", [
        "addr add 192.0.2.5/24 dev {pf}", "addr add 198.51.100.5/24 dev {other}", "link set {pf} up",
        "link set {other} up",
        "route add default nexthop via 198.51.100.1 dev {other} nexthop via 192.0.2.1 dev {pf}"]),
}


@pytest.fixture
def run_ip(pfs: tuple[PhysicalFunction, ...]) -> Iterator[Callable[[str], str]]:
    """Runs `ip`, with the names of two PFs; what it made of them is undone."""
    names = [node.netdev_name(pf) for pf in pfs[:2]]
    yield lambda line: node.run("ip", *line.format(pf=names[0], other=names[1]).split())
    subprocess.run(["ip", "link", "del", "tie0"], check=False, capture_output=True)
    for name in names:
        node.run("ip", "link", "set", name, "down")
        node.run("ip", "addr", "flush", "dev", name)


@pytest.mark.parametrize(("tie", "lines"), TIES.values(), ids=TIES)
def test_a_pf_that_the_node_needs_is_left_alone(
        pfs: tuple[PhysicalFunction, ...], run_ip: Callable[[str], str], tie: str, lines: list[str]) -> None:
    for line in lines:
        run_ip(line)
    before = state_of(pfs[0])
    (refused,) = apply_pool_file(Executor(Sysfs()), mixed(pfs[0].address), FREE).refused
    assert refused.override == Override.TIED
    assert tie in str(refused)
    assert state_of(pfs[0]) == before


def test_igb_has_no_eswitch(pfs: tuple[PhysicalFunction, ...]) -> None:
    pf = pfs[0]
    before = state_of(pf)
    entry = f"{{match: {{address: '{pf.address}'}}, numVfs: 2, eswitch: switchdev}}"
    file = pool_file(f"physicalFunctions:\n  - {entry}\n")
    (problem,) = apply_pool_file(Executor(Sysfs()), file, FREE).problems
    assert "cannot set eswitch mode switchdev" in problem
    assert state_of(pf) == before


# ---- every write fails ----------------------------------------------------------------------------------


class Faults:
    """Counts writes, and makes the one of this number fail: before it is made, or `late`."""

    def __init__(self, fail_at: int | None = None, *, late: bool = False) -> None:
        self.count = 0
        self._fail_at, self._late = fail_at, late
        self._guard = threading.Lock()

    def next_fails(self, *, late: bool) -> bool:
        with self._guard:
            if not late:
                self.count += 1
            return self.count - 1 == self._fail_at and late == self._late

    def check(self, what: str, *, late: bool = False) -> None:
        if self.next_fails(late=late):
            raise HostError(f"{what} fails", errno=5)


class FailingSysfs(Sysfs):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def _write(self, operation: str, address: str, file: str, text: str) -> None:
        self._faults.check(file)
        super()._write(operation, address, file, text)      # type: ignore[arg-type]
        self._faults.check(file, late=True)


class FailingLinks:
    """`Links`, but for its two methods that write."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._links = faults, Links.open()

    def __enter__(self) -> FailingLinks:
        return self

    def __exit__(self, *_: object) -> None:
        self._links.close()

    def __getattr__(self, name: str) -> object:
        method = getattr(self._links, name)
        if name not in ("change", "set_vf"):
            return method

        def write(*arguments: object, **keywords: object) -> None:
            self._faults.check(name)
            method(*arguments, **keywords)
            self._faults.check(name, late=True)

        return write


def failing(faults: Faults) -> Executor:
    return Executor(FailingSysfs(faults), lambda: FailingLinks(faults))      # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_each_write_fails_in_turn(pfs: tuple[PhysicalFunction, ...], late: bool) -> None:
    pf = pfs[0]
    file = mixed(pf.address, 2)
    counting = Faults()
    assert apply_pool_file(failing(counting), file, FREE).problems == ()
    wanted = state_of(pf)
    assert counting.count > 8
    for number in range(counting.count):
        Sysfs().write_num_vfs(pf.address, 0)
        assert pf.link is not None
        node.run("ip", "link", "set", pf.link.name, "mtu", str(pf.link.mtu))
        before = state_of(pf)
        report = apply_pool_file(failing(Faults(number, late=late)), file, FREE)
        now = state_of(pf)
        said = f"write {number}: {report.problems}"
        assert now.autoprobe is True, said
        if not report.failed:                              # a step that is tried again, or whose read came first
            assert now == wanted, said
            continue
        (failure,) = report.failed
        if now.num_vfs == 0:
            assert (now == before) == (failure.left == ()), said
            continue
        bad = [index for index, vf in now.vfs.items() if vf != wanted.vfs[index]]
        assert len(bad) == 1, said
        vf = now.vfs[bad[0]]                               # as it was made, or as it was when it had its driver
        assert failure.left or vf.driver == "" or vf == replace(wanted.vfs[bad[0]], mtu=1500), said
