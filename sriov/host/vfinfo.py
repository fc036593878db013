"""What a message of routing netlink (RTM_SETLINK to a PF's netdev) changes on one VF, encoded.

Source: struct ifla_vf_* of linux/if_link.h.
"""

from __future__ import annotations

import struct

from sriov.host.nlattr import attribute
from sriov.model import VfSettings

_IFLA_VFINFO_LIST, _IFLA_VF_INFO, _IFLA_VF_VLAN_INFO = 22, 1, 1
_IFLA_VF_MAC, _IFLA_VF_VLAN, _IFLA_VF_SPOOFCHK, _IFLA_VF_LINK_STATE = 1, 2, 4, 5
_IFLA_VF_RATE, _IFLA_VF_TRUST, _IFLA_VF_VLAN_LIST = 6, 9, 12
_ETH_P_8021Q = 0x8100      # linux/if_ether.h


def encode_vf_changes(vf: int, changes: VfSettings) -> bytes:
    """What is not None of `changes`. VLAN id, priority and protocol are one attribute, and so are the rates.

    The attribute of a VLAN without its protocol is the one that drivers of all ages know.
    """
    parts = []
    if changes.mac is not None:
        mac = bytes.fromhex(changes.mac.replace(":", ""))
        parts.append(attribute(_IFLA_VF_MAC, struct.pack("=I32s", vf, mac)))
    if changes.vlan is not None:
        parts.append(_vlan(vf, changes.vlan, changes.vlan_qos or 0, changes.vlan_proto or _ETH_P_8021Q))
    if changes.min_tx_rate is not None or changes.max_tx_rate is not None:
        rates = struct.pack("=III", vf, changes.min_tx_rate or 0, changes.max_tx_rate or 0)
        parts.append(attribute(_IFLA_VF_RATE, rates))
    for kind, value in ((_IFLA_VF_SPOOFCHK, changes.spoofchk), (_IFLA_VF_LINK_STATE, changes.link_state),
                        (_IFLA_VF_TRUST, changes.trust)):
        if value is not None:
            parts.append(attribute(kind, struct.pack("=II", vf, value)))
    return attribute(_IFLA_VFINFO_LIST, attribute(_IFLA_VF_INFO, b"".join(parts)))


def _vlan(vf: int, vlan: int, qos: int, proto: int) -> bytes:
    if not vlan or proto == _ETH_P_8021Q:
        return attribute(_IFLA_VF_VLAN, struct.pack("=III", vf, vlan, qos))
    info = struct.pack("=III", vf, vlan, qos) + struct.pack(">H2x", proto)
    return attribute(_IFLA_VF_VLAN_LIST, attribute(_IFLA_VF_VLAN_INFO, info))
