"""Messages of routing netlink about links, decoded: a netdev, and what a PF enforces on its VFs.

Source: linux/if_link.h, linux/if_arp.h; struct ifinfomsg of linux/rtnetlink.h.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sriov.host.nlattr import (
    Attributes,
    attribute,
    attributes,
    decode_text,
    encode_text,
    find_value,
    text_attribute,
)
from sriov.model import Link, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
# The flags that a user may set (__dev_change_flags, net/core/dev.c): debug, notrailers, noarp, promisc, allmulti,
# multicast, portsel, automedia, dynamic.
SETTABLE_FLAGS = 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000
_TYPE_INDEX_FLAGS, _LINK_ATTRIBUTES = 18, 32      # in a message with struct ifinfomsg, header included
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_VFINFO_LIST, _IFLA_LINK_NETNSID, _IFLA_PHYS_PORT_NAME, _IFLA_INFO_KIND = 22, 37, 38, 1
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_PARENT_DEV_NAME, _IFLA_PARENT_DEV_BUS_NAME = 52, 53, 56, 57
_IFLA_BROADCAST, _IFLA_TXQLEN, _IFLA_LINKMODE, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_XDP = 2, 13, 17, 20, 27, 43
_IFLA_XDP_FD, _IFLA_XDP_FLAGS = 1, 3
_IFLA_VF_INFO = 1
_IFLA_VF_MAC, _IFLA_VF_VLAN, _IFLA_VF_SPOOFCHK, _IFLA_VF_LINK_STATE = 1, 2, 4, 5
_IFLA_VF_RATE, _IFLA_VF_TRUST, _IFLA_VF_VLAN_LIST = 6, 9, 12
_LINK_STATES = frozenset(LinkState)

_NUMBERS = {         # fields of LinkTraits that are 32 bits on the wire
    "queue_length": _IFLA_TXQLEN, "group": _IFLA_GROUP, "gso_max_segs": 40, "gso_max_size": 41,
    "gro_max_size": 58, "gso_ipv4_max_size": 63, "gro_ipv4_max_size": 64,
}
# IFLA_XDP_*_PROG_ID and the XDP_FLAGS_*_MODE that names the same place: driver, kernel, NIC.
_XDP_MODES = {5: 1 << 2, 6: 1 << 1, 7: 1 << 3}

# ARPHRD_*, as iproute2 names them; any other is its number in brackets.
_KINDS = {
    1: "ether", 24: "ieee1394", 32: "infiniband", 512: "ppp", 768: "ipip", 769: "tunnel6", 772: "loopback",
    776: "sit", 778: "gre", 801: "ieee802.11", 823: "gre6", 824: "netlink", 0xFFFE: "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTraits:
    """What else of a netdev stays on it when it moves to another network namespace, and is brought home.

    None: not known, or to be left as it is. Not here is what the kernel clears on the way (addresses and
    neighbours, sysctls, qdiscs and their filters, nftables' and sockets' hooks, multicast and further unicast MACs,
    the master), nor, though it stays, what else ethtool and sysfs set: RSS, ntuple rules, private flags, pause,
    timestamping; RPS and XPS, NAPI's timers and threads, shapers.
    Source: __dev_change_net_namespace of net/core/dev.c.
    """

    altnames: tuple[str, ...] | None = None     # these two may hold any bytes: as os.fsdecode makes text of them
    alias: str | None = None
    flags: int | None = None                    # of SETTABLE_FLAGS
    broadcast: MacAddress | None = None
    mode: int | None = None                     # IF_LINK_MODE_*
    queue_length: int | None = None
    group: int | None = None
    gso_max_segs: int | None = None
    gso_max_size: int | None = None
    gro_max_size: int | None = None
    gso_ipv4_max_size: int | None = None
    gro_ipv4_max_size: int | None = None
    programs: tuple[tuple[int, int], ...] | None = None      # XDP: XDP_FLAGS_*_MODE, program id
    tcx: tuple[tuple[int, int], ...] | None = None           # as bpf.read_tcx gives them; known of the host's only
    features: tuple[int, ...] | None = None     # wanted offloads, as ethtool.read_features gives them
    channels: tuple[int, ...] | None = None     # these as read_channels, read_rings and read_coalescing
    rings: tuple[int, ...] | None = None
    coalescing: tuple[int, ...] | None = None

    def split_tuning(self) -> list[LinkTraits]:
        """What of this ethtool sets, each by itself, in this order: with new queues drivers set the others anew."""
        return [LinkTraits(**{name: value}) for name in ("features", "channels", "rings", "coalescing")
                if (value := getattr(self, name)) is not None]

    def missing_in(self, other: LinkTraits) -> LinkTraits:
        """What of this is otherwise in `other`; what is not known of one of them does not count."""
        return LinkTraits(**{
            field.name: mine for field in dataclasses.fields(self)
            if (mine := getattr(self, field.name)) is not None
            and (others := getattr(other, field.name)) is not None
            and (mine != others if field.name != "altnames" else {*mine} != {*others})})


def decode_traits(raw: bytes) -> LinkTraits:
    (flags,) = struct.unpack_from("=I", raw, _TYPE_INDEX_FLAGS + 6)
    found = Attributes(raw[_LINK_ATTRIBUTES:])
    programs = Attributes(found.raw(_IFLA_XDP) or b"")
    numbers: dict[str, Any] = {name: found.number(kind) for name, kind in _NUMBERS.items()}
    return LinkTraits(
        altnames=_altnames(found),
        alias=found.text(_IFLA_IFALIAS) or "",
        flags=flags & SETTABLE_FLAGS,
        broadcast=found.mac(_IFLA_BROADCAST),
        mode=found.number(_IFLA_LINKMODE, "=B"),
        programs=tuple((mode, number) for kind, mode in _XDP_MODES.items() if (number := programs.number(kind))),
        **numbers,
    )


def encode_traits(changes: LinkTraits) -> bytes:
    """The attributes of a message that sets these; flags are in its header, and the tuples elsewhere."""
    parts = [attribute(kind, struct.pack("=I", value)) for name, kind in _NUMBERS.items()
             if (value := getattr(changes, name)) is not None]
    if changes.alias is not None:
        parts.append(attribute(_IFLA_IFALIAS, encode_text(changes.alias)))      # of no length: none
    if changes.broadcast is not None:
        parts.append(attribute(_IFLA_BROADCAST, bytes.fromhex(changes.broadcast.replace(":", ""))))
    if changes.mode is not None:
        parts.append(attribute(_IFLA_LINKMODE, struct.pack("=B", changes.mode)))
    return b"".join(parts)


def encode_altnames(altnames: Iterable[str]) -> bytes:
    """The attribute that names them in RTM_NEWLINKPROP and RTM_DELLINKPROP."""
    names = b"".join(text_attribute(_IFLA_ALT_IFNAME, name) for name in altnames)
    return attribute(_IFLA_PROP_LIST, names, nested=True)


def encode_program(mode: int, descriptor: int) -> bytes:
    """The attribute that attaches an XDP program, or with -1 takes off the one in that mode."""
    places = attribute(_IFLA_XDP_FD, struct.pack("=i", descriptor))
    places += attribute(_IFLA_XDP_FLAGS, struct.pack("=I", mode))
    return attribute(_IFLA_XDP, places, nested=True)


def _altnames(found: Attributes) -> tuple[str, ...]:
    return tuple(decode_text(name) for kind, name in found.nested(_IFLA_PROP_LIST) if kind == _IFLA_ALT_IFNAME)


def decode_link(raw: bytes) -> Link:
    kind, index, flags = struct.unpack_from("=HiI", raw, _TYPE_INDEX_FLAGS)
    found = Attributes(raw[_LINK_ATTRIBUTES:])
    on_pci = found.text(_IFLA_PARENT_DEV_BUS_NAME) == "pci"
    # The other end of a veth pair, say, that is in another namespace: its number means nothing here.
    lower = None if found.raw(_IFLA_LINK_NETNSID) is not None else found.number(_IFLA_LINK)
    return Link(
        index=index,
        name=found.text(_IFLA_IFNAME) or "",
        altnames=_altnames(found),
        mac=found.mac(_IFLA_ADDRESS) or MacAddress(""),
        mtu=found.number(_IFLA_MTU) or 0,
        up=bool(flags & IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        pci=PciAddress(found.text(_IFLA_PARENT_DEV_NAME)) if on_pci else None,
        kind=_KINDS.get(kind, f"[{kind}]"),
        master=found.number(_IFLA_MASTER),
        lower=lower or None,
        software=Attributes(found.raw(_IFLA_LINKINFO) or b"").text(_IFLA_INFO_KIND),
        port=found.text(_IFLA_PHYS_PORT_NAME),
    )


def decode_vf_settings(raw: bytes) -> Iterator[tuple[int, VfSettings]]:
    """Index and settings of each VF in a message about a PF's netdev."""
    # The list's length has 16 bits, for some 330 VFs; with more of them the kernel lets it overflow (nla_nest_end).
    # What follows the list is of other types (rtnl_fill_ifinfo).
    for kind, info in attributes(find_value(raw[_LINK_ATTRIBUTES:], _IFLA_VFINFO_LIST)):
        if kind != _IFLA_VF_INFO:
            return
        if (found := _vf_settings(info)) is not None:
            yield found


