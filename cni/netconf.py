"""The network configuration of one attachment: the JSON of a NAD, with sriov-cni's keys and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cni.fields import ENOUGH, MOST_VALUES, EnoughProblemsError, Report
from cni.grammar import parse_interface_address
from cni.keys import OUR_KEYS, STANDARD_KEYS, is_ours
from cni.protocol import CniError, Code, show
from cni.values import Values
from sriov.errors import InputError
from sriov.model import VLAN_PROTOCOLS, LinkState, VfSettings, printable
from sriov.pci import MacAddress, PciAddress

# Of the specification's CONVENTIONS.md, Multus and containerd; a runtime may have others.
_CAPABILITIES = ("mac", "ips", "deviceID", "bandwidth", "portMappings", "ipRanges", "dns", "infinibandGUID",
                 "aliases", "cgroupPath", "CNIDeviceInfoFile")
_SWITCH = {"on": True, "off": False}
_LINK_STATES = {state.name.lower(): state for state in LinkState}
_LOG_LEVELS = ("panic", "error", "warning", "info", "debug", "verbose")
_RATE_LIMIT = 2**32 - 1     # struct ifla_vf_rate holds 32 bits
_MEGABIT = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConf:
    """What an attachment shall be. `settings.mac` is the pod's MAC too; None everywhere: leave as it is.

    `pod_rate` is what the pod wants to send at most, in Mbit/s: for `limited`.
    """

    network: str
    device: PciAddress
    settings: VfSettings
    mtu: int | None
    ipam: str | None                   # the IPAM plugin's name
    pod_rate: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def mac(self) -> MacAddress | None:
        return self.settings.mac

    @property
    def asks_inside(self) -> bool:
        """Whether the IPAM plugin needs the pod's interface."""
        return self.ipam is not None and asks_inside(self.ipam)

    def limited(self, current: VfSettings) -> NetConf:
        """With the pod's own rate, which lowers the network's limit, or else the one that the VF has (`current`).

        It never raises it, and is no less than the VF's share: the kernel takes no max_tx_rate below min_tx_rate.
        """
        if not self.pod_rate:
            return self
        allowed, share = (now if given is None else given for given, now in (
            (self.settings.max_tx_rate, current.max_tx_rate), (self.settings.min_tx_rate, current.min_tx_rate)))
        rate = max(min(filter(None, (allowed, self.pod_rate))), share or 0)
        return replace(self, settings=replace(self.settings, max_tx_rate=rate))


def parse_netconf(config: Mapping[str, Any], args: Mapping[str, str]) -> NetConf:
    """Read a request's configuration and CNI_ARGS; raise CniError (code 7) that lists every problem at once.

    The MAC comes from runtimeConfig.mac, else args.cni.mac, else CNI_ARGS MAC, else `mac`. A pod's bandwidth
    (runtimeConfig.bandwidth.egressRate) is a rate limit as `max_tx_rate` is: see `NetConf.limited`. What
    sriov-cni passes over (unknown keys, what a VF cannot do) is refused where the NAD is ours (`type: vfpool`)
    and warned about elsewhere. `logLevel` and `logFile` are taken and change nothing: the agent has one log.
    """
    report = Report()
    conf = None
    with suppress(EnoughProblemsError):
        conf = _read(config, args, report)
    if report.problems or conf is None:
        more = "; there may be more" if len(report.problems) == ENOUGH else ""
        raise CniError(Code.INVALID_CONFIG, f"network configuration: {'; '.join(report.problems)}{more}")
    return replace(conf, warnings=tuple(report.warnings))


