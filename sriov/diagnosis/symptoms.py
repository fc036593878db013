"""What diagnosis goes by beside the devices themselves: IOMMU, modules, boot options, room of SR-IOV capabilities.

Values only; `sriov.diagnosis.examination` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sriov.diagnosis.modprobe import Modules
from sriov.pci import PciAddress

_VF_RESOURCES = slice(7, 13)          # PCI_IOV_RESOURCES of the kernel: six BARs after those of the PF and its ROM
_NOT_PLACED = 0x30000000              # IORESOURCE_UNSET, IORESOURCE_DISABLED of linux/ioport.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """A PF's SR-IOV capability and the room around it; None where the kernel does not tell.

    `offset` and `stride` are in PCI routing ids. `last_bus` is the highest bus number below the bridge above the
    PF. `has_memory`: whether its VFs' BARs have addresses.
    """

    offset: int | None = None
    stride: int | None = None
    vf_device: str | None = None      # the VFs' device id, four hex digits
    last_bus: int | None = None
    has_memory: bool | None = None

    def bus_of(self, pf: PciAddress, index: int) -> int | None:
        """The bus number on which VF `index` would be."""
        rid = self._rid_of(pf, index)
        return None if rid is None else rid >> 8

    def index_at(self, pf: PciAddress, address: PciAddress) -> int | None:
        """The index of the VF that would be at `address`; None where there can be none."""
        domain, _, _ = pf.partition(":")
        if not self.offset or not self.stride or address.partition(":")[0] != domain:
            return None
        index, rest = divmod(routing_id(address) - routing_id(pf) - self.offset, self.stride)
        return index if index >= 0 and rest == 0 else None

    def _rid_of(self, pf: PciAddress, index: int) -> int | None:
        # A PF that has no VFs may show 0 for both, until the number of VFs is set (SR-IOV specification, 3.3.9).
        if not self.offset or (index and not self.stride):
            return None
        return routing_id(pf) + self.offset + index * (self.stride or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptoms:
    """What was read. `has_iommu` None: that could not be told. `unreadable` as in `Host`."""

    has_iommu: bool | None = None
    boot_options: tuple[str, ...] = ()
    drivers: frozenset[str] = frozenset()    # PCI drivers that are loaded or built in
    modules: Modules = field(default_factory=Modules)
    capabilities: Mapping[PciAddress, Capability] = field(default_factory=dict)    # by PF
    unreadable: tuple[str, ...] = ()


def routing_id(address: PciAddress) -> int:
    """Bus, device and function as PCI routes by them, in 16 bits."""
    _, bus, slot = address.split(":")
    device, _, function = slot.partition(".")
    return int(bus, 16) << 8 | int(device, 16) << 3 | int(function)


def parse_resources(text: str) -> bool | None:
    """Whether the BARs of a PF's VFs have addresses, of sysfs's `resource`: start, end and flags in each line."""
    lines = [line.split() for line in text.splitlines()]
    if len(lines) < _VF_RESOURCES.stop or any(len(words) != 3 for words in lines):
        return None
    try:
        bars = [(int(start, 16), int(flags, 16)) for start, _, flags in lines[_VF_RESOURCES]]
    except ValueError:
        return None
    used = [(start, flags) for start, flags in bars if flags]
    # The kernel forgets a BAR that it finds no room for, flags and all (reset_resource of drivers/pci/setup-bus.c).
    return bool(used) and all(start and not flags & _NOT_PLACED for start, flags in used)
