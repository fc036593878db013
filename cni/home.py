"""Bring a VF home: netdev back to the host under its own name, everything as the baseline says.

It looks at what is, and changes what differs: the same procedure undoes half an ADD, serves DEL, and
repairs after a crash; done twice it does nothing the second time.
"""

from __future__ import annotations

import dataclasses
import errno
import time

from cni.kernel import Kernel, Vf
from cni.record import HomeLink, Record
from cni.steps import MacOrder, difference, plan_home_mac, plan_home_settings
from sriov.errors import Gone, HostError, SriovError
from sriov.host.netlink import Links
from sriov.model import Link, is_userspace

_RENAME_TRIES = 3
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


def _bring_link_home(kernel: Kernel, host: Links, vf: Vf, record: Record, home: HomeLink,
                     pod: Links | None, deadline: float) -> Link:
    failure: SriovError | None = None
    for _ in range(_RENAME_TRIES):
        where, link = _find(kernel, host, pod, vf, deadline)
        mac = plan_home_mac(vf.order, record.baseline, link.mac, admin_mac_set=record.sets_mac)
        if where is host and mac.first is None and _is_home(link, home):
            return link
        if mac.first is not None:
            kernel.set_vf(host, vf, mac.first)
        if mac.before:
            kernel.set_mac(where, vf, link.index, home.mac)
            if where is host:        # older kernels rename only what is down; a move takes it down
                kernel.changes.run(host.change, link.index, f"set {link.name} down", up=False)
        if home.name in link.altnames:
            # udev gives a netdev that comes back its predictable name as an altname, which then is in
            # the way of the same name.
            kernel.changes.run(where.delete_altname, link.index, home.name)
        try:
            kernel.changes.run(
                where.change, link.index, f"bring {link.name} of {vf} home as {home.name}",
                netns_fd=None if where is host else kernel.netns_fd,
                name=home.name,
                mac=home.mac if mac.within else None,
                mtu=home.mtu if link.mtu != home.mtu else None,
                up=home.up,
            )
        except Gone as error:        # moved meanwhile: the kernel dissolves the namespace
            failure = error
            continue
        except HostError as error:
            other = host.find(home.name)
            if error.errno != errno.EEXIST or (other is not None and other.pci != vf.address):
                raise
            failure = error
            continue
        kernel.trace("link home")
        return _verify(host, vf, home)
    raise failure or HostError(f"cannot bring the netdev of {vf} home")


def _find(kernel: Kernel, host: Links, pod: Links | None, vf: Vf, deadline: float) -> tuple[Links, Link]:
    """Where the VF's netdev is: on the host or in the pod; waits for the kernel to take a namespace down."""
    while True:
        link = kernel.find_link(host, vf.address)
        if link is not None:
            return host, link
        link = pod.find_pci(vf.address) if pod is not None else None
        if pod is not None and link is not None:
            return pod, link
        if time.monotonic() > deadline:
            raise HostError(f"the netdev of {vf} is neither on the host nor in its pod's network namespace",
                            hint="a namespace that something still holds open keeps its netdevs")
        time.sleep(_HANDED_BACK_POLL)


def _is_home(link: Link, home: HomeLink) -> bool:
    return (link.name, link.mac, link.mtu, link.up) == (home.name, home.mac, home.mtu, home.up)


def _verify(host: Links, vf: Vf, home: HomeLink) -> Link:
    link = host.find(home.name)
    if link is None or not _is_home(link, home):
        raise HostError(f"{vf} is not as it was: expected {home}, found {link}")
    return link


def _restore_settings(kernel: Kernel, host: Links, vf: Vf, record: Record) -> None:
    current = kernel.settings(host, vf)
    changes = plan_home_settings(vf.order, record.baseline, current)
    if changes is not None:
        kernel.set_vf(host, vf, changes)
        current = kernel.settings(host, vf)
    wanted = record.baseline.settings
    if vf.order is MacOrder.NETDEV_FIRST and record.baseline.link is not None and not _is_up(host, vf):
        # The PF learns the netdev's MAC from its mailbox, when it is up again.
        wanted = dataclasses.replace(wanted, mac=None)
    left = difference(wanted, current)
    if left is not None:
        raise HostError(f"{vf}: its settings are not as they were: {left} differ")


def _is_up(host: Links, vf: Vf) -> bool:
    pf = host.find(vf.pf_index)
    return pf is not None and pf.up
