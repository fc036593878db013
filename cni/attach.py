"""ADD and DEL: a VF into a pod's network namespace and home again, whatever happens between.

The order is record, IPAM, change, verify, done. What was done is undone when a later step fails or the
caller goes away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from cni.away import Pod, check_untied, check_way, configure, find_usable_link, take_away
from cni.custody import HANDED_BACK, OWNER_GRACE, Custody
from cni.ipam import ipam_add, ipam_delete, remember_ipam
from cni.kernel import Kernel, Vf
from cni.locks import Busy
from cni.netconf import NetConf, find_ipam, parse_netconf
from cni.netns import find_file_system, is_netns, links_in
from cni.protocol import (
    Addresses,
    CniError,
    Code,
    Command,
    Interface,
    Request,
    describe_call,
    find_pod,
    format_result,
)
from cni.record import Baseline, HomeLink, Owner, Phase, Record
from cni.repair import Repair
from cni.steps import MacOrder
from cni.store import Store
from sriov.errors import HostError, Refused, SriovError
from sriov.host.netlink import Links
from sriov.model import Link
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

BUDGET = 50.0            # seconds for one call; the executable waits 60
ETH_P_8021AD = 0x88A8    # linux/if_ether.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One request with what came beside it. `netns_fd`: None where CNI_NETNS does not open."""

    request: Request
    netns_fd: int | None
    gone: Callable[[], bool]          # the caller has hung up
    deadline: float                   # time.monotonic()

    def check(self) -> None:
        """Refuse to go on for nobody, or for longer than the caller waits."""
        if self.gone():
            raise CniError(Code.TRY_AGAIN_LATER, "the caller went away: undoing what was done")
        if self.remaining <= 0:
            raise CniError(Code.TRY_AGAIN_LATER, f"not done within {BUDGET:.0f} s: undoing what was done")

    @property
    def remaining(self) -> float:
        return self.deadline - time.monotonic()


