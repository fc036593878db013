"""Selectors: which PFs and which VFs are meant, key by key, with a phrase for each key that does not match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

from sriov.model import PciFunction, PhysicalFunction, VirtualFunction
from sriov.pools.patterns import matches, matches_any, readable
from sriov.pools.ranges import SpeedRange, VfIndices, name_indices

_NO_NETDEV = "known: the PF has no netdev here"


class FunctionClass(IntEnum):
    """Base class of a PCI function (PCI Code and ID Assignment Specification)."""

    NETWORK = 0x02
    ACCELERATOR = 0x12

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionKeys:
    """What PFs and VFs are asked alike. All keys that are given must match, any value of a key is enough; an
    empty tuple does not constrain.

    Texts are patterns (`sriov.pools.patterns`), hex digits in any case. `node` is the Kubernetes node's name: a key
    that matches nothing until `for_node` has settled it. `path`: any PCI function on the way from the root port
    down to this one. `numa_node` has -1 where the platform does not say.
    """

    node: tuple[str, ...] = ()
    address: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    vendor: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()
    numa_node: tuple[int, ...] = ()
    acpi_index: tuple[str, ...] = ()
    base_class: tuple[FunctionClass, ...] = ()
    rdma: bool | None = None          # whether it has an RDMA device; None: either

    def _against(self, function: PciFunction) -> Iterator[str]:
        """A phrase for each key but `node` that does not match."""
        if self.address and not matches_any(self.address, (function.address,), ignore_case=True):
            yield f"address {_or(self.address)} is not {function.address}"
        path = function.path or (function.address,)
        if self.path and not matches_any(self.path, path, ignore_case=True):
            yield f"path {_or(self.path)} is not {' > '.join(path)}"
        if self.vendor and not matches_any(self.vendor, (function.vendor,), ignore_case=True):
            yield f"vendor {_or(self.vendor)} is not {function.vendor}"
        if self.device and not matches_any(self.device, (function.device,), ignore_case=True):
            yield f"device {_or(self.device)} is not {function.device}"
        if self.driver and (function.driver is None or not matches_any(self.driver, (function.driver,))):
            yield f"driver {_or(self.driver)} is not {function.driver or 'bound: there is none'}"
        node = -1 if function.numa_node is None else function.numa_node
        if self.numa_node and node not in self.numa_node:
            yield f"numaNode {_or(self.numa_node)} is not {node}"
        index = function.acpi_index
        if self.acpi_index and (index is None or not matches_any(self.acpi_index, (index,))):
            yield f"acpiIndex {_or(self.acpi_index)} is not {index or 'known: the firmware gives none'}"
        if self.base_class and function.pci_class >> 16 not in self.base_class:
            yield f"class {_or(self.base_class)} is not {_say_class(function.pci_class >> 16)}"
        if self.rdma is not None and self.rdma != bool(function.rdma):
            yield f"rdma {str(self.rdma).lower()} is not so: it has {_rdma_names(function)}"

    def for_node(self, name: str) -> Self | None:
        """The same without its key `node`, or None if it is about other nodes than the one of this name."""
        if self.node and not matches_any(self.node, (name,)):
            return None
        return replace(self, node=()) if self.node else self


@dataclass(frozen=True, slots=True, kw_only=True)
class PfMatch(FunctionKeys):
    """Which PFs an entry or a selector is about.

    `name`: the netdev's name or an altname. `speed` is that of the link now: none without carrier. What any of
    `exclude` is about stays out.
    """

    name: tuple[str, ...] = ()
    mac: tuple[str, ...] = ()
    link_type: tuple[str, ...] = ()   # as `Link.kind`
    speed: tuple[SpeedRange, ...] = ()
    firmware_package: tuple[str, ...] = ()
    exclude: tuple[PfMatch, ...] = ()
    place: str = field(default="", compare=False)    # "pools.yaml:5:12"

    def mismatches(self, pf: PhysicalFunction) -> Iterator[str]:
        """A phrase for each key that does not match."""
        if self.node:
            yield f"node {_or(self.node)} is not known to be this one"
        yield from self.unlike(pf)

    def unlike(self, pf: PhysicalFunction) -> Iterator[str]:
        """As `mismatches`, whatever the node."""
        link = pf.known_link
        names = (link.name, *link.altnames) if link else ()
        if self.name and not matches_any(self.name, names):
            yield f"name {_or(self.name)} is not {names[0] if names else _NO_NETDEV}"
        if self.mac and (link is None or not matches_any(self.mac, (link.mac,), ignore_case=True)):
            yield f"mac {_or(self.mac)} is not {link.mac if link else _NO_NETDEV}"
        if self.link_type and (link is None or not matches_any(self.link_type, (link.kind,))):
            yield f"linkType {_or(self.link_type)} is not {link.kind if link else _NO_NETDEV}"
        if self.speed and not any(pf.speed is not None and pf.speed in speed for speed in self.speed):
            yield f"speed {_or(self.speed)} is not {pf.speed or 'known: no carrier, or the driver does not say'}"
        package = pf.firmware_package
        if self.firmware_package and (package is None or not matches_any(self.firmware_package, (package,))):
            yield (f"firmwarePackage {_or(self.firmware_package)} is not "
                   f"{package or 'known: the driver does not say'}")
        yield from self._against(pf)
        excluding = next((each for each in self.exclude if next(each.unlike(pf), None) is None), None)
        if excluding is not None:
            yield f"exclude takes it out{f', at {excluding.place}' if excluding.place else ''}"

    def matches(self, pf: PhysicalFunction) -> bool:
        return next(self.mismatches(pf), None) is None


ANY_PF = PfMatch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector(FunctionKeys):
    """Which VFs a pool is about. `reserved`: why nobody gets them yet, while no other pool does either.

    `pf`: the PF's netdev name, an altname or PCI address; `on`: whatever else is asked of the PF. Nothing here
    looks at the VF's own netdev: it may be in a pod.
    """

    pf: tuple[str, ...] = ()
    on: PfMatch = ANY_PF
    vfs: VfIndices | None = None
    reserved: str = ""
    place: str = field(default="", compare=False)    # "pools.yaml:11:9"

    def mismatches(self, pf: PhysicalFunction, vf: VirtualFunction) -> Iterator[str]:
        """A phrase for each key that does not match."""
        if self.node:
            yield f"node {_or(self.node)} is not known to be this one"
        yield from self.unlike(pf, vf)

    def unlike(self, pf: PhysicalFunction, vf: VirtualFunction) -> Iterator[str]:
        """As `mismatches`, whatever the node."""
        if self.pf and not any(_is_pf(pattern, pf) for pattern in self.pf):
            yield f"pf {_or(self.pf)} is not {_name(pf)}"
        if self.on is not ANY_PF:
            yield from (f"pf's {phrase}" for phrase in self.on.unlike(pf))
        if self.vfs is not None and vf.index not in self.vfs:
            if not pf.vfs or any(each.index in self.vfs for each in pf.vfs):
                yield f"vfs {self.vfs} has no {vf.index}"
            else:
                has = name_indices([each.index for each in pf.vfs])
                yield f"vfs {self.vfs} are not there: {_name(pf)} has {has}"
        yield from self._against(vf)

    def selects(self, pf: PhysicalFunction, vf: VirtualFunction) -> bool:
        return next(self.mismatches(pf, vf), None) is None


def _name(pf: PhysicalFunction) -> str:
    return pf.known_link.name if pf.known_link else pf.address


def _is_pf(pattern: str, pf: PhysicalFunction) -> bool:
    link = pf.known_link
    if link is not None and (matches(pattern, link.name) or any(matches(pattern, name) for name in link.altnames)):
        return True
    return matches(pattern, pf.address, ignore_case=True)


def _rdma_names(function: PciFunction) -> str:
    return ", ".join(device.name for device in function.rdma) or "no RDMA device"


def _or(values: Sequence[object]) -> str:
    return " or ".join(readable(value) if isinstance(value, str) else str(value) for value in values)


def _say_class(base_class: int) -> str:
    return str(FunctionClass(base_class)) if base_class in list(FunctionClass) else f"0x{base_class:02x}"
