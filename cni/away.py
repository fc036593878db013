"""Take a VF away into a pod: what an ADD changes in the kernel. `home` is the way back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from cni.kernel import RESETTING, Kernel, Vf
from cni.netconf import NetConf
from cni.netns import set_up_interface
from cni.result import Addresses
from cni.steps import MacOrder, difference, plan_attach
from sriov.errors import HostError, Refused
from sriov.host.discovery import look_for_ties
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.model import Link, VfSettings, is_userspace, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod's network namespace, open, and the name that the VF's netdev gets in it."""

    links: Links
    netns_fd: int
    ifname: str


def find_usable_link(kernel: Kernel, host: Links, vf: Vf, came_home: Link | None) -> tuple[Link, LinkTraits] | None:
    """The VF's netdev on the host, once udev is done with it; None for a VF driven from user space.

    `came_home` is what this process brought home last: that has been through udev.
    """
    driver = kernel.sysfs.read_driver(vf.address)
    if driver is None:
        raise Refused(f"{vf} has no driver", hint="its pool's `driver` says which one it shall have")
    if is_userspace(driver):
        return None
    found = kernel.inspect_link(host, vf.address)
    if found is not None and not _is_as_it_came(found[0], came_home) and kernel.await_udev(found[0].index):
        found = kernel.inspect_link(host, vf.address)
    if found is None:
        raise Refused(f"the netdev of {vf} is not on the host: it is in another network namespace, and not "
                      "by this agent")
    return found


def _is_as_it_came(link: Link, came_home: Link | None) -> bool:
    """udev keeps a name that was given."""
    return came_home is not None and (came_home.index, came_home.name) == (link.index, link.name)


def check_supported(kernel: Kernel, vf: Vf, pf: Link) -> None:
    """Refuse a PF whose VFs would not work in a pod."""
    if pf.kind != "ether":
        raise Refused(f"{vf} is of a PF with link type {pf.kind}: only ether is supported so far")
    mode = kernel.eswitch_mode(vf.pf)
    if mode not in (None, "legacy"):
        raise Refused(
            f"{vf} is of a PF whose eswitch mode is {mode}: only legacy is supported so far, since nothing would "
            "forward what the VF sends", hint=f"devlink dev eswitch set pci/{vf.pf} mode legacy")


def check_untied(kernel: Kernel, host: Links, vf: Vf, link: Link) -> None:
    """Refuse what the node itself uses: the move would take its addresses and routes away, for good.

    Such a VF is not offered either, but who gave it to the pod may have looked before the node began to use it.
    """
    ties = look_for_ties(host, link, stacked=kernel.sysfs.is_stacked_on(vf.address))
    if ties:
        raise Refused(f"{vf} is not for pods: the node itself needs {printable(link.name)}: "
                      f"{printable(', '.join(ties))}", hint="move that to another NIC, or leave the VF out of the "
                      "pools")


def find_userspace_mtu(vf: Vf, pf: Link, conf: NetConf) -> int:
    """The MTU that the application of a VF without a netdev may use; refuse what such a VF cannot have."""
    if conf.asks_inside:
        raise Refused(f"ipam.type: {conf.ipam} asks through the pod's interface, and {vf} has none: it is driven "
                      "from user space")
    if conf.mtu is not None and conf.mtu > pf.mtu:
        raise Refused(f"mtu: {conf.mtu} is more than {vf.pf_name} carries, which has {pf.mtu}",
                      hint=f"raise `mtu` of {vf.pf_name} in the pool file")
    return conf.mtu or pf.mtu


def check_way(vf: Vf, pf: Link, conf: NetConf, pod: Pod) -> None:
    """Refuse before any change what would end half way: a PF that is down, a name that is taken."""
    # A netdev's MAC goes by the PF's mailbox, and a PF that is down reads none.
    if conf.mac is not None and vf.order is MacOrder.NETDEV_FIRST and not pf.up:
        raise HostError(f"cannot set a MAC on {vf}: its PF is down", hint=f"ip link set {vf.pf_name} up")
    taken = pod.links.find(pod.ifname)
    if taken is not None:
        raise Refused(f"CNI_IFNAME: the pod already has an interface {pod.ifname} "
                      f"(index {taken.index}, MAC {taken.mac})")