def _read(config: Mapping[str, Any], args: Mapping[str, str], report: Report) -> NetConf | None:
    """None where no VF is named, which the report has as well."""
    reader = _Reader(config, report)
    runtime = reader.section("runtimeConfig")
    meta = reader.section("args").section("cni")
    device = reader.device(runtime)
    vlan = reader.number("vlan", 0, 4094)
    usual = None if vlan is None else VLAN_PROTOCOLS["802.1q"]
    settings = VfSettings(
        mac=reader.mac(runtime, meta, Values(args, report, "CNI_ARGS")),
        vlan=vlan,
        vlan_qos=reader.number("vlanQoS", 0, 7),
        vlan_proto=reader.choice("vlanProto", VLAN_PROTOCOLS, folded=True) or usual,
        spoofchk=reader.choice("spoofchk", _SWITCH),
        trust=reader.choice("trust", _SWITCH),
        link_state=reader.choice("link_state", _LINK_STATES),
        min_tx_rate=reader.number("min_tx_rate", 0, _RATE_LIMIT),
        max_tx_rate=reader.number("max_tx_rate", 0, _RATE_LIMIT),
    )
    reader.check_combinations(settings)
    pod_rate = reader.bandwidth(runtime, settings)
    ipam = reader.ipam()
    reader.check_addresses(runtime)
    mtu = reader.mtu()
    reader.check_log()
    reader.check_keys(report)
    if device is None:
        return None
    return NetConf(network=config.get("name", ""), device=device, settings=settings, mtu=mtu, ipam=ipam,
                   pod_rate=pod_rate)


def asks_inside(ipam: str) -> bool:
    """Whether this IPAM plugin asks through the interface that is to get the address, and releases it there."""
    return ipam == "dhcp"


def find_device(config: Mapping[str, Any]) -> PciAddress | None:
    """The VF that a configuration names, whatever else is wrong with it; None for none, and for several."""
    reader = _Reader(config, Report())
    return reader.device(reader.section("runtimeConfig"))


def find_ipam(config: Mapping[str, Any]) -> str | None:
    """The IPAM plugin that a DEL has to ask; None where none can have given an address."""
    ipam = config.get("ipam")
    name = ipam.get("type") if isinstance(ipam, dict) else None
    return name if isinstance(name, str) and name and "/" not in name else None


