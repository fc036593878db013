"""Bring a VF home: netdev back to the host under its own name, everything as the baseline says.

It looks at what is, and changes what differs: the same procedure undoes half an ADD, serves DEL, and
repairs after a crash; done twice it does nothing the second time. Where that does not do, the VF's driver makes a
new netdev, on which nothing is.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import partial

from cni.kernel import RESET_PATIENCE, RESETTING, Kernel, Vf
from cni.names import find_other_name, settle_names
from cni.rebind import end_rebind, rebind
from cni.record import HomeLink, Record
from cni.restore import restore_settings, set_back
from cni.sighting import Place, find, look
from cni.steps import plan_home_mac, plan_rebind
from sriov.errors import Gone, HostError
from sriov.host import bpf
from sriov.host.linkinfo import LinkTraits, encode_traits
from sriov.host.netlink import Links
from sriov.model import Link, is_userspace, printable

log = logging.getLogger(__name__)

_TRIES = 5
_KEPT_BY_UDEV = re.compile(r"[0-9A-Za-z#+.:=@_-]+")


def bring_home(kernel: Kernel, record: Record, pod: Links | None, deadline: float, *, anew: bool = True,
               ) -> Link | None:
    """Restore the VF of `record`; `pod` are the links of its network namespace, None where that is gone.

    Returns its netdev as it is then; None where it has none, and where the VF itself is gone. Raises
    SriovError where it is not as the baseline says; `deadline` is a time.monotonic() value: until then its netdev
    is waited for, which the kernel may be about to hand back. `anew`: if nothing else does, its driver may make it
    anew, which takes some seconds more.
    """
    try:
        vf = kernel.locate(record.vf)
        driver = kernel.sysfs.read_driver(record.vf)
    except Gone:
        return None
    if record.baseline.link is not None and driver is None:
        end_rebind(kernel, vf)
        driver = kernel.sysfs.read_driver(record.vf)
        log.warning("%s had no driver; now it has %s", vf, driver)
    link = None
    with Links.open() as host:
        # Bound to another driver since, or to none: no netdev exists that could come home.
        if record.baseline.link is not None and driver is not None and not is_userspace(driver):
            # Of sriov-cni's pods nobody noted which namespace it was: it might live.
            anew = anew and record.owner.cookie != 0
            try:
                link = _bring_link_home(kernel, host, vf, record, record.baseline.link, pod, deadline, anew=anew)
            except (HostError, Gone) as error:
                # Nobody may get it with what its pod was allowed. In its pod, which may live, it keeps that.
                try:
                    if kernel.find_link(host, vf.address) is not None:
                        restore_settings(kernel, host, vf, record, deadline)
                except (HostError, Gone) as other:
                    error.add_note(str(other))
                raise
        elif record.baseline.link is not None:
            log.warning("%s: it has no netdev that could come home: its driver is %s", vf, driver)
        restore_settings(kernel, host, vf, record, deadline)
    kernel.trace("home")
    return link


def describe_home(link: Link, traits: LinkTraits) -> HomeLink:
    """What a record keeps of a VF's netdev on the host."""
    return HomeLink(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up, traits=traits)


def _bring_link_home(kernel: Kernel, host: Links, vf: Vf, record: Record, home: HomeLink,
                     pod: Links | None, deadline: float, *, anew: bool) -> Link:
    """Move it; where that does not do, have it made anew if it may."""
    first = plan_home_mac(vf.order, record.baseline, home.mac, admin_mac_set=record.sets_mac).first
    if first is not None:
        set_back(kernel, host, vf, first, home, deadline)
    reason = None
    if anew and pod is not None and _has_namespaces(kernel, pod) and _can_rebind(host, vf):
        # Nothing in the pod's namespace tells what stands on its netdev in one that the pod made itself.
        reason = "its pod moved links into network namespaces of its own, and what stands on it there stays on it"
    if reason is None:
        try:
            return _move_home(kernel, host, vf, record, home, pod, deadline)
        except (HostError, Gone) as error:
            if not anew or not _can_rebind(host, vf):
                raise
            reason = str(error)
    log.warning("%s: its driver makes its netdev anew: %s", vf, reason)
    before = plan_rebind(vf.order, record.baseline)
    try:
        if before is not None:
            kernel.set_vf(host, vf, before, deadline)
        rebind(kernel, vf)
    except HostError as error:
        error.add_note(f"that was to help where {reason}")
        raise
    kernel.trace("rebound")
    return _move_home(kernel, host, vf, record, home, None, time.monotonic() + RESET_PATIENCE, is_new=True)


