"""Routing netlink of one network namespace: links, VF attributes, addresses, routes.

pyroute2 encodes addresses and routes; for links it takes too long. One request at a time: give each thread its own.
Source: linux/rtnetlink.h, linux/if_link.h.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import TracebackType
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sriov.errors import Gone, HostError
from sriov.host import ethtool, routes
from sriov.host.linkinfo import (
    IFF_UP,
    SETTABLE_FLAGS,
    LinkTraits,
    decode_link,
    decode_settings_of,
    decode_traits,
    decode_vf_settings,
    encode_altnames,
    encode_program,
    encode_traits,
)
from sriov.host.nlattr import HEADER, Attributes, attribute, text_attribute
from sriov.host.nlsocket import NetlinkSocket
from sriov.host.routes import Address, LinkRoute, Route, RouteOptions
from sriov.host.vfinfo import encode_vf_changes
from sriov.model import Link, VfSettings, printable
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

_NLM_F_REPLACE, _NLM_F_CREATE, _NLM_F_APPEND = 0x100, 0x400, 0x800
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_GETADDR, _RTM_NEWROUTE, _RTM_GETROUTE = 20, 22, 24, 26
_RTM_GETNSID, _NETNSA_NSID, _NETNSA_FD = 90, 1, 3      # linux/net_namespace.h
_RTM_GETNEXTHOP, _RTM_NEWLINKPROP, _RTM_DELLINKPROP = 106, 108, 109
_RTEXT_FILTER_VF, _RTEXT_FILTER_SKIP_STATS = 1, 8
_IFA_F_OPTIMISTIC = 0x04
_RT_TABLE_UNSPEC = 0
_RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 4, 0, 253, 1
_NO_OPTIONS = RouteOptions()
_IFINFO = struct.Struct("=BxHiII")      # struct ifinfomsg: family, type, index, flags, mask of flags
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_NET_NS_FD = 1, 3, 4, 10, 28
_IFLA_EXT_MASK, _IFLA_ALT_IFNAME = 29, 53
# struct ifaddrmsg, rtmsg and nhmsg of a dump of all families.
_ALL_ADDRESSES, _ALL_ROUTES, _ALL_NEXTHOPS = bytes(8), bytes(12), bytes(8)


class Links:
    """The links of the network namespace that `sock` (AF_NETLINK, NETLINK_ROUTE) was made in.

    Every method raises HostError with the kernel's errno and, where it gives one, its own words; Gone where
    the link does not exist.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = NetlinkSocket(sock)

    @classmethod
    def open(cls) -> Links:
        """The links of the calling thread's own network namespace."""
        try:
            return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0))
        except OSError as error:
            raise HostError("cannot open a netlink socket", errno=error.errno or 0) from None

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def cookie(self) -> int:
        """As NetlinkSocket.cookie."""
        return self._socket.cookie

    def find_peers(self, known: int) -> tuple[int, ...]:
        """The ids of the other namespaces that this one knows, without that of `known`, a descriptor.

        The kernel gives one an id when a link leaves this namespace for it, or a link here has its other end there
        (peernet2id_alloc), and takes it back when that one dies.
        """
        dumped = self._socket.dump(_RTM_GETNSID, bytes(4), "list the namespaces that are known")
        asked = bytes(4) + attribute(_NETNSA_FD, struct.pack("=I", known))
        own = _decode_nsid(self._socket.get(_RTM_GETNSID, asked, "ask for the id of a namespace"))
        return tuple(found for found in map(_decode_nsid, dumped) if found != own)

    # -- links ---------------------------------------------------------------------------------------

    def dump(self) -> tuple[Link, ...]:
        """All links, without VF lists: those cost a driver call per VF under the kernel's lock."""
        return tuple(map(decode_link, self._dump()))

    def find(self, key: int | str) -> Link | None:
        """The link with this index, or this name or altname; None where there is none."""
        raw = self._get_link(key, _RTEXT_FILTER_SKIP_STATS)
        return None if raw is None else decode_link(raw)

    def inspect(self, key: int | str) -> tuple[Link, LinkTraits] | None:
        """As `find`, with the traits that netlink and ethtool tell; what the latter does is None where it cannot be
        read.
        """
        raw = self._get_link(key, _RTEXT_FILTER_SKIP_STATS)
        return None if raw is None else self._with_traits(decode_link(raw), raw)

    def inspect_pci(self, address: PciAddress) -> tuple[Link, LinkTraits, tuple[Link, ...]] | None:
        """The netdev of this PCI function as `inspect` has it, whatever it is called, and what stands on it."""
        dumped = [(decode_link(raw), raw) for raw in self._dump()]
        for link, raw in dumped:
            if link.pci == address:
                above = tuple(other for other, _ in dumped if other.lower == link.index)
                return *self._with_traits(link, raw), above
        return None

    def find_pci(self, address: PciAddress) -> Link | None:
        """The netdev of this PCI function, whatever it is called."""
        return next((link for link in self.dump() if link.pci == address), None)

    def change(self, index: int, what: str, *, netns_fd: int | None = None, name: str | None = None,
               mac: MacAddress | None = None, mtu: int | None = None, up: bool | None = None,
               master: int | None = None, traits: LinkTraits | None = None) -> None:
        """Change link `index`, all in one message; `what` names it in errors. `master` 0: none.

        Of `traits`, the tuples need calls of their own. The kernel (do_setlink) takes namespace, MAC, MTU,
        group, name, alias, flags, master and the others in this order, and stops at the first that fails with
        the earlier ones done: look again after an error.
        """
        attrs = [attribute(kind, struct.pack("=I", value)) for kind, value in (
            (_IFLA_NET_NS_FD, netns_fd), (_IFLA_MTU, mtu), (_IFLA_MASTER, master)) if value is not None]
        if name is not None:
            attrs.append(text_attribute(_IFLA_IFNAME, name))
        if mac is not None:
            attrs.append(attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))))
        flags, mask = IFF_UP if up else 0, 0 if up is None else IFF_UP
        if traits is not None:
            attrs.append(encode_traits(traits))
            if traits.flags is not None:
                flags, mask = flags | traits.flags, mask | SETTABLE_FLAGS
        self._socket.change(_RTM_NEWLINK, _IFINFO.pack(0, 0, index, flags, mask) + b"".join(attrs), what)

    def delete(self, index: int, what: str) -> None:
        """Delete a link that the kernel made of something: a VLAN's, a macvlan's."""
        self._socket.change(_RTM_DELLINK, _link_message(index), what)

    def add_altnames(self, index: int, altnames: Collection[str]) -> None:
        self._change_altnames(_RTM_NEWLINKPROP, index, altnames, "add")

    def delete_altnames(self, index: int, altnames: Collection[str]) -> None:
        self._change_altnames(_RTM_DELLINKPROP, index, altnames, "delete")

    def _change_altnames(self, kind: int, index: int, altnames: Collection[str], verb: str) -> None:
        """Stops at the first that cannot be done, with the earlier ones done."""
        shown = ", ".join(f"'{printable(name)}'" for name in altnames)
        self._socket.change(kind, _link_message(index, encode_altnames(altnames)),
                            f"{verb} the altnames {shown}")

    def tune(self, name: str, traits: LinkTraits) -> None:
        """Set what of `traits` ethtool sets; stops at the first that is refused."""
        at = self._socket.fileno(), name
        if traits.features is not None:
            ethtool.set_features(*at, traits.features)
        if traits.channels is not None:
            ethtool.set_channels(*at, traits.channels)
        if traits.rings is not None:
            ethtool.set_rings(*at, traits.rings)
        if traits.coalescing is not None:
            ethtool.set_coalescing(*at, traits.coalescing)

    def attach_program(self, index: int, mode: int, descriptor: int) -> None:
        """Attach an XDP program in mode XDP_FLAGS_*_MODE; descriptor -1 takes off the one that is there."""
        what = f"{'attach' if descriptor >= 0 else 'take off'} the XDP program of link {index}"
        self._socket.change(_RTM_SETLINK, _link_message(index, encode_program(mode, descriptor)), what)

    # -- what a PF enforces on its VFs -----------------------------------------------------------------

    def vf_settings(self, pf_index: int) -> dict[int, VfSettings]:
        """What PF `pf_index` enforces on each of its VFs, by VF index; nothing of VFs that the kernel keeps back.

        It does so of all of them where they are too many for one attribute (EMSGSIZE), and there is no other way
        to ask.
        """
        message = self._get_pf(pf_index)
        return {} if message is None else dict(decode_vf_settings(message))

    def inspect_vf(self, pf_index: int, vf: int) -> tuple[Link, VfSettings] | None:
        """PF `pf_index` itself, and what it enforces on VF `vf`; None where the kernel keeps that back."""
        message = self._get_pf(pf_index)
        settings = None if message is None else decode_settings_of(message, vf)
        return None if message is None or settings is None else (decode_link(message), settings)

    def set_vf(self, pf_index: int, vf: int, changes: VfSettings, what: str) -> None:
        """Set what is not None in `changes` on VF `vf`, in one message.

        The kernel (do_setvfinfo) takes MAC, VLAN, rate, spoofchk, link state, trust in this order and stops
        at the first that fails with the earlier ones done.
        """
        self._socket.change(_RTM_SETLINK, _link_message(pf_index, encode_vf_changes(vf, changes)), what)

    # -- addresses and routes ----------------------------------------------------------------------------

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> None:
        """An IPv6 address is optimistic where the link's sysctl allows that: usable before DAD is over."""
        message = ifaddrmsg()
        message["family"] = _family(address)
        message["prefixlen"] = address.network.prefixlen
        message["index"] = index
        message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
        if address.version == 4 and address.network.prefixlen < 31:
            message["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
        if address.version == 6:
            message["attrs"].append(("IFA_FLAGS", _IFA_F_OPTIMISTIC))
        self._socket.change(_RTM_NEWADDR, _body(message), f"add the address {address}",
                            _NLM_F_CREATE | _NLM_F_REPLACE)

    def add_route(self, index: int, to: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None,
                  options: RouteOptions = _NO_OPTIONS) -> None:
        message = rtmsg()
        message["family"] = _family(to)
        message["dst_len"] = to.prefixlen
        message["proto"], message["type"] = _RTPROT_STATIC, _RTN_UNICAST
        message["table"] = _RT_TABLE_UNSPEC if options.table is not None else routes.MAIN_TABLE
        message["scope"] = _RT_SCOPE_UNIVERSE if gateway else _RT_SCOPE_LINK
        if options.scope is not None:
            message["scope"] = options.scope
        message["attrs"] = [("RTA_OIF", index)]
        if to.prefixlen:
            message["attrs"].append(("RTA_DST", str(to.network_address)))
        if gateway:
            message["attrs"].append(("RTA_GATEWAY", str(gateway)))
        if options.table is not None:              # the header has eight bits for it
            message["attrs"].append(("RTA_TABLE", options.table or routes.MAIN_TABLE))
        if options.priority is not None:
            message["attrs"].append(("RTA_PRIORITY", options.priority))
        metrics = {"RTAX_MTU": options.mtu, "RTAX_ADVMSS": options.advmss}
        if any(metrics.values()):
            given = [(kind, value) for kind, value in metrics.items() if value]
            message["attrs"].append(("RTA_METRICS", {"attrs": given}))
        self._socket.change(_RTM_NEWROUTE, _body(message),
                            f"add a route to {to} through {gateway or 'the link'}", _NLM_F_CREATE | _NLM_F_APPEND)

    def dump_addresses(self, index: int = 0) -> tuple[Address, ...]:
        """All addresses of all links, or of link `index`."""
        asked = routes.encode_address_filter(index) if index else _ALL_ADDRESSES
        found = self._socket.dump(_RTM_GETADDR, asked, "list addresses", filtered=index != 0)
        return tuple(address for raw in found if (address := routes.decode_address(raw)))

    def dump_link_routes(self) -> tuple[LinkRoute, ...]:
        """The routes of all tables and both IP versions, by the links that they themselves name."""
        found = self._socket.dump(_RTM_GETROUTE, _ALL_ROUTES, "list routes")
        return tuple(route for raw in found for route in routes.decode_link_routes(raw))

    def dump_routes(self, index: int = 0) -> tuple[Route, ...]:
        """The routes of all tables and both IP versions, each with its links; not those that addresses bring.

        With `index` those over that link: what is not sent need not be read, and a node may have thousands.
        """
        asked = routes.encode_route_filter(index) if index else _ALL_ROUTES
        found = self._socket.dump(_RTM_GETROUTE, asked, "list routes", routes.counts, filtered=index != 0)
        decoded = [routes.decode_route(raw) for raw in found]
        if any(route.nexthop is not None for route in decoded):    # sysctl net.ipv4.nexthop_compat_mode=0
            nexthops = routes.decode_nexthops(self._socket.dump(_RTM_GETNEXTHOP, _ALL_NEXTHOPS, "list nexthops"))
            decoded = [replace(route, links=route.links or nexthops.get(route.nexthop or 0, ()))
                       for route in decoded]
        return tuple(decoded)

    def _dump(self) -> list[bytes]:
        return self._socket.dump(_RTM_GETLINK, _get_link_body(0, _RTEXT_FILTER_SKIP_STATS), "list links")

    def _with_traits(self, link: Link, raw: bytes) -> tuple[Link, LinkTraits]:
        """`raw` is the message that `link` was decoded from."""
        traits, at = decode_traits(raw), (self._socket.fileno(), link.name)
        try:
            return link, replace(traits, features=ethtool.read_features(*at), channels=ethtool.read_channels(*at),
                                 rings=ethtool.read_rings(*at), coalescing=ethtool.read_coalescing(*at))
        except (Gone, HostError) as error:       # they are asked by name: it may have another by now
            log.info("link %d: %s", link.index, error)
            return link, traits

    def _get_pf(self, index: int) -> bytes | None:
        """The message about a PF with all of its VFs; None where these are too many for one."""
        try:
            message = self._get_link(index, _RTEXT_FILTER_VF | _RTEXT_FILTER_SKIP_STATS)
        except HostError as error:
            if error.errno == errno.EMSGSIZE:
                return None
            raise
        if message is None:
            raise Gone(f"cannot read VF attributes: there is no link {index}")
        return message

    def _get_link(self, key: int | str, mask: int) -> bytes | None:
        try:
            return self._socket.get(_RTM_GETLINK, _get_link_body(key, mask), f"read the link {printable(str(key))}")
        except Gone:
            return None


@lru_cache(256)
def _get_link_body(key: int | str, mask: int) -> bytes:
    wanted = attribute(_IFLA_EXT_MASK, struct.pack("=I", mask))
    if isinstance(key, int):
        return _link_message(key, wanted)
    # IFLA_IFNAME holds 15 characters; IFLA_ALT_IFNAME finds names and altnames of any length.
    return _link_message(0, wanted + text_attribute(_IFLA_ALT_IFNAME, key))


def _decode_nsid(raw: bytes) -> int:
    """Of a message with struct rtgenmsg, padded; -1: it has none (NETNSA_NSID_NOT_ASSIGNED)."""
    found = Attributes(raw[HEADER.size + 4 :]).number(_NETNSA_NSID, "=i")
    return -1 if found is None else found


def _body(message: Any) -> bytes:
    """The message as pyroute2 encodes it, without the header."""
    message.encode()
    return bytes(message.data[HEADER.size :])


def _link_message(index: int, attrs: bytes = b"") -> bytes:
    return _IFINFO.pack(0, 0, index, 0, 0) + attrs


def _family(address: IPv4Interface | IPv6Interface | IPv4Network | IPv6Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
