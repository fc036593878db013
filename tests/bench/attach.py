"""ADD and DEL on real VFs beside the bare kernel operations and, where VFPOOL_PEERS has it, sriov-cni.

`python -m tests.bench.attach [rounds]`, inside a lab machine with 8 PFs. In each table all take turns on the same
VFs. Our agent runs all the while, and looks at the node after anybody's changes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles

from sriov.model import PhysicalFunction, VirtualFunction
from sriov.pci import MacAddress
from tests.bench.contest import (
    CASES,
    FLOOR,
    LIKE_FOR_LIKE,
    OURS,
    PEER,
    UNTRUSTED,
    Case,
    Contestant,
    contest,
    find_peer,
    take_turns,
)
from tests.bench.messages import count_requests
from tests.bench.turns import show, timed
from tests.lab.topology import VFS_PER_PF
from tests.support import node
from tests.support.node import POOLS, Agent, Cni

GROWTH = (1, 3, 5, VFS_PER_PF)
Vfs = Sequence[VirtualFunction]

INTRODUCTION = f"""\
{FLOOR}: the netlink messages that the driver needs and the reads that verify them, from one process that has
sockets and descriptors open. {OURS}: the executable and the agent. {PEER}: its executable. Milliseconds; `both` is
an ADD's p50 and a DEL's, and the ratios are of that."""


def run_alone(cni: Cni, vfs: Vfs, agent: int, rounds: int) -> None:
    show(f"\nOne at a time, on a PF with {len(vfs)} VFs, {rounds} of each; requests: reads and changes by "
         "netlink, ioctls of ethtool")
    show(f"{'':35}{'ADD p50':>9}{'p99':>8}{'DEL p50':>9}{'p99':>8}{'both':>8}{'x floor':>9}{f'x {PEER}':>13}"
         f"{'ADD requests':>15}{'DEL requests':>15}")
    for case in CASES:
        with prepared(vfs[0], case) as vf, contest(cni, vf, case) as contestants:
            take_turns(contestants, rounds)
            lines = [f"{case.name:24}{each.name:11}{show_times(each)}{show_ratios(each, contestants)}"
                     for each in contestants]
            failed = [failures([each]) for each in contestants]
            requests = [count_requests(each, agent) for each in contestants]
        for line, (adding, deleting), note in zip(lines, requests, failed, strict=True):
            show(f"{line}{adding!s:>15}{deleting!s:>15}{note}")


@contextmanager
def prepared(vf: VirtualFunction, case: Case) -> Iterator[VirtualFunction]:
    """The VF with the driver that the case is about."""
    if not case.userspace:
        yield vf
        return
    node.bind(vf, "vfio-pci")
    try:
        yield replace(vf, link=None)
    finally:
        node.bind(vf, None)


def run_growing(cni: Cni, pf: PhysicalFunction, rounds: int) -> None:
    show(f"\n{LIKE_FOR_LIKE.name}, one at a time, by the VFs that the PF has, {rounds} of each; growth: of `both`, "
         "from one VF")
    show(f"{'VFs':>5}  {'':11}{'ADD p50':>9}{'p99':>8}{'DEL p50':>9}{'p99':>8}{'both':>8}{'x floor':>9}"
         f"{f'x {PEER}':>13}{'growth':>8}")
    first: dict[str, float] = {}
    for count in GROWTH:
        with contest(cni, node.make_vfs(pf, count)[0], LIKE_FOR_LIKE) as contestants:
            take_turns(contestants, rounds)
        for each in contestants:
            growth = each.p50 / first.setdefault(each.name, each.p50)
            show(f"{count:5}  {each.name:11}{show_times(each)}{show_ratios(each, contestants)}{growth:8.2f}")


@dataclass(slots=True, kw_only=True)
class Team:
    """Contestants of one name, each with a VF of its own, so many of them at a time; walls in milliseconds."""

    name: str
    members: Sequence[Contestant]
    width: int
    adding: list[float] = field(default_factory=list)
    deleting: list[float] = field(default_factory=list)

    def turn(self, *, warm_up: bool) -> None:
        """All ADDs, then all DELs."""
        node.run("udevadm", "settle")
        with ThreadPoolExecutor(self.width) as threads:
            adding = timed(lambda: list(threads.map(Contestant.add, self.members)))
            deleting = timed(lambda: list(threads.map(Contestant.delete, self.members)))
        for member in self.members:
            member.tidy()
            if warm_up:
                member.forget()
        if not warm_up:
            self.adding.append(adding)
            self.deleting.append(deleting)

    @property
    def wall(self) -> float:
        return median(self.adding) + median(self.deleting)


def run_at_once(cni: Cni, vfs: Vfs, case: Case, rounds: int) -> None:
    """The floor also one after another: the kernel's lock is one for all."""
    pfs = len({vf.pf for vf in vfs})
    show(f"\n{case.name}, {len(vfs)} VFs of {pfs} PFs, {rounds} times: all ADDs at once, then all DELs; wall: "
         "until the last has ended")
    with ExitStack() as stack:
        found: dict[str, list[Contestant]] = {}
        for number, vf in enumerate(vfs):
            own = replace(case, keys=case.keys | {"mac": MacAddress(f"02:00:00:00:01:{number:02x}")})
            for each in stack.enter_context(contest(cni, vf, own)):
                found.setdefault(each.name, []).append(each)
        serial = [Contestant(name=each.name, attach=each.attach, detach=each.detach) for each in found[FLOOR]]
        floor = Team(name="floor, one after another", members=serial, width=1)
        teams = [floor, *(Team(name=f"{name}, all at once", members=members, width=len(vfs))
                          for name, members in found.items())]
        for number in range(rounds + 1):
            for team in teams:
                team.turn(warm_up=number == 0)
    show(f"{'':26}{'ADD wall':>9}{'p50':>8}{'p99':>8}{'DEL wall':>10}{'p50':>8}{'p99':>8}{'both':>8}"
         f"{'x floor':>9}")
    for team in teams:
        adds = [took for member in team.members for took in member.adds]
        dels = [took for member in team.members for took in member.dels]
        show(f"{team.name:26}{median(team.adding):9.0f}{median(adds):8.0f}{p99(adds):8.0f}"
             f"{median(team.deleting):10.0f}{median(dels):8.0f}{p99(dels):8.0f}{team.wall:8.0f}"
             f"{team.wall / floor.wall:9.2f}{failures(team.members)}")


