"""Who has a VF: its lock and its record, and the way home once nobody has it any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from enum import StrEnum
from functools import partial

from cni.home import bring_home
from cni.ipam import ipam_release
from cni.kernel import Kernel
from cni.locks import Busy, KeyedLocks
from cni.marks import Marks
from cni.netconf import asks_inside
from cni.netns import Sight, find_place, is_netns, links_in, look_at, open_netns
from cni.record import Delegation, Owner, Phase, Record
from cni.store import Attachment, Store
from cni.tally import Counts, Tally
from sriov.errors import Gone, HostError, Refused, SriovError
from sriov.host.netlink import Links
from sriov.model import Link, is_userspace, printable
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

OWNER_GRACE = 5.0        # seconds: a VF may be allocated again before its old pod's DEL has come
HANDED_BACK = 10.0       # seconds that the kernel may take to hand back the netdevs of a dead namespace
_CLAIM_POLL = 0.2        # seconds
_TRUSTED = 30.0          # seconds that a namespace's inode number stands for its cookie


class Loss(StrEnum):
    """Why a VF is its record's owner's no more."""

    REBOOTED = "the node has been rebooted since"
    REMADE = "the VF is gone or was made anew"
    UNFINISHED = "its ADD or DEL was never finished"
    NETNS_GONE = "its network namespace is gone"
    HELD = "its network namespace is gone, but something holds that open still, and the VF is in it"


class Custody:
    """Every record of the node passes through here on its way out; any number of threads may use it.

    Whoever changes a VF or its record holds the VF's lock (`hold`, `claim`); whoever asks IPAM for an
    attachment holds that one's (`hold_attachment`).
    """

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel = kernel
        self._store = store
        self._locks = KeyedLocks()
        self._freed = threading.Condition()
        self._tally = Tally()
        self._marks = Marks(store.folder / "marked.json", kernel.boot_id)
        self._home: dict[PciAddress, Link | None] = {}      # netdevs as this process brought them home
        # Whose VF it is, where its namespace was found, and until when (time.monotonic) that is good enough.
        self._verified: dict[PciAddress, tuple[Owner, tuple[int, int], float]] = {}

    @property
    def counts(self) -> Counts:
        """What was done that no DEL had done."""
        return self._tally.counts

    def aside(self) -> AbstractContextManager[None]:
        """Let another call have this one's place for as long as it waits for an IPAM plugin."""
        return self._kernel.calls.aside()

    @contextmanager
    def hold(self, vf: PciAddress, deadline: float) -> Iterator[None]:
        """The VF's lock; Busy where another call has it until `deadline` (time.monotonic).

        Its holder's changes of the kernel come before those of holders that come later.
        """
        with self._hold(vf, f"VF {vf}", deadline):
            yield

    @contextmanager
    def hold_attachment(self, attachment: Attachment, deadline: float) -> Iterator[None]:
        """The attachment's lock; as `hold`."""
        container_id, ifname = attachment
        what = f"attachment {container_id[:13]}/{ifname}"
        with self._hold(attachment, what, deadline):
            yield

    @contextmanager
    def _hold(self, key: Hashable, what: str, deadline: float) -> Iterator[None]:
        with self._kernel.changes.turn(), ExitStack() as stack:
            try:
                stack.enter_context(self._locks.hold(key, what, 0.0))
            except Busy:
                with self._kernel.calls.aside():      # who has the lock may need a place
                    stack.enter_context(self._locks.hold(key, what, deadline))
            yield

    def claim(self, stack: ExitStack, device: PciAddress, deadline: float, check: Callable[[], None]) -> None:
        """Hold the VF's lock, with no other pod's record on it; wait a little for an old owner to leave.

        `check` raises where the caller does not want it any more.
        """
        patience = min(deadline, time.monotonic() + OWNER_GRACE)
        while True:
            with ExitStack() as attempt:
                attempt.enter_context(self.hold(device, deadline))
                record = self._store.find(device)
                if record is None or self.settle(record, patience):
                    if record is not None:
                        self._pay_quickly(record.attachment)
                    stack.push(attempt.pop_all())
                    return
                if time.monotonic() > patience:
                    raise self._refusal(record)
            check()
            with self._kernel.calls.aside(), self._freed:      # the DEL that this waits for may be in the queue
                self._freed.wait_for(lambda: self._store.find(device) is None, _CLAIM_POLL)

    def is_outdated(self, record: Record) -> bool:
        """Whether the record is of an earlier boot, or of a VF that was made anew: this VF owes it nothing."""
        return record.boot_id != self._kernel.boot_id or self._was_remade(record)

    def find_loss(self, record: Record, *, exact: bool = True) -> Loss | None:
        """Why the VF is to come home; None where its pod has it by a finished ADD, or may have it.

        A path that does not open here proves nothing by itself: it may lie outside this process's mounts. Not
        `exact` is cheap, and may take another namespace for the record's for up to _TRUSTED seconds.
        """
        if record.boot_id != self._kernel.boot_id:
            return Loss.REBOOTED
        if self._was_remade(record):
            return Loss.REMADE
        if record.phase is not Phase.ATTACHED:
            return Loss.UNFINISHED
        sight = self._look(record, exact=exact)
        if sight is Sight.ALIVE:
            return None
        if not self._has_netdev(record):
            return Loss.NETNS_GONE if sight is Sight.DEAD else None
        # The kernel hands a netdev back when the last holder of its namespace has gone, and not before.
        if self._find_link(record.vf) is not None:
            return Loss.NETNS_GONE
        return Loss.HELD if sight is Sight.DEAD else None

    def find_absence(self, record: Record) -> str | None:
        """Why a living pod has not any more what a finished ADD gave it: somebody bound the VF's driver anew, or
        moved its netdev. None where it has, as far as the host can tell, and where there is no such VF.
        Raises Gone where that has just gone, HostError.
        """
        if self._kernel.identity(record.vf) is None:
            return None
        driver, with_netdev = self._kernel.sysfs.read_driver(record.vf), record.baseline.link is not None
        if driver is None:
            return "it has no driver any more"
        if is_userspace(driver) is with_netdev:
            return f"it is bound to {driver} now"
        netdev = self._kernel.sysfs.find_netdev(record.vf) if with_netdev else None
        return None if netdev is None else f"its netdev is on the host, as {printable(netdev[0])}"

    def settle(self, record: Record, deadline: float, *, anew: bool = False) -> bool:
        """Bring the VF home if it is its owner's no more; whether it is free now. The caller holds its lock.

        Its addresses are owed then, for `pay`.
        """
        if self._store.find(record.vf) is not record:
            return self._store.find(record.vf) is None
        loss = self.find_loss(record)
        if loss is None or loss is Loss.HELD:
            return False
        if loss is Loss.NETNS_GONE and (link := self._find_link(record.vf)) is not None:
            self._kernel.await_udev(link.index)      # udev names what comes back: after us is too late
        try:
            rest = self._store.owe(record)
        except HostError:      # a full disk: the VF comes home, and its record stays for the addresses
            self._bring_home(record, None, deadline, anew=anew)
            raise
        self._kernel.trace("owed")
        self._bring_home(rest, None, deadline, anew=anew)
        self._drop(rest)
        done = "nothing to bring home" if self.is_outdated(record) else "brought home"
        what = f"VF {record.vf}: {done}: {record.owner}: {loss}"
        self._tally.add_home(what, str(loss))
        log.warning("%s", what)
        return True

    def release(self, record: Record, pod_fd: int | None, deadline: float, free: Callable[[], None], *,
                anew: bool = True) -> None:
        """Bring the VF home, give its addresses back by `free`, drop the record. The caller holds both locks.

        `pod_fd` may be its pod's namespace, where the record's path does not open. What fails does not keep
        the other from being done: a VF that is not home keeps its record, and addresses stay owed. If no other
        DEL comes then, repair will do.
        """
        if record.phase is Phase.ATTACHED:
            # Who dies half way must not leave half a VF to a pod that lives on.
            record = self._store.mark_detaching(record)
            self._kernel.trace("detaching")
        home = partial(self._bring_home, record, pod_fd, deadline, anew=anew)
        if record.ipam is not None and asks_inside(record.ipam.plugin):
            unpaid, away = _attempt(free), _attempt(home)
        else:
            away, unpaid = _attempt(home), _attempt(free)
        self._kernel.trace("free")
        if unpaid is not None:
            record = self._store.owe(record)
        if away is None:
            self._drop(record)
            log.info("VF %s: home: %s had it", record.vf, record.owner)
        elif unpaid is not None:
            away.add_note(str(unpaid))
        if failure := away or unpaid:
            raise failure

    def pay(self, attachment: Attachment, timeout: float) -> None:
        """Do the IPAM DEL that the attachment owes, if it does. The caller holds the attachment's lock."""
        owed = self._store.find_owed(attachment)
        if owed is not None and owed.ipam is not None:
            self.give_back(owed.ipam, timeout)
            self._store.forget_owed(attachment)
            self._kernel.trace("paid")
            what = f"the addresses of {owed.owner}: given back by {owed.ipam.plugin}"
            self._tally.add_paid(what)
            log.info("%s", what)

    def give_back(self, given: Delegation, timeout: float) -> None:
        """Do the IPAM DEL of an ADD by what that asked; another call has this one's place meanwhile."""
        with self.aside():
            ipam_release(given, timeout)

    def came_home(self, vf: PciAddress) -> Link | None:
        """The VF's netdev as this process last brought it home."""
        return self._home.get(vf)

    def is_marked(self, vf: PciAddress, mac: MacAddress | None) -> bool:
        """Whether the PF had set `mac` before any pod, and did so again when that came home."""
        return self._marks.check(vf, self._kernel.identity(vf), mac)

    # -- one record --------------------------------------------------------------------------------------

    def _bring_home(self, record: Record, pod_fd: int | None, deadline: float, *, anew: bool) -> None:
        if self.is_outdated(record):
            return                               # the baseline is another VF's
        with ExitStack() as stack:
            pod = _enter_own_netns(record, pod_fd, stack)
            self._home[record.vf] = bring_home(self._kernel, record, pod, deadline, anew=anew)
        if record.baseline.admin_mac:
            self._marks.add(record.vf, self._kernel.identity(record.vf), record.baseline.settings.mac)

    def _drop(self, record: Record) -> None:
        self._store.delete(record)
        with self._freed:
            self._freed.notify_all()
        self._kernel.trace("forgotten")

    def _pay_quickly(self, attachment: Attachment) -> None:
        """A small range may have no address for the next pod before; what fails, repair does again."""
        with suppress(SriovError), self.hold_attachment(attachment, time.monotonic()):
            self.pay(attachment, OWNER_GRACE)

    def _look(self, record: Record, *, exact: bool) -> Sight:
        """As `look_at`, which needs a socket in that namespace."""
        owner, now = record.owner, time.monotonic()
        place = find_place(owner.netns)
        known, where, until = self._verified.get(record.vf, (None, None, 0.0))
        # Inode numbers are given out again: a namespace that is new has a dead one's before long.
        if not exact and place is not None and (known, where) == (owner, place) and now < until:
            return Sight.ALIVE
        sight = look_at(owner.netns, owner.cookie, owner.file_system)
        if sight is Sight.ALIVE and place is not None:
            self._verified[record.vf] = owner, place, now + _TRUSTED
        return sight

    def _was_remade(self, record: Record) -> bool:
        return record.identity not in (None, self._kernel.identity(record.vf))

    def _has_netdev(self, record: Record) -> bool:
        """Whether a netdev of this VF exists somewhere: it had one, and no other kind of driver since."""
        driver = self._kernel.sysfs.read_driver(record.vf)
        return record.baseline.link is not None and driver is not None and not is_userspace(driver)

    def _find_link(self, vf: PciAddress) -> Link | None:
        with Links.open() as host:
            return self._kernel.find_link(host, vf)

    def _refusal(self, record: Record) -> Refused:
        loss = self.find_loss(record)
        hint = str(loss) if loss else None
        if loss is None and record.owner.file_system is None:
            hint = "that namespace cannot be seen from here: mount its folder with HostToContainer propagation"
        return Refused(f"VF {record.vf} is in use: {record.owner} has it in {record.owner.netns}", hint=hint)


def _attempt(step: Callable[[], None]) -> SriovError | None:
    try:
        step()
    except SriovError as error:
        return error
    return None


def _enter_own_netns(record: Record, pod_fd: int | None, stack: ExitStack) -> Links | None:
    """The links of the record's own namespace, by the descriptor handed in or by its path; None: it is dead."""
    if pod_fd is not None and is_netns(pod_fd):
        links = stack.enter_context(links_in(pod_fd))
        if links.cookie == record.owner.cookie:
            return links
    try:
        links = stack.enter_context(links_in(stack.enter_context(open_netns(record.owner.netns))))
    except Gone:
        return None
    return links if links.cookie == record.owner.cookie else None
