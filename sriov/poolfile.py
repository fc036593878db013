"""The admin's pool file: YAML text to one `PoolFile`, or all that is wrong with it, each with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sriov.errors import InputError
from sriov.pci import MacAddress, PciAddress
from sriov.pools import MAX_VFS, Driver, PfEntry, PfMatch, Pool, Selector, VfIndices
from sriov.yamlnodes import Cursor, DocumentErrors, decode, parse_document

API_VERSION = "vfpool.io/v1alpha1"
KIND = "PoolFile"
MAX_SIZE = 1 << 20                    # bytes; a ConfigMap holds no more
DEFAULT_PREFIX = "intel.com"          # what sriov-network-device-plugin uses where nothing is said

# The kubelet wants "requests.<prefix>/<name>" to be a qualified name: prefix a DNS subdomain of at most 253
# characters, name at most 63. sriov-network-device-plugin allows no dots in the name.
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MAX_PREFIX = 253 - len("requests.")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_HEX_ID = re.compile(r"(?:0x)?([0-9a-f]{4})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_DRIVER = re.compile(r"[A-Za-z0-9_-]+")

_FUNCTION_KEYS = ("address", "vendor", "device", "driver", "numaNode")
_MATCH_KEYS = ("name", *_FUNCTION_KEYS, "mac")
_SELECTOR_KEYS = ("pf", "vfs", *_FUNCTION_KEYS)


class PoolFileErrors(DocumentErrors):
    """All problems of a pool file, sorted by place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFile:
    """A valid pool file. `warnings` are sentences about what is allowed but hardly meant."""

    resource_prefix: str
    physical_functions: tuple[PfEntry, ...]       # first match wins
    pools: tuple[Pool, ...]                       # first match wins
    warnings: tuple[str, ...] = field(default=(), compare=False)


