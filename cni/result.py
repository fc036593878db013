"""Results as values: what an ADD answers, what IPAM gave, and what the plugins before ours in a chain made.

Source: CNI specification 1.1.0 and its predecessors; version rules as the Go `types` packages have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from cni.protocol import CniError, Code, Request, show
from sriov.host.routes import RouteOptions
from sriov.pci import MacAddress, PciAddress

_IP4_IP6_RESULT = ("0.1.0", "0.2.0")               # ip4 and ip6 objects, no interfaces
_VERSIONED_IPS = ("0.3.0", "0.3.1", "0.4.0")       # ips[].version; interfaces without mtu and pciID
_PREVIOUS_LIMIT = 1 << 20       # bytes: our own result, which repeats it, has to fit through the agent's socket
_LISTS, _OBJECTS = ("interfaces", "ips", "routes"), ("ip4", "ip6", "dns")


class RecordedResult(dict[str, Any]):
    """The result of an earlier ADD, which this one only repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str
    mac: MacAddress | None
    mtu: int | None
    sandbox: str
    pci: PciAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Ip:
    address: IPv4Interface | IPv6Interface
    gateway: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    to: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    options: RouteOptions = field(default_factory=RouteOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """What IPAM gave out. `dns` is handed on as it came."""

    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, Any] | None = None

    def gateway(self, route: Route) -> IPv4Address | IPv6Address | None:
        """Where the route leads: a route that does not say takes the first gateway of its family's addresses."""
        return route.gateway or next(
            (ip.gateway for ip in self.ips if ip.gateway and ip.address.version == route.to.version), None)


def parse_addresses(document: Mapping[str, Any], what: str, code: Code = Code.FAILED) -> Addresses:
    """Read a result's addresses and routes, in any version's form; raise CniError with `code` that names `what`."""
    try:
        if "ip4" in document or "ip6" in document:
            families = [document[key] for key in ("ip4", "ip6") if document.get(key)]
            ips = [{"address": family["ip"], "gateway": family.get("gateway")} for family in families]
            routes = [route for family in families for route in family.get("routes") or ()]
        else:
            ips, routes = document.get("ips") or [], document.get("routes") or []
        dns = document.get("dns") or None
        if dns is not None and not isinstance(dns, dict):
            raise TypeError(f"dns: expected an object, got {show(dns)}")
        return Addresses(ips=tuple(map(_ip, ips)), routes=tuple(map(_route, routes)), dns=dns)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CniError(code, f"{what} cannot be read: {error!r}") from None


def _ip(document: Mapping[str, Any]) -> Ip:
    address = ip_interface(_prefix(document["address"]))
    return Ip(address=address, gateway=_gateway(document.get("gateway"), address.version))


def _route(document: Mapping[str, Any]) -> Route:
    to = ip_network(_prefix(document["dst"]), strict=False)
    options = {option.name: _option(option.name, document.get(option.name)) for option in fields(RouteOptions)}
    return Route(to=to, gateway=_gateway(document.get("gw"), to.version), options=RouteOptions(**options))


def _option(key: str, raw: object) -> int | None:
    if raw is None:
        return None
    highest = 255 if key == "scope" else 2**32 - 1
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw <= highest:
        raise ValueError(f"{key}: expected a number from 0 to {highest}, got {show(raw)}")
    return raw


def _prefix(text: object) -> str:
    """ipaddress takes integers, bare addresses and zones too; a result has none of these."""
    if not isinstance(text, str) or "/" not in text or "%" in text:
        raise ValueError(f"expected an address with its prefix length, got {show(text)}")
    return text


def _gateway(text: object, version: int) -> IPv4Address | IPv6Address | None:
    if text is None or text == "":
        return None
    gateway = ip_address(text) if isinstance(text, str) and "%" not in text else None
    if gateway is None or gateway.version != version:
        raise ValueError(f"expected a gateway of IPv{version}, got {show(text)}")
    return gateway


