"""The network configuration of one attachment: the JSON of a NAD, with sriov-cni's keys and meanings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cni.protocol import CniError, Code, show
from sriov.errors import InputError
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

T = TypeVar("T")

_STANDARD_KEYS = ("cniVersion", "name", "type", "ipam", "dns", "capabilities", "prevResult", "runtimeConfig",
                  "args", "plugins", "disableCheck", "disableGC")
_OUR_KEYS = ("deviceID", "pciBusID", "vlan", "vlanQoS", "mac", "mtu", "spoofchk", "trust", "link_state",
             "min_tx_rate", "max_tx_rate", "logLevel", "logFile")
_SWITCH = {"on": True, "off": False}
_LINK_STATES = {state.name.lower(): state for state in LinkState}
_RATE_LIMIT = 2**32 - 1     # struct ifla_vf_rate holds 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConf:
    """What an attachment shall be. `settings.mac` is the pod's MAC too; None everywhere: leave as it is."""

    network: str
    device: PciAddress
    settings: VfSettings
    mtu: int | None
    ipam: str | None                   # the IPAM plugin's name
    warnings: tuple[str, ...] = ()

    @property
    def mac(self) -> MacAddress | None:
        return self.settings.mac


def parse_netconf(config: Mapping[str, Any], args: Mapping[str, str]) -> NetConf:
    """Read the configuration and CNI_ARGS; raise CniError (code 7) that lists every problem at once.

    The MAC comes from runtimeConfig.mac, else CNI_ARGS MAC, else `mac`. Unknown keys are refused where the
    NAD is ours (`type: vfpool`) and warned about elsewhere, where other projects' keys may stand.
    """
    if config.get("type") != "vfpool":
        config = _fold_case(config)
    reader = _Reader(config)
    runtime = reader.section("runtimeConfig")
    device = reader.device(runtime)
    macs = {"runtimeConfig.mac": runtime.get("mac"), "CNI_ARGS MAC": args.get("MAC"), "mac": config.get("mac")}
    key, raw = next(((key, raw) for key, raw in macs.items() if _given(raw)), ("mac", None))
    mac = reader.value(raw, key, MacAddress.parse_unicast)
    settings = VfSettings(
        mac=mac,
        vlan=reader.number("vlan", 0, 4094),
        vlan_qos=reader.number("vlanQoS", 0, 7),
        spoofchk=reader.choice("spoofchk", _SWITCH),
        trust=reader.choice("trust", _SWITCH),
        link_state=reader.choice("link_state", _LINK_STATES),
        min_tx_rate=reader.number("min_tx_rate", 0, _RATE_LIMIT),
        max_tx_rate=reader.number("max_tx_rate", 0, _RATE_LIMIT),
    )
    reader.check_combinations(settings)
    ipam = reader.value(reader.section("ipam").get("type"), "ipam.type", _parse_plugin)
    mtu = reader.number("mtu", 68, 65535)
    warnings = reader.unknown_keys()
    if reader.problems or device is None:
        raise CniError(Code.INVALID_CONFIG, "network configuration: " + "; ".join(reader.problems))
    return NetConf(network=config.get("name", ""), device=device, settings=settings, mtu=mtu, ipam=ipam,
                   warnings=warnings)


def _fold_case(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys in any case, as sriov-cni's JSON decoder takes them; the exact one wins."""
    names = {key.lower(): key for key in (*_OUR_KEYS, "vlanProto")}
    folded = {names.get(key.lower(), key): value for key, value in config.items()}
    return folded | {key: value for key, value in config.items() if key in names.values()}


def find_ipam(config: Mapping[str, Any]) -> str | None:
    """The IPAM plugin that a DEL has to ask; None where none can have given an address."""
    ipam = config.get("ipam")
    name = ipam.get("type") if isinstance(ipam, dict) else None
    return name if isinstance(name, str) and name and "/" not in name else None


class _Reader:
    """Takes values out of the JSON and collects what is wrong with them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.problems: list[str] = []

    def value(self, raw: object, key: str, parse: Callable[[str], T]) -> T | None:
        if not _given(raw):
            return None
        try:
            if not isinstance(raw, str):
                raise InputError(f"expected text, got {show(raw)}")
            return parse(raw)
        except InputError as error:
            self.problems.append(f"{key}: {error.message}")
            return None

    def number(self, key: str, low: int, high: int) -> int | None:
        raw = self._config.get(key)
        if raw is None:
            return None
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.problems.append(f"{key}: expected a number from {low} to {high}, got {show(raw)}")
            return None
        return raw

    def choice(self, key: str, choices: Mapping[str, T]) -> T | None:
        raw = self._config.get(key)
        if not _given(raw):
            return None
        if not isinstance(raw, str) or raw not in choices:
            self.problems.append(f"{key}: expected {' or '.join(map(repr, choices))}, got {show(raw)}")
            return None
        return choices[raw]

    def section(self, key: str) -> Mapping[str, Any]:
        raw = self._config.get(key)
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            self.problems.append(f"{key}: expected an object, got {show(raw)}")
            return {}
        return raw

    def device(self, runtime: Mapping[str, Any]) -> PciAddress | None:
        named = {"runtimeConfig.deviceID": runtime.get("deviceID"), "deviceID": self._config.get("deviceID"),
                 "pciBusID": self._config.get("pciBusID")}
        parsed = {key: self.value(raw, key, PciAddress.parse) for key, raw in named.items() if _given(raw)}
        found = {address for address in parsed.values() if address}
        if len(found) > 1:
            shown = ", ".join(f"{key} {address}" for key, address in parsed.items())
            self.problems.append(f"deviceID: the VF is named in several ways that disagree: {shown}")
        if not parsed:
            self.problems.append("deviceID: no VF is named (Multus sets it from the NAD's annotation "
                                 "k8s.v1.cni.cncf.io/resourceName)")
        return found.pop() if len(found) == 1 else None

    def check_combinations(self, settings: VfSettings) -> None:
        low, high = settings.min_tx_rate, settings.max_tx_rate
        if low and high and low > high:
            self.problems.append(f"min_tx_rate: expected at most max_tx_rate ({high}), got {low}")
        if settings.vlan_qos is not None and settings.vlan is None:
            self.problems.append("vlanQoS: needs vlan, which is not set")
        if settings.vlan_qos and settings.vlan == 0:
            self.problems.append(f"vlanQoS: expected 0 for vlan 0 (untagged), got {settings.vlan_qos}")
        proto = self._config.get("vlanProto")
        if _given(proto) and (not isinstance(proto, str) or proto.lower() != "802.1q"):
            self.problems.append(f"vlanProto: only '802.1q' is supported so far, got {show(proto)}")

    def unknown_keys(self) -> tuple[str, ...]:
        known = (*_STANDARD_KEYS, *_OUR_KEYS, "vlanProto")
        notes = []
        for key in self._config:
            if key in known or key.startswith("cni.dev/"):
                continue
            near = difflib.get_close_matches(key, known, 1)
            notes.append(f"{key}: unknown key" + (f", did you mean {near[0]}?" if near else ""))
        if self._config.get("type") == "vfpool":
            self.problems.extend(notes)
            return ()
        return tuple(notes)


def _given(raw: object) -> bool:
    """Templates leave null or an empty text where they have no value."""
    return raw is not None and raw != ""


def _parse_plugin(text: str) -> str:
    if "/" in text:
        raise InputError(f"expected the name of an IPAM plugin, got {text!r}")
    if text == "dhcp":
        raise InputError("'dhcp' asks through the pod's interface, and here addresses come before the VF is moved")
    return text
