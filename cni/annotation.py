"""The pod annotation `k8s.v1.cni.cncf.io/networks`: its text to NetworkRefs, or everything that is wrong with it.

Source: NPWG multi-network specification 1.3. Where it leaves room, or says "invalid and ignored", this says what
Multus will do: what it refuses, or reads otherwise than it was meant, is a problem; what it passes over a warning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any, TypeVar

from sriov.errors import InputError
from sriov.pci import MacAddress

NETWORKS = "k8s.v1.cni.cncf.io/networks"

T = TypeVar("T")
Address = IPv4Address | IPv6Address      # an interface address, one with a prefix length, is one of these too

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_MAX_NAMESPACE, _MAX_NAME = 63, 253                      # what the API server takes as metadata.name
_IFNAME = re.compile(r"(?!\.{1,2}\Z)[^/:\s\0\ud800-\udfff]+")      # dev_valid_name() of the kernel
_IFNAME_BYTES = 15                                       # IFNAMSIZ of linux/if.h, without the zero
_GUID = re.compile(r"[0-9a-f]{2}(?:(:|-)[0-9a-f]{2}(?:\1[0-9a-f]{2}){6})|[0-9a-f]{4}(?:\.[0-9a-f]{4}){3}", re.I)
_GENERATED = re.compile(r"net([1-9]\d{0,4})", re.ASCII)
_PROTOCOLS = ("TCP", "UDP", "SCTP")

_KEYS = ("name", "namespace", "interface", "mac", "ips", "infiniband-guid", "cni-args", "default-route",
         "portMappings", "bandwidth", "ipam-claim-reference", "interfaceRequest", "deviceID")
_PORT_KEYS = ("hostPort", "containerPort", "protocol", "hostIP")
_RATE_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")

_SHOWN = 60                    # characters of a value in a message
_MOST = 20                     # problems that a message lists


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    host_port: int
    container_port: int
    protocol: str = "TCP"
    host_ip: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bits per second, and bits; 0: not limited."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRef:
    """One attachment that a pod asks for. `index` is its place in the list, `interface` None: `net<index + 1>`."""

    index: int
    namespace: str
    name: str
    interface: str | None = None
    mac: MacAddress | None = None
    ips: tuple[Address, ...] = ()
    guid: str | None = None
    cni_args: Mapping[str, Any] = field(default_factory=dict)
    default_route: tuple[Address, ...] | None = None       # (): takes the default network's route away
    port_mappings: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    ipam_claim: str | None = None

    @property
    def path(self) -> str:
        return f"networks[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """A valid annotation. `warnings` are about what is allowed, but hardly meant."""

    refs: tuple[NetworkRef, ...] = ()
    warnings: tuple[str, ...] = ()


class AnnotationError(InputError):
    """Everything that is wrong with an annotation, in its order; each problem begins with its path."""

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        super().__init__(format_problems(problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def format_problems(problems: Sequence[str]) -> str:
    """One problem on the line of the annotation's name; several below it, a line each."""
    if len(problems) == 1:
        return f"annotation {NETWORKS}: {problems[0]}"
    rest = [f"and {len(problems) - _MOST} more"] if len(problems) > _MOST else []
    return "\n- ".join([f"annotation {NETWORKS} has {len(problems)} problems:", *problems[:_MOST], *rest])


def parse_networks(text: str, namespace: str) -> Networks:
    """Read the annotation of a pod in `namespace`; raise AnnotationError with all problems at once."""
    report = _Report()
    if not text:
        return Networks(warnings=(f"annotation {NETWORKS} is empty, so no network is attached",))
    # Multus decides by these three characters, wherever they stand.
    if any(mark in text for mark in '[{"'):
        refs = _parse_json(text, namespace, report)
    else:
        refs = _parse_short(text, namespace, report)
    _check_together(refs, report)
    if report.problems:
        raise AnnotationError(report.problems, report.warnings)
    return Networks(refs=tuple(refs), warnings=tuple(report.warnings))


