"""One attachment that sriov-cni made, as its cache file says it.

Source: sriov-cni's files, the same since version 2.8: the network configuration with what ADD found (OrigVfState).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni.grammar import is_ifname
from cni.record import Baseline, HomeLink
from sriov.errors import InputError, SriovError
from sriov.model import VLAN_PROTOCOLS, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

_SANDBOX = re.compile(r"([0-9a-f]{64})-(.+)")     # containerd and CRI-O name all their sandboxes so


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """`netns`: where sriov-cni said the VF is; None: it did not say. `certain`: `attachment` is no guess."""

    name: str                  # of the file
    since: float               # time.time(), by the clock of then
    attachment: tuple[str, str]
    certain: bool
    network: str
    vf: PciAddress
    netns: str | None = None
    baseline: Baseline
    sets_mac: bool


def parse_leftover(text: str, name: str, since: float) -> Leftover:
    """All but the netns, which another file has; raise SriovError for what sriov-cni did not write."""
    try:
        document = json.loads(text)
        attachment, certain = split_name(name)
        return Leftover(
            name=name, since=since, attachment=attachment, certain=certain, network=str(document["name"]),
            vf=PciAddress.parse(document["deviceID"]), baseline=_baseline(document, document["OrigVfState"]),
            sets_mac=bool(document.get("MAC")))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, InputError) as error:
        raise SriovError(f"not of sriov-cni: {error!r}") from None


def split_name(name: str) -> tuple[tuple[str, str], bool]:
    """Container and interface of a cache file `<container>-<interface>`, and whether they can be no others."""
    sandbox = _SANDBOX.fullmatch(name)
    if sandbox is not None and is_ifname(sandbox[2]):
        return (sandbox[1], sandbox[2]), True
    container, _, ifname = name.rpartition("-")
    return (container, ifname), "-" not in container


def _baseline(config: Mapping[str, Any], was: Mapping[str, Any]) -> Baseline:
    """How the VF was. Of what its PF enforces, only what the network set: the rest is the admin's."""
    mac = MacAddress.parse(was["AdminMAC"]) if was.get("AdminMAC") else None
    vlan, rates = config.get("vlan") is not None, _any(config, "min_tx_rate", "max_tx_rate")
    settings = VfSettings(
        mac=mac,
        vlan=int(was["Vlan"]) if vlan else None,
        vlan_qos=int(was["VlanQoS"]) if vlan else None,
        vlan_proto=(int(was["VlanProto"]) or VLAN_PROTOCOLS["802.1q"]) if vlan else None,
        spoofchk=bool(was["SpoofChk"]) if config.get("spoofchk") else None,
        trust=bool(was["Trust"]) if config.get("trust") else None,
        min_tx_rate=int(was["MinTxRate"]) if rates else None,
        max_tx_rate=int(was["MaxTxRate"]) if rates else None,
        link_state=LinkState(was["LinkState"]) if config.get("link_state") else None,
    )
    return Baseline(link=_home_link(config, was, mac), settings=settings, admin_mac=False)


def _home_link(config: Mapping[str, Any], was: Mapping[str, Any], admin_mac: MacAddress | None) -> HomeLink | None:
    """None for a VF that is driven from user space: it had neither name nor MAC of its own."""
    if not was.get("HostIFName") or not was.get("EffectiveMAC"):
        return None
    own = MacAddress.parse(was["EffectiveMAC"])
    # Read after the PF had set the pod's MAC, which some drivers' netdevs take over at once.
    if own == config.get("MAC") and admin_mac not in (None, MacAddress.ZERO):
        own = admin_mac or own
    return HomeLink(name=str(was["HostIFName"]), mac=own, mtu=int(was["MTU"]), up=False)


def _any(config: Mapping[str, Any], *keys: str) -> bool:
    return any(config.get(key) is not None for key in keys)