def _has_namespaces(kernel: Kernel, pod: Links) -> bool:
    """Whether the pod's namespace knows others than the host's; no where that cannot be told."""
    try:
        return bool(pod.find_peers(kernel.netns_fd))
    except HostError as error:
        log.warning("a pod's own namespaces are not looked for: %s", error)
        return False


def _can_rebind(host: Links, vf: Vf) -> bool:
    """Whether a new netdev may be better: not with a PF that is down, which answers no VF's driver."""
    pf = host.find(vf.pf_index)
    return pf is not None and pf.up


def _move_home(kernel: Kernel, host: Links, vf: Vf, record: Record, home: HomeLink, pod: Links | None,
               deadline: float, *, is_new: bool = False) -> Link:
    """Raises HostError, Gone where it is not as it was then. Of a netdev that the driver has just made, traits that
    it cannot be given are only logged: the pod never had it.
    """
    failure: HostError | Gone | None = None
    tries, ready_by = _TRIES, min(deadline, time.monotonic() + RESET_PATIENCE)
    while tries:
        tries -= 1
        try:
            found = find(kernel, host, pod, vf, deadline)
            mac = plan_home_mac(vf.order, record.baseline, found.link.mac, admin_mac_set=record.sets_mac)
            on_host = found.links is host
            if on_host and mac.first is None and found.is_home(home):
                return found.link
            name = printable(found.link.name)
            troubles = _strip(kernel, found, home, in_pod=not on_host)
            if mac.before:
                kernel.set_mac(found.links, vf, found.link.index, home.mac)
                if on_host:          # older kernels rename only what is down; a move takes it down
                    kernel.changes.run(host.change, found.link.index, f"set {name} down", up=False)
            kernel.changes.run(
                found.links.change, found.link.index,
                f"bring {name} of {vf} home as {printable(home.name)}",
                netns_fd=None if on_host else kernel.netns_fd,
                name=home.name,
                mac=home.mac if mac.within else None,
                mtu=home.mtu if found.link.mtu != home.mtu else None,
                up=home.up,
            )
            back = _put_back(kernel, host, home, troubles)
        except Gone as error:        # moved meanwhile: the kernel dissolves the namespace
            failure = error
            continue
        except HostError as error:
            if error.errno in RESETTING and time.monotonic() < ready_by:
                kernel.pause()
                tries += 1
            else:
                home = _give_way(kernel, host, vf, home, error, again=str(error) == str(failure))
            failure = error
            continue
        kernel.trace("link home")
        if back is None:
            failure = HostError(f"{vf}: its netdev went again")
            continue
        left = [*back.traits_unlike(home)]
        if back.is_usable(home) and (is_new or not left):
            if left:
                log.warning("%s: not all is as it was: %s", vf, "; ".join([*left, *troubles]))
            if gone := [*back.lost_programs(home)]:
                log.warning("%s: not on its netdev any more: %s", vf, ", ".join(gone))
            return back.link
        again = HostError(f"{vf} is not as it was: {'; '.join([*back.unlike(home), *left, *troubles])}")
        if str(again) == str(failure):
            break
        failure, home = again, settle_names(kernel, host, vf, home)
    raise failure or HostError(f"cannot bring the netdev of {vf} home")


