"""Pools: which VFs are handed out under which resource name, and why each other VF is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from sriov.model import Host, PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.override import Override
from sriov.pools.ranges import MAX_VFS, VfIndices
from sriov.pools.selectors import PfMatch, Selector

__all__ = [
    "MAX_VFS", "Assignment", "Driver", "Member", "PfEntry", "PfMatch", "Pool", "PoolFile", "Selector", "VfIndices",
    "assign", "find_pool", "for_node", "variable_name",
]


_UNSET = VfSettings()
_NO_FAULTS: Mapping[PciAddress, str] = MappingProxyType({})


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
class PfEntry:
    """What to make of the PFs that `match` names. `mtu`, `eswitch` None: left as they are.

    `vf_macs`: of VF 0, 1 and so on, as far as they go; `derive_macs`: each VF's from the PF's MAC and its index.
    """

    match: PfMatch
    num_vfs: int
    mtu: int | None = None
    eswitch: str | None = None        # legacy, switchdev
    vf_macs: tuple[MacAddress, ...] = ()
    derive_macs: bool = False
    force: tuple[Override, ...] = ()
    place: str = field(default="", compare=False)    # "pools.yaml:5:5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    resource: str                     # full name: "intel.com/sriov"
    selectors: tuple[Selector, ...]   # any one of them is enough
    driver: Driver | None = None      # None: whatever is bound
    exclude_topology: bool = False    # True: the kubelet is not told the NUMA node
    exclude: tuple[Selector, ...] = ()    # what any of them is about stays out, whatever `selectors` say
    vf_settings: VfSettings = _UNSET  # what its VFs have where no network says otherwise; no MAC
    vf_mtu: int | None = None         # of its VFs' netdevs; None: as it is
    place: str = field(default="", compare=False)    # "pools.yaml:9:5"
    driver_place: str = field(default="", compare=False)

    def selects(self, pf: PhysicalFunction, vf: VirtualFunction) -> bool:
        return self.find_selector(pf, vf) is not None

    def find_selector(self, pf: PhysicalFunction, vf: VirtualFunction) -> Selector | None:
        """The first selector that makes the VF this pool's; None where there is none, or it is excluded."""
        found = next((selector for selector in self.selectors if selector.selects(pf, vf)), None)
        return None if found is None or self.find_exclusion(pf, vf) else found

    def find_exclusion(self, pf: PhysicalFunction, vf: VirtualFunction) -> Selector | None:
        """The first of `exclude` that keeps the VF out; one for other nodes does until `for_node` takes it away."""
        return next((each for each in self.exclude if next(each.unlike(pf, vf), None) is None), None)

    def find_fault(self, vf: VirtualFunction, selector: Selector | None = None) -> str | None:
        """Why this VF cannot be handed out now; None if it can. A VF in a pod has no fault.

        `selector` is the one that makes the VF this pool's.
        """
        if selector is not None and selector.reserved:
            return selector.reserved
        if vf.ties:
            return f"the node itself needs it: {', '.join(vf.ties)}"
        if self.driver is not None and (fault := self.driver.find_fault(vf)) is not None:
            return fault
        if vf.driver is None:
            return "no driver is bound"
        if vf.userspace and "vfio" not in vf.driver:
            return f"bound to {vf.driver}: of user-space drivers only vfio's can be handed out so far"
        if vf.userspace and vf.iommu_group is None:
            return f"bound to {vf.driver} without an IOMMU group: a pod could not open it"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFile:
    """What an admin wants of nodes. `warnings` are sentences about what is allowed but hardly meant."""

    resource_prefix: str
    physical_functions: tuple[PfEntry, ...]       # first match wins
    pools: tuple[Pool, ...]                       # first match wins
    warnings: tuple[str, ...] = field(default=(), compare=False)


def for_node(pool_file: PoolFile, node: str) -> PoolFile:
    """What the file says for the node of this name: entries, selectors and pools that are for others are gone.

    Until then whatever is for some nodes matches nothing.
    """
    entries = [(entry, entry.match.for_node(node)) for entry in pool_file.physical_functions]
    pools = [replace(pool, selectors=_settle(pool.selectors, node), exclude=_settle(pool.exclude, node))
             for pool in pool_file.pools]
    return replace(
        pool_file,
        physical_functions=tuple(replace(entry, match=match) for entry, match in entries if match is not None),
        pools=tuple(pool for pool in pools if pool.selectors),
    )


def _settle(selectors: Sequence[Selector], node: str) -> tuple[Selector, ...]:
    settled = (selector.for_node(node) for selector in selectors)
    return tuple(selector for selector in settled if selector is not None)


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


def assign(host: Host, pools: Sequence[Pool], faults: Mapping[PciAddress, str] = _NO_FAULTS) -> Assignment:
    """Give every VF to the first pool that selects it. Order within a pool: PF address, VF index.

    `faults`: why VFs cannot be handed out that have no fault by the host and their pools.
    """
    members: dict[str, list[Member]] = {pool.resource: [] for pool in pools}
    left_out: dict[PciAddress, str] = {}
    for pf in host.pfs:
        for vf in pf.vfs:
            found = next(((pool, selector) for pool in pools
                          if (selector := pool.find_selector(pf, vf)) is not None), None)
            if found is None:
                left_out[vf.address] = _explain(pf, vf, pools)
            else:
                pool, selector = found
                fault = pool.find_fault(vf, selector) or faults.get(vf.address)
                members[pool.resource].append(Member(vf=vf, fault=fault))
    return Assignment(members={name: tuple(found) for name, found in members.items()}, left_out=left_out)


def find_pool(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> Pool | None:
    """The pool that a VF belongs to: the first that selects it."""
    return next((pool for pool in pools if pool.selects(pf, vf)), None)


def _explain(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> str:
    """An exclusion, or else the selector with the fewest failing keys: that one was probably meant."""
    tried = [(list(selector.mismatches(pf, vf)), pool, selector)
             for pool in pools for selector in pool.selectors]
    if not tried:
        return "no pool selects it: there are no pools"
    failed, pool, selector = min(tried, key=lambda attempt: len(attempt[0]))
    if not failed and (exclusion := pool.find_exclusion(pf, vf)) is not None:
        return f"no pool selects it; {_at(pool.resource, selector)} would, but for {_at('its exclude', exclusion)}"
    return f"no pool selects it; nearest is {_at(pool.resource, selector)}: {', '.join(failed)}"


def variable_name(resource: str) -> str:
    """`PCIDEVICE_INTEL_COM_SRIOV` of `intel.com/sriov`: what a pod finds its VFs by. Hyphens stay: workloads look
    for this name."""
    prefix, _, name = resource.partition("/")
    return f"PCIDEVICE_{prefix}_{name}".replace(".", "_").upper()


def _at(what: str, selector: Selector) -> str:
    return f"{what} at {selector.place}" if selector.place else what
