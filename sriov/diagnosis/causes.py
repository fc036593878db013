"""What keeps VFs from existing or working, each with the next action: rules over the host and its symptoms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sriov.diagnosis.symptoms import Capability, Symptoms
from sriov.model import Host, PciFunction, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver, PoolFile, find_pool

_NVIDIA = "15b3"
# Drivers that make VFs (sriov_configure of their pci_driver): a NIC of theirs without the capability is suspicious.
_MAKERS = frozenset({
    "be2net", "bnx2x", "bnxt_en", "cxgb4", "enic", "fm10k", "hinic", "hns3", "i40e", "ice", "ionic", "ixgbe",
    "liquidio", "mlx4_core", "mlx5_core", "nfp", "qede", "qlcnic", "sfc",
})
# Device ids of VFs of mlx5_core, which has them as well (drivers/net/ethernet/mellanox/mlx5/core/main.c).
_MLX5_VFS = frozenset({"1012", "1014", "1016", "1018", "101a", "101c", "101e", "a2d3"})
_MORE_MODULES = "install the kernel's further modules (linux-modules-extra, kernel-modules-extra) or the vendor's"
_PROBE = "write its address to /sys/bus/pci/drivers_probe; where that binds none, see what dmesg says of it"
_NO_IOMMU = frozenset({"intel_iommu=off", "amd_iommu=off", "iommu=off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that stands in the way of `device`, and what to do about it; `reboot`: which takes one."""

    device: PciAddress
    problem: str
    action: str
    reboot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a pool file wants of this host: how many VFs on a PF, which driver on a VF that is there."""

    num_vfs: Mapping[PciAddress, int] = field(default_factory=dict)
    drivers: Mapping[PciAddress, Driver | None] = field(default_factory=dict)    # None: as it is

    @classmethod
    def of(cls, file: PoolFile, host: Host) -> Wishes:
        """First match wins, of entries and of pools."""
        num_vfs = {pf.address: entry.num_vfs for pf in host.pfs for entry in reversed(file.physical_functions)
                   if entry.match.matches(pf)}
        drivers = {vf.address: pool.driver for pf in host.pfs for vf in pf.vfs
                   if (pool := find_pool(pf, vf, file.pools)) is not None}
        return cls(num_vfs=num_vfs, drivers=drivers)


def diagnose(host: Host, symptoms: Symptoms, wishes: Wishes) -> tuple[Finding, ...]:
    """All findings: of each PF and then its VFs, then of other NICs."""
    sharers = _sharers(host)
    findings: list[Finding] = []
    for pf in host.pfs:
        findings += _of_pf(pf, symptoms, wishes.num_vfs.get(pf.address, pf.num_vfs))
        for vf in pf.vfs:
            findings += _of_vf(vf, symptoms, wishes.drivers.get(vf.address), sharers)
    for other in host.others:
        findings += [finding] if (finding := find_missing_capability(other)) is not None else []
    return tuple(findings)


# ---- PFs, and NICs that are none --------------------------------------------------------------------------


def _of_pf(pf: PhysicalFunction, symptoms: Symptoms, wanted: int) -> Iterator[Finding]:
    def found(problem: str, action: str) -> Finding:
        return Finding(device=pf.address, problem=problem, action=action)

    if (limit := find_limit(pf, wanted)) is not None:
        yield limit
    if pf.driver is None:
        yield from _without_driver(pf, symptoms)
    elif pf.userspace:
        yield found(f"it is bound to {pf.driver}: its VFs have no kernel driver of the PF to serve them",
                    "bind it to its kernel driver")
    elif pf.link is None:
        yield found("it has no netdev here: it is in another network namespace, or its driver failed",
                    "see what the kernel says of it in dmesg")
    elif not pf.link.up:
        yield found(f"{pf.link.name} is set down: drivers of VFs may refuse them, and no packet passes",
                    f"ip link set {pf.link.name} up")
    elif not pf.link.carrier:
        yield found(f"{pf.link.name} has no carrier: its VFs have no way out",
                    "check cable, transceiver and switch port")
    if wanted > pf.num_vfs:
        yield from find_obstacles(pf, symptoms, wanted)
    for tie in pf.ties:
        yield found(f"the node itself needs it: it {tie}", "give the node another NIC for that, or use another PF")


def find_limit(pf: PhysicalFunction, wanted: int) -> Finding | None:
    """Why the PF cannot have `wanted` VFs, or any at all, whatever there is room for."""
    if pf.total_vfs == 0:
        return Finding(device=pf.address, problem="it can have no VFs (sriov_totalvfs is 0)", reboot=True,
                       action=_enable_in_firmware(pf))
    if wanted <= pf.total_vfs:
        return None
    # Of other vendors' cards the limit is the hardware's, or a setup's of which nothing is known here.
    settable = pf.vendor == _NVIDIA
    more = f", or set NUM_OF_VFS={wanted} with mlxconfig -d {pf.address} and reboot" if settable else ""
    return Finding(device=pf.address, action=f"ask for {pf.total_vfs} or fewer{more}", reboot=settable,
                   problem=f"{wanted} VFs are wanted, it can have {pf.total_vfs} at most (sriov_totalvfs)")


def find_missing_capability(other: PciFunction) -> Finding | None:
    """Why a NIC whose driver makes VFs is no PF; None where there is nothing to be said of it."""
    if other.driver not in _MAKERS or (other.driver == "mlx5_core" and other.device in _MLX5_VFS):
        return None
    return Finding(device=other.address, action=_enable_in_firmware(other), reboot=True,
                   problem=f"its driver {other.driver} makes VFs, but it shows no SR-IOV capability (no "
                           "sriov_totalvfs in sysfs): SR-IOV is off in its firmware, or the card has none")


def find_obstacles(pf: PhysicalFunction, symptoms: Symptoms, wanted: int) -> Iterator[Finding]:
    """What would keep `wanted` new VFs from being made, or from getting a driver."""
    capability = symptoms.capabilities.get(pf.address, Capability())
    for problem, action in _room(pf, capability, wanted):
        yield Finding(device=pf.address, problem=problem, action=action)
    for name in symptoms.modules.for_ids(pf.vendor, capability.vf_device or ""):
        for problem, action in _missing(name, symptoms, by_name=False):
            yield Finding(device=pf.address, problem=f"of its VFs: {problem}", action=action)


def _room(pf: PhysicalFunction, capability: Capability, wanted: int) -> Iterator[tuple[str, str]]:
    """Where VFs have no place the kernel answers ENOMEM (sriov_enable, drivers/pci/iov.c), some drivers ENOSPC."""
    last, end = capability.bus_of(pf.address, wanted - 1), capability.last_bus
    if last is not None and end is not None and last > end:
        fitting = sum((capability.bus_of(pf.address, index) or 0) <= end for index in range(wanted))
        fewer = f"ask for {fitting} VFs, or " if fitting else ""
        problem = (f"VF {wanted - 1} would be on PCI bus {last:02x}, the bridge above it has none after {end:02x}: "
                   f"the kernel would refuse {wanted} VFs with ENOMEM")
        yield problem, f"{fewer}turn on ARI and SR-IOV in the firmware setup, or boot with pci=assign-busses"
    if capability.has_memory is False:
        yield ("the firmware left no memory addresses (MMIO) for its VFs: the kernel would refuse with ENOMEM",
               "turn on 'Above 4G decoding' and SR-IOV in the machine's firmware setup, or boot with pci=realloc")


def _enable_in_firmware(function: PciFunction) -> str:
    if function.vendor == _NVIDIA:
        return f"mlxconfig -d {function.address} set SRIOV_EN=1 NUM_OF_VFS=8, then reboot"
    return "turn on SR-IOV for the card, and for the machine, in the firmware setup (BIOS, UEFI), then reboot"


# ---- VFs --------------------------------------------------------------------------------------------------


def _of_vf(vf: VirtualFunction, symptoms: Symptoms, wanted: Driver | None, sharers: Mapping[int, list[PciAddress]],
           ) -> Iterator[Finding]:
    def found(problem: str, action: str) -> Finding:
        return Finding(device=vf.address, problem=problem, action=action)

    named = wanted is not None and wanted != Driver.KERNEL
    if named and wanted != vf.driver:
        for problem, action in _missing(str(wanted), symptoms, by_name=True):
            yield found(problem, action)
    elif vf.driver is None:
        yield from _without_driver(vf, symptoms)
    userspace = "vfio" in str(wanted if named else vf.driver)      # uio needs no IOMMU
    if userspace and vf.noiommu:
        yield found("vfio runs it without an IOMMU (noiommu mode): its user can read and write all memory",
                    "use it in tests only; else " + _turn_on_iommu(symptoms))
    elif userspace and vf.iommu_group is None:
        yield found("it has no IOMMU group" + (": the node has no IOMMU" if symptoms.has_iommu is False else ""),
                    _turn_on_iommu(symptoms))
    elif userspace and vf.iommu_group is not None and len(sharers[vf.iommu_group]) > 1:
        others = [address for address in sharers[vf.iommu_group] if address != vf.address]
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        yield found(f"it shares IOMMU group {vf.iommu_group} with {', '.join(others[:2])}{more}: only one process "
                    "can have all of them", "put the card in a slot, or a machine, whose bridges have ACS")
    for tie in vf.ties:
        yield found(f"the node itself needs it: it {tie}", "give the node another NIC, or leave it out of pools")


def _without_driver(function: PciFunction, symptoms: Symptoms) -> Iterator[Finding]:
    """No driver is bound: none that could be, or one that did not take it."""
    ids, modules = f"{function.vendor}:{function.device}", symptoms.modules
    candidates = modules.for_ids(function.vendor, function.device)
    if not candidates and modules.names is not None:
        found = [(f"no driver is bound, and no module of this kernel is for {ids}",
                  _MORE_MODULES)]
    else:
        found = [each for name in candidates for each in _missing(name, symptoms, by_name=False)]
        load = "modprobe {}, and list it in /etc/modules-load.d"
        found = found or [(f"its driver {name} is not loaded", load.format(name))
                          for name in candidates if not _is_loaded(name, symptoms)]
    if not found:
        could = f", though {candidates[0]} could take it" if candidates else ""
        found = [(f"no driver is bound{could}", _PROBE)]
    for problem, action in found:
        yield Finding(device=function.address, problem=problem, action=action)


def _missing(driver: str, symptoms: Symptoms, *, by_name: bool) -> Iterator[tuple[str, str]]:
    """Why a driver is not there and cannot be loaded, by its name or because the kernel found a device for it."""
    if _is_loaded(driver, symptoms):
        return
    block = symptoms.modules.find_block(driver, by_name=by_name)
    if symptoms.modules.has(driver) is False:
        yield (f"driver {driver} is missing: this kernel has no such module",
               _MORE_MODULES)
    elif block is not None:
        yield (f"driver {driver} is kept from loading: {block.place}", f"take that away, then modprobe {driver}")


def _is_loaded(driver: str, symptoms: Symptoms) -> bool:
    return driver in symptoms.drivers or driver.replace("_", "-") in symptoms.drivers


def _turn_on_iommu(symptoms: Symptoms) -> str:
    off = [option for option in symptoms.boot_options if option in _NO_IOMMU]
    boot = f"boot without {' '.join(off)}" if off else "on Intel machines boot with intel_iommu=on"
    return f"turn on the IOMMU (VT-d, AMD-Vi) in the machine's firmware setup; {boot}"


def _sharers(host: Host) -> dict[int, list[PciAddress]]:
    """The functions of each IOMMU group; others than network functions are not known."""
    found: dict[int, list[PciAddress]] = {}
    functions: Iterable[PciFunction] = (*host.pfs, *host.vfs, *host.others)
    for function in functions:
        if function.iommu_group is not None:
            found.setdefault(function.iommu_group, []).append(function.address)
    return found