class Attachments:
    """Owner of the attachments of this node; its methods may be called from any number of threads.

    `repair` brings home what no DEL will come for.
    """

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel = kernel
        self._store = store
        self._custody = Custody(kernel, store)
        self.repair = Repair(self._custody, store)

    def handle(self, call: Invocation) -> Mapping[str, Any] | None:
        """Carry out ADD or DEL; the result document of an ADD, None for a DEL."""
        request = call.request
        with self._custody.hold_attachment(request.attachment, call.deadline):
            if request.command is Command.ADD:
                return self._add(call)
            self._delete(call)
            return None

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

    # -- ADD ---------------------------------------------------------------------------------------------

    def _add(self, call: Invocation) -> Mapping[str, Any]:
        conf = parse_netconf(call.request.config, call.request.args)
        for warning in conf.warnings:
            log.warning("%s: network %s: %s", describe_call(call.request.environment), conf.network, warning)
        known = self._store.find_attachment(call.request.attachment)
        if known is not None and known.vf != conf.device:
            self._take_back(known)
        elif known is not None and known.result is not None and self._custody.find_loss(known) is None:
            return known.result
        if call.netns_fd is None or not is_netns(call.netns_fd):
            raise CniError(Code.INVALID_ENVIRONMENT,
                           f"CNI_NETNS: {call.request.netns} is not a network namespace")
        with ExitStack() as stack:
            self._custody.claim(stack, conf.device, call.deadline, call.check)
            # Done later, what an earlier ADD of this attachment owes would take the new one's addresses.
            self._custody.pay(call.request.attachment, max(call.remaining, 1.0))
            call.check()
            pod = stack.enter_context(links_in(call.netns_fd))
            host = stack.enter_context(Links.open())
            if pod.cookie == host.cookie:
                raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {call.request.netns} is the host's own")
            return self._attach(call, conf, host, pod)

    def _take_back(self, record: Record) -> None:
        """Bring the VF of an attachment's earlier, broken ADD home; refuse where that one was finished."""
        deadline = time.monotonic() + OWNER_GRACE
        with self._custody.hold(record.vf, deadline):
            left = self._store.find(record.vf)      # while this waited, its DEL or a repair may have ended it
            if left is None or left.attachment != record.attachment:
                return
            if not self._custody.settle(left, deadline):
                raise Refused(f"the container has VF {record.vf} as {record.owner.ifname} already",
                              hint="DEL comes before the next ADD of an interface")

    def _attach(self, call: Invocation, conf: NetConf, host: Links, pod_links: Links) -> Mapping[str, Any]:
        kernel, request = self._kernel, call.request
        vf = kernel.locate(conf.device)
        assert call.netns_fd is not None
        pod = Pod(links=pod_links, netns_fd=call.netns_fd, ifname=request.ifname)
        link = find_usable_link(kernel, host, vf, self._custody.came_home(vf.address))
        if link is not None:
            check_untied(host, vf, link)
            check_way(host, vf, conf, pod)
        record = self._new_record(host, vf, link, conf, request, pod)
        self._store.write(record)
        addresses: Addresses | None = None
        try:
            kernel.trace("record")
            addresses = self._ask_ipam(conf, call)
            call.check()
            inside = take_away(kernel, host, vf, link, conf, record.baseline.settings, pod, call.check)
            if inside is not None:
                configure(kernel, pod, inside, addresses)
            result = format_result(_interface(request, conf, vf, inside, record), addresses, request.version)
            call.check()
            self._store.write(record.attached(result))
        except BaseException as error:
            self._undo(call, conf, record, error, given=addresses is not None)
            raise
        kernel.trace("done")
        return result

    def _ask_ipam(self, conf: NetConf, call: Invocation) -> Addresses:
        if conf.ipam is None:
            return Addresses()
        addresses = ipam_add(conf.ipam, call.request, max(call.remaining, 1.0))
        self._kernel.trace("ipam")
        return addresses

    def _undo(self, call: Invocation, conf: NetConf, record: Record, error: BaseException, *,
              given: bool) -> None:
        """Everything as before the ADD that `error` ended; what of it fails is a note on that error."""
        free = partial(self._free, conf.ipam, call.request, BUDGET)
        # The specification asks for a DEL after an IPAM plugin's failed ADD; if that fails too, nothing is owed.
        kept = free if given else partial(_try, free, error)
        _try(partial(self._custody.release, record, call.netns_fd, time.monotonic() + HANDED_BACK, kept), error)

    def _new_record(self, host: Links, vf: Vf, link: Link | None, conf: NetConf, request: Request,
                    pod: Pod) -> Record:
        kernel = self._kernel
        settings = kernel.settings(host, vf)
        if conf.settings.vlan is not None and settings.vlan_proto == ETH_P_8021AD:
            raise Refused(f"{vf} has an 802.1ad VLAN, which cannot be given back to it so far")
        marked = (vf.order is MacOrder.NETDEV_FIRST and settings.mac not in (None, MacAddress.ZERO)
                  and (kernel.sysfs.has_permanent_mac(vf.address) or self._custody.is_marked(vf.address)))
        home = None if link is None else HomeLink(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up)
        owner = Owner(container_id=request.container_id, ifname=request.ifname, network=conf.network,
                      netns=request.netns, cookie=pod.links.cookie,
                      file_system=find_file_system(request.netns, pod.netns_fd),
                      pod=find_pod(request.environment))
        if owner.file_system is None:
            log.warning("%s: network namespace %s cannot be seen from here: mount its folder with HostToContainer "
                        "propagation, or a VF in it may not be noticed when it dies", owner, owner.netns)
        return Record(
            vf=vf.address, pf=vf.pf, index=vf.index, identity=kernel.identity(vf.address), boot_id=kernel.boot_id,
            phase=Phase.ATTACHING, owner=owner, sets_mac=conf.mac is not None,
            baseline=Baseline(link=home, settings=settings, admin_mac=marked),
            ipam=None if conf.ipam is None else remember_ipam(conf.ipam, request),
        )

    # -- DEL ---------------------------------------------------------------------------------------------

    def _delete(self, call: Invocation) -> None:
        ipam = find_ipam(call.request.config)
        free = partial(self._free, ipam, call.request, max(call.remaining, 1.0))
        record = self._store.find_attachment(call.request.attachment)
        if record is not None:
            with self._custody.hold(record.vf, call.deadline):
                # While this waited, a repair or the VF's next ADD may have brought it home.
                left = self._store.find(record.vf)
                if left is not None and left.attachment == record.attachment:
                    if left.ipam is not None and left.ipam.plugin != ipam:      # the network was changed since ADD
                        left = self._store.owe(left)
                    self._release(left, call, free)
                    return
        free()

    def _release(self, record: Record, call: Invocation, free: Callable[[], None]) -> None:
        try:
            self._custody.release(record, call.netns_fd, time.monotonic() + HANDED_BACK, free)
        except SriovError:
            left = self._store.find(record.vf)
            if left is not None:
                with suppress(HostError):  # a full disk: if the DEL does not come again, the netns's end will do
                    self._store.write(left.detaching())
            raise

    def _free(self, ipam: str | None, request: Request, timeout: float) -> None:
        if ipam is not None:
            ipam_delete(ipam, request, timeout)
            owed = self._store.find_owed(request.attachment)
            if owed is not None and owed.ipam is not None and owed.ipam.plugin == ipam:
                self._store.forget_owed(request.attachment)      # another plugin's is done by repair


def _interface(request: Request, conf: NetConf, vf: Vf, inside: Link | None, record: Record) -> Interface:
    mac, mtu = (inside.mac, inside.mtu) if inside else (conf.mac or record.baseline.settings.mac, None)
    return Interface(name=request.ifname, mac=None if mac == MacAddress.ZERO else mac, mtu=mtu,
                     sandbox=request.netns, pci=vf.address)


def _try(step: Callable[[], None], error: BaseException) -> None:
    """A step of an undo: one that fails does not keep the others from being done, nor hides `error`."""
    try:
        step()
    except Exception as failure:
        log.error("undo failed: %s", failure, exc_info=None if isinstance(failure, SriovError) else failure)
        error.add_note(f"undo failed: {failure}")
