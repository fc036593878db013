"""A `PoolFile` as YAML text: what `parse_pool_file` reads back as an equal value, without comments and places."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sriov.pools.assignment import PfEntry, Pool, PoolFile
from sriov.pools.selectors import FunctionKeys, PfMatch, Selector

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?::[A-Za-z0-9_.-]+)*")
_PRINTABLE = re.compile(r"[ -~]*")
_NULL = ("null", "Null", "NULL")      # the words that YAML does not read as text; ~ is not plain anyway


def format_pool_file(file: PoolFile) -> str:
    """YAML text; also what came from another project's configuration, in words of ours."""
    return "\n".join(_lines(file)) + "\n"


def _lines(file: PoolFile) -> Iterator[str]:
    yield "apiVersion: vfpool.io/v1alpha1"
    yield "kind: PoolFile"
    yield f"resourcePrefix: {_scalar(file.resource_prefix)}"
    if file.physical_functions:
        yield "physicalFunctions:"
        for entry in file.physical_functions:
            yield from _entry_lines(entry)
    if file.pools:
        yield "pools:"
        for pool in file.pools:
            yield from _pool_lines(pool, file.resource_prefix)


def _entry_lines(entry: PfEntry) -> Iterator[str]:
    yield f"  - match: {_match(entry.match)}"
    yield f"    numVfs: {entry.num_vfs}"
    if entry.match.exclude:
        yield "    exclude:"
        yield from (f"      - {_match(match)}" for match in entry.match.exclude)
    if entry.mtu is not None:
        yield f"    mtu: {entry.mtu}"
    if entry.eswitch is not None:
        yield f"    eswitch: {entry.eswitch}"
    if entry.derive_macs:
        yield "    vfMacs: derived"
    if entry.vf_macs:
        yield f"    vfMacs: {_values(entry.vf_macs)}"
    if entry.force:
        yield f"    force: {_values(entry.force)}"


def _pool_lines(pool: Pool, default_prefix: str) -> Iterator[str]:
    prefix, _, name = pool.resource.partition("/")
    yield f"  - resource: {_scalar(name)}"
    if prefix != default_prefix:
        yield f"    resourcePrefix: {_scalar(prefix)}"
    for key, selectors in (("select", pool.selectors), ("exclude", pool.exclude)):
        if selectors:
            yield f"    {key}:"
            yield from (f"      - {_selector(selector)}" for selector in selectors)
    if pool.driver is not None:
        yield f"    driver: {_scalar(pool.driver)}"
    if pool.exclude_topology:
        yield "    excludeTopology: true"
    if (defaults := _defaults(pool)) != "{}":
        yield f"    defaults: {defaults}"


def _defaults(pool: Pool) -> str:
    settings = pool.vf_settings
    numbers = {"mtu": pool.vf_mtu, "vlan": settings.vlan, "vlanQoS": settings.vlan_qos,
               "minTxRate": settings.min_tx_rate, "maxTxRate": settings.max_tx_rate}
    switches = {"spoofchk": settings.spoofchk, "trust": settings.trust}
    return _flow({
        **{key: None if value is None else str(value) for key, value in numbers.items()},
        **{key: None if value is None else "on" if value else "off" for key, value in switches.items()},
        "linkState": None if settings.link_state is None else settings.link_state.name.lower(),
    })


def _match(match: PfMatch) -> str:
    return _flow({
        "name": _values(match.name), "mac": _values(match.mac), "linkType": _values(match.link_type),
        "speed": _values(match.speed), "firmwarePackage": _values(match.firmware_package), **_function_keys(match),
    })


def _selector(selector: Selector) -> str:
    on = _match(selector.on)
    return _flow({
        "pf": on if on != "{}" else _values(selector.pf),
        "vfs": None if selector.vfs is None else _scalar(selector.vfs), **_function_keys(selector),
    })


def _function_keys(keys: FunctionKeys) -> dict[str, str | None]:
    return {
        "address": _values(keys.address), "path": _values(keys.path), "vendor": _values(keys.vendor),
        "device": _values(keys.device), "driver": _values(keys.driver), "numaNode": _values(keys.numa_node),
        "acpiIndex": _values(keys.acpi_index), "class": _values(keys.base_class),
        "rdma": None if keys.rdma is None else str(keys.rdma).lower(), "node": _values(keys.node),
    }


def _flow(fields: dict[str, str | None]) -> str:
    return f"{{{', '.join(f'{key}: {text}' for key, text in fields.items() if text is not None)}}}"


def _values(values: tuple[object, ...]) -> str | None:
    """One value alone, several as a list; None where there is none."""
    texts = [_scalar(value) for value in values]
    if len(texts) > 1:
        return f"[{', '.join(texts)}]"
    return texts[0] if texts else None


def _scalar(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text) is not None and text not in _NULL:
        return text
    if _PRINTABLE.fullmatch(text) is not None:
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(rf"\U{ord(each):08x}" for each in text) + '"'
