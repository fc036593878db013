"""Which firmware package each PF runs, without asking its firmware at every look.

The driver gets the answer from firmware, some by way of its flash, while whoever asks holds the device's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sriov.errors import SriovError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress

GOOD_FOR = 600.0           # seconds: i40e takes another package at any time, others when they probe

_Incarnation = tuple[int, str | None, int | None]      # of the device, its driver, its netdev


class PackageMemory:
    """What drivers answered, for as long as device, driver and netdev are the same ones. One thread may ask.

    `identify` tells devices at one address from one another, as `Sysfs.identify`; `clock` is in seconds.
    """

    def __init__(self, identify: Callable[[PciAddress], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._device_at = identify
        self._clock = clock
        self._known: dict[PciAddress, tuple[_Incarnation, float, str | None]] = {}

    def recall(self, pf: PhysicalFunction, ask: Callable[[PciAddress], str | None]) -> str | None:
        """What `ask` said of the PF, or says now; raises what it raises."""
        incarnation = self._identify(pf)
        known = self._known.get(pf.address)
        if known is not None and known[0] == incarnation and self._clock() < known[1]:
            return known[2]
        self._known.pop(pf.address, None)
        answer = ask(pf.address)
        if incarnation is not None:
            self._known[pf.address] = incarnation, self._clock() + GOOD_FOR, answer
        return answer

    def _identify(self, pf: PhysicalFunction) -> _Incarnation | None:
        try:
            device = self._device_at(pf.address)
        except SriovError:
            return None
        return device, pf.driver, pf.known_link.index if pf.known_link else None
