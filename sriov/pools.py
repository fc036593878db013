"""Pools: which VFs are handed out under which resource name, and why each other VF is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sriov.errors import InputError
from sriov.model import Host, PciFunction, PhysicalFunction, VirtualFunction
from sriov.pci import MacAddress, PciAddress

MAX_VFS = 65535                       # TotalVFs is a 16-bit register (PCIe specification, SR-IOV capability)

_NO_NETDEV = "known: the PF has no netdev here"
_SPAN = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class VfIndices:
    """VF numbers as inclusive spans, sorted, apart from each other: `0-3,6` is ((0, 3), (6, 6))."""

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> VfIndices:
        """Take `6`, `0-3` or `0-3,6`; raise InputError for anything else."""
        spans = []
        for part in text.split(","):
            match = _SPAN.fullmatch(part.strip())
            if match is None:
                raise InputError(f"expected an index range like 0-3, got {text!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise InputError(f"expected an index range like 0-3, got {text!r}: it counts down")
            if last > MAX_VFS:
                raise InputError(f"expected VF indices up to {MAX_VFS}, got {text!r}")
            spans.append((first, last))
        return cls.merge(spans)

    @classmethod
    def merge(cls, spans: Sequence[tuple[int, int]]) -> VfIndices:
        merged: list[tuple[int, int]] = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    def __contains__(self, index: int) -> bool:
        return any(first <= index <= last for first, last in self.spans)

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in self.spans)


class Driver(str):
    """The driver that a pool wants on its VFs: `kernel` for any that makes a netdev, or one driver's name."""

    __slots__ = ()

    KERNEL: Driver

    def find_fault(self, vf: VirtualFunction) -> str | None:
        """Why the bound driver is not this one; None if it is."""
        if vf.driver is None:
            return "no driver is bound"
        if vf.userspace if self == Driver.KERNEL else vf.driver != self:
            wanted = "a kernel network driver" if self == Driver.KERNEL else self
            return f"bound to {vf.driver}, the pool wants {wanted}"
        return None


