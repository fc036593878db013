"""What is advertised to the kubelet: numbered, immutable snapshots with one owner."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from deviceplugin.changes import NO_CHANGE, Change, find_change
from sriov.errors import SriovError
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, Member, Pool

log = logging.getLogger(__name__)

POLL = 5.0             # seconds; the backstop for a trigger that never came
LONGEST_POLL = 60.0
IDLE_SHARE = 0.002     # of a processor for scans that nothing asked for: those of many VFs come less often
LONGEST_REST = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one look at the host came to, and by which pools; `generation` counts the pool files, from 1.

    `held`: VFs that pods may have, where those that pools lost to a new file are not expected back; None: all are.
    """

    pools: tuple[Pool, ...]
    assignment: Assignment
    generation: int = 1
    held: frozenset[PciAddress] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The members of every resource, by full resource name, sorted by address. Version 0: not yet known.

    `change` is what this version changed; who skipped versions compares the members. `since`: seconds since the
    epoch.
    """

    version: int
    since: float = 0.0
    pools: Mapping[str, Pool] = field(default_factory=lambda: MappingProxyType({}))
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0
    change: Change = NO_CHANGE

    def get_members(self, resource: str) -> tuple[Member, ...]:
        return self.members.get(resource, ())

    def excludes_topology(self, resource: str) -> bool:
        """Whether the kubelet is not told on which NUMA nodes this resource's VFs are."""
        return resource in self.pools and self.pools[resource].exclude_topology


class Inventory:
    """Owns the current Snapshot. Every stream remembers the version it sent and waits for a newer one.

    `pools` are served before anything is known of the host. All methods belong to the event loop's thread.
    """

    def __init__(self, pools: Iterable[Pool] = ()) -> None:
        self._snapshot = Snapshot(version=0, since=time.time(), pools=_by_resource(pools))
        self._failure: str | None = None
        self._published = asyncio.Event()
        self._wanted = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def failure(self) -> str | None:
        """Why the last scan failed; None: it did not."""
        return self._failure

    def publish(self, view: View) -> Snapshot:
        """Make what `view` says the current snapshot; the same content keeps its version."""
        before, pools = self._snapshot, _by_resource(view.pools)
        members = plan_members(before.members, view.assignment, view.held)
        same_file = view.generation == before.generation
        if before.version and same_file and members == before.members and pools == before.pools:
            return before
        change = find_change(before.members, members, None if same_file else view.generation)
        log_change(change)
        self._snapshot = Snapshot(version=before.version + 1, since=time.time(), pools=pools, change=change,
                                  members=MappingProxyType(members), generation=view.generation)
        self._published.set()
        self._published = asyncio.Event()
        return self._snapshot

    async def wait_newer(self, version: int) -> Snapshot:
        """The current snapshot as soon as its version is above `version`; versions in between are skipped."""
        while self._snapshot.version <= version:
            await self._published.wait()
        return self._snapshot

    def rescan(self) -> None:
        """Ask `run` for a scan: now, or right after the one that is under way."""
        self._wanted.set()

    async def run(self, scan: Callable[[], View], *, poll: float = POLL) -> None:
        """Scan and publish for ever: at once, on every `rescan`, and `poll` seconds after the last time.

        After a scan that took long it is more seconds, so that an idle host costs at most IDLE_SHARE.
        `scan` blocks and runs in a thread of its own, never twice at a time. If it raises SriovError or
        OSError, the last snapshot stays and the next turn tries again; anything else is a bug and ends this.
        """
        loop = asyncio.get_running_loop()
        cost = 0.0

        def measure() -> View:
            nonlocal cost
            before = time.thread_time()
            try:
                return scan()
            finally:
                cost = time.thread_time() - before

        # Not the loop's own executor: sysfs writes that take seconds may hold all of its threads.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scan")
        try:
            while True:
                self._wanted.clear()
                started = loop.time()
                try:
                    view = await loop.run_in_executor(executor, measure)
                except (SriovError, OSError) as error:
                    failure = f"cannot scan the host, the last view of it stays: {error}"
                    if failure != self._failure:
                        log.error("%s", failure)
                    self._failure = failure
                else:
                    if self._failure is not None:
                        log.info("the host can be scanned again")
                    self._failure = None
                    self.publish(view)
                # A burst of uevents (one for each of hundreds of VFs) costs half a core at most.
                await asyncio.sleep(min(loop.time() - started, LONGEST_REST))
                rest = max(poll, min(cost / IDLE_SHARE, LONGEST_POLL))
                try:
                    async with asyncio.timeout(rest):
                        await self._wanted.wait()
                except TimeoutError:
                    log.debug("no trigger for %s s, scanning all the same", rest)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def plan_members(
    before: Mapping[str, tuple[Member, ...]], assignment: Assignment, held: Container[PciAddress] | None = None
) -> dict[str, tuple[Member, ...]]:
    """What to advertise: the assignment, and whatever was advertised before and is not in it, as faulty.

    The kubelet drops a device that is not listed without a word to the pod that holds it; one that is listed
    as unhealthy shows in the pod's status. So a VF leaves the list only with its resource, with the agent, or where
    it is not in `held`, if that is given.
    """
    members = {}
    for resource, now in assignment.members.items():
        present = {member.vf.address for member in now}
        missing = [
            replace(member, fault=explain_absence(member.vf.address, assignment))
            for member in before.get(resource, ())
            if member.vf.address not in present and (held is None or member.vf.address in held)
        ]
        members[resource] = tuple(sorted([*now, *missing], key=lambda member: member.vf.address.order))
    return members


def explain_absence(address: PciAddress, assignment: Assignment) -> str:
    for resource, members in assignment.members.items():
        if any(member.vf.address == address for member in members):
            return f"now belongs to {resource}"
    return assignment.left_out.get(address, "is not on the host any more")


def log_change(change: Change) -> None:
    for sentence in change.warnings():
        log.warning("%s", sentence)
    for sentence in change.news():
        log.info("%s", sentence)


def _by_resource(pools: Iterable[Pool]) -> Mapping[str, Pool]:
    return MappingProxyType({pool.resource: pool for pool in pools})
