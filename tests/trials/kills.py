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
from tests.trials.vfs import Loss, describe, find_losses, look

PATIENCE = 5.0         # seconds after the namespace's end, for all to be as before
WARM_UP = 2            # ADDs and DELs that say how long such a call takes
_LOOK_AGAIN = 0.5      # seconds

Kill = Callable[[str, Pod, Random], End]


@dataclass(slots=True)
class Kills:
    """Of one command: `damaged` trials of all left something behind; `losses` says what, of each kind how often."""

    trials: int = 0
    damaged: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)


class Trial:
    """Kills on one VF after another; `remake` brings a PF's VFs back where one was damaged."""

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
        for _ in range(WARM_UP):
            pod = self._network.make_pod(self._vfs[0], self._random)
            pod.start()
            try:
                for command in ("ADD", "DEL"):
                    end = self._caller.call(command, pod)
                    assert end.failure is None, f"{command} without a fault: {end.failure}"
            finally:
                pod.remove()

    def _try(self, found: Kills, number: int, command: str, kill: Kill) -> None:
        """One trial; it counts if the call still ran when somebody was to be killed."""
        vf = self._vfs[number]
        node.run("udevadm", "settle")
        before, address = look([vf]), str(vf.address)
        pod = self._network.make_pod(vf, self._random)
        pod.start()
        try:
            if command == "DEL":
                end = self._caller.call("ADD", pod)
                assert end.failure is None, f"ADD without a fault: {end.failure}"
            end = kill(command, pod, self._random)
            answers = [self._caller.call("DEL", pod).failure for _ in range(2)]
        finally:
            pod.remove()
        until = time.monotonic() + PATIENCE
        while True:
            node.run("udevadm", "settle")
            after = look([vf])[address]
            losses = find_losses(before[address], after)
            reserved = self._network.reserved()
            losses += [Loss.ADDRESS] * bool(reserved)
            if not losses or time.monotonic() > until:
                break
            time.sleep(_LOOK_AGAIN)
        if not end.disturbed:
            assert not losses, f"{command} without a fault left {losses}"
            return
        found.trials += 1
        if losses:
            found.damaged += 1
            found.losses.update(losses)
            lines = describe(address, before[address], after)
            found.details.append(f"{command} killed, its DELs answered {answers}: {'; '.join(lines + reserved)}")
            self._forget(reserved)
            self._remake(vf.pf)

    def _forget(self, reserved: Sequence[str]) -> None:
        """The next trial counts its own."""
        for lease in reserved:
            self._network.forget(lease)

    def _remake(self, address: PciAddress) -> None:
        count = sum(vf.pf == address for vf in self._vfs)
        Sysfs().write_num_vfs(address, 0)
        (pf,) = [pf for pf in node.pfs() if pf.address == address]
        made = {vf.address: vf for vf in node.make_vfs(pf, count)}
        self._vfs = [made.get(vf.address, vf) for vf in self._vfs]
