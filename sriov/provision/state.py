"""What a PF and each of its VFs shall be, or were: of what vfpool changes, as one value for each PF. Pure.

A pool file settled for a PF is such a value, what a PF was before the first change another, and the last that
was reached a third: each can be planned for and kept on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sriov.errors import InputError
from sriov.model import LinkState, PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver, PfEntry, Pool, find_pool
from sriov.provision.steps import NO_DRIVER

_Value = TypeVar("_Value")

UNCHANGED = VfSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class VfState:
    """None, and what `settings` does not say: any. `driver` None: a new VF's is left to the kernel.

    `override`: what driver_override shall say while it has that driver, empty for nothing.
    """

    driver: Driver | None = None
    override: str | None = None
    mtu: int | None = None
    settings: VfSettings = UNCHANGED


ANY_VF = VfState()


@dataclass(frozen=True, slots=True, kw_only=True)
class PfState:
    """None: any. `vfs` by index; one that is absent may be anything."""

    num_vfs: int
    mtu: int | None = None
    up: bool | None = None
    eswitch: str | None = None
    autoprobe: bool | None = None
    vfs: Mapping[int, VfState] = field(default_factory=dict)


def settle(pf: PhysicalFunction, entry: PfEntry, pools: Sequence[Pool]) -> PfState:
    """What entry and pools want of the PF and of the VFs that it has now; first match wins."""
    wishes = {vf.index: _settle_vf(pf, vf, entry, pools) for vf in pf.vfs}
    return PfState(num_vfs=entry.num_vfs, mtu=entry.mtu, eswitch=entry.eswitch,
                   vfs={index: wish for index, wish in wishes.items() if wish != ANY_VF})


def observe(pf: PhysicalFunction, settings: Mapping[PciAddress, VfSettings],
            overrides: Mapping[PciAddress, str]) -> PfState:
    """How the PF and its VFs are; what its netdev would tell is None where that is not here."""
    return PfState(
        num_vfs=pf.num_vfs, eswitch=pf.eswitch, autoprobe=pf.autoprobe,
        mtu=pf.link.mtu if pf.link else None, up=pf.link.up if pf.link else None,
        vfs={vf.index: VfState(
            driver=NO_DRIVER if vf.driver is None else Driver(vf.driver), override=overrides.get(vf.address),
            mtu=vf.link.mtu if vf.link else None, settings=settings.get(vf.address, UNCHANGED),
        ) for vf in pf.vfs},
    )


def find_differences(before: PfState, now: PfState) -> Iterator[str]:
    """A phrase for each thing that is not as it was: `VF 3: driver none, was igbvf`."""
    for name in ("num_vfs", "mtu", "up", "eswitch", "autoprobe"):
        if getattr(before, name) not in (None, getattr(now, name)):
            yield f"{name.replace('_', ' ')} {_say(getattr(now, name))}, was {_say(getattr(before, name))}"
    for index, vf in before.vfs.items() if before.num_vfs == now.num_vfs else ():
        found = now.vfs.get(index, ANY_VF)
        for name in ("driver", "override", "mtu"):
            if getattr(vf, name) not in (None, getattr(found, name)):
                yield f"VF {index}: {name} {_say(getattr(found, name))}, was {_say(getattr(vf, name))}"
        changes = difference(vf.settings, found.settings)
        for each in dataclasses.fields(VfSettings) if changes else ():
            is_, was = getattr(found.settings, each.name), getattr(vf.settings, each.name)
            if was is not None and getattr(changes, each.name) is not None and is_ != was:
                yield f"VF {index}: {each.name.replace('_', ' ')} {_say(is_)}, was {_say(was)}"


def wanted_driver(wish: VfState, vf: VirtualFunction) -> Driver | None:
    """The driver that the VF should have and has not; None where it may stay as it is."""
    if wish.driver == NO_DRIVER:
        return NO_DRIVER if vf.driver is not None else None
    return wish.driver if wish.driver is not None and wish.driver.find_fault(vf) else None


def derive_mac(pf: MacAddress, index: int) -> MacAddress:
    """A MAC for VF `index` of the PF that has this one: unicast, locally administered, always the same."""
    digest = hashlib.sha256(f"{pf}/{index}".encode()).digest()
    return MacAddress(bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":"))


def difference(wanted: VfSettings, current: VfSettings) -> VfSettings | None:
    """What of `wanted` is not so in `current`; None where all is.

    VLAN id, priority and protocol go together, and so do the two rates: the kernel takes each group in one
    attribute, where what is missing would become 0, and the protocol 802.1Q. Without a VLAN there is no protocol.
    """
    changed = {each.name for each in dataclasses.fields(VfSettings)
               if getattr(wanted, each.name) not in (None, getattr(current, each.name))}
    if (current.vlan if wanted.vlan is None else wanted.vlan) == 0:
        changed.discard("vlan_proto")
    if not changed:
        return None
    for group in ({"vlan", "vlan_qos", "vlan_proto"}, {"min_tx_rate", "max_tx_rate"}):
        if group & changed:
            changed |= group
    if wanted.vlan is not None and wanted.vlan_proto is None:      # another VLAN, and nothing said: 802.1Q
        changed.discard("vlan_proto")
    values = {name: getattr(wanted, name) for name in changed}
    return VfSettings(**{name: getattr(current, name) if value is None else value
                         for name, value in values.items()})


def find_unknown(wanted: VfSettings, current: VfSettings) -> tuple[str, ...]:
    """What of `wanted` is not known to be so or not; by such a driver it could not be verified, nor taken back."""
    return tuple(each.name.replace("_", " ") for each in dataclasses.fields(VfSettings)
                 if getattr(wanted, each.name) is not None and getattr(current, each.name) is None)


def _settle_vf(pf: PhysicalFunction, vf: VirtualFunction, entry: PfEntry, pools: Sequence[Pool]) -> VfState:
    pool = find_pool(pf, vf, pools)
    state = ANY_VF if pool is None else VfState(driver=pool.driver, mtu=pool.vf_mtu, settings=pool.vf_settings)
    mac = entry.vf_macs[vf.index] if vf.index < len(entry.vf_macs) else None
    if entry.derive_macs and pf.known_link is not None:
        mac = derive_mac(pf.known_link.mac, vf.index)
    return state if mac is None else replace(state, settings=replace(state.settings, mac=mac))


def _say(value: object) -> str:
    if isinstance(value, LinkState):
        return value.name.lower()
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)


# ---- JSON -------------------------------------------------------------------------------------------------


def state_document(state: PfState) -> dict[str, object]:
    """What `parse_state` takes back; what is None is left out."""
    return _without_none({
        "numVfs": state.num_vfs, "mtu": state.mtu, "up": state.up, "eswitch": state.eswitch,
        "autoprobe": state.autoprobe,
        "vfs": {str(index): _without_none({
            "driver": vf.driver, "override": vf.override, "mtu": vf.mtu,
            "settings": _without_none(dataclasses.asdict(vf.settings)) or None,
        }) for index, vf in state.vfs.items()},
    })


def parse_state(document: object) -> PfState:
    """Raises InputError for anything that `state_document` does not make."""
    try:
        if not isinstance(document, dict):
            raise TypeError("expected a mapping")
        return PfState(
            num_vfs=_typed(document["numVfs"], int), mtu=_optional(document, "mtu", int),
            up=_optional(document, "up", bool), eswitch=_optional(document, "eswitch", str),
            autoprobe=_optional(document, "autoprobe", bool),
            vfs={int(index): _parse_vf(vf) for index, vf in _typed(document["vfs"], dict).items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a state of a PF: {error!r}") from None


def _parse_vf(document: object) -> VfState:
    vf = _typed(document, dict)
    driver, found = _optional(vf, "driver", str), dict(_optional(vf, "settings", dict) or {})
    if "mac" in found:
        found["mac"] = MacAddress.parse(_typed(found["mac"], str))
    if "link_state" in found:
        found["link_state"] = LinkState(_typed(found["link_state"], int))
    for name, kind in _SETTINGS.items():
        if name in found:
            _typed(found[name], kind)
    return VfState(driver=None if driver is None else Driver(driver), override=_optional(vf, "override", str),
                   mtu=_optional(vf, "mtu", int), settings=VfSettings(**found))


def _optional(mapping: Mapping[str, object], key: str, kind: type[_Value]) -> _Value | None:
    return _typed(mapping[key], kind) if key in mapping else None


def _typed(value: object, kind: type[_Value]) -> _Value:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


_SETTINGS: Mapping[str, type] = {
    "vlan": int, "vlan_qos": int, "vlan_proto": int, "spoofchk": bool, "trust": bool,
    "min_tx_rate": int, "max_tx_rate": int,
}


def _without_none(mapping: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in mapping.items() if value is not None}
