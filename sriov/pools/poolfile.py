"""The admin's pool file: YAML text to one `PoolFile`, or all that is wrong with it, each with its place.

A configuration of sriov-network-device-plugin is taken wherever a pool file is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from sriov.errors import InputError
from sriov.model import VfSettings
from sriov.pci import MacAddress
from sriov.pools.advice import warn_of_file
from sriov.pools.assignment import MAX_VFS, PfEntry, Pool, PoolFile
from sriov.pools.documents import DocumentErrors, decode, find_near
from sriov.pools.dpconfig import is_dp_config, parse_dp_config
from sriov.pools.ranges import SpeedRange, VfIndices
from sriov.pools.scalars import (
    DERIVED,
    expect,
    number,
    parse_acpi_index,
    parse_address,
    parse_boolean,
    parse_bound_driver,
    parse_driver,
    parse_eswitch,
    parse_firmware_package,
    parse_function_class,
    parse_hex_id,
    parse_link_state,
    parse_link_type,
    parse_mac,
    parse_netdev,
    parse_node_name,
    parse_numa_node,
    parse_override,
    parse_pf,
    parse_rate,
    parse_resource_name,
    parse_resource_prefix,
    parse_switch,
    parse_vf_mac,
    pattern,
    pf_pattern,
)
from sriov.pools.selectors import ANY_PF, FunctionClass, PfMatch, Selector
from sriov.pools.yamlnodes import Cursor, parse_document

__all__ = ["API_VERSION", "KIND", "PoolFile", "PoolFileErrors", "load_pool_file", "parse_pool_file"]

API_VERSION = "vfpool.io/v1alpha1"
KIND = "PoolFile"
MAX_SIZE = 1 << 20                    # bytes; a ConfigMap holds no more
DEFAULT_PREFIX = "intel.com"          # what sriov-network-device-plugin uses where nothing is said

_FUNCTION_KEYS = ("address", "path", "vendor", "device", "driver", "numaNode", "acpiIndex", "class", "rdma")
_PF_KEYS = ("name", *_FUNCTION_KEYS, "mac", "linkType", "speed", "firmwarePackage")
_MATCH_KEYS = (*_PF_KEYS, "node")
_DEFAULT_KEYS = ("mtu", "vlan", "vlanQoS", "spoofchk", "trust", "linkState", "minTxRate", "maxTxRate")
_SELECTOR_KEYS = ("pf", "vfs", *_FUNCTION_KEYS, "node")
_ASKED_OF_PF = {key: f"pf: {{{key}: ...}}" for key in _PF_KEYS if key not in _SELECTOR_KEYS}


class PoolFileErrors(DocumentErrors):
    """All problems of a pool file, sorted by place."""


def load_pool_file(path: Path) -> PoolFile:
    """Read and parse; raises PoolFileErrors, or InputError if the file cannot be read."""
    return parse_pool_file(read_pool_file(path), str(path))


def read_pool_file(path: Path) -> str:
    """The text, not parsed; raises as `load_pool_file`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"cannot read pool file {path}: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise InputError(f"cannot read pool file {path}: it is larger than {MAX_SIZE >> 20} MiB")
    try:
        return decode(data, str(path))
    except DocumentErrors as error:
        raise PoolFileErrors(error.problems) from None


def parse_pool_file(text: str, path: str) -> PoolFile:
    """Parse `text`; `path` is for messages. Raises PoolFileErrors with every problem."""
    try:
        pool_file = (parse_dp_config(text, path, DEFAULT_PREFIX) if is_dp_config(text)
                     else _parse(parse_document(text, path)))
    except DocumentErrors as error:
        raise PoolFileErrors(error.problems) from None
    return replace(pool_file, warnings=(*pool_file.warnings, *warn_of_file(pool_file)))


