"""kill -9 in the middle of an ADD or a DEL, then what a runtime does: DEL, and the namespace's end."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from sriov.pci import PciAddress
from tests.support import node
from tests.support.node import Cni
from tests.trials.calls import Caller, End
from tests.trials.pods import Network, Pod
from tests.trials.vfs import Loss, VfState, describe, find_losses, look

PATIENCE = 5.0         # seconds after the namespace's end, for all to be as before
SPOILT = 10            # trials that no fault has spoilt, before it is no use going on
WARM_UP = 2            # ADDs and DELs that say how long such a call takes
_LOOK_AGAIN = 0.5      # seconds

Kill = Callable[[str, Pod, Random], End]


@dataclass(slots=True)
class Kills:
    """Of one command: `damaged` trials of all left something behind; `losses` says what, of each kind how often.

    `spoilt`: before anybody could be killed the ADD failed, or the call had ended and left something.
    """

    trials: int = 0
    damaged: int = 0
    spoilt: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)


class Trial:
    """Kills on one VF after another; where one is damaged, all of its PF are made anew."""

    def __init__(self, cni: Cni, vfs: Sequence[VirtualFunction], leases: Path, *, seed: int) -> None:
        self._vfs = list(vfs)
        self._network = Network(leases)
        self._random = Random(seed)
        self._caller = Caller(cni)

    def run(self, command: str, trials: int, kill: Kill | None = None) -> Kills:
        """`kill` makes the call and kills somebody while it runs; the executable where not given."""
        found = Kills()
        for number in itertools.cycle(range(len(self._vfs))):
            if found.trials == trials:
                return found
            self._try(found, number, command, kill or self._caller.kill)
        raise AssertionError("there are no VFs")

    def disturb(self, command: str, pod: Pod, random: Random, disturbance: Callable[[], None]) -> End:
        return self._caller.disturb(command, pod, random, disturbance)

    def warm_up(self) -> None:
        """Learn how long calls take; AssertionError where they fail again and again without a fault."""
        warm = 0
        for number in range(SPOILT):
            vf = self._vfs[number % len(self._vfs)]
            pod = self._network.make_pod(vf, self._random)
            pod.start()
            try:
                failures = [self._caller.call(command, pod).failure for command in ("ADD", "DEL")]
            finally:
                pod.remove()
            warm += not any(failures)
            if warm == WARM_UP:
                return
            if any(failures):
                self._remake(vf.pf)
        raise AssertionError(f"ADD and DEL without a fault: {failures}")

    def _try(self, found: Kills, number: int, command: str, kill: Kill) -> None:
        """One trial; it counts if the call still ran when somebody was to be killed."""
        vf = self._vfs[number]
        node.run("udevadm", "settle")
        before = look([vf])[vf.address]
        pod = self._network.make_pod(vf, self._random)
        pod.start()
        try:
            end = self._caller.call("ADD", pod) if command == "DEL" else End()
            if end.failure is None:
                end = kill(command, pod, self._random)
            answers = [self._caller.call("DEL", pod, typical=False).failure for _ in range(2)]
        finally:
            pod.remove()
        losses, lines = self._wait_home(vf, before)
        if losses:
            self._remake(vf.pf)
        if not end.disturbed:
            found.spoilt += bool(losses or end.failure)
            assert found.spoilt < SPOILT, f"{command} without a fault: {end.failure}, it left {lines}"
            return
        found.trials += 1
        if losses:
            found.damaged += 1
            found.losses.update(losses)
            found.details.append(f"{command} killed, its DELs answered {answers}: {'; '.join(lines)}")

    def _wait_home(self, vf: VirtualFunction, before: VfState) -> tuple[list[Loss], list[str]]:
        """What is lost of the VF after PATIENCE, and the same in words. Its addresses are given back then."""
        until = time.monotonic() + PATIENCE
        while True:
            node.run("udevadm", "settle")
            after, reserved = look([vf])[vf.address], self._network.reserved()
            losses = find_losses(before, after) + [Loss.ADDRESS] * bool(reserved)
            if not losses or time.monotonic() > until:
                break
            time.sleep(_LOOK_AGAIN)
        for address in reserved:      # the next trial counts its own
            self._network.forget(address)
        return losses, [*describe(vf.address, before, after), *(f"{address} is reserved" for address in reserved)]

    def _remake(self, address: PciAddress) -> None:
        """The PF's VFs as they were first."""
        count = sum(vf.pf == address for vf in self._vfs)
        Sysfs().write_num_vfs(address, 0)
        (pf,) = [pf for pf in node.pfs() if pf.address == address]
        made = {vf.address: vf for vf in node.make_vfs(pf, count)}
        self._vfs = [made.get(vf.address, vf) for vf in self._vfs]
