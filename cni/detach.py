"""DEL: a VF home again, whatever is missing, and nothing claimed done that is not."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from cni.custody import HANDED_BACK, OWNER_GRACE, Custody
from cni.invocation import Invocation
from cni.ipam import Declined, NotRun, ipam_delete, remember_ipam
from cni.leftover import Leftover
from cni.netconf import find_device, find_ipam
from cni.netns import is_netns, links_in
from cni.protocol import CniError, Request, describe_call, find_pod
from cni.record import Delegation, Record
from cni.result import find_sandbox
from cni.store import Attachment, Store
from cni.takeover import Forerunner
from sriov.errors import HostError, SriovError
from sriov.model import printable
from sriov.pci import PciAddress

log = logging.getLogger(__name__)


class Detacher:
    """Ends attachments, for their owner's DEL and for GC. The caller holds the attachment's lock.

    `forerunner` knows what sriov-cni attached; that gets a record of ours, and goes home by it.
    """

    def __init__(self, custody: Custody, store: Store, forerunner: Forerunner) -> None:
        self._custody = custody
        self._store = store
        self.forerunner = forerunner

    def delete(self, call: Invocation) -> None:
        """Only the attachment's own VF is touched; the addresses are given back, whatever else is missing.

        An IPAM plugin that fails fails this, too: the runtime is to try again. One that cannot be run does not, nor
        one that declines where no ADD is known that was answered.
        """
        request = call.request
        ipam = find_ipam(request.config)

        def free() -> None:
            self.free(ipam, request, call.timeout)

        try:
            record = self._store.find_attachment(request.attachment)
            if record is None:
                record = self._take_over(call)
            elif record.owner.network != request.network:       # another of the pod's, under the same name
                record = None
        except SriovError as error:        # sriov-cni's files are no matter of the addresses
            try:
                free()
            except SriovError as unpaid:
                error.add_note(str(unpaid))
            raise
        if record is None:
            self._tell_left(call)
        with _bearing(record or self._store.find_owed(request.attachment), request):
            if record is None or not self._end_known(record, free, call):
                free()
        with _bearing(self._store.find_owed(request.attachment), request):
            self._pay_by_record(call)

    def drop(self, record: Record, call: Invocation) -> None:
        """End an attachment without its DEL, unless something else was done about it since `record` was read."""
        patience = _patience(call)
        with self._custody.hold_attachment(record.attachment, patience), self._custody.hold(record.vf, patience):
            if self._store.find(record.vf) is not record:
                return
            self._release(record, partial(self._free_own, record, call), None)

    def pay(self, attachment: Attachment, call: Invocation) -> None:
        with self._custody.hold_attachment(attachment, _patience(call)):
            self._custody.pay(attachment, call.timeout)

    def end(self, leftover: Leftover, call: Invocation) -> None:
        """End what sriov-cni attached without its DEL."""
        patience = _patience(call)
        with self._custody.hold_attachment(leftover.attachment, patience):
            record = self._adopt(leftover, call, patience)
            given = _remember_ipam(leftover, call.request)
            if record is None and given is not None:
                self._custody.give_back(given, call.timeout)
        if record is not None:
            self.drop(record, call)

    def _tell_left(self, call: Invocation) -> None:
        """Say of a VF that is in the pod without a record that it stays there: nobody knows how it was before."""
        device, fd = find_device(call.request.config), call.netns_fd
        if device is None or self._store.find(device) is not None or fd is None or not is_netns(fd):
            return
        with suppress(SriovError), links_in(fd) as pod:
            left = pod.find_pci(device)
            if left is not None:
                log.warning("%s: VF %s is in its network namespace, as %s, and no record says how it was before: "
                            "it stays there until that namespace ends", describe_call(call.request.environment),
                            device, printable(left.name))

    def _adopt(self, leftover: Leftover, call: Invocation, deadline: float) -> Record | None:
        """A record of ours for what sriov-cni attached; None where that VF is another's by now, or gone."""
        netns = call.request.netns or find_sandbox(call.request)
        with self._custody.hold(leftover.vf, deadline), self.forerunner.hold(leftover.vf, deadline):
            now = self.forerunner.reread(leftover)
            if now is None:
                return None
            if self.forerunner.is_anothers(now, netns, call.netns_fd):
                self.forerunner.disown(now)
                return None
            return self._take(now, call.netns_fd, _remember_ipam(now, call.request),
                              str(find_pod(call.request.environment) or ""))

    def clear(self, vf: PciAddress, deadline: float) -> None:
        """Before an ADD: a VF that a dead pod of sriov-cni's had gets a record by which it is to come home.

        Raises Refused where a living one has it. The addresses are its DEL's, which may come yet.
        """
        if not self.forerunner.had(vf):
            return
        with self._custody.hold(vf, deadline), self.forerunner.hold(vf, deadline):
            for number, leftover in enumerate(self.forerunner.of_vf(vf)):
                # The first that had it found it clean, a later one as the first had left it.
                if number == 0:
                    self._take(leftover, None, None, "")
                else:
                    self.forerunner.forget(leftover)

    def _take(self, leftover: Leftover, netns_fd: int | None, given: Delegation | None, pod: str) -> Record | None:
        record = None
        if self._store.find(leftover.vf) is None:
            record = self.forerunner.make_record(leftover, netns_fd, given, pod)
        if record is not None:
            self._store.write(record)
        self.forerunner.forget(leftover)
        return record

    def free(self, ipam: str | None, request: Request, timeout: float) -> None:
        """Give the attachment's addresses back, by the runtime's own words."""
        if ipam is not None:
            with self._custody.aside():
                ipam_delete(ipam, request, timeout)
            owed = self._store.find_owed(request.attachment)
            if owed is not None and owed.ipam is not None and _asks_the_same(owed.ipam, request):
                self._store.forget_owed(request.attachment)

    def _end_known(self, record: Record, free: Callable[[], None], call: Invocation) -> bool:
        """Whether the VF was still the attachment's: a repair or the VF's next ADD may have brought it home."""
        with self._custody.hold(record.vf, call.deadline):
            left = self._store.find(record.vf)
            if left is None or left.attachment != record.attachment:
                return False
            self._release(*self._set_apart(left, free, call.request), call.netns_fd)
            return True

    def _pay_by_record(self, call: Invocation) -> None:
        """Pay what the attachment owes of this network, where the request's own IPAM DEL was not about that."""
        request = call.request
        owed = self._store.find_owed(request.attachment)
        if (owed is not None and owed.ipam is not None and owed.owner.network == request.network
                and not _asks_the_same(owed.ipam, request)):
            self._custody.pay(request.attachment, call.timeout)

    def _set_apart(self, record: Record, free: Callable[[], None], request: Request,
                   ) -> tuple[Record, Callable[[], None]]:
        """The record, and what gives its addresses back; they are owed where the network was changed since ADD."""
        if record.ipam is None or _asks_the_same(record.ipam, request):
            return record, free
        try:
            return self._store.owe(record), free
        except HostError as error:      # a full disk: the VF comes home all the same, and its record stays
            unpaid = error

        def fail() -> None:
            free()
            raise unpaid

        return record, fail

    def _free_own(self, record: Record, call: Invocation) -> None:
        """Give the record's addresses back by what its ADD asked."""
        if record.ipam is not None:
            self._custody.give_back(record.ipam, call.timeout)

    def _take_over(self, call: Invocation) -> Record | None:
        leftover = self.forerunner.find(call.request.attachment, call.netns_fd)
        return None if leftover is None else self._adopt(leftover, call, call.deadline)

    def _release(self, record: Record, free: Callable[[], None], netns_fd: int | None) -> None:
        self._custody.release(record, netns_fd, time.monotonic() + HANDED_BACK, free)


