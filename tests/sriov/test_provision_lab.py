"""Provisioning on a real kernel, igb and igbvf: reached and undone, and every write failing in turn."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
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


def test_mixed_drivers_on_all_pfs_and_back(pfs: tuple[PhysicalFunction, ...], tmp_path: Path) -> None:
    before = states(pfs)
    ledger = Ledger(tmp_path, "boot")
    terms = replace(FREE, ledger=ledger)
    executor = Executor(Sysfs())
    assert apply_pool_file(executor, mixed(), terms).problems == ()
    for pf in node.pfs():
        was = next(each for each in pfs if each.address == pf.address)
        assert pf.link is not None
        assert was.link is not None
        assert (pf.num_vfs, pf.link.mtu, pf.link.up, pf.autoprobe) == (COUNT, 2000, True, True)
        assert [vf.driver for vf in pf.vfs] == ["igbvf", "vfio-pci", "igbvf", "igbvf"]
        settings = executor.read_settings(pf)
        for vf in pf.vfs:
            assert settings[vf.address].mac == derive_mac(was.link.mac, vf.index)
            if vf.link is not None:
                assert (vf.link.mac, vf.link.mtu) == (settings[vf.address].mac, 1400)
                assert (settings[vf.address].vlan, settings[vf.address].spoofchk) == (7, False)
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


def test_the_port_of_a_bridge_is_left_alone(pfs: tuple[PhysicalFunction, ...]) -> None:
    pf = pfs[0]
    assert pf.link is not None
    try:
        node.run("ip", "link", "add", "tie0", "type", "bridge")
        node.run("ip", "link", "set", pf.link.name, "master", "tie0")
        (refused,) = apply_pool_file(Executor(Sysfs()), mixed(pf.address), FREE).refused
        assert refused.override == Override.TIED
        assert "port of tie0 (bridge)" in str(refused)
        assert state_of(pf).num_vfs == 0
    finally:
        subprocess.run(["ip", "link", "del", "tie0"], check=False)


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
