"""Addresses and routes of a network namespace, decoded from routing netlink's messages.

Source: linux/if_addr.h, linux/nexthop.h; struct rtmsg and struct rtnexthop of linux/rtnetlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

from sriov.host.nlattr import HEADER, Attributes, attribute

MAIN_TABLE = 254

_AF_INET, _AF_INET6 = 2, 10
_RTN_UNICAST, _RTM_F_CLONED, _RTPROT_KERNEL = 1, 0x200, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 1, 4, 5, 9, 15, 30
_NHA_ID, _NHA_GROUP, _NHA_OIF = 1, 2, 5
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_DADFAILED, _IFA_F_TENTATIVE, _IFA_F_PERMANENT = 0x08, 0x40, 0x80
_ROUTE, _ADDRESS, _NEXTHOP = struct.Struct("=8BI"), struct.Struct("=4BI"), struct.Struct("=HBBi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address of link `index`; `lasting`: somebody gave it for good, no DHCP server or router for a while.

    IPv6: `tentative` while the kernel looks for others that have it, `duplicate` where it found one.
    """

    index: int
    address: IPv4Interface | IPv6Interface
    lasting: bool = True
    tentative: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of one IP version, 4 or 6, over these links: several where it is multipath.

    `prefix` is the length of what it leads to, 0 for everywhere. `nexthop` is the id of the nexthop object that
    says over which links, where the route itself does not.
    """

    version: int
    links: tuple[int, ...]
    prefix: int = 0
    table: int = MAIN_TABLE
    nexthop: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRoute:
    """A way to somewhere over link `link`, in whatever table; a multipath route is several."""

    to: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None
    link: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """What a route may have beside its way; None: as the kernel does by itself. `scope` is RT_SCOPE_*."""

    table: int | None = None
    priority: int | None = None
    scope: int | None = None
    mtu: int | None = None
    advmss: int | None = None


def encode_address_filter(index: int) -> bytes:
    """Asks for the addresses of one link."""
    return _ADDRESS.pack(0, 0, 0, 0, index)


def encode_route_filter(index: int) -> bytes:
    """Asks for the routes over one link, those of multipath and nexthop objects among them."""
    return _ROUTE.pack(*bytes(8), 0) + attribute(_RTA_OIF, struct.pack("=I", index))


def decode_address(raw: bytes) -> Address | None:
    """None for an address that is neither IPv4 nor IPv6."""
    family, prefix, flags, _, index = _ADDRESS.unpack_from(raw, HEADER.size)
    found = Attributes(raw[HEADER.size + _ADDRESS.size :])
    # IFA_ADDRESS is the other end's of a point-to-point link.
    packed = found.raw(_IFA_LOCAL) or found.raw(_IFA_ADDRESS)
    if packed is None or family not in (_AF_INET, _AF_INET6):
        return None
    address = IPv4Address(packed) if family == _AF_INET else IPv6Address(packed)
    return Address(index=index, address=ip_interface(f"{address}/{prefix}"), lasting=bool(flags & _IFA_F_PERMANENT),
                   tentative=bool(flags & _IFA_F_TENTATIVE), duplicate=bool(flags & _IFA_F_DADFAILED))


def counts(raw: bytes) -> bool:
    """Whether a message is about a route that carries packets, and that the kernel has not from an address."""
    family, _, _, _, _, protocol, _, kind, flags = _ROUTE.unpack_from(raw, HEADER.size)
    return (family in (_AF_INET, _AF_INET6) and kind == _RTN_UNICAST and protocol != _RTPROT_KERNEL
            and not flags & _RTM_F_CLONED)


def decode_route(raw: bytes) -> Route:
    """Of a message that `counts`."""
    family, prefix, _, _, table, *_ = _ROUTE.unpack_from(raw, HEADER.size)
    found = Attributes(raw[HEADER.size + _ROUTE.size :])
    single = found.number(_RTA_OIF)
    hops = _multipath(found.raw(_RTA_MULTIPATH) or b"")
    links = (single,) if single is not None else tuple(link for link, _ in hops)
    return Route(
        version=4 if family == _AF_INET else 6, links=links, prefix=prefix, table=found.number(_RTA_TABLE) or table,
        nexthop=None if links else found.number(_RTA_NH_ID),
    )


def decode_link_routes(raw: bytes) -> Iterator[LinkRoute]:
    """The ways of a message about a route; none for one that carries no packets, or that no link is named of."""
    family, to_bits, *_, kind, flags = _ROUTE.unpack_from(raw, HEADER.size)
    if family not in (_AF_INET, _AF_INET6) or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return
    found = Attributes(raw[HEADER.size + _ROUTE.size :])
    start = found.raw(_RTA_DST) or bytes(4 if family == _AF_INET else 16)
    to = ip_network((start, to_bits))
    single = found.number(_RTA_OIF)
    hops = [(single, found)] if single is not None else _multipath(found.raw(_RTA_MULTIPATH) or b"")
    for link, hop in hops:
        gateway = hop.raw(_RTA_GATEWAY)
        yield LinkRoute(to=to, gateway=None if gateway is None else ip_address(gateway), link=link)


def _multipath(data: bytes) -> Iterator[tuple[int, Attributes]]:
    """Link and attributes of each hop."""
    offset = 0
    while offset + _NEXTHOP.size <= len(data):
        length, _, _, index = _NEXTHOP.unpack_from(data, offset)
        yield index, Attributes(data[offset + _NEXTHOP.size : offset + length])
        offset += max((length + 3) & ~3, _NEXTHOP.size)


def decode_nexthops(messages: list[bytes]) -> Mapping[int, tuple[int, ...]]:
    """Links of each nexthop object by its id, those of groups resolved."""
    links: dict[int, tuple[int, ...]] = {}
    groups: dict[int, tuple[int, ...]] = {}
    for raw in messages:
        found = Attributes(raw[HEADER.size + 8 :])
        number, link, group = found.number(_NHA_ID), found.number(_NHA_OIF), found.raw(_NHA_GROUP)
        if number is None:
            continue
        if group is not None:                      # of struct nexthop_grp; a group holds no groups
            groups[number] = tuple(member for member, _ in struct.iter_unpack("=I4s", group))
        elif link is not None:
            links[number] = (link,)
    return links | {number: tuple(link for member in members for link in links.get(member, ()))
                    for number, members in groups.items()}