class _Reader(Values):
    """What several keys say together, and what only a VF's network has."""

    def device(self, runtime: Values) -> PciAddress | None:
        names = ((runtime, "deviceID"), (self, "deviceID"), (self, "pciBusID"))
        parsed = {where.path(key): where.text(key, PciAddress.parse) for where, key in names if where.given(key)}
        found = {address for address in parsed.values() if address}
        if len(found) > 1:
            shown = ", ".join(f"{key} {address}" for key, address in parsed.items())
            self.note("deviceID", f"the VF is named in several ways that disagree: {shown}")
        if not parsed:
            self.note("deviceID", "no VF is named (Multus sets it from the NAD's annotation "
                      "k8s.v1.cni.cncf.io/resourceName)")
        return found.pop() if len(found) == 1 else None

    def mac(self, runtime: Values, meta: Values, args: Values) -> MacAddress | None:
        given = [(where, key) for where, key in ((runtime, "mac"), (meta, "mac"), (args, "MAC"), (self, "mac"))
                 if where.given(key)]
        for where, key in given[1:]:
            try:
                MacAddress.parse_unicast(str(where.document[key]))
            except InputError as error:       # it counts for pods that ask for none
                self._odd(where, key, error.message)
        return given[0][0].text(given[0][1], MacAddress.parse_unicast) if given else None

    def mtu(self) -> int | None:
        if self.document.get("mtu") == 0 and not is_ours(self.document):
            self.warn("mtu", "0 is taken for none")      # no key of sriov-cni's: what templates leave there
            return None
        return self.number("mtu", 68, 65535)

    def ipam(self) -> str | None:
        section = self.section("ipam")
        plugin = section.text("type", _parse_plugin)
        if set(section.document) - {"type"} and not section.given("type"):
            self._odd(section, "type", "not set, and without a plugin there are no addresses")
        return plugin

    def bandwidth(self, runtime: Values, settings: VfSettings) -> int | None:
        """What the pod wants to send at most, in Mbit/s; None: as much as it can."""
        section = runtime.section("bandwidth")
        rate, burst, ingress, _ = (section.number(key, 0, 2**63 - 1)
                                   for key in ("egressRate", "egressBurst", "ingressRate", "ingressBurst"))
        if ingress:
            self._odd(section, "ingressRate", "a VF limits what its pod sends, not what it gets")
        if burst and not rate:
            self._odd(section, "egressBurst", "needs egressRate, which is not set")
        if rate and rate < _MEGABIT:
            self._odd(section, "egressRate", f"expected 0 or at least {_MEGABIT} bit/s, a VF's smallest limit, "
                      f"got {rate}")
            return None
        low = settings.min_tx_rate or 0
        if rate and rate // _MEGABIT < low:
            self._odd(section, "egressRate", f"expected at least the network's min_tx_rate ({low} Mbit/s), "
                      f"got {rate}")
        return min(rate // _MEGABIT, _RATE_LIMIT) if rate else None

    def check_combinations(self, settings: VfSettings) -> None:
        low, high = settings.min_tx_rate, settings.max_tx_rate
        if low and high and low > high:
            self.note("min_tx_rate", f"expected at most max_tx_rate ({high}), got {low}")
        for key, value in (("vlanQoS", settings.vlan_qos), ("vlanProto", settings.vlan_proto)):
            if value is not None and self.document.get("vlan") is None:
                self.note(key, "needs vlan, which is not set")
        if settings.vlan_qos and settings.vlan == 0:
            self.note("vlanQoS", f"expected 0 for vlan 0 (untagged), got {settings.vlan_qos}")
        if settings.vlan_proto == VLAN_PROTOCOLS["802.1ad"] and settings.vlan == 0:
            self.note("vlanProto", "expected '802.1q' for vlan 0 (untagged), got '802.1ad'")

    def check_addresses(self, runtime: Values) -> None:
        """Those that a pod asks for: the IPAM plugin reads them, here is only said what it cannot."""
        raw = runtime.document.get("ips")
        if raw is None:
            return
        if not isinstance(raw, list):
            runtime.note("ips", f"expected a list, got {show(raw)}")
            return
        if len(raw) > MOST_VALUES:
            runtime.note("ips", f"expected at most {MOST_VALUES} addresses, got {len(raw)}")
            return
        for number, text in enumerate(raw):
            try:
                if not isinstance(text, str):
                    raise InputError("is not text")
                parse_interface_address(text)
            except InputError as error:
                runtime.note(f"ips[{number}]", f"{show(text)} {error.message}")
        if raw and self.document.get("ipam") in (None, {}):
            self._odd(runtime, "ips", "this network gives no addresses: it has no ipam")

    def check_log(self) -> None:
        self.text("logFile", str)
        level = self.text("logLevel", str)
        if level is not None and level.lower() not in _LOG_LEVELS:
            self._odd(self, "logLevel", f"expected one of {', '.join(_LOG_LEVELS)}, got {show(level)}")

    def check_keys(self, report: Report) -> None:
        known = (*STANDARD_KEYS, *OUR_KEYS)
        folded = {key.lower(): key for key in known}
        for key in self.document:
            if key not in known and not key.startswith("cni.dev/"):
                near = folded.get(key.lower()) or report.suggest(key, known)
                self._odd(self, printable(key), "unknown key" + (f", did you mean {near}?" if near else ""))
        capabilities = self.section("capabilities")
        for key in capabilities.document:
            if key not in _CAPABILITIES:
                near = report.suggest(key, _CAPABILITIES)
                capabilities.warn(printable(key), "unknown capability: few runtimes can pass it"
                                  + (f", did you mean {near}?" if near else ""))

    def _odd(self, where: Values, key: str, remark: str) -> None:
        """What sriov-cni takes and does nothing about."""
        (where.note if is_ours(self.document) else where.warn)(key, remark)


def _parse_plugin(text: str) -> str:
    if "/" in text:
        raise InputError(f"expected the name of an IPAM plugin, got {text!r}")
    return text
