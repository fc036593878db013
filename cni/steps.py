"""Which messages bring a VF into a pod and home again, in the order that its PF's driver allows.

Pure: away and home carry out what stands here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum

from cni.record import Baseline
from sriov.model import VfSettings
from sriov.pci import MacAddress


class MacOrder(Enum):
    """Who sets a VF's MAC first.

    PF_FIRST: the VF's driver takes over, or accepts, what the PF has set (ixgbe, i40e, ice, mlx5, bnxt).
    NETDEV_FIRST: once the PF has set it, an untrusted VF may not set its own, not even the same one, and a
    mere up logs an override (igb: IGB_VF_FLAG_PF_SET_MAC in drivers/net/ethernet/intel/igb/igb_main.c); the
    PF takes that mark away by setting zero.
    """

    PF_FIRST = "pf first"
    NETDEV_FIRST = "netdev first"


_ORDER = {"igb": MacOrder.NETDEV_FIRST}


def mac_order(pf_driver: str | None) -> MacOrder:
    return _ORDER.get(pf_driver or "", MacOrder.PF_FIRST)


# Each in one attribute. The rates last: drivers refuse them, 0 too, while the PF has no link.
_PARTS = ({"vlan", "vlan_qos", "vlan_proto"}, {"spoofchk"}, {"trust"}, {"link_state"}, {"mac"},
          {"min_tx_rate", "max_tx_rate"})


def parts(settings: VfSettings) -> list[VfSettings]:
    """The settings in as many messages as can be, for a driver that refuses some of them."""
    split = [VfSettings(**{name: getattr(settings, name) for name in part}) for part in _PARTS]
    return [part for part in split if part != VfSettings()]


def difference(wanted: VfSettings, current: VfSettings) -> VfSettings | None:
    """What of `wanted` is not so in `current`; None where all is.

    VLAN id, priority and protocol go together, and so do the two rates: the kernel takes each group in one
    attribute, where what is missing would become 0. Without a VLAN drivers report any protocol.
    """
    changed = {field.name for field in dataclasses.fields(VfSettings)
               if (field.name != "vlan_proto" or wanted.vlan)
               and getattr(wanted, field.name) not in (None, getattr(current, field.name))}
    if not changed:
        return None
    for group in _PARTS:
        if group & changed:
            changed |= group
    values = {name: getattr(wanted, name) for name in changed}
    return VfSettings(**{name: getattr(current, name) if value is None else value
                         for name, value in values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """VF settings to send before and after the one message that moves the netdev; None: no message."""

    before: VfSettings | None
    after: VfSettings | None = None


def plan_attach(order: MacOrder, wanted: VfSettings, current: VfSettings, *, netdev: bool) -> Around:
    if wanted.vlan is not None and wanted.vlan_qos is None:
        wanted = dataclasses.replace(wanted, vlan_qos=0)
    if wanted.mac is None or order is MacOrder.PF_FIRST or not netdev:
        return Around(before=difference(wanted, current))
    unmarked = None if current.mac == MacAddress.ZERO else MacAddress.ZERO
    first = difference(dataclasses.replace(wanted, mac=unmarked), current)
    return Around(before=first, after=VfSettings(mac=wanted.mac))


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeMac:
    """How the MACs come home. Nothing set: they are as they were.

    `first`: what the PF has to set before the netdev may have its own again. `before`: set the netdev's while
    it is still up. `within`: set it in the message that moves the netdev.
    """

    first: VfSettings | None = None
    before: bool = False
    within: bool = False


def plan_home_mac(order: MacOrder, baseline: Baseline, mac: MacAddress, *, admin_mac_set: bool) -> HomeMac:
    """`mac` is the netdev's now; `admin_mac_set`: the attachment sets the VF's MAC through the PF."""
    differs = baseline.link is not None and mac != baseline.link.mac
    if order is MacOrder.PF_FIRST:
        # These refuse an untrusted VF every MAC but the one that the PF has set, and some take that one over.
        own = baseline.settings
        pf_first = admin_mac_set and own.mac is not None
        return HomeMac(first=VfSettings(mac=own.mac, trust=own.trust or None) if pf_first else None,
                       within=differs or pf_first)
    # After a clear the PF shows zero until the netdev's MAC is set again. igbvf makes the MAC that a netdev
    # has when it goes down its permanent one (igbvf_reset), so it must be its own by then.
    return HomeMac(first=VfSettings(mac=MacAddress.ZERO) if admin_mac_set else None,
                   before=differs or admin_mac_set)


def plan_rebind(order: MacOrder, baseline: Baseline) -> VfSettings | None:
    """What the PF has to set before the VF's driver makes a new netdev.

    A new netdev takes a MAC that the PF only shows, since the old one had it, for one that the PF has set: it would
    count as permanent (NET_ADDR_PERM), and as the PF's from then on.
    """
    shown_only = order is MacOrder.NETDEV_FIRST and not baseline.admin_mac
    return VfSettings(mac=MacAddress.ZERO) if shown_only else None


def plan_home_settings(order: MacOrder, baseline: Baseline, current: VfSettings) -> VfSettings | None:
    """What the PF still has to set once the netdev is home."""
    changes = difference(baseline.settings, current)
    netdev_owns_mac = order is MacOrder.NETDEV_FIRST and baseline.link is not None
    if not netdev_owns_mac:
        return changes
    if baseline.admin_mac:
        return dataclasses.replace(changes or VfSettings(), mac=baseline.settings.mac)
    if changes is not None and changes.mac != MacAddress.ZERO:
        # A MAC that the PF only shows, since the netdev has it, must not become one that the PF has set.
        changes = dataclasses.replace(changes, mac=None)
    return None if changes == VfSettings() else changes
