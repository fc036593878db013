"""Pods that start and end at once on the same VFs while namespaces die and callers are killed: nothing is lost."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from tests.lab.topology import FULL, VFS_PER_PF
from tests.support import node
from tests.support.node import POOLS, SHIM, Agent, Cni, wait_for
from tests.trials.storm import Fate, Storm, Tally
from tests.trials.vfs import Loss

PATIENCE = 60.0        # seconds for the kernel to take down what is left of a storm, emulated
GROWTH = 8 << 20       # bytes: what an allocator may keep


@pytest.mark.lab
def test_a_short_storm(tmp_path: Path) -> None:
    with vfs_of(2) as vfs, started(tmp_path) as agent:
        tally = blow(agent, vfs, tmp_path, seconds=12, workers=10)
        assert tally.fates.keys() == {fate.name for fate in Fate}


@pytest.mark.lab
def test_a_storm_tells_of_an_executable_that_does_nothing_on_a_del(tmp_path: Path) -> None:
    careless = tmp_path / "careless"
    careless.write_text(f"#!/bin/sh\n[ $CNI_COMMAND = DEL ] || exec {SHIM}\n")
    careless.chmod(0o755)
    with vfs_of(1) as vfs, started(tmp_path) as agent:
        storm = Storm(Cni(agent.socket, (str(careless),)), vfs, tmp_path / "leases", seed=1)
        tally = storm.run(5, 4, PATIENCE)
        assert tally.losses[Loss.KEPT] > 0
        assert set(tally.losses) <= {Loss.KEPT, Loss.REFUSED}      # what the agent repairs is home at the end
        wait_for("no record", lambda: agent.records() == [])


@pytest.mark.lab(topology=FULL)
@pytest.mark.long
def test_ten_minutes_of_64_workers_on_56_vfs(tmp_path: Path) -> None:
    with vfs_of(len(FULL.pfs)) as vfs, started(tmp_path) as agent:
        assert len(vfs) == 56
        blow(agent, vfs, tmp_path, seconds=30, workers=16)
        before = Vitals.read(agent)
        tally = blow(agent, vfs, tmp_path, seconds=600, workers=64)
        assert tally.attached > 2 * len(vfs)
        # Repair looks at something every few seconds.
        wait_for("the descriptors and threads of before", lambda: Vitals.read(agent).is_within(before), 20)
        assert Vitals.read(agent).memory < before.memory + GROWTH


def blow(agent: Agent, vfs: list[VirtualFunction], folder: Path, *, seconds: float, workers: int) -> Tally:
    """A storm that leaves nothing."""
    seed = secrets.randbits(32)
    storm = Storm(Cni(agent.socket), vfs, folder / "leases", seed=seed)
    tally = storm.run(seconds, workers, PATIENCE)
    sys.stdout.write(f"seed {seed}, {tally}, {Vitals.read(agent)}\n")
    assert (tally.losses, tally.details) == ({}, [])
    assert agent.running
    wait_for("no record", lambda: agent.records() == [] and not list((agent.state / "ipam").glob("*.json")))
    log = agent.log.read_text()
    assert not re.search("Traceback|internal error", log), log
    return tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Of a process; memory in bytes of resident set."""

    descriptors: int
    threads: int
    memory: int

    def is_within(self, other: Vitals) -> bool:
        return self.descriptors <= other.descriptors and self.threads <= other.threads

    @classmethod
    def read(cls, agent: Agent) -> Vitals:
        proc = Path("/proc", str(agent.pid))
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(descriptors=len(list((proc / "fd").iterdir())), threads=int(status["Threads"]),
                   memory=int(status["VmRSS"].split()[0]) << 10)


@contextmanager
def vfs_of(count: int) -> Iterator[list[VirtualFunction]]:
    """All VFs of so many PFs."""
    pfs = node.pfs()[:count]
    yield [vf for pf in pfs for vf in node.make_vfs(pf, VFS_PER_PF)]
    for pf in pfs:
        Sysfs().write_num_vfs(pf.address, 0)


@contextmanager
def started(folder: Path) -> Iterator[Agent]:
    agent = Agent(folder / "agent", POOLS, log_level="info")
    agent.start()
    yield agent
    assert agent.stop() == 0, agent.tail()
