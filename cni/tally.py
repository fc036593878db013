"""What was mended without a DEL, counted: for answers to an admin."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Since this process began. `brought_home`: VFs by reason; `paid_late`: IPAM DELs that their DEL did not do."""

    brought_home: Mapping[str, int] = field(default_factory=dict)
    paid_late: int = 0
    last: str | None = None            # what was done last, and when: seconds since the epoch
    last_at: float = 0.0


class Tally:
    """Owns the counts; any thread may add to them and read them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        return self._counts

    def add_home(self, what: str, reason: str) -> None:
        with self._guard:
            homes = self._counts.brought_home
            self._counts = replace(self._counts, last=what, last_at=time.time(),
                                   brought_home={**homes, reason: homes.get(reason, 0) + 1})

    def add_paid(self, what: str) -> None:
        with self._guard:
            self._counts = replace(self._counts, last=what, last_at=time.time(),
                                   paid_late=self._counts.paid_late + 1)
