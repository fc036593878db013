"""Repair: bring home every VF that no DEL will come for, at the agent's start and for as long as it runs.

Pods that are force-deleted, a runtime that restarts, a Multus that is away or cannot find the pod any more:
then a network namespace dies and its record stays. A look at each record every few seconds finds that. What
those attachments owe to IPAM is done apart: a plugin may take its time, and no VF waits for it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from cni.custody import HANDED_BACK, Custody, Loss
from cni.ipam import Declined
from cni.locks import Busy
from cni.record import Owner, Record
from cni.store import Attachment, Store
from cni.tally import Counts
from sriov.errors import SriovError
from sriov.pci import PciAddress

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)

INTERVAL = 3.0           # seconds between two looks at all records
LONGEST_REST = 60.0      # seconds to the next try where one failed again and again
START_BUDGET = 5.0       # seconds that an agent's start may be late for repairs; the others are done later
VF_BUDGET = 2.0          # the same for one VF, or one IPAM DEL
_TRIES_ANEW = 6          # from then on a VF's driver is not asked to make its netdev anew again
TRIES_DECLINED = 12      # until no more is asked for addresses that an ADD may have got: in about ten minutes
IPAM_BUDGET = 30.0       # seconds for an IPAM DEL that nobody waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """What could not be settled: whose it is, since when, why, in how many tries, and when the next is due.

    `stuck`: its owner has lost it, and more than one try or a wait did not help.
    """

    owner: Owner
    since: float               # time.monotonic(), as `due`
    reason: str = ""           # as it was logged
    tries: int = 0
    due: float = 0.0
    stuck: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What stands as it should not: why, and for how many seconds."""

    reason: str
    age: float


