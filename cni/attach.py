"""The attachments of a node, and ADD: a VF into a pod's network namespace.

The order is record, IPAM, change, verify, done. What was done is undone when a later step fails or the
caller goes away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from cni.allocation import Allocated, check_allocation
from cni.announce import Arrival, start_announcing
from cni.away import (
    Pod,
    check_supported,
    check_untied,
    check_way,
    configure,
    find_usable_link,
    find_userspace_mtu,
    take_away,
)
from cni.check import check_attachment
from cni.custody import HANDED_BACK, OWNER_GRACE, Custody
from cni.detach import Detacher
from cni.gc import collect_garbage
from cni.home import describe_home
from cni.invocation import Invocation
from cni.ipam import NotRun, ipam_add, remember_ipam
from cni.kernel import Kernel, Vf, describe_settings
from cni.locks import Busy
from cni.netconf import NetConf, parse_netconf
from cni.netns import find_file_system, is_netns, links_in
from cni.protocol import CniError, Code, Command, Request, describe_call, find_pod
from cni.record import Baseline, HomeLink, Owner, Phase, Record, Wanted
from cni.repair import Repair
from cni.result import Addresses, Interface, RecordedResult, find_previous, format_result, join_results
from cni.status import check_status
from cni.steps import MacOrder
from cni.store import Attachment, Store
from cni.takeover import Forerunner
from sriov.errors import Refused, SriovError
from sriov.host.netlink import Links
from sriov.model import Link, VfSettings
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

UNDO_BUDGET = 8.0        # seconds for an undo once BUDGET is used up: for as long the executable still waits


class Attachments:
    """Owner of the attachments of this node; its methods may be called from any number of threads.

    `repair` brings home what no DEL will come for. `allocated`: whom the kubelet gave a VF; None: every caller
    may name every VF. `forerunner`: what sriov-cni attached on this node before.
    """

    def __init__(self, kernel: Kernel, store: Store, *, allocated: Allocated | None = None,
                 forerunner: Forerunner | None = None) -> None:
        self._kernel = kernel
        self._store = store
        self._allocated = allocated
        self._custody = Custody(kernel, store)
        self._detacher = Detacher(self._custody, store, forerunner or Forerunner(kernel))
        # By VF, the recorded result that a second ADD was told: the first one's caller is not the only one to know.
        self._repeated: dict[PciAddress, Mapping[str, Any] | None] = {}
        self.repair = Repair(self._custody, store)

    def handle(self, call: Invocation) -> Mapping[str, Any] | None:
        """Carry out the call; the result document of an ADD, None for the other verbs."""
        with self._kernel.changes.turn(call.deadline + UNDO_BUDGET):
            return self._handle(call)

    def _handle(self, call: Invocation) -> Mapping[str, Any] | None:
        match call.request.command:
            case Command.GC:
                collect_garbage(self._detacher, self._store, call)
            case Command.STATUS:
                check_status(self._kernel, self._store, call)
            case _:
                calls = self._kernel.calls
                with (self._custody.hold_attachment(call.request.attachment, call.deadline),
                      calls.turn(call.deadline + UNDO_BUDGET), calls.place()):
                    return self._handle_one(call)
        return None

    def _handle_one(self, call: Invocation) -> Mapping[str, Any] | None:
        match call.request.command:
            case Command.ADD:
                call.check()             # the caller may have left while this waited
                return self._add(call)
            case Command.CHECK:
                check_attachment(self._kernel, self._custody, self._store, call)
            case Command.DEL:
                if call.undoes is None or self._nobody_knows(call.undoes, call.request.attachment):
                    self._detacher.delete(call)
        return None

    def _nobody_knows(self, result: Mapping[str, Any], attachment: Attachment) -> bool:
        """Whether the attachment still is as the ADD with this result left it, and no other ADD was told of it."""
        record = self._store.find_attachment(attachment)
        return record is not None and record.result is result and self._repeated.get(record.vf) is not result

    def holds(self, vf: PciAddress) -> bool:
        """Whether this VF is in a pod, or on its way."""
        record = self._store.find(vf)
        return record is not None and not self._custody.is_outdated(record)

    @contextmanager
    def keep_off(self, vf: PciAddress) -> Iterator[None]:
        """Let no call have this VF for as long as the context lasts; raises Refused where one has it now."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._custody.hold(vf, time.monotonic()))
            except Busy:
                raise Refused(f"VF {vf} is on its way to a pod or home") from None
            yield

    def _add(self, call: Invocation) -> Mapping[str, Any]:
        request = call.request
        conf = parse_netconf(request.config, request.args)
        previous = find_previous(request.config, request.version)
        for warning in conf.warnings:
            log.warning("%s: network %s: %s", describe_call(request.environment), conf.network, warning)
        if call.netns_fd is None or not is_netns(call.netns_fd):
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {request.netns} is not a network namespace")
        known = self._store.find_attachment(request.attachment)
        if known is not None:
            result = self._repeat(known, conf, call)
            if result is not None:
                return result
        if self._allocated is not None:
            with self._kernel.calls.aside():      # the kubelet may be slow
                check_allocation(self._allocated, find_pod(request.environment), conf.device)
        self._store.check_sound(conf.device)
        self._detacher.clear(conf.device, call.deadline)
        with ExitStack() as stack:
            self._custody.claim(stack, conf.device, call.deadline, call.check)
            # Done later, what an earlier ADD of this attachment owes would take the new one's addresses.
            self._custody.pay(request.attachment, call.timeout)
            call.check()
            pod = stack.enter_context(links_in(call.netns_fd))
            host = stack.enter_context(Links.open())
            if pod.cookie == host.cookie:
                raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {request.netns} is the host's own")
            return self._attach(call, conf, previous, host, pod)

    def _repeat(self, known: Record, conf: NetConf, call: Invocation) -> Mapping[str, Any] | None:
        """The recorded result where an ADD asks again for what it has; None where it may begin anew."""
        request = call.request
        assert call.netns_fd is not None
        lost = self._custody.find_loss(known)
        same = (known.vf == conf.device and known.owner.network == conf.network
                and known.wanted == _wanted(conf.limited(known.baseline.settings))
                and known.result is not None and known.result.get("cniVersion") == request.version)
        if same and lost is None:
            with links_in(call.netns_fd) as pod:
                if pod.cookie == known.owner.cookie:
                    if (absence := self._custody.find_absence(known)) is not None:
                        raise Refused(f"the container had VF {known.vf} as {known.owner.ifname}, but {absence}",
                                      hint="DEL comes before the next ADD of an interface")
                    self._repeated[known.vf] = known.result
                    return RecordedResult(known.result or {})
        if not same or lost is None:
            self._take_back(known)
        return None

    def _take_back(self, record: Record) -> None:
        """Bring the VF of an attachment's earlier, broken ADD home; refuse where that one was finished."""
        deadline = time.monotonic() + OWNER_GRACE
        with self._custody.hold(record.vf, deadline):
            left = self._store.find(record.vf)      # while this waited, its DEL or a repair may have ended it
            if left is None or left.attachment != record.attachment:
                return
            if not self._custody.settle(left, deadline):
                raise Refused(f"the container has VF {record.vf} as {record.owner.ifname} already",
                              hint=str(self._custody.find_loss(left)
                                       or "DEL comes before the next ADD of an interface"))

    def _attach(self, call: Invocation, conf: NetConf, previous: Mapping[str, Any] | None, host: Links,
                pod_links: Links) -> Mapping[str, Any]:
        kernel, request = self._kernel, call.request
        vf = kernel.locate(conf.device)
        assert call.netns_fd is not None
        pod = Pod(links=pod_links, netns_fd=call.netns_fd, ifname=request.ifname)
        found = find_usable_link(kernel, host, vf, self._custody.came_home(vf.address))
        pf, settings = kernel.inspect_vf(host, vf)
        conf = conf.limited(settings)
        check_supported(kernel, vf, pf)
        link = None if found is None else found[0]
        mtu = None
        if link is None:
            mtu = find_userspace_mtu(vf, pf, conf)
        else:
            check_untied(kernel, host, vf, link)
            check_way(vf, pf, conf, pod)
        home = None if found is None else describe_home(*found)
        record = self._new_record(vf, home, settings, conf, request, pod)
        self._store.write(record)
        try:
            kernel.trace("record")
            addresses = Addresses() if conf.asks_inside else self._ask_ipam(conf, call)
            call.check()
            inside = take_away(kernel, host, vf, link, conf, record.baseline.settings, pod, call.deadline,
                               call.check)
            if conf.asks_inside:
                addresses = self._ask_ipam(conf, call)
            if inside is not None:
                configure(kernel, pod, inside, addresses)
                kernel.trace("addresses")
            own = format_result(_interface(request, conf, vf, inside, mtu, record), addresses, request.version)
            result = join_results(previous, own)
            call.check()
            self._store.write(record.attached(result))
        except BaseException as error:
            self._undo(call, conf, record, error)
            raise
        kernel.trace("done")
        log.info("%s: %s has it now%s", vf, record.owner,
                 "".join(f", {each}" for each in (*describe_settings(conf.settings),
                                          *(ip.address for ip in addresses.ips))))
        if inside is not None:
            start_announcing(pod.netns_fd, Arrival(netns=request.netns, index=inside.index,
                                                   addresses=[ip.address.ip for ip in addresses.ips]))
        return result

    def _ask_ipam(self, conf: NetConf, call: Invocation) -> Addresses:
        if conf.ipam is None:
            return Addresses()
        with self._kernel.calls.aside():
            addresses = ipam_add(conf.ipam, call.request, call.timeout)
        self._kernel.trace("ipam")
        return addresses

    def _undo(self, call: Invocation, conf: NetConf, record: Record, error: BaseException) -> None:
        """Everything as before the ADD that `error` ended; what of it fails is a note on that error."""
        record = self._store.find(record.vf) or record       # as it was written last, answered or not
        until = call.deadline + UNDO_BUDGET

        def free() -> None:
            if not isinstance(error, NotRun):
                self._detacher.free(conf.ipam, call.request, max(until - time.monotonic(), 1.0))

        patience = min(time.monotonic() + HANDED_BACK, until)
        # No time to have the netdev made anew: repair will, if it must.
        _try(partial(self._custody.release, record, call.netns_fd, patience, free, anew=False), error)

    def _new_record(self, vf: Vf, home: HomeLink | None, settings: VfSettings, conf: NetConf, request: Request,
                    pod: Pod) -> Record:
        kernel = self._kernel
        marked = self._custody.is_marked(vf.address, settings.mac)
        by_admin = (vf.order is MacOrder.NETDEV_FIRST and settings.mac not in (None, MacAddress.ZERO)
                    and (marked or kernel.sysfs.has_permanent_mac(vf.address)))
        owner = Owner(container_id=request.container_id, ifname=request.ifname, network=conf.network,
                      netns=request.netns, cookie=pod.links.cookie,
                      file_system=find_file_system(request.netns, pod.netns_fd),
                      pod=str(find_pod(request.environment) or ""))
        if owner.file_system is None:
            log.warning("%s: network namespace %s cannot be seen from here: mount its folder with HostToContainer "
                        "propagation, or a VF in it may not be noticed when it dies", owner, owner.netns)
        return Record(
            vf=vf.address, pf=vf.pf, index=vf.index, identity=kernel.identity(vf.address), boot_id=kernel.boot_id,
            phase=Phase.ATTACHING, owner=owner, sets_mac=conf.mac is not None,
            baseline=Baseline(link=home, settings=settings, admin_mac=by_admin),
            ipam=None if conf.ipam is None else remember_ipam(conf.ipam, request), wanted=_wanted(conf),
        )


def _wanted(conf: NetConf) -> Wanted:
    return Wanted(settings=conf.settings, mtu=conf.mtu)


def _interface(request: Request, conf: NetConf, vf: Vf, inside: Link | None, mtu: int | None, record: Record,
               ) -> Interface:
    """`mtu` is that of a VF without a netdev in the pod."""
    mac, mtu = (inside.mac, inside.mtu) if inside else (conf.mac or record.baseline.settings.mac, mtu)
    return Interface(name=request.ifname, mac=None if mac == MacAddress.ZERO else mac, mtu=mtu,
                     sandbox=request.netns, pci=vf.address)


def _try(undo: Callable[[], None], error: BaseException) -> None:
    """What fails of an undo is told with `error`, and does not hide it."""
    try:
        undo()
    except Exception as failure:
        log.error("undo failed: %s", failure, exc_info=None if isinstance(failure, SriovError) else failure)
        error.add_note(f"undo failed: {failure}")
