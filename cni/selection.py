"""The JSON form of a networks annotation: a list of the specification's network selection elements."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cni.fields import Fields, JsonObject, Report, show
from cni.grammar import (
    Address,
    parse_address,
    parse_guid,
    parse_ifname,
    parse_interface_address,
    parse_mac,
    parse_name,
    parse_namespace,
    parse_protocol,
)
from cni.networkref import MOST_NETWORKS, Bandwidth, NetworkRef, PortMapping

_KEYS = ("name", "namespace", "interface", "mac", "ips", "infiniband-guid", "cni-args", "default-route",
         "portMappings", "bandwidth", "ipam-claim-reference", "interfaceRequest", "deviceID")
_PORT_KEYS = ("hostPort", "containerPort", "protocol", "hostIP")
_RATE_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")


def parse_selections(text: str, namespace: str, report: Report) -> list[NetworkRef]:
    """Read `text`, for a pod in `namespace`; what is wrong with it goes into the report."""
    try:
        document = json.loads(text, object_pairs_hook=JsonObject, parse_constant=_refuse_constant)
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
    if len(document) > MOST_NETWORKS:
        report.note("", f"{len(document)} networks, expected at most {MOST_NETWORKS}")
        return []
    refs = []
    for index, raw in enumerate(document):
        path = f"networks[{index}]"
        if not isinstance(raw, JsonObject):
            wanted = f", like {{\"name\": {show(raw)}}}" if isinstance(raw, str) else ""
            report.note(path, f"expected an object{wanted}, got {show(raw)}")
            continue
        refs.append(_parse_element(Fields(report, path, raw, _KEYS), index, namespace))
    return refs


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _parse_element(item: Fields, index: int, namespace: str) -> NetworkRef:
    name = item.text("name", parse_name)
    if name is None and not item.given("name"):
        item.note("name", "missing, expected the name of a NetworkAttachmentDefinition")
    if item.given("deviceID"):
        # Multus would hand it to the CNI plugin: any pod could take any PCI device of its node.
        item.note("deviceID", f"{show(item['deviceID'])} must not be chosen here, the kubelet chooses the device")
    interface = item.text("interface", parse_ifname)
    if item.given("interfaceRequest"):
        item.warn("interfaceRequest", "deprecated, write interface")
        interface = interface or item.text("interfaceRequest", parse_ifname)
    ips = item.several("ips", parse_interface_address)
    claim = item.text("ipam-claim-reference", parse_name)
    if ips and claim:
        item.note("ipam-claim-reference", "excludes ips, the claim holds the addresses")
    return NetworkRef(
        index=index,
        namespace=item.text("namespace", parse_namespace) or namespace,
        name=name or "",
        interface=interface,
        mac=item.text("mac", parse_mac),
        ips=ips or (),
        guid=item.text("infiniband-guid", parse_guid),
        cni_args=item.mapping("cni-args") or {},
        default_route=_parse_gateways(item),
        port_mappings=tuple(_parse_ports(item)),
        bandwidth=_parse_bandwidth(item),
        ipam_claim=claim,
    )


def _parse_gateways(item: Fields) -> tuple[Address, ...] | None:
    gateways = item.several("default-route", parse_address, empty_is_meant=True)
    for version in (4, 6):
        if len({gateway for gateway in gateways or () if gateway.version == version}) > 1:
            item.note("default-route", f"names more than one IPv{version} gateway, expected one at most")
    return gateways


def _parse_ports(item: Fields) -> Iterator[PortMapping]:
    for entry in item.objects("portMappings", _PORT_KEYS):
        host, container = (entry.number(key, 1, 65535, required=True) for key in ("hostPort", "containerPort"))
        protocol = entry.text("protocol", parse_protocol) or "TCP"
        host_ip = entry.text("hostIP", parse_address)
        if host is not None and container is not None:
            yield PortMapping(host_port=host, container_port=container, protocol=protocol, host_ip=host_ip)


def _parse_bandwidth(item: Fields) -> Bandwidth | None:
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