class Repair:
    """`reconcile` comes before `running`; `hint` may be called from any thread, at any rate."""

    def __init__(self, custody: Custody, store: Store) -> None:
        self._custody = custody
        self._store = store
        self._vf_troubles: dict[PciAddress, _Trouble] = {}
        self._ipam_troubles: dict[Attachment, _Trouble] = {}
        self._wake = threading.Event()
        self._owing = threading.Event()
        self._stopping = threading.Event()

    def reconcile(self) -> None:
        """At a start, before any call is served: undo what has no end, bring home what dead pods left."""
        for damaged in self._store.damaged:
            log.error("set aside a damaged record: %s", damaged)
        until = time.monotonic() + START_BUDGET
        records = list(self._store)
        for number, record in enumerate(records):
            if time.monotonic() > until:
                log.warning("%d of %d records are left for later", len(records) - number, len(records))
                return
            self._look(record)
        for record in self._store.owed:
            if time.monotonic() > until:
                return
            self._pay(record, VF_BUDGET)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Repair in threads for as long as the context lasts; its end waits for a VF on its way home."""
        # A daemon: an agent that ends does not wait for an IPAM plugin. What is owed is on disk.
        ipam = threading.Thread(target=self._run, args=(self._pay_all, self._owing), name="ipam", daemon=True)
        vfs = threading.Thread(target=self._run, args=(self._look_at_all, self._wake), name="repair")
        ipam.start()
        vfs.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._wake.set()
            self._owing.set()
            vfs.join()
            ipam.join(VF_BUDGET)

    def hint(self) -> None:
        """Something changed on the host: look now."""
        self._wake.set()

    @property
    def damaged(self) -> list[str]:
        """As Store.damaged."""
        return self._store.damaged

    @property
    def unfit(self) -> SriovError | None:
        """Why no record can be written now, and so no ADD begin."""
        try:
            self._store.check_writable()
        except SriovError as error:
            return error
        return None

    @property
    def counts(self) -> Counts:
        return self._custody.counts

    @property
    def failures(self) -> list[Failure]:
        """What could not be settled by now, and was said; any thread may ask."""
        now = time.monotonic()
        return [Failure(reason=trouble.reason, age=now - trouble.since)
                for trouble in (*self._vf_troubles.copy().values(), *self._ipam_troubles.copy().values())
                if trouble.reason]

    def find_stuck(self) -> dict[PciAddress, str]:
        """VFs that no living pod has and that do not come home, try after try, each with the reason; any thread may
        ask.
        """
        owners = {record.vf: record.owner for record in self._store}
        return {vf: trouble.reason for vf, trouble in self._vf_troubles.copy().items()
                if trouble.stuck and owners.get(vf) == trouble.owner}

    def _run(self, work: Callable[[], None], wake: threading.Event) -> None:
        while not self._stopping.is_set():
            work()
            wake.wait(INTERVAL)
            wake.clear()

    def _look_at_all(self) -> None:
        records = list(self._store)
        _keep(self._vf_troubles, {record.vf for record in records})
        for record in records:
            if self._stopping.is_set():
                return
            self._look(record)

    def _pay_all(self) -> None:
        owed = self._store.owed
        _keep(self._ipam_troubles, {record.attachment for record in owed})
        for record in owed:
            if self._stopping.is_set():
                return
            self._pay(record, IPAM_BUDGET)

    def _look(self, record: Record) -> None:
        """Settle one record where that is due. Never raises: the next record's VF wants to come home too."""
        now = time.monotonic()
        trouble = _known(self._vf_troubles, record.vf, record, now)
        if now < trouble.due:
            return
        _note(self._vf_troubles, record.vf, self._settle(record, trouble, now))

    def _settle(self, record: Record, trouble: _Trouble, now: float) -> _Trouble | None:
        """One try; what of the trouble is left."""
        try:
            loss = self._custody.find_loss(record, exact=False)
            absence = self._custody.find_absence(record) if loss is None else None
        except Exception as error:       # that proves nothing, and may be over at the next look
            what = f"cannot tell whether {record.owner} still has VF {record.vf}"
            return dataclasses.replace(trouble, reason=_say(what, error, trouble.reason))
        if loss is None:
            return self._tell_absence(record, trouble, absence)
        if loss is Loss.HELD:
            return self._wait(record, trouble)
        try:
            with self._custody.hold(record.vf, now):      # no waiting: who has it may end the matter
                # The kernel may be about to hand it back; and what did not help a few times will not.
                anew = now > trouble.since + HANDED_BACK and trouble.tries < _TRIES_ANEW
                self._custody.settle(record, now + VF_BUDGET, anew=anew)
            self._owing.set()
        except Busy:
            return trouble
        except Exception as error:
            return _postpone(trouble, f"VF {record.vf} of {record.owner} is not home", error)
        return None

    def _pay(self, record: Record, timeout: float) -> None:
        """Do one IPAM DEL that is owed, where that is due. Never raises."""
        now = time.monotonic()
        trouble = _known(self._ipam_troubles, record.attachment, record, now)
        if now < trouble.due:
            return
        left: _Trouble | None = None
        try:
            with self._custody.hold_attachment(record.attachment, now):
                self._pay_or_give_up(record, trouble, timeout)
        except Busy:
            left = trouble
        except Exception as error:
            left = _postpone(trouble, f"the addresses of {record.owner} are still reserved", error)
        _note(self._ipam_troubles, record.attachment, left)

    def _pay_or_give_up(self, record: Record, trouble: _Trouble, timeout: float) -> None:
        """Each try of a pod whose network is wrong leaves one more debt, and nothing settles that."""
        try:
            self._custody.pay(record.attachment, timeout)
        except Declined as error:
            if not record.is_unanswered or trouble.tries < TRIES_DECLINED:
                raise
            self._store.forget_owed(record.attachment)
            log.warning("%s: its ADD was never answered, and what addresses it may have got stay reserved: %s",
                        record.owner, error)

    def _tell_absence(self, record: Record, trouble: _Trouble, absence: str | None) -> _Trouble | None:
        """Nothing gives it back to its pod, and nobody else gets it before that one's DEL."""
        if absence is None or self._store.find(record.vf) is not record:      # a DEL came meanwhile
            return None
        reason = f"VF {record.vf} is of no use to its pod, until that is made anew: {record.owner}: {absence}"
        if trouble.reason != reason:
            log.warning("%s", reason)
        return dataclasses.replace(trouble, reason=reason)

    def _wait(self, record: Record, trouble: _Trouble) -> _Trouble:
        """The kernel needs a moment to take a namespace down; who holds it open may take for ever."""
        reason = f"VF {record.vf} of {record.owner} is not home: {Loss.HELD}"
        if trouble.reason == reason or time.monotonic() < trouble.since + HANDED_BACK:
            return trouble
        log.warning("%s", reason)
        return dataclasses.replace(trouble, reason=reason, stuck=True)


def _known(troubles: Mapping[K, _Trouble], key: K, record: Record, now: float) -> _Trouble:
    trouble = troubles.get(key)
    if trouble is None or trouble.owner != record.owner:
        return _Trouble(owner=record.owner, since=now)
    return trouble


def _note(troubles: dict[K, _Trouble], key: K, left: _Trouble | None) -> None:
    """Until it is known what is left the trouble stays: there are readers."""
    if left is None:
        troubles.pop(key, None)
    else:
        troubles[key] = left


def _keep(troubles: dict[K, _Trouble], keys: Set[K]) -> None:
    """Forget the others: a DEL came."""
    for key in troubles.keys() - keys:
        del troubles[key]


def _postpone(trouble: _Trouble, what: str, error: Exception) -> _Trouble:
    """Each failure doubles the rest before the next try."""
    rest = min(INTERVAL * 2**trouble.tries, LONGEST_REST)
    return dataclasses.replace(trouble, reason=_say(what, error, trouble.reason), tries=trouble.tries + 1,
                               due=time.monotonic() + rest, stuck=trouble.tries > 0)


def _say(what: str, error: Exception, said: str) -> str:
    """Log what went wrong, unless that was said last; what was said last now."""
    expected = isinstance(error, SriovError)
    reason = f"{what}: {error}" if expected else f"{what}: internal error: {error!r}"
    if reason != said:
        log.error("%s", reason, exc_info=None if expected else error)
    return reason
