"""ADD and DEL: a VF into a pod's network namespace and home again, whatever happens between.

The order is IPAM, record, change, verify, done. What was done is undone in reverse when a later step fails
or the caller goes away.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from cni.home import bring_home
from cni.ipam import ipam_add, ipam_delete
from cni.kernel import Kernel, Vf
from cni.locks import KeyedLocks
from cni.netconf import NetConf, find_ipam, parse_netconf
from cni.netns import is_netns, links_in, netns_cookie, open_netns
from cni.protocol import Addresses, CniError, Code, Command, Interface, Request, format_result
from cni.record import Baseline, HomeLink, Owner, Phase, Record
from cni.steps import MacOrder, difference, plan_attach
from cni.store import Store
from sriov.errors import Gone, HostError, Refused, SriovError
from sriov.model import Link, is_userspace
from sriov.netlink import Links
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

BUDGET = 50.0            # seconds for one call; the executable waits 60
ETH_P_8021AD = 0x88A8    # linux/if_ether.h
OWNER_GRACE = 5.0        # seconds: a VF may be allocated again before its old pod's DEL has come
HANDED_BACK = 10.0       # seconds that the kernel may take to hand back the netdevs of a dead namespace
REPAIR_BUDGET = 2.0      # the same for each VF while the agent starts: the node waits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
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
    """Owner of the attachments of this node; its methods may be called from any number of threads."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel = kernel
        self._store = store
        self._locks = KeyedLocks()
        self._freed = threading.Condition()
        self._marked: set[PciAddress] = set()               # their PF had set their MAC, and did so again
        self._home: dict[PciAddress, Link | None] = {}      # netdevs as this process brought them home

    def handle(self, call: Call) -> Mapping[str, Any] | None:
        """Carry out ADD or DEL; the result document of an ADD, None for a DEL."""
        request = call.request
        shown = f"{request.container_id[:13]}/{request.ifname}"
        with self._locks.hold(request.attachment, f"attachment {shown}", call.deadline):
            if request.command is Command.ADD:
                return self._add(call)
            self._delete(call)
            return None

    def reconcile(self) -> None:
        """After a start: undo what has no end, and bring home what is left of dead pods."""
        for damaged in self._store.damaged:
            log.error("set aside a damaged record: %s", damaged)
        for record in self._store:
            try:
                deadline = time.monotonic() + REPAIR_BUDGET
                with self._locks.hold(record.vf, f"VF {record.vf}", deadline):
                    self._reconcile(record, deadline)
            except SriovError as error:
                log.error("VF %s is not home: %s", record.vf, error)

    def holds(self, vf: PciAddress) -> bool:
        """Whether a record exists for this VF: it is in a pod, or on its way."""
        return self._store.find(vf) is not None

    # -- ADD ---------------------------------------------------------------------------------------------

    def _add(self, call: Call) -> Mapping[str, Any]:
        conf = parse_netconf(call.request.config, call.request.args)
        for warning in conf.warnings:
            log.warning("network %s: %s", conf.network, warning)
        known = self._store.find_attachment(call.request.attachment)
        if known is not None and known.vf == conf.device and known.result is not None and self._alive(known):
            return known.result
        if known is not None and known.vf != conf.device:
            self._free(known)
        if call.netns_fd is None or not is_netns(call.netns_fd):
            raise CniError(Code.INVALID_ENVIRONMENT,
                           f"CNI_NETNS: {call.request.netns} is not a network namespace")
        with ExitStack() as stack:
            self._claim(stack, conf.device, call)
            call.check()
            pod = stack.enter_context(links_in(call.netns_fd))
            host = stack.enter_context(Links.open())
            if pod.cookie == host.cookie:
                raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {call.request.netns} is the host's own")
            return self._attach(call, conf, host, pod)

    def _free(self, record: Record) -> None:
        """Bring the VF of an attachment's earlier, broken ADD home; refuse where that one was finished."""
        deadline = time.monotonic() + OWNER_GRACE
        with self._locks.hold(record.vf, f"VF {record.vf}", deadline):
            if not self._reconcile(record, deadline):
                raise Refused(f"the container has VF {record.vf} as {record.owner.ifname} already",
                              hint="DEL comes before the next ADD of an interface")

    def _claim(self, stack: ExitStack, device: PciAddress, call: Call) -> None:
        """Hold the VF's lock, with no other pod's record on it; wait a little for an old owner to leave."""
        patience = min(call.deadline, time.monotonic() + OWNER_GRACE)
        while True:
            with ExitStack() as attempt:
                attempt.enter_context(self._locks.hold(device, f"VF {device}", call.deadline))
                record = self._store.find(device)
                if record is not None and not self._reconcile(record, patience):
                    owner = record.owner
                    if time.monotonic() > patience:
                        raise Refused(f"VF {device} is in use: container {owner.container_id[:13]} has it as "
                                      f"{owner.ifname} in {owner.netns}")
                else:
                    stack.push(attempt.pop_all())
                    return
            call.check()
            with self._freed:
                self._freed.wait_for(lambda: self._store.find(device) is None, 0.2)

    def _attach(self, call: Call, conf: NetConf, host: Links, pod: Links) -> Mapping[str, Any]:
        kernel, request = self._kernel, call.request
        vf = kernel.locate(conf.device)
        link = self._usable_link(host, vf)
        if link is not None and conf.mac is not None and vf.order is MacOrder.NETDEV_FIRST:
            self._check_pf_answers(host, vf)
        if link is not None and (taken := pod.find(request.ifname)) is not None:
            raise Refused(f"CNI_IFNAME: the pod already has an interface {request.ifname} "
                          f"(index {taken.index}, MAC {taken.mac})")
        with _Undo() as undo:
            addresses = Addresses()
            if conf.ipam is not None:
                undo.push(partial(ipam_delete, conf.ipam, request, BUDGET))
                addresses = ipam_add(conf.ipam, request, max(call.remaining, 1.0))
                kernel.trace("ipam")
            call.check()
            record = self._new_record(host, pod, vf, link, conf, request)
            self._store.write(record)
            undo.push(lambda: self._bring_home(record, call.netns_fd, time.monotonic() + HANDED_BACK))
            kernel.trace("record")
            inside = self._change(call, conf, vf, record, link, host, pod)
            if inside is not None:
                for ip in addresses.ips:
                    kernel.changes.run(pod.add_address, inside.index, ip.address)
                for route in addresses.routes:
                    gateway = route.gateway or next(
                        (ip.gateway for ip in addresses.ips if ip.address.version == route.to.version), None)
                    kernel.changes.run(pod.add_route, inside.index, route.to, gateway)
            result = format_result(_interface(request, conf, vf, inside, record), addresses, request.version)
            call.check()
            self._store.write(record.attached(result))
            kernel.trace("done")
            return result

    def _usable_link(self, host: Links, vf: Vf) -> Link | None:
        """The VF's netdev on the host, once udev is done with it; None for a VF driven from user space."""
        driver = self._kernel.sysfs.read_driver(vf.address)
        if driver is None:
            raise Refused(f"{vf} has no driver", hint="its pool's `driver` says which one it shall have")
        if is_userspace(driver):
            return None
        link = self._kernel.find_link(host, vf.address)
        if link is None:
            raise Refused(f"the netdev of {vf} is not on the host: it is in another network namespace, and not "
                          "by this agent")
        home = self._home.get(vf.address)
        if home is not None and (home.index, home.name) == (link.index, link.name):
            return link          # it has been through udev, which keeps a name that was given
        return self._kernel.find_link(host, vf.address) if self._kernel.settle(link.index) else link

    def _check_pf_answers(self, host: Links, vf: Vf) -> None:
        """A netdev's MAC goes by the PF's mailbox, and a PF that is down reads none: refuse before any change."""
        pf = host.find(vf.pf_index)
        if pf is None or not pf.up:
            raise HostError(f"cannot set a MAC on {vf}: its PF is down", hint=f"ip link set {vf.pf_name} up")

    def _new_record(self, host: Links, pod: Links, vf: Vf, link: Link | None, conf: NetConf,
                    request: Request) -> Record:
        settings = self._kernel.settings(host, vf)
        if conf.settings.vlan is not None and settings.vlan_proto == ETH_P_8021AD:
            raise Refused(f"{vf} has an 802.1ad VLAN, which cannot be given back to it so far")
        marked = (vf.order is MacOrder.NETDEV_FIRST and settings.mac not in (None, MacAddress.ZERO)
                  and (self._kernel.sysfs.has_permanent_mac(vf.address) or vf.address in self._marked))
        home = None if link is None else HomeLink(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up)
        return Record(
            vf=vf.address, pf=vf.pf, index=vf.index, boot_id=self._kernel.boot_id, phase=Phase.ATTACHING,
            owner=Owner(container_id=request.container_id, ifname=request.ifname, network=conf.network,
                        netns=request.netns, cookie=pod.cookie),
            baseline=Baseline(link=home, settings=settings, admin_mac=marked),
            sets_mac=conf.mac is not None,
        )

    def _change(self, call: Call, conf: NetConf, vf: Vf, record: Record, link: Link | None, host: Links,
                pod: Links) -> Link | None:
        """All kernel changes of an ADD; the netdev as it is in the pod, None for a vfio VF."""
        kernel, request = self._kernel, call.request
        plan = plan_attach(vf.order, conf.settings, record.baseline.settings, netdev=link is not None)
        if plan.before is not None:
            kernel.set_vf(host, vf, plan.before)
        kernel.trace("settings")
        call.check()
        if link is not None:
            self._move(call, conf, vf, link, host, pod)
            kernel.trace("move")
        if plan.after is not None:
            kernel.set_vf(host, vf, plan.after)
            kernel.trace("mac")
        call.check()
        return self._verify(conf, vf, request, host, pod if link is not None else None)

    def _move(self, call: Call, conf: NetConf, vf: Vf, link: Link, host: Links, pod: Links) -> None:
        name, changes = call.request.ifname, self._kernel.changes
        what = f"move {link.name} of {vf} into the pod as {name}"
        mtu = conf.mtu if conf.mtu != link.mtu else None
        try:
            changes.run(host.change, link.index, what, netns_fd=call.netns_fd, name=name, mac=conf.mac,
                        mtu=mtu, up=True)
        except HostError as error:
            moved = pod.find_pci(vf.address)
            if error.errno != errno.EADDRNOTAVAIL or conf.mac is None or moved is None:
                raise
            changes.run(pod.change, moved.index, what, name=name, mtu=mtu)
            self._kernel.set_mac(pod, vf, moved.index, conf.mac)

    def _verify(self, conf: NetConf, vf: Vf, request: Request, host: Links, pod: Links | None) -> Link | None:
        left = difference(conf.settings, self._kernel.settings(host, vf))
        if left is not None:
            raise HostError(f"{vf}: the driver accepted the settings, but these are not so: {left}")
        if pod is None:
            return None
        link = pod.find(request.ifname)
        if link is None or link.pci not in (None, vf.address):
            raise HostError(f"{vf}: the kernel accepted the move, but {request.ifname} is not in the pod")
        for what, wanted, found in (("MAC", conf.mac, link.mac), ("MTU", conf.mtu, link.mtu)):
            if wanted is not None and wanted != found:
                raise HostError(f"{vf}: the driver accepted {what} {wanted}, but {request.ifname} has {found}")
        return link

    # -- DEL, undo, repair -------------------------------------------------------------------------------

    def _delete(self, call: Call) -> None:
        try:
            record = self._store.find_attachment(call.request.attachment)
            if record is not None:
                with self._locks.hold(record.vf, f"VF {record.vf}", call.deadline):
                    # While this waited, an ADD may have found the namespace dead and taken the VF over.
                    if self._store.find(record.vf) is record:
                        self._bring_home(record, call.netns_fd, time.monotonic() + HANDED_BACK)
        finally:
            plugin = find_ipam(call.request.config)
            if plugin is not None:
                ipam_delete(plugin, call.request, max(call.remaining, 1.0))

    def _reconcile(self, record: Record, deadline: float) -> bool:
        """Bring the VF home unless its pod lives and has it by a finished ADD; whether it is free now."""
        if self._store.find(record.vf) is not record:
            return self._store.find(record.vf) is None
        if record.phase is Phase.ATTACHED and self._alive(record):
            return False
        if record.boot_id != self._kernel.boot_id:
            self._forget(record)      # a reboot made the VF anew
            return True
        log.warning("VF %s: bringing it home: %s of container %s %s", record.vf, record.owner.ifname,
                    record.owner.container_id[:13],
                    "has lost its namespace" if record.phase is Phase.ATTACHED else "was never finished")
        self._bring_home(record, None, deadline)
        return True

    def _bring_home(self, record: Record, pod_fd: int | None, deadline: float) -> None:
        if record.boot_id == self._kernel.boot_id:
            with ExitStack() as stack:
                pod = _enter_own_netns(record, pod_fd, stack)
                self._home[record.vf] = bring_home(self._kernel, record, pod, deadline)
            if record.baseline.admin_mac:
                self._marked.add(record.vf)
        self._forget(record)

    def _forget(self, record: Record) -> None:
        self._store.delete(record)
        with self._freed:
            self._freed.notify_all()

    def _alive(self, record: Record) -> bool:
        return (record.boot_id == self._kernel.boot_id
                and netns_cookie(record.owner.netns) == record.owner.cookie)


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


def _interface(request: Request, conf: NetConf, vf: Vf, inside: Link | None, record: Record) -> Interface:
    mac, mtu = (inside.mac, inside.mtu) if inside else (conf.mac or record.baseline.settings.mac, None)
    return Interface(name=request.ifname, mac=None if mac == MacAddress.ZERO else mac, mtu=mtu,
                     sandbox=request.netns, pci=vf.address)


class _Undo:
    """What to take back, in reverse, if the block raises; its own failures are notes on that error."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def push(self, step: Callable[[], None]) -> None:
        self._steps.append(step)

    def __enter__(self) -> _Undo:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        for step in reversed(self._steps):
            try:
                step()
            except Exception as failure:      # whatever it is, the steps before this one are still to be undone
                log.exception("undo failed")
                error.add_note(f"undo failed: {failure}")
