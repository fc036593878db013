"""A full machine: 8 PFs with 7 VFs each and two drivers, all at once and one PF after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction
from sriov.pools.assignment import PoolFile
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import Report, Terms, plan_jobs, pool_file_jobs, reset
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from tests.bench.provision import DRIVERS, POOLS, at_once, one_by_one, remove_vfs
from tests.lab.topology import FULL, VFS_PER_PF
from tests.sriov.test_provision_lab import FREE, check_mixed, mixed, states
from tests.support import node

pytestmark = pytest.mark.lab(topology=FULL)

Way: TypeAlias = Callable[[PoolFile, Terms], Report]


@pytest.fixture
def pfs() -> tuple[PhysicalFunction, ...]:
    """All 8, down and without VFs. What a test leaves goes with the machine."""
    pfs = node.pfs()
    assert len(pfs) == len(FULL.pfs)
    if any(pf.num_vfs for pf in pfs):
        remove_vfs(pfs)
    return node.pfs()


def test_each_of_56_vfs_gets_its_driver(pfs: tuple[PhysicalFunction, ...]) -> None:
    before = states(pfs)
    assert at_once(parse_pool_file(POOLS, "pools.yaml"), FREE).problems == ()
    after = states(pfs)
    assert [replace(state, num_vfs=0, up=False, vfs={}) for state in after] == before
    overrides = {"igbvf": "", "vfio-pci": "vfio-pci"}
    for state in after:
        assert (state.num_vfs, state.up) == (VFS_PER_PF, True)
        assert [(vf.driver, vf.override) for _, vf in sorted(state.vfs.items())] == [
            (driver, overrides[driver]) for driver in DRIVERS]


@pytest.mark.long      # each way, and back from there, takes more than a minute of an emulated CPU
@pytest.mark.parametrize("way", [at_once, one_by_one])
def test_all_that_can_be_wanted_and_back(pfs: tuple[PhysicalFunction, ...], tmp_path: Path, way: Way) -> None:
    before, ledger, file = states(pfs), Ledger(tmp_path, "boot"), mixed(count=VFS_PER_PF)
    terms, executor = replace(FREE, ledger=ledger), Executor(Sysfs())
    assert way(file, terms).problems == ()
    check_mixed(pfs, VFS_PER_PF)
    assert plan_jobs(executor, pool_file_jobs(executor.look(), file), terms).describe() == ()
    assert reset(executor, FREE, ledger).problems == ()
    assert states(pfs) == before