def show(value: object) -> str:
    """A value as JSON has it, cut where it is long."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        cut = value[:_SHOWN]
        return json.dumps(cut, ensure_ascii=not cut.isprintable()) + ("..." if len(value) > _SHOWN else "")
    try:
        shown = json.dumps(value)
    except ValueError:               # an integer of more digits than Python prints
        return "a very large number"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


class _Report:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def note(self, path: str, problem: str) -> None:
        self.problems.append(f"{path}: {problem}" if path else problem)

    def warn(self, path: str, warning: str) -> None:
        self.warnings.append(f"{path}: {warning}")


# ---- `ns/name@ifname, name, ...` ------------------------------------------------------------------------


def _parse_short(text: str, namespace: str, report: _Report) -> list[NetworkRef]:
    refs = []
    items = text.split(",")
    for index, raw in enumerate(items):
        path, item = f"networks[{index}]", raw.strip()
        if not item:
            # Multus takes it for a network without a name, and the pod never starts.
            where = "is blank" if len(items) == 1 else "ends with a comma" if index == len(items) - 1 \
                else "has nothing before a comma"
            report.note(path, f"the annotation {where}, expected a network like default/fast@net1")
            continue
        head, *tail = [part.strip() for part in item.split("/")]
        name, *ifname = [part.strip() for part in (tail[0] if tail else head).split("@")]
        if len(tail) > 1 or len(ifname) > 1:
            report.note(path, f"{show(item)} has more than one {'/' if len(tail) > 1 else '@'}, "
                              "expected [NAMESPACE/]NAME[@INTERFACE]")
            continue
        if tail and head:
            _check(report, f"{path}.namespace", head, _parse_namespace)
        _check(report, f"{path}.name", name, _parse_short_name)
        interface = _check(report, f"{path}.interface", ifname[0], _parse_ifname) if any(ifname) else None
        refs.append(NetworkRef(index=index, namespace=head if tail and head else namespace, name=name,
                               interface=interface))
    return refs


# ---- [{"name": ...}, ...] -------------------------------------------------------------------------------


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys stood there more than once."""

    __slots__ = ("keys_written",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.keys_written = pairs


def _parse_json(text: str, namespace: str, report: _Report) -> list[NetworkRef]:
    try:
        document = json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        near = text[error.pos : error.pos + 20].split("\n")[0]
        report.note("", f"not JSON: {error.lineno}:{error.colno}: {error.msg}, "
                        + (f"at {show(near)}" if near else "at the end of the line"))
        return []
    except RecursionError:
        report.note("", "not JSON: nested too deeply")
        return []
    except ValueError as error:
        report.note("", f"not JSON: {error}")
        return []
    if not isinstance(document, list):
        report.note("", f"expected a list like [{{\"name\": \"fast\"}}], got {show(document)}")
        return []
    refs = []
    for index, raw in enumerate(document):
        path = f"networks[{index}]"
        if not isinstance(raw, _Object):
            wanted = f", like {{\"name\": {show(raw)}}}" if isinstance(raw, str) else ""
            report.note(path, f"expected an object{wanted}, got {show(raw)}")
            continue
        refs.append(_parse_element(_Fields(report, path, raw, _KEYS), index, namespace))
    return refs


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _parse_element(item: _Fields, index: int, namespace: str) -> NetworkRef:
    name = item.text("name", _parse_name)
    if name is None and not item.given("name"):
        item.note("name", "missing, expected the name of a NetworkAttachmentDefinition")
    if item.given("deviceID"):
        # Multus would hand it to the CNI plugin: any pod could take any PCI device of its node.
        item.note("deviceID", f"{show(item['deviceID'])} must not be chosen here, the kubelet chooses the device")
    interface = item.text("interface", _parse_ifname)
    if item.given("interfaceRequest"):
        item.warn("interfaceRequest", "deprecated, write interface")
        interface = interface or item.text("interfaceRequest", _parse_ifname)
    ips = item.several("ips", _parse_interface_address)
    claim = item.text("ipam-claim-reference", _parse_name)
    if ips and claim:
        item.note("ipam-claim-reference", "excludes ips, the claim holds the addresses")
    return NetworkRef(
        index=index,
        namespace=item.text("namespace", _parse_namespace) or namespace,
        name=name or "",
        interface=interface,
        mac=item.text("mac", _parse_mac),
        ips=ips or (),
        guid=item.text("infiniband-guid", _parse_guid),
        cni_args=item.mapping("cni-args") or {},
        default_route=_parse_gateways(item),
        port_mappings=tuple(_parse_ports(item)),
        bandwidth=_parse_bandwidth(item),
        ipam_claim=claim,
    )


def _parse_gateways(item: _Fields) -> tuple[Address, ...] | None:
    gateways = item.several("default-route", _parse_address, empty_is_meant=True)
    for version in (4, 6):
        if len({gateway for gateway in gateways or () if gateway.version == version}) > 1:
            item.note("default-route", f"names more than one IPv{version} gateway, expected one at most")
    return gateways


def _parse_ports(item: _Fields) -> Iterator[PortMapping]:
    for entry in item.objects("portMappings", _PORT_KEYS):
        host, container = (entry.number(key, 1, 65535, required=True) for key in ("hostPort", "containerPort"))
        protocol = entry.text("protocol", _parse_protocol) or "TCP"
        host_ip = entry.text("hostIP", _parse_address)
        if host is not None and container is not None:
            yield PortMapping(host_port=host, container_port=container, protocol=protocol, host_ip=host_ip)


def _parse_bandwidth(item: _Fields) -> Bandwidth | None:
    raw = item.mapping("bandwidth")
    if raw is None:
        return None
    entry = item.inner("bandwidth", raw, _RATE_KEYS)
    value = {key: entry.number(key, 0, 2**63 - 1) or 0 for key in _RATE_KEYS}      # Multus has int64
    for way in ("ingress", "egress"):
        if value[f"{way}Burst"] and not value[f"{way}Rate"]:
            entry.note(f"{way}Burst", f"needs {way}Rate, which is not set")
    return Bandwidth(ingress_rate=value["ingressRate"], ingress_burst=value["ingressBurst"],
                     egress_rate=value["egressRate"], egress_burst=value["egressBurst"])


class _Fields:
    """The keys of one JSON object as Multus reads them: in any case, and the last of a repeated one counts.

    Null and an empty text are what templates leave where they have no value, and Multus takes them for absent.
    """

    def __init__(self, report: _Report, path: str, raw: _Object, known: Iterable[str]) -> None:
        self._report = report
        self._path = path
        self._values: dict[str, Any] = {}
        names = {_fold(key): key for key in known}
        written: set[str] = set()
        for key, value in raw.keys_written:
            name = names.get(_fold(key))
            if name is None:
                if "." not in key and key not in written:      # a name with a dot belongs to someone else
                    near = difflib.get_close_matches(_fold(key), names, 1)
                    self.warn(_plain(key), "unknown key" + (f", did you mean {names[near[0]]}?" if near else ""))
            elif name in self._values:
                self.warn(name, f"stands there more than once, Multus takes the last: {show(value)}")
            elif key != name:
                self.warn(_plain(key), f"Multus reads it as {name}, write {name}")
            written.add(key)
            if name is not None and (value is not None or name not in self._values):
                self._values[name] = value

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - JSON
        return self._values.get(key)

    def given(self, key: str) -> bool:
        return self[key] is not None and self[key] != ""

    def note(self, key: str, problem: str) -> None:
        self._report.note(f"{self._path}.{key}", problem)

    def warn(self, key: str, warning: str) -> None:
        self._report.warn(f"{self._path}.{key}", warning)

    def text(self, key: str, parse: Callable[[str], T]) -> T | None:
        return _check(self._report, f"{self._path}.{key}", self[key], parse) if self.given(key) else None

    def several(self, key: str, parse: Callable[[str], T], *, empty_is_meant: bool = False) -> tuple[T, ...] | None:
        raw = self.listed(key)
        if raw is None:
            return None
        if not raw and not empty_is_meant:
            self.warn(key, "the list is empty, which says nothing")
        checked = [_check(self._report, f"{self._path}.{key}[{n}]", item, parse) for n, item in enumerate(raw)]
        return tuple(value for value in checked if value is not None)

    def listed(self, key: str) -> list[Any] | None:
        raw = self[key]
        if raw is None or isinstance(raw, list):
            return raw
        self.note(key, f"{show(raw)} is not a list")
        return None

    def number(self, key: str, low: int, high: int, *, required: bool = False) -> int | None:
        raw = self[key]
        if raw is None:
            if required:
                self.note(key, f"missing, expected a number from {low} to {high}")
            return None
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.note(key, f"{show(raw)} is not a number from {low} to {high}")
            return None
        return raw

    def mapping(self, key: str) -> _Object | None:
        raw = self[key]
        if raw is None:
            return None
        if not isinstance(raw, _Object):
            self.note(key, f"{show(raw)} is not an object")
            return None
        return raw

    def objects(self, key: str, known: Iterable[str]) -> Iterator[_Fields]:
        """The objects of a list, each with its path."""
        for n, raw in enumerate(self.listed(key) or ()):
            if isinstance(raw, _Object):
                yield self.inner(f"{key}[{n}]", raw, known)
            else:
                self.note(f"{key}[{n}]", f"{show(raw)} is not an object")

    def inner(self, key: str, raw: _Object, known: Iterable[str]) -> _Fields:
        return _Fields(self._report, f"{self._path}.{key}", raw, known)


def _fold(key: str) -> str:
    """As Go's JSON decoder compares keys: simple case folding, which knows the long s."""
    return key.lower().replace("\u017f", "s")


def _plain(key: str) -> str:
    """A key in a path; quoted where it would not be read as one."""
    return key if re.fullmatch(r"[\w./-]{1,60}", key, re.ASCII) else show(key)


# ---- values ---------------------------------------------------------------------------------------------


def _check(report: _Report, path: str, raw: object, parse: Callable[[str], T]) -> T | None:
    try:
        if not isinstance(raw, str):
            raise InputError("is not text")
        return parse(raw)
    except InputError as error:
        report.note(path, f"{show(raw)} {error.message}")
        return None


def _parse_namespace(text: str) -> str:
    if _LABEL.fullmatch(text) is None or len(text) > _MAX_NAMESPACE:
        raise InputError(f"is not a namespace (a-z, 0-9, - inside; at most {_MAX_NAMESPACE})")
    return text


def _parse_short_name(text: str) -> str:
    if _LABEL.fullmatch(text) is None or len(text) > _MAX_NAME:
        hint = "; a name with dots needs the JSON form" if _SUBDOMAIN.fullmatch(text) else ""
        raise InputError(f"is not a name (a-z, 0-9, - inside; at most {_MAX_NAME}){hint}")
    return text


def _parse_name(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if slash and _LABEL.fullmatch(namespace) and _SUBDOMAIN.fullmatch(name):
        raise InputError(f"is not a name, write \"namespace\": \"{namespace}\", \"name\": \"{name}\"")
    if _SUBDOMAIN.fullmatch(text) is None or len(text) > _MAX_NAME:
        raise InputError(f"is not a name (a-z, 0-9, - and . inside; at most {_MAX_NAME})")
    return text


def _parse_ifname(text: str) -> str:
    if text == "lo":
        raise InputError("is the loopback interface, which every pod has")
    if _IFNAME.fullmatch(text) is None or len(text.encode(errors="replace")) > _IFNAME_BYTES:
        raise InputError(f"is not an interface name: 1 to {_IFNAME_BYTES} bytes, no slash, colon or white space")
    return text


def _parse_mac(text: str) -> MacAddress:
    try:
        mac = MacAddress.parse(text)
    except InputError:
        mac = None
    if mac is None or text != text.strip():
        raise InputError("is not a 6-byte MAC address like 02:00:00:00:00:01")
    if mac == MacAddress.ZERO or int(mac[:2], 16) & 1:
        raise InputError("is not a unicast MAC address, no interface may have it")
    return mac


def _parse_guid(text: str) -> str:
    if _GUID.fullmatch(text) is None:
        raise InputError("is not an 8-byte GUID like 02:00:00:00:00:00:00:01")
    return text


def _parse_address(text: str) -> Address:
    # A zone (fe80::1%eth0) is Python's, no CNI plugin takes one.
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    raise InputError("is not an IP address like 10.0.0.1 or fd00::1")


def _parse_interface_address(text: str) -> Address:
    try:
        if "%" not in text:
            _, slash, prefix = text.partition("/")
            # Python takes a netmask after the slash, too.
            if not slash:
                return ip_address(text)
            if prefix.isascii() and prefix.isdigit():
                return ip_interface(text)
    except ValueError:
        pass
    raise InputError("is not an IP address like 10.0.0.1, 10.0.0.1/24 or fd00::1/64")


def _parse_protocol(text: str) -> str:
    if text.upper() not in _PROTOCOLS:
        raise InputError(f"is not one of {', '.join(_PROTOCOLS)}")
    return text.upper()


# ---- what elements have to do with each other -------------------------------------------------------------


def _check_together(refs: Sequence[NetworkRef], report: _Report) -> None:
    taken: dict[str, NetworkRef] = {}
    for ref in refs:
        if ref.interface is None:
            continue
        other = taken.setdefault(ref.interface, ref)
        if other is not ref:
            report.note(f"{ref.path}.interface", f"{show(ref.interface)} is the interface of {other.path} already")
        if ref.interface == "eth0":
            report.warn(f"{ref.path}.interface", "\"eth0\" is what runtimes call the pod's first interface")
    for ref in refs:
        generated = f"net{ref.index + 1}"
        if ref.interface is None and generated in taken:
            report.warn(f"{taken[generated].path}.interface",
                        f"{show(generated)} is what {ref.path} is called, as it has no interface of its own")
    routed = [ref for ref in refs if ref.default_route is not None]
    for ref in routed[1:]:
        report.note(f"{ref.path}.default-route", f"{routed[0].path} has one already, expected one at most")
