"""A storm: many pods start and end at once on the same VFs, and not all of them end as they should."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, unique
from pathlib import Path
from random import Random

from cni.protocol import Code
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.node import Cni
from tests.trials.calls import Caller, End
from tests.trials.pods import PREFIX, Network, Pod, find_fault, is_inside
from tests.trials.vfs import Loss, VfState, describe, find_losses, look

DETAILS = 60           # lines of a report
RAMP = 20.0            # seconds until the last worker has begun, at most
DEL_TRIES = 5          # a runtime tries for ever
_LOOK_AGAIN = 1.0      # seconds


@unique
class Fate(Enum):
    """What becomes of a pod."""

    DELETED = "ADD, DEL"
    FREED_BEFORE_DEL = "its VF is given to the next pod before its DEL is called"
    NEVER_DELETED = "the namespace goes, and no DEL comes"
    DELETED_LATE = "the namespace goes, the VF is given to the next pod, then comes the DEL"
    DELETED_TWICE = "one DEL more"
    NETNS_GONE_DURING_ADD = "the namespace goes while the ADD is under way"
    NETNS_GONE_DURING_DEL = "the namespace goes while the DEL is under way"
    KILLED_DURING_ADD = "kill -9 of the executable, then a DEL"
    KILLED_DURING_DEL = "kill -9 of the executable, then another DEL"
    COVETED = "another pod asks for the VF while this one has it"


_DECK = [*Fate, Fate.DELETED, Fate.DELETED]    # one pod in four ends as it should


@dataclass(slots=True)
class Tally:
    """What came of it. `busy`: ADDs that failed while the VF's last pod was still on its way out; `put_off`: those
    that were told to try again later (CNI error code 11), and changed nothing.
    """

    pods: int = 0
    attached: int = 0
    busy: int = 0
    put_off: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    calls: Mapping[str, int] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def lose(self, detail: str, *losses: Loss) -> None:
        self.losses.update(losses)
        if len(self.details) < DETAILS:
            self.details.append(f"{', '.join(losses)}: {detail}")


class Free:
    """VFs that may be given to a pod, the longest free first, each with the pod that had it last."""

    def __init__(self, vfs: Iterable[VirtualFunction]) -> None:
        self._vfs: deque[tuple[VirtualFunction, Pod | None]] = deque((vf, None) for vf in vfs)
        self._changed = threading.Condition()

    def take(self, until: float) -> tuple[VirtualFunction, Pod | None] | None:
        """None where there was none until then (time.monotonic())."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._vfs, until - time.monotonic()) or time.monotonic() > until:
                return None
            return self._vfs.popleft()

    def give(self, vf: VirtualFunction, last: Pod) -> None:
        with self._changed:
            self._vfs.append((vf, last))
            self._changed.notify()


