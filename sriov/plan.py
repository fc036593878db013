"""What to do to the host so that it fits the pool file, and what must not be done, as values."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from sriov.model import Host, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools import Driver, PfEntry, Pool, find_pool

InUse = Callable[[VirtualFunction], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVfs:
    """Make `count` VFs on a PF that has none. The PF goes up first, with `mtu` where one is given."""

    pf: PhysicalFunction
    count: int
    mtu: int | None

    def describe(self) -> str:
        return f"make {self.count} VFs on {pf_name(self.pf)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDriver:
    vf: VirtualFunction
    driver: Driver

    def describe(self) -> str:
        return f"bind VF {self.vf.address} to {self.driver} (now {self.vf.driver or 'none'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`refused` holds a sentence for each wish that would take something away, with place and hint."""

    creations: tuple[CreateVfs, ...] = ()
    bindings: tuple[BindDriver, ...] = ()
    refused: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        steps: tuple[CreateVfs | BindDriver, ...] = (*self.creations, *self.bindings)
        return (*(step.describe() for step in steps), *self.refused)


def plan_host(host: Host, entries: Sequence[PfEntry], pools: Sequence[Pool], in_use: InUse,
              tended: Container[PciAddress] = ()) -> Plan:
    """Steps for the PFs that an entry matches, first match wins; no other PF is ever written to.

    `tended` are VFs that had their driver chosen before: who changed it since had a reason.
    Bindings are planned for the VFs that exist: after creations, scan and plan again.
    """
    creations: list[CreateVfs] = []
    bindings: list[BindDriver] = []
    refused: list[str] = []
    for pf in host.pfs:
        entry = next((entry for entry in entries if entry.match.matches(pf)), None)
        if entry is None:
            continue
        if (refusal := _check_count(pf, entry, in_use)) is not None:
            refused.append(refusal)
        elif pf.num_vfs != entry.num_vfs:
            creations.append(CreateVfs(pf=pf, count=entry.num_vfs, mtu=entry.mtu))
        for vf in pf.vfs:
            driver = wanted_driver(pf, vf, pools)
            if driver is None or vf.address in tended:
                continue
            if in_use(vf):
                refused.append(f"VF {vf.address} is bound to {vf.driver}, its pool wants {driver}: it is in use "
                               "(hint: it is bound again once its pod is gone)")
            else:
                bindings.append(BindDriver(vf=vf, driver=driver))
    return Plan(creations=tuple(creations), bindings=tuple(bindings), refused=tuple(refused))


def pf_name(pf: PhysicalFunction) -> str:
    return f"PF {pf.link.name} ({pf.address})" if pf.link else f"PF {pf.address}"


def _check_count(pf: PhysicalFunction, entry: PfEntry, in_use: InUse) -> str | None:
    wish = f"{entry.place}: numVfs {entry.num_vfs} on {pf_name(pf)}"
    if entry.num_vfs > pf.total_vfs:
        return f"{wish}: it can have at most {pf.total_vfs} (sriov_totalvfs)"
    if pf.num_vfs not in (0, entry.num_vfs):
        used = [vf.address for vf in pf.vfs if in_use(vf)]
        state = f"it has {pf.num_vfs}, in use are {_listed(used)}" if used else f"it has {pf.num_vfs}, none in use"
        hint = ("end the pods that use them first" if used
                else f"write 0 to /sys/bus/pci/devices/{pf.address}/sriov_numvfs first")
        return f"{wish}: {state}, and the kernel changes the number only by removing all of them (hint: {hint})"
    if pf.num_vfs and entry.mtu is not None and pf.link is not None and pf.link.mtu != entry.mtu:
        return (f"{entry.place}: mtu {entry.mtu} on {pf_name(pf)}: it has {pf.link.mtu}, and VFs that would "
                "lose their link")
    return None


def wanted_driver(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> Driver | None:
    """The driver that the VF should have and has not; None where it may stay as it is."""
    pool = find_pool(pf, vf, pools)
    if pool is not None and pool.driver is not None:
        return pool.driver if pool.driver.find_fault(vf) else None
    # VFs are made with autoprobe off; those that no pool has an opinion on get the kernel's choice.
    return Driver.KERNEL if vf.driver is None else None


def _listed(addresses: Sequence[PciAddress]) -> str:
    return ", ".join(addresses)