@contextmanager
def _bearing(known: Record | None, request: Request) -> Iterator[None]:
    """Only log what would keep the network's pods from ever ending. `known` is what is known of their ADD.

    What is owed stays so, for repair.
    """
    borne: tuple[type[CniError], ...] = (NotRun, Declined)
    if known is not None and not known.is_unanswered:
        borne = (NotRun,)
    try:
        yield
    except borne as error:
        log.warning("%s: its addresses, if there are any, are not given back: %s",
                    describe_call(request.environment), error)


def _patience(call: Invocation) -> float:
    """Until when one of many attachments is waited for: its ADD or DEL may be under way."""
    return min(call.deadline, time.monotonic() + OWNER_GRACE)


def _asks_the_same(given: Delegation, request: Request) -> bool:
    """Whether the request's own IPAM DEL gives back what `given` says."""
    return (given.plugin == find_ipam(request.config)
            and all(given.config.get(key) == request.config.get(key) for key in ("name", "ipam")))


def _remember_ipam(leftover: Leftover, request: Request) -> Delegation | None:
    """Of a leftover that may be another attachment's by its name the addresses are left to the DEL."""
    plugin = find_ipam(request.config)
    if plugin is None or not leftover.certain:
        return None
    container, ifname = leftover.attachment
    given = remember_ipam(plugin, request)
    names = {"CNI_CONTAINERID": container, "CNI_IFNAME": ifname}
    return dataclasses.replace(given, environment={**given.environment, **names})