Driver.KERNEL = Driver("kernel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """All keys that are given must match, any value of a key is enough; an empty tuple does not constrain.

    `pf` holds globs for the PF's netdev name, altnames or PCI address; `numa_node` has -1 where the platform
    does not say. Nothing here looks at the VF's own netdev: it may be in a pod.
    """

    pf: tuple[str, ...] = ()
    vfs: VfIndices | None = None
    address: tuple[PciAddress, ...] = ()
    vendor: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()
    numa_node: tuple[int, ...] = ()
    place: str = field(default="", compare=False)    # "pools.yaml:11:9"

    def mismatches(self, pf: PhysicalFunction, vf: VirtualFunction) -> Iterator[str]:
        """A phrase for each key that does not match."""
        names = _names(pf)
        if self.pf and not any(fnmatchcase(name, glob) for glob in self.pf for name in names):
            yield f"pf {_or(self.pf)} is not {names[0]}"
        if self.vfs is not None and vf.index not in self.vfs:
            yield f"vfs {self.vfs} has no {vf.index}"
        if self.address and vf.address not in self.address:
            yield f"address {_or(self.address)} is not {vf.address}"
        yield from _mismatches_of_function(self, vf)


@dataclass(frozen=True, slots=True, kw_only=True)
class PfMatch:
    """Which PFs an entry is about; keys and values combine as in `Selector`.

    `name` holds globs for the netdev's name or altnames.
    """

    name: tuple[str, ...] = ()
    address: tuple[PciAddress, ...] = ()
    vendor: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    driver: tuple[str, ...] = ()
    mac: tuple[MacAddress, ...] = ()
    numa_node: tuple[int, ...] = ()

    def mismatches(self, pf: PhysicalFunction) -> Iterator[str]:
        """A phrase for each key that does not match."""
        names = (pf.link.name, *pf.link.altnames) if pf.link else ()
        if self.name and not any(fnmatchcase(name, glob) for glob in self.name for name in names):
            yield f"name {_or(self.name)} is not {names[0] if names else _NO_NETDEV}"
        if self.address and pf.address not in self.address:
            yield f"address {_or(self.address)} is not {pf.address}"
        if self.mac and (pf.link is None or pf.link.mac not in self.mac):
            yield f"mac {_or(self.mac)} is not {pf.link.mac if pf.link else _NO_NETDEV}"
        yield from _mismatches_of_function(self, pf)

    def matches(self, pf: PhysicalFunction) -> bool:
        return next(self.mismatches(pf), None) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PfEntry:
    """What to make of the PFs that `match` names. `mtu` None: left as it is."""

    match: PfMatch
    num_vfs: int
    mtu: int | None = None
    place: str = field(default="", compare=False)    # "pools.yaml:5:5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    resource: str                     # full name: "intel.com/sriov"
    selectors: tuple[Selector, ...]   # any one of them is enough
    driver: Driver | None = None      # None: whatever is bound
    exclude_topology: bool = False    # True: the kubelet is not told the NUMA node
    place: str = field(default="", compare=False)    # "pools.yaml:9:5"

    def selects(self, pf: PhysicalFunction, vf: VirtualFunction) -> bool:
        return any(next(selector.mismatches(pf, vf), None) is None for selector in self.selectors)

    def find_fault(self, vf: VirtualFunction) -> str | None:
        """Why this VF cannot be handed out now; None if it can. A VF in a pod has no fault."""
        if self.driver is not None and (fault := self.driver.find_fault(vf)) is not None:
            return fault
        if vf.driver is None:
            return "no driver is bound"
        if vf.userspace and vf.iommu_group is None:
            return f"bound to {vf.driver} without an IOMMU group: a pod could not open it"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A VF of a pool."""

    vf: VirtualFunction
    fault: str | None                 # None: healthy, else why it cannot be handed out now


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which pool has which VFs; each VF of the host is either a member of one pool or left out."""

    members: Mapping[str, tuple[Member, ...]]     # by full resource name, every pool present even with ()
    left_out: Mapping[PciAddress, str]            # a reason for every VF that no pool has


def assign(host: Host, pools: Sequence[Pool]) -> Assignment:
    """Give every VF to the first pool that selects it. Order within a pool: PF address, VF index."""
    members: dict[str, list[Member]] = {pool.resource: [] for pool in pools}
    left_out: dict[PciAddress, str] = {}
    for pf in host.pfs:
        for vf in pf.vfs:
            pool = find_pool(pf, vf, pools)
            if pool is None:
                left_out[vf.address] = _explain(pf, vf, pools)
            else:
                members[pool.resource].append(Member(vf=vf, fault=pool.find_fault(vf)))
    return Assignment(members={name: tuple(found) for name, found in members.items()}, left_out=left_out)


def find_pool(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> Pool | None:
    """The pool that a VF belongs to: the first that selects it."""
    return next((pool for pool in pools if pool.selects(pf, vf)), None)


def _explain(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> str:
    """The selector with the fewest failing keys is the one that was probably meant."""
    tried = [(list(selector.mismatches(pf, vf)), pool, selector)
             for pool in pools for selector in pool.selectors]
    if not tried:
        return "no pool selects it: there are no pools"
    failed, pool, selector = min(tried, key=lambda attempt: len(attempt[0]))
    where = f"{pool.resource} at {selector.place}" if selector.place else pool.resource
    return f"no pool selects it; nearest is {where}: {', '.join(failed)}"


def _mismatches_of_function(wanted: Selector | PfMatch, function: PciFunction) -> Iterator[str]:
    if wanted.vendor and function.vendor not in wanted.vendor:
        yield f"vendor {_or(wanted.vendor)} is not {function.vendor}"
    if wanted.device and function.device not in wanted.device:
        yield f"device {_or(wanted.device)} is not {function.device}"
    if wanted.driver and function.driver not in wanted.driver:
        yield f"driver {_or(wanted.driver)} is not {function.driver or 'bound: there is none'}"
    node = -1 if function.numa_node is None else function.numa_node
    if wanted.numa_node and node not in wanted.numa_node:
        yield f"numaNode {_or(wanted.numa_node)} is not {node}"


def _names(pf: PhysicalFunction) -> tuple[str, ...]:
    return (pf.link.name, *pf.link.altnames, pf.address) if pf.link else (pf.address,)


def _or(values: Sequence[object]) -> str:
    return " or ".join(str(value) for value in values)