def decode_settings_of(raw: bytes, vf: int) -> VfSettings | None:
    """Settings of one VF in such a message; None where it says nothing of it."""
    for kind, info in attributes(find_value(raw[_LINK_ATTRIBUTES:], _IFLA_VFINFO_LIST)):
        if kind != _IFLA_VF_INFO:
            return None
        mac = find_value(info, _IFLA_VF_MAC)        # begins with the VF's index
        if mac[:4] == struct.pack("=I", vf) and (found := _vf_settings(info)) is not None and found[0] == vf:
            return found[1]
    return None


def _vf_settings(raw: bytes) -> tuple[int, VfSettings] | None:
    """None where it does not say which VF it is about."""
    found = Attributes(raw)

    def flag(kind: int) -> bool | None:
        # Drivers that do not report a flag leave the kernel's -1 in it (rtnl_fill_vfinfo).
        pair = found.numbers(kind, "=II")
        return None if pair is None or pair[1] == 0xFFFFFFFF else bool(pair[1])

    index = found.number(_IFLA_VF_MAC)
    if index is None:
        return None
    vlan = found.numbers(_IFLA_VF_VLAN, "=III") or (None, None, None)
    rates = found.numbers(_IFLA_VF_RATE, "=III") or (None, None, None)
    state = found.numbers(_IFLA_VF_LINK_STATE, "=II")
    protos = [struct.unpack_from(">H", info, 12)[0] for _, info in found.nested(_IFLA_VF_VLAN_LIST)
              if len(info) >= 14]
    return index, VfSettings(
        mac=found.mac(_IFLA_VF_MAC, 4),
        vlan=vlan[1],
        vlan_qos=vlan[2],
        vlan_proto=protos[0] if protos else None,
        spoofchk=flag(_IFLA_VF_SPOOFCHK),
        trust=flag(_IFLA_VF_TRUST),
        min_tx_rate=rates[1],
        max_tx_rate=rates[2],
        link_state=LinkState(state[1]) if state is not None and state[1] in _LINK_STATES else None,
    )
