"""Bring a VF home: netdev back to the host under its own name, everything as the baseline says.

It looks at what is, and changes what differs: the same procedure undoes half an ADD, serves DEL, and
repairs after a crash; done twice it does nothing the second time.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from dataclasses import dataclass

from cni.kernel import Kernel, Vf
from cni.record import HomeLink, Record
from cni.steps import MacOrder, difference, plan_home_mac, plan_home_settings
from sriov.errors import Gone, HostError, SriovError
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.model import Link, is_userspace

_TRIES = 5
_HANDED_BACK_POLL = 0.02      # seconds


def bring_home(kernel: Kernel, record: Record, pod: Links | None, deadline: float) -> Link | None:
    """Restore the VF of `record`; `pod` are the links of its network namespace, None where that is gone.

    Returns its netdev as it is then; None where it has none, and where the VF itself is gone. Raises
    SriovError where it is not as the baseline says; `deadline` is a time.monotonic() value.
    """
    try:
        vf = kernel.locate(record.vf)
        driver = kernel.sysfs.read_driver(record.vf)
    except Gone:
        return None
    link = None
    with Links.open() as host:
        # Bound to another driver since, or to none: no netdev exists that could come home.
        if record.baseline.link is not None and driver is not None and not is_userspace(driver):
            link = _bring_link_home(kernel, host, vf, record, record.baseline.link, pod, deadline)
        _restore_settings(kernel, host, vf, record)
    kernel.trace("home")
    return link


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a VF's netdev was found, and how. `above`: what stands on it there, a VLAN or a macvlan."""

    links: Links
    link: Link
    traits: LinkTraits
    above: tuple[Link, ...] = ()

    def is_home(self, home: HomeLink) -> bool:
        return ((self.link.name, self.link.mac, self.link.mtu, self.link.up)
                == (home.name, home.mac, home.mtu, home.up)
                and home.traits.missing_in(self.traits) == LinkTraits())


def describe_home(link: Link, traits: LinkTraits) -> HomeLink:
    """What a record keeps of a VF's netdev on the host."""
    return HomeLink(name=link.name, mac=link.mac, mtu=link.mtu, up=link.up, traits=traits)


def _bring_link_home(kernel: Kernel, host: Links, vf: Vf, record: Record, home: HomeLink,
                     pod: Links | None, deadline: float) -> Link:
    failure: SriovError | None = None
    for _ in range(_TRIES):
        found = _find(kernel, host, pod, vf, deadline)
        mac = plan_home_mac(vf.order, record.baseline, found.link.mac, admin_mac_set=record.sets_mac)
        on_host = found.links is host
        if on_host and mac.first is None and found.is_home(home):
            return found.link
        if mac.first is not None:
            kernel.set_vf(host, vf, mac.first)
        try:
            _strip(kernel, found, home, in_pod=not on_host)
            if mac.before:
                kernel.set_mac(found.links, vf, found.link.index, home.mac)
                if on_host:          # older kernels rename only what is down; a move takes it down
                    kernel.changes.run(host.change, found.link.index, f"set {found.link.name} down", up=False)
            kernel.changes.run(
                found.links.change, found.link.index, f"bring {found.link.name} of {vf} home as {home.name}",
                netns_fd=None if on_host else kernel.netns_fd,
                name=home.name,
                mac=home.mac if mac.within else None,
                mtu=home.mtu if found.link.mtu != home.mtu else None,
                up=home.up,
                traits=home.traits.missing_in(found.traits),
            )
            back = _put_back(kernel, host, home)
        except Gone as error:        # moved meanwhile: the kernel dissolves the namespace
            failure = error
            continue
        except HostError as error:
            if not _is_worth_another_look(error, host, vf, home):
                raise
            failure = error
            continue
        kernel.trace("link home")
        if back is not None and back.is_home(home):
            return back.link
        failure = HostError(f"{vf} is not as it was: expected {home}, found {back}")
    raise failure or HostError(f"cannot bring the netdev of {vf} home")


