"""Repair: bring home every VF that no DEL will come for, at the agent's start and for as long as it runs.

Pods that are force-deleted, a runtime that restarts, a Multus that is away or cannot find the pod any more:
then a network namespace dies and its record stays. A look at each record every few seconds finds that.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cni.custody import HANDED_BACK, Custody, Loss
from cni.locks import Busy
from cni.record import Owner, Record
from cni.store import Store
from sriov.errors import SriovError
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

INTERVAL = 3.0           # seconds between two looks at all records
LONGEST_REST = 60.0      # seconds to the next try where one failed again and again
START_BUDGET = 5.0       # seconds that an agent's start may be late for repairs; the others are done later
VF_BUDGET = 2.0          # the same for one VF


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """What could not be settled: whose it is, since when, why, in how many tries, and when the next is due."""

    owner: Owner
    since: float               # time.monotonic(), as `due`
    reason: str = ""           # as it was logged
    tries: int = 0
    due: float = 0.0


class Repair:
    """One thread runs `reconcile` and then `running`; `hint` may be called from any, at any rate."""

    def __init__(self, custody: Custody, store: Store) -> None:
        self._custody = custody
        self._store = store
        self._troubles: dict[PciAddress, _Trouble] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()

    @property
    def counts(self) -> Counter[Loss]:
        """How often which loss brought a VF home: here, or before the VF's next ADD."""
        return self._custody.counts

    def reconcile(self) -> None:
        """At a start, before any call is served: undo what has no end, bring home what dead pods left."""
        for damaged in self._store.damaged:
            log.error("set aside a damaged record: %s", damaged)
        until = time.monotonic() + START_BUDGET
        for number, record in enumerate(records := list(self._store)):
            if time.monotonic() > until:
                log.warning("%d of %d records are left for later", len(records) - number, len(records))
                break
            self._look(record)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Repair in a thread for as long as the context lasts; its end waits for a repair that has begun."""
        thread = threading.Thread(target=self._run, name="repair")
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._wake.set()
            thread.join()

    def hint(self) -> None:
        """Something changed on the host: look now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for record in self._store:
                if self._stopping.is_set():
                    return
                self._look(record)
            self._wake.wait(INTERVAL)
            self._wake.clear()

    def _look(self, record: Record) -> None:
        """Settle one record where that is due. Never raises: the next record's VF wants to come home too."""
        now = time.monotonic()
        trouble = self._troubles.get(record.vf)
        if trouble is None or trouble.owner != record.owner:
            trouble = _Trouble(owner=record.owner, since=now)
        if now < trouble.due:
            return
        self._troubles.pop(record.vf, None)
        try:
            loss = self._custody.find_loss(record)
            if loss is Loss.HELD:
                self._troubles[record.vf] = self._wait(record, trouble)
            elif loss is not None:
                with self._custody.hold(record.vf, now):      # no waiting: who has it may end the matter
                    self._custody.settle(record, now + VF_BUDGET)
        except Busy:
            pass
        except Exception as error:
            self._troubles[record.vf] = self._postpone(record, trouble, error)

    def _wait(self, record: Record, trouble: _Trouble) -> _Trouble:
        """The kernel needs a moment to take a namespace down; who holds it open may take for ever."""
        if trouble.reason == Loss.HELD or time.monotonic() < trouble.since + HANDED_BACK:
            return trouble
        log.warning("VF %s of %s is not home: %s", record.vf, record.owner, Loss.HELD)
        return dataclasses.replace(trouble, reason=Loss.HELD)

    def _postpone(self, record: Record, trouble: _Trouble, error: Exception) -> _Trouble:
        """The same reason is logged once; each failure doubles the rest before the next try."""
        expected = isinstance(error, SriovError)
        reason = str(error) if expected else f"internal error: {error!r}"
        if trouble.reason != reason:
            log.error("VF %s of %s is not home: %s", record.vf, record.owner, reason,
                      exc_info=None if expected else error)
        rest = min(INTERVAL * 2**trouble.tries, LONGEST_REST)
        return dataclasses.replace(trouble, reason=reason, tries=trouble.tries + 1, due=time.monotonic() + rest)
