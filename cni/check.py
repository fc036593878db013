"""CHECK: whether an attachment is still what its ADD made of it, and what the runtime was told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from cni.custody import Custody
from cni.invocation import Invocation
from cni.ipam import ipam_forward
from cni.kernel import Kernel
from cni.netconf import find_ipam
from cni.netns import is_netns, links_in
from cni.protocol import CniError, Code, Request
from cni.record import Phase, Record
from cni.result import Addresses, find_previous, parse_addresses
from cni.steps import difference
from cni.store import Store
from sriov.errors import Gone
from sriov.host.netlink import Links
from sriov.model import Link, VfSettings, printable, show_setting

_SHOWN = {
    "mac": "the PF's MAC", "vlan": "VLAN", "vlan_qos": "VLAN priority", "vlan_proto": "VLAN protocol",
    "spoofchk": "spoofchk", "trust": "trust", "min_tx_rate": "min_tx_rate", "max_tx_rate": "max_tx_rate",
    "link_state": "link state",
}


def check_attachment(kernel: Kernel, custody: Custody, store: Store, call: Invocation) -> None:
    """Compare the kernel with the record and prevResult; then the network's IPAM plugin checks.

    Raises CniError (code 104) that names the first difference, Gone where there is no such attachment. What the
    plugins after ours in a chain changed counts as they say in prevResult; the MTU, which none of them reports, is
    looked at only where the network configuration has one. The caller holds the attachment's lock.
    """
    request = call.request
    record = _find(store, request)
    loss = custody.find_loss(record)
    if loss is not None:
        raise _differs(record, str(loss))
    absence = custody.find_absence(record)
    if absence is not None:
        raise _differs(record, absence)
    previous = find_previous(request.config, request.version)
    if previous is None:
        raise CniError(Code.INVALID_CONFIG, "network configuration: prevResult: CHECK needs the result of the ADD")
    told = next((each for each in previous.get("interfaces") or ()
                 if (each.get("name"), each.get("sandbox")) == (request.ifname, request.netns)), None)
    if told is None:
        raise CniError(Code.INVALID_CONFIG, f"network configuration: prevResult: it has no interface "
                       f"{request.ifname} in {request.netns}")
    if call.netns_fd is None or not is_netns(call.netns_fd):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS: {request.netns} is not a network namespace")
    with Links.open() as host, links_in(call.netns_fd) as pod:
        if pod.cookie != record.owner.cookie:
            raise _differs(record, f"it is in {record.owner.netns}, not in {request.netns}")
        found = kernel.settings(host, kernel.locate(record.vf))
        for what in _compare(record, told, previous, pod, found):
            raise _differs(record, what)
    ipam = find_ipam(request.config)
    if ipam is not None:
        with kernel.calls.aside():
            ipam_forward(ipam, request, call.timeout)


def _find(store: Store, request: Request) -> Record:
    record = store.find_attachment(request.attachment)
    if record is None or record.owner.network != request.network or record.phase is Phase.DETACHING:
        raise Gone(f"container {request.container_id[:13]} has no {request.ifname} of network {request.network}")
    return record


def _differs(record: Record, what: str) -> CniError:
    return CniError(Code.DIFFERS, f"VF {record.vf} of {record.owner}: {what}")


def _compare(record: Record, told: Mapping[str, Any], previous: Mapping[str, Any], pod: Links,
             found: VfSettings) -> Iterator[str]:
    """Each difference, in the order name, link, PF, addresses, routes."""
    if record.baseline.link is None:             # driven from user space: only its PF knows of it
        yield from compare_settings(record.wanted.settings, found)
        return
    link = pod.find_pci(record.vf) or pod.find(record.owner.ifname)
    if link is None or link.pci not in (None, record.vf):
        yield f"its netdev is not in {record.owner.netns}"
        return
    yield from compare_link(record, told, link)
    yield from compare_settings(expect_settings(record, told, found), found)
    yield from _compare_addresses(record, previous, link, pod)


def compare_link(record: Record, told: Mapping[str, Any], link: Link) -> Iterator[str]:
    """`told` is the interface of prevResult."""
    if link.name != record.owner.ifname:
        yield f"name: expected {record.owner.ifname}, found {printable(link.name)}"
    mac = told.get("mac")
    if mac and str(mac).lower() != link.mac:
        yield f"MAC: expected {mac}, found {link.mac}"
    if record.wanted.mtu not in (None, link.mtu):
        yield f"MTU: expected {record.wanted.mtu}, found {link.mtu}"
    if not link.up:
        yield "it is down"


def expect_settings(record: Record, told: Mapping[str, Any], found: VfSettings) -> VfSettings:
    """What the PF should enforce: what the ADD asked for, but for a trusted VF's MAC that a later plugin changed.

    That MAC some PFs show (igb), and others go on showing theirs; `told` is the interface of prevResult.
    """
    wanted = record.wanted.settings
    if found.mac is not None and str(told.get("mac")).lower() == found.mac:
        return dataclasses.replace(wanted, mac=None)
    return wanted


def compare_settings(wanted: VfSettings, found: VfSettings) -> Iterator[str]:
    differing = difference(wanted, found) or VfSettings()
    for field in fields(VfSettings):
        expected, now = getattr(wanted, field.name), getattr(found, field.name)
        if getattr(differing, field.name) is not None and expected not in (None, now):
            yield (f"{_SHOWN[field.name]}: expected {show_setting(field.name, expected)}, "
                   f"found {show_setting(field.name, now)}")


def _compare_addresses(record: Record, previous: Mapping[str, Any], link: Link, pod: Links) -> Iterator[str]:
    made = own_addresses(record)
    left = parse_addresses(previous, "network configuration: prevResult", Code.INVALID_CONFIG)
    here = {entry.address: entry for entry in pod.dump_addresses() if entry.index == link.index}
    for ip in made.ips:
        if ip.address not in {each.address for each in left.ips}:
            continue
        if ip.address not in here:
            yield f"address {ip.address}: it is not there"
        elif here[ip.address].duplicate:
            yield f"address {ip.address}: another host of the network has it, too"
    ways = {(route.to, route.gateway) for route in pod.dump_link_routes() if route.link == link.index}
    for wanted in made.routes:
        gateway = made.gateway(wanted)
        if wanted in left.routes and (wanted.to, gateway) not in ways:
            yield f"route to {wanted.to}{f' through {gateway}' if gateway else ''}: it is not there"


def own_addresses(record: Record) -> Addresses:
    """What the ADD gave its own interface, without what the plugins before it in a chain had made."""
    result = record.result or {}
    names = [(each.get("name"), each.get("sandbox")) for each in result.get("interfaces") or ()]
    own = (record.owner.ifname, record.owner.netns)
    if own not in names:
        return Addresses()
    index = names.index(own)
    return parse_addresses({"ips": [ip for ip in result.get("ips") or () if ip.get("interface") == index],
                            "routes": result.get("routes") if len(names) == 1 else ()}, "the recorded result")