def _find(kernel: Kernel, host: Links, pod: Links | None, vf: Vf, deadline: float) -> _Place:
    """Where the VF's netdev is: on the host or in the pod; waits for the kernel to take a namespace down."""
    while True:
        on_host = kernel.inspect_link(host, vf.address)
        found = None if on_host is None else _Place(links=host, link=on_host[0], traits=on_host[1])
        if found is None and pod is not None:
            found = _inspect_pod(pod, vf)
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise HostError(f"the netdev of {vf} is neither on the host nor in its pod's network namespace",
                            hint="a namespace that something still holds open keeps its netdevs")
        time.sleep(_HANDED_BACK_POLL)


def _inspect_pod(pod: Links, vf: Vf) -> _Place | None:
    found = pod.inspect_pci(vf.address)
    return None if found is None else _Place(links=pod, link=found[0], traits=found[1], above=found[2])


def _inspect(links: Links, key: int | str) -> _Place | None:
    found = links.inspect(key)
    return None if found is None else _Place(links=links, link=found[0], traits=found[1])


def _strip(kernel: Kernel, found: _Place, home: HomeLink, *, in_pod: bool) -> None:
    """Take off what would not come along, or would be in the way at home. A pod may have put on anything."""
    links, index = found.links, found.link.index
    if in_pod:
        # Neither notices that its netdev leaves (vlan_device_event, macvlan_device_event of the kernel): both
        # would go on sending through it.
        for other in found.above:
            if other.software is not None:
                kernel.changes.run(links.delete, other.index, f"delete {other.name} on {found.link.name}")
        if found.link.master is not None:      # a bond gives a netdev that leaves back its MAC and MTU: not later
            kernel.changes.run(links.change, index, f"take {found.link.name} out of its bond or bridge", master=0)
    for mode, number in found.traits.programs or ():
        if home.traits.programs is not None and (mode, number) not in home.traits.programs:
            kernel.changes.run(links.attach_program, index, mode, -1)
    own = home.traits.altnames
    # udev gives a netdev that comes back its predictable name as an altname, which then is in the way of the
    # same name; and with an altname that something on the host has as its name the kernel moves no netdev.
    surplus = [name for name in found.traits.altnames or ()
               if name == home.name or (own is not None and name not in own)]
    if surplus:
        kernel.changes.run(links.delete_altnames, index, surplus)


def _put_back(kernel: Kernel, host: Links, home: HomeLink) -> _Place | None:
    """What the one message does not: altnames that the pod took away, offloads. How all of it is then."""
    found = _inspect(host, home.name)
    if found is None:
        return None
    missing = [name for name in home.traits.altnames or () if name not in (found.traits.altnames or ())]
    if missing:
        kernel.changes.run(host.add_altnames, found.link.index, missing)
    features = home.traits.missing_in(found.traits).features
    if features is not None:
        kernel.changes.run(host.set_features, home.name, features)
    return _inspect(host, home.name) if missing or features is not None else found


def _is_worth_another_look(error: HostError, host: Links, vf: Vf, home: HomeLink) -> bool:
    """Whether what failed may be so because somebody changed the netdev meanwhile: udev, or its pod."""
    if error.errno == errno.ENOENT:          # an altname that has gone by itself
        return True
    other = host.find(home.name)
    return error.errno == errno.EEXIST and (other is None or other.pci == vf.address)


def _restore_settings(kernel: Kernel, host: Links, vf: Vf, record: Record) -> None:
    pf, current = kernel.inspect_vf(host, vf)
    changes = plan_home_settings(vf.order, record.baseline, current)
    if changes is not None:
        kernel.set_vf(host, vf, changes)
        pf, current = kernel.inspect_vf(host, vf)
    wanted = record.baseline.settings
    if vf.order is MacOrder.NETDEV_FIRST and record.baseline.link is not None and not pf.up:
        # The PF learns the netdev's MAC from its mailbox, when it is up again.
        wanted = dataclasses.replace(wanted, mac=None)
    left = difference(wanted, current)
    if left is not None:
        raise HostError(f"{vf}: its settings are not as they were: {left} differ")