def take_away(kernel: Kernel, host: Links, vf: Vf, link: Link | None, conf: NetConf, current: VfSettings, pod: Pod,
              deadline: float, check: Callable[[], None]) -> Link | None:
    """All that `conf` wants of the VF, verified; its netdev as it is in the pod then, None for a vfio VF.

    `link` is the netdev on the host; `current`: what the PF enforces now. `check` raises to end it between
    two steps; a VF in reset is waited for until `deadline` (time.monotonic) at most.
    """
    plan = plan_attach(vf.order, conf.settings, current, netdev=link is not None)
    if plan.before is not None:
        kernel.set_vf(host, vf, plan.before, deadline)
    kernel.trace("settings")
    check()
    if link is not None:
        _move(kernel, host, vf, link, conf, pod, deadline, check)
        kernel.trace("move")
    if plan.after is not None:
        kernel.set_vf(host, vf, plan.after, deadline)
        kernel.trace("mac")
    check()
    left = difference(conf.settings, kernel.settings(host, vf))
    if left is not None:
        raise HostError(f"{vf}: the driver accepted the settings, but these are not so: {left}")
    return None if link is None else _find_moved(vf, conf, pod)


def configure(kernel: Kernel, pod: Pod, link: Link, addresses: Addresses) -> None:
    """Give the pod's netdev what IPAM said, and have it tell of that.

    IPv6 addresses can be used at once, while the kernel still looks for others that have them (RFC 4429):
    `announce` hears what it found.
    """
    set_up_interface(pod.netns_fd, pod.ifname, ipv6=any(ip.address.version == 6 for ip in addresses.ips))
    for ip in addresses.ips:
        kernel.changes.run(pod.links.add_address, link.index, ip.address)
    for route in addresses.routes:
        kernel.changes.run(pod.links.add_route, link.index, route.to, addresses.gateway(route), route.options)


def _move(kernel: Kernel, host: Links, vf: Vf, link: Link, conf: NetConf, pod: Pod,
          deadline: float, check: Callable[[], None]) -> None:
    def change_link() -> None:
        # The queue may have been long. A move for nobody costs the others two: this one, and its undo.
        check()
        host.change(link.index, what, netns_fd=pod.netns_fd, name=pod.ifname, mac=conf.mac, mtu=mtu, up=True)

    what = f"move {printable(link.name)} of {vf} into the pod as {pod.ifname}"
    if conf.mtu is not None:
        what += f" with mtu {conf.mtu}"
    # With an altname that is taken there the kernel moves no netdev, nor renames one to its own altname.
    clashing = [name for name in link.altnames if name == pod.ifname or pod.links.find(name) is not None]
    if clashing:
        kernel.changes.run(host.delete_altnames, link.index, clashing)
    mtu = conf.mtu if conf.mtu != link.mtu else None
    try:
        kernel.changes.run(change_link)
    except HostError as error:
        # The move comes first: what follows it in the message may be refused with the netdev in the pod.
        moved = pod.links.find_pci(vf.address)
        if moved is not None and error.errno in RESETTING:
            kernel.persist(deadline, pod.links.change, moved.index, what, name=pod.ifname, mac=conf.mac, mtu=mtu,
                           up=True)
        elif moved is not None and error.errno == errno.EADDRNOTAVAIL and conf.mac is not None:
            kernel.changes.run(pod.links.change, moved.index, what, name=pod.ifname, mtu=mtu)
            kernel.set_mac(pod.links, vf, moved.index, conf.mac)
        else:
            raise


def _find_moved(vf: Vf, conf: NetConf, pod: Pod) -> Link:
    link = pod.links.find(pod.ifname)
    if link is None or link.pci not in (None, vf.address):
        raise HostError(f"{vf}: the kernel accepted the move, but {pod.ifname} is not in the pod")
    for what, wanted, found in (("MAC", conf.mac, link.mac), ("MTU", conf.mtu, link.mtu)):
        if wanted is not None and wanted != found:
            raise HostError(f"{vf}: the driver accepted {what} {wanted}, but {pod.ifname} has {found}")
    return link