def _parse(root: Cursor) -> PoolFile:
    _refuse_others(root)
    root.open_mapping(required=("apiVersion", "kind"),
                      optional=("resourcePrefix", "physicalFunctions", "pools"))
    root.one("apiVersion", expect(API_VERSION), "")
    root.one("kind", expect(KIND), "")
    prefix = root.one("resourcePrefix", parse_resource_prefix, DEFAULT_PREFIX)
    entries = tuple(_parse_entry(item) for item in root.items("physicalFunctions", at_least=0))
    pools: list[Pool] = []
    places: dict[str, str] = {}
    for item in root.items("pools", at_least=0):
        pool = _parse_pool(item, prefix)
        earlier = places.setdefault(pool.resource, pool.place)
        if earlier != pool.place and "resource" in item:
            item["resource"].note(f"{pool.resource} is already the resource of the pool at {earlier}")
        pools.append(pool)
    root.check()
    return PoolFile(resource_prefix=prefix, physical_functions=entries, pools=tuple(pools))


def _refuse_others(root: Cursor) -> None:
    """Raise DocumentErrors, with one problem, for a file that is meant to be something else."""
    members = root.peek()
    kind = members["kind"].text if "kind" in members else None
    if kind is None and "resourceList" in members and "apiVersion" not in members:
        members["resourceList"].note("sriov-network-device-plugin is configured by JSON, this is YAML")
        root.check()
    if kind is None or find_near(kind, (KIND,), cutoff=0.75) is not None:
        return
    data = members["data"].peek() if kind == "ConfigMap" and "data" in members else {}
    parts = [f"data.{key} (line {part.line})" for key, part in data.items()]
    instead = f": check what is below {' or '.join(parts)}" if parts else f", expected a {KIND}"
    root.note(f"this is a {kind}{instead}")
    root.check()


def _parse_entry(item: Cursor) -> PfEntry:
    item.open_mapping(required=("match", "numVfs"), optional=("mtu", "eswitch", "vfMacs", "force", "exclude"))
    match = _parse_match(item["match"], _MATCH_KEYS) if "match" in item else PfMatch()
    exclude = tuple(_parse_match(each, _PF_KEYS) for each in item.items("exclude"))
    return PfEntry(
        match=replace(match, exclude=exclude),
        num_vfs=item.one("numVfs", number(0, MAX_VFS), 0),
        mtu=item.one("mtu", number(68, 65535), None),
        eswitch=item.one("eswitch", parse_eswitch, None),
        force=item.many("force", parse_override),
        place=item.place, **_parse_vf_macs(item),
    )


class _VfMacs(TypedDict):
    vf_macs: tuple[MacAddress, ...]
    derive_macs: bool


def _parse_vf_macs(item: Cursor) -> _VfMacs:
    found = item.many("vfMacs", parse_vf_mac)
    macs = tuple(mac for mac in found if mac is not None)
    if len(macs) not in (0, len(found)) or len(found) > max(len(macs), 1):
        item["vfMacs"].note(f"expected {DERIVED}, or a list of MAC addresses")
    elif len(set(macs)) < len(macs):
        item["vfMacs"].note("expected a MAC address of its own for each VF")
    return {"vf_macs": macs, "derive_macs": None in found}


def _parse_match(item: Cursor, keys: tuple[str, ...]) -> PfMatch:
    item.open_mapping(optional=keys)
    match = PfMatch(
        name=item.many("name", pf_pattern(parse_netdev)), mac=item.many("mac", parse_mac),
        link_type=item.many("linkType", parse_link_type), speed=item.many("speed", SpeedRange.parse),
        firmware_package=item.many("firmwarePackage", pattern(parse_firmware_package)),
        place=item.place, **_parse_function_keys(item),
    )
    _refuse_empty(item, keys, 'PFs, address: "*" matches every one')
    return match