def load_pool_file(path: Path) -> PoolFile:
    """Read and parse; raises PoolFileErrors, or InputError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"cannot read pool file {path}: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise InputError(f"cannot read pool file {path}: it is larger than {MAX_SIZE >> 20} MiB")
    try:
        text = decode(data, str(path))
    except DocumentErrors as error:
        raise PoolFileErrors(error.problems) from None
    return parse_pool_file(text, str(path))


def parse_pool_file(text: str, path: str) -> PoolFile:
    """Parse `text`; `path` is for messages. Raises PoolFileErrors with every problem."""
    try:
        return _parse(parse_document(text, path))
    except DocumentErrors as error:
        raise PoolFileErrors(error.problems) from None


def _parse(root: Cursor) -> PoolFile:
    root.open_mapping(required=("apiVersion", "kind"),
                      optional=("resourcePrefix", "physicalFunctions", "pools"))
    root.one("apiVersion", _expect(API_VERSION), "")
    root.one("kind", _expect(KIND), "")
    prefix = root.one("resourcePrefix", parse_resource_prefix, DEFAULT_PREFIX)
    entries = tuple(_parse_entry(item) for item in root.items("physicalFunctions", at_least=0))
    pools: list[Pool] = []
    for item in root.items("pools", at_least=0):
        pool = _parse_pool(item, prefix)
        earlier = next((other for other in pools if other.resource == pool.resource), None)
        if earlier is not None and "resource" in item:
            item["resource"].note(f"{pool.resource} is already the resource of the pool at {earlier.place}")
        pools.append(pool)
    root.check()
    return PoolFile(resource_prefix=prefix, physical_functions=entries, pools=tuple(pools),
                    warnings=tuple(_warn(entries, pools)))


def _parse_entry(item: Cursor) -> PfEntry:
    item.open_mapping(required=("match", "numVfs"), optional=("mtu",))
    return PfEntry(
        match=_parse_match(item["match"]) if "match" in item else PfMatch(),
        num_vfs=item.one("numVfs", _number(0, MAX_VFS), 0),
        mtu=item.one("mtu", _number(68, 65535), None),
        place=item.place,
    )


def _parse_match(item: Cursor) -> PfMatch:
    item.open_mapping(optional=_MATCH_KEYS)
    match = PfMatch(
        name=item.many("name", _netdev), address=item.many("address", PciAddress.parse),
        vendor=item.many("vendor", parse_hex_id), device=item.many("device", parse_hex_id),
        driver=item.many("driver", _bound_driver), mac=item.many("mac", MacAddress.parse),
        numa_node=item.many("numaNode", _numa_node),
    )
    _refuse_empty(item, _MATCH_KEYS, 'PFs, name: "*" matches every one')
    return match


def _parse_pool(item: Cursor, prefix: str) -> Pool:
    item.open_mapping(required=("resource", "select"),
                      optional=("resourcePrefix", "driver", "excludeTopology"))
    name = item.one("resource", parse_resource_name, "")
    return Pool(
        resource=f"{item.one('resourcePrefix', parse_resource_prefix, prefix)}/{name or item.path}",
        selectors=tuple(_parse_selector(selector) for selector in item.items("select")),
        driver=item.one("driver", _driver, None),
        exclude_topology=item.one("excludeTopology", _boolean, False),
        place=item.place,
    )


def _parse_selector(item: Cursor) -> Selector:
    item.open_mapping(optional=_SELECTOR_KEYS)
    indices = item.many("vfs", VfIndices.parse)
    selector = Selector(
        pf=item.many("pf", _pf),
        vfs=VfIndices.merge([span for part in indices for span in part.spans]) if indices else None,
        address=item.many("address", PciAddress.parse),
        vendor=item.many("vendor", parse_hex_id), device=item.many("device", parse_hex_id),
        driver=item.many("driver", _bound_driver), numa_node=item.many("numaNode", _numa_node),
        place=item.place,
    )
    _refuse_empty(item, _SELECTOR_KEYS, 'VFs, pf: "*" selects every one')
    return selector


def _refuse_empty(item: Cursor, keys: tuple[str, ...], everything: str) -> None:
    # An empty mapping would take all there is, and a slip of the pen is the likeliest reason for one.
    if item.is_empty_mapping:
        item.note(f"expected at least one of {', '.join(keys)}; to take all {everything}")


# ---- scalars: text as written to a value, or InputError -------------------------------------------------


def parse_resource_prefix(text: str) -> str:
    """`intel.com`: a DNS subdomain that the kubelet accepts before the slash of an extended resource."""
    if _PREFIX.fullmatch(text) is None or len(text) > _MAX_PREFIX:
        raise InputError("expected a resource prefix like intel.com (a lower-case DNS name of at most "
                         f"{_MAX_PREFIX} characters), got {text!r}")
    if text.endswith("kubernetes.io") or text.startswith("requests."):
        raise InputError("expected a resource prefix of your own, kubernetes.io and requests. belong to "
                         f"Kubernetes, got {text!r}")
    return text


def parse_resource_name(text: str) -> str:
    """`sriov`: what follows the slash of an extended resource."""
    if _NAME.fullmatch(text) is None:
        raise InputError("expected a resource name (1 to 63 of A-Z, a-z, 0-9, - and _, a letter or digit at "
                         f"both ends), got {text!r}")
    return text


def parse_hex_id(text: str) -> str:
    """A PCI vendor or device id: `8086`, `10CA` or `0x8086` to four lower-case hex digits."""
    match = _HEX_ID.fullmatch(text.lower())
    if match is None:
        raise InputError(f"expected a PCI id of four hex digits like 8086, got {text!r}")
    return match[1]


def _expect(value: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text != value:
            raise InputError(f"expected {value}, got {text!r}")
        return text

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
            raise InputError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise InputError(f"expected true or false, got {text!r}")
    return text == "true"


def _numa_node(text: str) -> int:
    if text != "-1" and _NUMBER.fullmatch(text) is None:
        raise InputError(f"expected a NUMA node like 0, or -1 where the platform does not say, got {text!r}")
    return int(text)


def _driver(text: str) -> Driver:
    if _DRIVER.fullmatch(text) is None:
        raise InputError(f"expected kernel or the name of a driver like vfio-pci, got {text!r}")
    return Driver(text)


def _bound_driver(text: str) -> str:
    if _DRIVER.fullmatch(text) is None or text == Driver.KERNEL:
        raise InputError(f"expected the name of a driver like igbvf, got {text!r}")
    return text


def _netdev(text: str) -> str:
    if not text or "/" in text or any(character.isspace() for character in text):
        raise InputError(f"expected a netdev name like ens1f0, or a glob like ens1f*, got {text!r}")
    return text


def _pf(text: str) -> str:
    try:
        return PciAddress.parse(text)
    except InputError:                # a name or a glob, then
        return _netdev(text)


# ---- what is allowed but hardly meant -------------------------------------------------------------------


def _warn(entries: Sequence[PfEntry], pools: Sequence[Pool]) -> Iterator[str]:
    seen: dict[Selector, Selector] = {}
    for pool in pools:
        for selector in pool.selectors:
            if selector in seen:
                yield (f"{selector.place}: {pool.resource} never gets a VF from this selector: the one at "
                       f"{seen[selector].place} is the same and comes first")
            seen.setdefault(selector, selector)
            if pool.driver not in (None, Driver.KERNEL, *selector.driver) and selector.driver:
                yield (f"{selector.place}: selects only VFs bound to {' or '.join(selector.driver)}, but "
                       f"{pool.resource} binds its VFs to {pool.driver}: they would leave the pool")
            for name in selector.pf:
                yield from _warn_of_indices(name, selector, entries)


def _warn_of_indices(name: str, selector: Selector, entries: Sequence[PfEntry]) -> Iterator[str]:
    """Compares what selector and entry name in the same words: which PFs a glob means, only the host knows."""
    entry = next((entry for entry in entries if name in (*entry.match.name, *entry.match.address)), None)
    if entry is None or selector.vfs is None:
        return
    last = selector.vfs.spans[-1][1]
    if last >= entry.num_vfs:
        yield (f"{selector.place}: vfs {selector.vfs} reaches VF {last} of {name}, but the entry at "
               f"{entry.place} makes {entry.num_vfs}")
