"""Messages of routing netlink about links, decoded: a netdev, and what a PF enforces on its VFs.

Source: linux/if_link.h, linux/if_arp.h; struct ifinfomsg of linux/rtnetlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sriov.host.nlattr import Attributes, attributes, find_value
from sriov.model import Link, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_TYPE_INDEX_FLAGS, _LINK_ATTRIBUTES = 18, 32      # in a message with struct ifinfomsg, header included
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_VFINFO_LIST, _IFLA_LINK_NETNSID, _IFLA_PHYS_PORT_NAME, _IFLA_INFO_KIND = 22, 37, 38, 1
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_PARENT_DEV_NAME, _IFLA_PARENT_DEV_BUS_NAME = 52, 53, 56, 57
_IFLA_VF_INFO = 1
_IFLA_VF_MAC, _IFLA_VF_VLAN, _IFLA_VF_SPOOFCHK, _IFLA_VF_LINK_STATE = 1, 2, 4, 5
_IFLA_VF_RATE, _IFLA_VF_TRUST, _IFLA_VF_VLAN_LIST = 6, 9, 12
_LINK_STATES = frozenset(LinkState)

# ARPHRD_*, as iproute2 names them; any other is its number in brackets.
_KINDS = {
    1: "ether", 24: "ieee1394", 32: "infiniband", 512: "ppp", 768: "ipip", 769: "tunnel6", 772: "loopback",
    776: "sit", 778: "gre", 801: "ieee802.11", 823: "gre6", 824: "netlink", 0xFFFE: "none",
}


def decode_link(raw: bytes) -> Link:
    kind, index, flags = struct.unpack_from("=HiI", raw, _TYPE_INDEX_FLAGS)
    found = Attributes(raw[_LINK_ATTRIBUTES:])
    on_pci = found.text(_IFLA_PARENT_DEV_BUS_NAME) == "pci"
    # The other end of a veth pair, say, that is in another namespace: its number means nothing here.
    lower = None if found.raw(_IFLA_LINK_NETNSID) is not None else found.number(_IFLA_LINK)
    return Link(
        index=index,
        name=found.text(_IFLA_IFNAME) or "",
        altnames=tuple(name.rstrip(b"\0").decode(errors="replace")
                       for kind, name in found.nested(_IFLA_PROP_LIST) if kind == _IFLA_ALT_IFNAME),
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