class Storm:
    """`run` it once. Workers are threads, each with random numbers of its own from `seed`."""

    def __init__(self, cni: Cni, vfs: Sequence[VirtualFunction], leases: Path, *, seed: int) -> None:
        self._vfs = vfs
        self._free = Free(vfs)
        self._caller = Caller(cni)
        self._network = Network(leases)
        self._seed = seed
        self._untried = Random(seed).sample(list(Fate), len(Fate))
        self._pf_index = {pf.address: pf.link.index for pf in node.pfs() if pf.link is not None}
        self._guard = threading.Lock()
        self._tally = Tally()
        self._holders: dict[str, Pod] = {}

    def run(self, seconds: float, workers: int, patience: float) -> Tally:
        """Start pods for so long; every VF shall be home `patience` seconds after the last has ended."""
        before = look(self._vfs)
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(self._work, until, number) for number in range(workers)]:
                done.result()
        self._tally.calls = dict(self._caller.count)
        self._take_stock(before, time.monotonic() + patience)
        return self._tally

    def _take_stock(self, before: Mapping[str, VfState], until: float) -> None:
        """Wait for every VF to be home, then count what is not."""
        while True:
            node.run("udevadm", "settle")
            after = look(self._vfs)
            astray = {address: losses for address in before
                      if (losses := find_losses(before[address], after[address]))}
            reserved = self._network.reserved()
            if not (astray or reserved) or time.monotonic() > until:
                break
            time.sleep(_LOOK_AGAIN)
        for address, losses in astray.items():
            self._tally.lose("; ".join(describe(address, before[address], after[address])), *losses)
        for lease in reserved:
            self._tally.lose(lease, Loss.ADDRESS)
        left = [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(PREFIX)]
        assert not left, f"namespaces that the trial itself left: {left}"

    # -- one worker --------------------------------------------------------------------------------------

    def _work(self, until: float, number: int) -> None:
        random = Random(f"{self._seed}/{number}")
        time.sleep(random.uniform(0, min(RAMP, (until - time.monotonic()) / 4)))
        while (taken := self._free.take(until)) is not None:
            vf, last = taken
            fate = self._choose_fate(random)
            pod = self._network.make_pod(vf, random)
            pod.start()
            try:
                if self._attach(pod, fate, random, free=last is None or last.ended):
                    self._hold(pod, fate, random)
                    self._end(pod, fate, random)
                else:        # as runtimes do after an ADD that failed
                    self._delete(pod)
                    pod.remove()
                    self._free.give(vf, pod)
            finally:
                pod.remove()

    def _choose_fate(self, random: Random) -> Fate:
        """Each once before any a second time: a short storm has few pods."""
        with self._guard:
            fate = self._untried.pop() if self._untried else random.choice(_DECK)
            self._tally.pods += 1
            self._tally.fates[fate.name] += 1
        return fate

    def _attach(self, pod: Pod, fate: Fate, random: Random, *, free: bool) -> bool:
        """Whether the pod has its VF, as far as its runtime knows."""
        match fate:
            case Fate.NETNS_GONE_DURING_ADD:
                end = self._caller.disturb("ADD", pod, random, pod.remove)
            case Fate.KILLED_DURING_ADD:
                end = self._caller.kill("ADD", pod, random)
            case _:
                end = self._caller.call("ADD", pod)
        if end.disturbed:
            return False
        if end.failure is not None:
            if end.code == Code.TRY_AGAIN_LATER:
                with self._guard:
                    self._tally.put_off += 1
            elif free:
                self._lose(Loss.REFUSED, f"VF {pod.vf.address}: {end.failure}")
            else:
                with self._guard:
                    self._tally.busy += 1
            return False
        with self._guard:
            self._tally.attached += 1
            other = self._holders.get(pod.vf.address)
            self._holders[pod.vf.address] = pod
        if other is not None:
            self._lose(Loss.TWICE, f"VF {pod.vf.address}: {other.container} and {pod.container}")
        return True

    def _hold(self, pod: Pod, fate: Fate, random: Random) -> None:
        """The pod's life: its VF has to be with it from its first to its last moment."""
        if self._is_intact(pod):
            if fate is Fate.COVETED:
                self._covet(pod, random)
            else:
                time.sleep(random.uniform(0, 1))
            self._is_intact(pod)

    def _is_intact(self, pod: Pod) -> bool:
        fault = find_fault(pod, self._pf_index[pod.vf.pf])
        if fault is not None:
            there, words = fault
            self._lose(Loss.ALTERED if there else Loss.STOLEN, words)
        return fault is None

    def _covet(self, pod: Pod, random: Random) -> None:
        """An ADD that has to fail, and the DEL that runtimes call then."""
        other = self._network.make_pod(pod.vf, random)
        other.start()
        try:
            if self._caller.call("ADD", other).failure is None:
                self._lose(Loss.TWICE, f"VF {pod.vf.address}: {pod.container} and {other.container}")
            self._delete(other)
        finally:
            other.remove()

    def _end(self, pod: Pod, fate: Fate, random: Random) -> None:
        with self._guard:
            del self._holders[pod.vf.address]
        match fate:
            case Fate.NEVER_DELETED | Fate.DELETED_LATE:
                self._remove(pod)
                self._free.give(pod.vf, pod)
                if fate is Fate.DELETED_LATE:
                    time.sleep(random.uniform(0, 8))
                    self._delete(pod, netns=random.choice(["", pod.netns]))
                return
            case Fate.FREED_BEFORE_DEL:
                self._free.give(pod.vf, pod)
            case Fate.NETNS_GONE_DURING_DEL:
                self._caller.disturb("DEL", pod, random, lambda: self._remove(pod))
            case Fate.KILLED_DURING_DEL:
                self._caller.kill("DEL", pod, random)
            case _:
                pass
        self._delete(pod)
        self._remove(pod)
        if fate is not Fate.FREED_BEFORE_DEL:
            self._free.give(pod.vf, pod)
        if fate is Fate.DELETED_TWICE:
            self._delete(pod)

    def _remove(self, pod: Pod) -> None:
        pod.remove()
        pod.ended = True

    def _delete(self, pod: Pod, netns: str | None = None) -> None:
        """DEL, tried again where it fails, and what it promises."""
        for _ in range(DEL_TRIES):
            end: End = self._caller.call("DEL", pod, netns, typical=not pod.ended)
            if end.failure is None:
                if is_inside(pod):
                    self._lose(Loss.KEPT, f"VF {pod.vf.address} in {pod.netns}")
                pod.ended = True
                return
            time.sleep(1)
        self._lose(Loss.STUCK, f"VF {pod.vf.address}: {end.failure}")

    def _lose(self, loss: Loss, detail: str) -> None:
        with self._guard:
            self._tally.lose(detail, loss)
