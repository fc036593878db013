"""What was known of a netdev before a pod got it: its name, altnames, MAC and MTU at home, its RDMA devices.

The host cannot see it any more, but what selects a VF by them must go on selecting it. Good for one boot: the
next one makes and names netdevs anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sriov.errors import InputError
from sriov.model import Host, Link, PciFunction, RdmaDevice
from sriov.pci import MacAddress, PciAddress

VERSION = 1

_Function = TypeVar("_Function", bound=PciFunction)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFunction:
    """A function whose netdev was seen. Void where another device or driver has its address since."""

    vendor: str
    device: str
    driver: str
    link: Link
    rdma: tuple[RdmaDevice, ...] = ()

    def is_of(self, function: PciFunction) -> bool:
        return (self.vendor, self.device, self.driver) == (function.vendor, function.device, function.driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known in this boot, by PCI address."""

    boot_id: str
    functions: Mapping[PciAddress, KnownFunction] = field(default_factory=dict)


def remember(known: Known, host: Host) -> Known:
    """What is known after this look: netdevs that are here as they are, those that are away as they were."""
    seen = {function.address: function for function in (*host.pfs, *host.vfs, *host.others)}
    found: dict[PciAddress, KnownFunction] = {}
    for address, before in known.functions.items():
        function = seen.get(address)
        # One that is missing may just not have been readable.
        if _is_away(function, before) if function is not None else host.unreadable:
            found[address] = before
    for address, function in seen.items():
        if function.link is not None and function.driver is not None:
            found[address] = KnownFunction(
                vendor=function.vendor, device=function.device, driver=function.driver,
                link=_lasting(function.link, address), rdma=function.rdma,
            )
    return replace(known, functions=found)


def recall(host: Host, known: Known) -> Host:
    """The host, with what is known of the functions whose netdev is away."""

    def complete(function: _Function) -> _Function:
        before = known.functions.get(function.address)
        if before is None or not _is_away(function, before):
            return function
        return replace(function, last_link=before.link, rdma=function.rdma or before.rdma)

    return host.map_functions(complete)


def _is_away(function: PciFunction, before: KnownFunction) -> bool:
    return function.link is None and before.is_of(function)


def _lasting(link: Link, address: PciAddress) -> Link:
    """What of a link still counts while it is away."""
    return Link(index=link.index, name=link.name, altnames=link.altnames, mac=link.mac, mtu=link.mtu, up=False,
                carrier=False, pci=address, kind=link.kind)


# ---- JSON -------------------------------------------------------------------------------------------------


def format_known(known: Known) -> str:
    functions = {
        address: {
            "vendor": function.vendor, "device": function.device, "driver": function.driver,
            "netdev": {
                "index": function.link.index, "name": function.link.name, "altnames": list(function.link.altnames),
                "mac": function.link.mac, "mtu": function.link.mtu, "kind": function.link.kind,
            },
            "rdma": [{"name": device.name, "nodes": list(device.nodes)} for device in function.rdma],
        }
        for address, function in sorted(known.functions.items())
    }
    return json.dumps({"version": VERSION, "bootId": known.boot_id, "functions": functions}, indent=1) + "\n"


def parse_known(text: str) -> Known:
    """Raises InputError for anything that `format_known` does not write."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {error}") from None
    version = _get(document, "version", int)
    if version != VERSION:
        raise InputError(f"version: expected {VERSION}, got {version}")
    functions: dict[PciAddress, KnownFunction] = {}
    for name, entry in _get(document, "functions", dict).items():
        try:
            address = PciAddress.parse(name)
            functions[address] = _function(entry, address)
        except InputError as error:
            raise InputError(f"functions[{name}]: {error.message}") from None
    return Known(boot_id=_get(document, "bootId", str), functions=functions)


def _function(entry: object, address: PciAddress) -> KnownFunction:
    netdev = _get(entry, "netdev", dict)
    mac = _get(netdev, "mac", str)
    return KnownFunction(
        vendor=_get(entry, "vendor", str), device=_get(entry, "device", str), driver=_get(entry, "driver", str),
        link=Link(
            index=_get(netdev, "index", int), name=_get(netdev, "name", str), altnames=_texts(netdev, "altnames"),
            mac=MacAddress.parse(mac) if mac else MacAddress(""), mtu=_get(netdev, "mtu", int), up=False,
            carrier=False, pci=address, kind=_get(netdev, "kind", str),
        ),
        rdma=tuple(RdmaDevice(name=_get(device, "name", str), nodes=_texts(device, "nodes"))
                   for device in _get(entry, "rdma", list)),
    )


def _get(mapping: object, key: str, kind: type[_Value]) -> _Value:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value


def _texts(mapping: object, key: str) -> tuple[str, ...]:
    texts = _get(mapping, key, list)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{key}: expected a list of str, got {texts!r}")
    return tuple(texts)