def format_result(interface: Interface, addresses: Addresses, version: str) -> dict[str, Any]:
    """The result document in the request's version."""
    dns = dict(addresses.dns or {})
    if version in _IP4_IP6_RESULT:
        return {"cniVersion": version, **_families(addresses), "dns": dns}
    shown: dict[str, Any] = {"name": interface.name, "sandbox": interface.sandbox}
    if interface.mac is not None:
        shown["mac"] = str(interface.mac)
    if version not in _VERSIONED_IPS:
        shown |= {"mtu": interface.mtu} if interface.mtu else {}
        shown["pciID"] = str(interface.pci)
    ips = [{**({"version": str(ip.address.version)} if version in _VERSIONED_IPS else {}),
            "interface": 0, "address": str(ip.address), **_optional("gateway", ip.gateway)}
           for ip in addresses.ips]
    document: dict[str, Any] = {"cniVersion": version, "interfaces": [shown], "ips": ips,
                                "routes": _routes(addresses.routes)}
    if dns or version in _VERSIONED_IPS:
        document["dns"] = dns
    return document


def _families(addresses: Addresses) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for number in (4, 6):
        ip = next((ip for ip in addresses.ips if ip.address.version == number), None)
        if ip is not None:
            routes = [route for route in addresses.routes if route.to.version == number]
            document[f"ip{number}"] = {"ip": str(ip.address), **_optional("gateway", ip.gateway),
                                       "routes": _routes(routes, options=False)}
    return document


def _routes(routes: Iterable[Route], *, options: bool = True) -> list[dict[str, Any]]:
    return [{"dst": str(route.to), **_optional("gw", route.gateway), **(_options(route) if options else {})}
            for route in routes]


def _options(route: Route) -> dict[str, int]:
    return {option.name: value for option in fields(RouteOptions)
            if (value := getattr(route.options, option.name)) is not None}


def _optional(key: str, value: object) -> dict[str, str]:
    return {} if value is None else {key: str(value)}


# ---- chains -------------------------------------------------------------------------------------------------


def find_previous(config: Mapping[str, Any], version: str) -> Mapping[str, Any] | None:
    """prevResult: of an ADD what the plugins before made, of a CHECK what they all did. None: there is none.

    Raises CniError (code 7) for what is no result in the configuration's version.
    """
    previous = config.get("prevResult")
    if previous is None:
        return None
    if not isinstance(previous, dict):
        raise _bad_previous("", f"expected an object, got {show(previous)}")
    if previous.get("cniVersion") not in (None, "", version):
        raise _bad_previous(".cniVersion", f"expected {version} as in the configuration, got "
                            f"{show(previous['cniVersion'])}")
    size = len(json.dumps(previous))
    if size > _PREVIOUS_LIMIT:
        raise _bad_previous("", f"expected at most {_PREVIOUS_LIMIT} bytes, got {size}")
    for key in _LISTS:
        entries = [] if previous.get(key) is None else previous[key]
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise _bad_previous(f".{key}", "expected a list of objects")
    for key in _OBJECTS:
        if not isinstance(previous.get(key), dict | None):
            raise _bad_previous(f".{key}", f"expected an object, got {show(previous[key])}")
    for number, ip in enumerate(previous.get("ips") or ()):
        index = ip.get("interface")
        if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
            raise _bad_previous(f".ips[{number}].interface", f"expected a number, got {show(index)}")
    return previous


def find_sandbox(request: Request) -> str:
    """The network namespace of the interface by prevResult; empty where that does not say it. Never raises."""
    try:
        previous = find_previous(request.config, request.version) or {}
    except CniError:
        return ""
    found = (each.get("sandbox") for each in previous.get("interfaces") or () if each.get("name") == request.ifname)
    return next((sandbox for sandbox in found if isinstance(sandbox, str)), "")


def join_results(previous: Mapping[str, Any] | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a plugin in a chain answers: all that the ones before it made, and its own. Both in one version."""
    if not previous:
        return own
    dns = {"dns": own.get("dns") or previous.get("dns") or {}} if "dns" in own or previous.get("dns") else {}
    if own["cniVersion"] in _IP4_IP6_RESULT:
        return {**previous, **own, **dns}
    before = len(previous.get("interfaces") or ())
    ips = [{**ip, "interface": ip["interface"] + before} for ip in own["ips"]]
    lists = {"interfaces": own["interfaces"], "ips": ips, "routes": own["routes"]}
    return {**previous, **own, **{key: [*(previous.get(key) or ()), *mine] for key, mine in lists.items()}, **dns}


def _bad_previous(where: str, problem: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"network configuration: prevResult{where}: {problem}")