def main(rounds: int = 100) -> None:
    with tempfile.TemporaryDirectory(dir="/var/lib") as folder:      # on a disk, as what sriov-cni writes
        agent = Agent(Path(folder), POOLS, log_level="info")
        (agent.kubelet / "plugins_registry").mkdir(parents=True)      # as on a node
        pfs = node.pfs()
        pairs = [vf for pf in pfs for vf in node.make_vfs(pf, 2)]
        agent.start()
        cni = Cni(agent.socket)
        show(f"{INTRODUCTION}\nOf each call of an executable, {process_cost():.1f} are a process: "
             "what /bin/true takes to start and end.")
        if find_peer() is None:
            show(f"{PEER} was not measured: VFPOOL_PEERS names no folder that has it")
        try:
            run_at_once(cni, pairs, LIKE_FOR_LIKE, max(rounds // 25, 1))
            run_growing(cni, pfs[0], max(rounds // 10, 2))
            run_alone(cni, node.make_vfs(pfs[0], VFS_PER_PF), agent.pid, rounds)
            both = [vf for pf in pfs[:2] for vf in node.make_vfs(pf, VFS_PER_PF)]
            run_at_once(cni, both, UNTRUSTED, max(rounds // 25, 1))
        finally:
            agent.stop()


def process_cost() -> float:
    """Milliseconds, of a process that does nothing."""
    def start() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)

    return median(timed(start) for _ in range(20))


# ---- columns --------------------------------------------------------------------------------------------


def show_times(contestant: Contestant) -> str:
    return (f"{median(contestant.adds):9.1f}{p99(contestant.adds):8.1f}"
            f"{median(contestant.dels):9.1f}{p99(contestant.dels):8.1f}{contestant.p50:8.1f}")


def p99(milliseconds: Sequence[float]) -> float:
    """Of at least two, and of fewer than a hundred almost the worst."""
    return quantiles(milliseconds, n=100, method="inclusive")[-1]


def show_ratios(contestant: Contestant, contestants: Sequence[Contestant]) -> str:
    p50 = {each.name: each.p50 for each in contestants}
    return "".join(f"{contestant.p50 / p50[name]:{width}.2f}" if name in p50 else f"{'-':>{width}}"
                   for name, width in ((FLOOR, 9), (PEER, 13)))


def failures(contestants: Sequence[Contestant]) -> str:
    failed = sum(each.failed for each in contestants)
    return f"   {failed} of {sum(len(each.dels) for each in contestants)} DELs failed" if failed else ""


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