def _strip(kernel: Kernel, found: Place, home: HomeLink, *, in_pod: bool) -> list[str]:
    """Take off what would not come along, or would be in the way at home. A pod may have put on anything.

    What could not be done without keeping it from coming home.
    """
    links, index = found.links, found.link.index
    if in_pod:
        # Neither notices that its netdev leaves (vlan_device_event, macvlan_device_event of the kernel): both
        # would go on sending through it.
        for other in found.above:
            if other.software is not None:
                kernel.changes.run(links.delete, other.index,
                                   f"delete {printable(other.name)} on {printable(found.link.name)}")
        if found.link.master is not None:      # a bond gives a netdev that leaves back its MAC and MTU: not later
            kernel.changes.run(links.change, index,
                               f"take {printable(found.link.name)} out of its bond or bridge", master=0)
    # With one on it drivers refuse some MTUs. One that a BPF link holds is that link's (dev_xdp_attach: EBUSY).
    foreign = found.foreign_programs(home)
    _tell_foreign(found, [f"XDP program {number}" for _, number in foreign])
    troubles = _try_all(kernel, [partial(links.attach_program, index, mode, -1) for mode, _ in foreign])
    own = home.traits.altnames
    # udev gives a netdev that comes back its predictable name as an altname, which then is in the way of the
    # same name; and with an altname that something on the host has as its name the kernel moves no netdev.
    surplus = [name for name in found.traits.altnames or ()
               if name == home.name or (own is not None and name not in own)]
    if surplus:
        kernel.changes.run(links.delete_altnames, index, surplus)
    if in_pod and _KEPT_BY_UDEV.fullmatch(found.link.name) is None:
        # The host's udev hears of it by this name before it has its own, and would rename it to what is left of
        # this one without what udev trusts in no name. The kernel puts a number in place of %d.
        what = f"rename {printable(found.link.name)}"
        kernel.changes.run(links.change, index, what, up=False)      # as older kernels want it
        kernel.changes.run(links.change, index, what, name="vf%d")
    return troubles


def _put_back(kernel: Kernel, host: Links, home: HomeLink, troubles: list[str]) -> Place | None:
    """What the move does not: altnames that the pod took away, traits, what ethtool sets; and take off the tcx
    programs that came along, which nobody sees in a pod. `troubles` gets what cannot be done.

    How all of it is then; None where it is not there. Raises Gone.
    """
    found = look(kernel, host, home.name)
    if found is None:
        return None
    index, missing, foreign = found.link.index, home.traits.missing_in(found.traits), found.foreign_tcx(home)
    _tell_foreign(found, [f"tcx {bpf.TCX[place]} program {number}" for place, number in foreign])
    steps: list[Callable[[], None]] = [partial(bpf.detach_tcx, index, place, number) for place, number in foreign]
    altnames = [name for name in home.traits.altnames or () if name not in (found.traits.altnames or ())]
    if altnames:
        steps.append(partial(host.add_altnames, index, altnames))
    if encode_traits(missing) or missing.flags is not None:
        steps.append(partial(host.change, index, f"set the traits of {printable(home.name)}", traits=missing))
    steps += [partial(host.tune, found.link.name, part) for part in missing.split_tuning()]
    troubles += _try_all(kernel, steps)
    return look(kernel, host, index) if steps else found


def _tell_foreign(found: Place, programs: list[str]) -> None:
    """They may be the host's own, attached while the VF was away, or by a version that did not look for them."""
    if programs:
        log.info("%s: taken off: %s", printable(found.link.name), ", ".join(programs))


def _try_all(kernel: Kernel, steps: Iterable[Callable[[], None]]) -> list[str]:
    """Each of them, whatever the others do; why those that failed did. Raises Gone."""
    troubles = []
    for step in steps:
        try:
            kernel.changes.run(step)
        except HostError as error:
            troubles.append(str(error))
    return troubles


def _give_way(kernel: Kernel, host: Links, vf: Vf, home: HomeLink, error: HostError, *, again: bool) -> HomeLink:
    """Home as it may be had after `error`; that is raised where the same came `again`, which is no accident."""
    if error.errno == errno.EEXIST:
        home = settle_names(kernel, host, vf, home)
        if again:
            # Somebody changes the netdev again and again, udev or its pod, or the name is another one's for good.
            return find_other_name(host, vf, home) or home
        return home
    if again and error.errno != errno.ENOENT:          # an altname that has gone by itself
        raise error
    return home