def _parse_pool(item: Cursor, prefix: str) -> Pool:
    item.open_mapping(required=("resource", "select"),
                      optional=("resourcePrefix", "driver", "excludeTopology", "exclude", "defaults"))
    name = item.one("resource", parse_resource_name, "")
    return Pool(
        resource=f"{item.one('resourcePrefix', parse_resource_prefix, prefix)}/{name or item.path}",
        selectors=tuple(_parse_selector(selector) for selector in item.items("select")),
        driver=item.one("driver", parse_driver, None),
        exclude_topology=item.one("excludeTopology", parse_boolean, False),
        exclude=tuple(_parse_selector(selector) for selector in item.items("exclude")),
        vf_settings=_parse_defaults(item["defaults"]) if "defaults" in item else VfSettings(),
        vf_mtu=item["defaults"].one("mtu", number(68, 65535), None) if "defaults" in item else None,
        place=item.place, driver_place=item["driver"].place if "driver" in item else "",
    )


def _parse_defaults(item: Cursor) -> VfSettings:
    item.open_mapping(optional=_DEFAULT_KEYS)
    settings = VfSettings(
        vlan=item.one("vlan", number(0, 4094), None), vlan_qos=item.one("vlanQoS", number(0, 7), None),
        spoofchk=item.one("spoofchk", parse_switch, None), trust=item.one("trust", parse_switch, None),
        link_state=item.one("linkState", parse_link_state, None),
        min_tx_rate=item.one("minTxRate", parse_rate, None), max_tx_rate=item.one("maxTxRate", parse_rate, None),
    )
    if settings.max_tx_rate and (settings.min_tx_rate or 0) > settings.max_tx_rate:
        item["minTxRate"].note(f"expected at most maxTxRate ({settings.max_tx_rate}), got {settings.min_tx_rate}")
    if settings.vlan_qos is not None and settings.vlan is None:
        item["vlanQoS"].note("needs vlan, which is not set")
    elif settings.vlan_qos and settings.vlan == 0:
        item["vlanQoS"].note(f"expected 0 for vlan 0 (untagged), got {settings.vlan_qos}")
    return settings


def _parse_selector(item: Cursor) -> Selector:
    item.open_mapping(optional=_SELECTOR_KEYS, elsewhere=_ASKED_OF_PF)
    on_mapping = "pf" in item and item["pf"].is_mapping
    indices = item.many("vfs", VfIndices.parse)
    selector = Selector(
        pf=() if on_mapping else item.many("pf", pf_pattern(parse_pf)),
        on=_parse_match(item["pf"], _PF_KEYS) if on_mapping else ANY_PF,
        vfs=VfIndices.merge([span for part in indices for span in part.spans]) if indices else None,
        place=item.place, **_parse_function_keys(item),
    )
    _refuse_empty(item, _SELECTOR_KEYS, 'VFs, pf: "*" selects every one')
    return selector


class _FunctionKeys(TypedDict):
    node: tuple[str, ...]
    address: tuple[str, ...]
    path: tuple[str, ...]
    vendor: tuple[str, ...]
    device: tuple[str, ...]
    driver: tuple[str, ...]
    numa_node: tuple[int, ...]
    acpi_index: tuple[str, ...]
    base_class: tuple[FunctionClass, ...]
    rdma: bool | None


def _parse_function_keys(item: Cursor) -> _FunctionKeys:
    return {
        "node": item.many("node", pattern(parse_node_name)),
        "address": item.many("address", parse_address), "path": item.many("path", parse_address),
        "vendor": item.many("vendor", pattern(parse_hex_id)), "device": item.many("device", pattern(parse_hex_id)),
        "driver": item.many("driver", pattern(parse_bound_driver)),
        "numa_node": item.many("numaNode", parse_numa_node),
        "acpi_index": item.many("acpiIndex", pattern(parse_acpi_index)),
        "base_class": item.many("class", parse_function_class), "rdma": item.one("rdma", parse_boolean, None),
    }


def _refuse_empty(item: Cursor, keys: tuple[str, ...], everything: str) -> None:
    # An empty mapping would take all there is, and a slip of the pen is the likeliest reason for one.
    if item.is_empty_mapping:
        item.note(f"expected at least one of {', '.join(keys)}; to take all {everything}")
