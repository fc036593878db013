"""The lab machine's shape: PFs, NUMA nodes, IOMMU, as values and as QEMU arguments (docs: igb.rst, pxb-pcie)."""

from __future__ import annotations

from dataclasses import dataclass

from sriov.errors import InputError

VFS_PER_PF = 7    # Intel 82576, as QEMU's igb has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pf:
    """One emulated 82576; without a NUMA node it sits on the first bus and sysfs shows -1."""

    numa_node: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A machine; memory in MiB. All PFs are on one wire.

    One CPU: with more, each emulated by a thread of its own, QEMU now and then loses an interrupt for good, or
    aborts in iotlb_to_section, while VFs come and go.
    """

    pfs: tuple[Pf, ...] = (Pf(numa_node=0), Pf(numa_node=1), Pf())
    iommu: bool = True
    cpus: int = 1
    memory: int = 2048

    def __post_init__(self) -> None:
        if len(self.pfs) > 8:
            raise InputError(f"a lab machine has at most 8 PFs, got {len(self.pfs)}")
        nodes = [pf.numa_node for pf in self.pfs if pf.numa_node is not None]
        if nodes and not 0 <= min(nodes) <= max(nodes) < 4:
            raise InputError(f"a lab machine has NUMA nodes 0 to 3, got {sorted(nodes)}")
        if self.cpus < 1 or self.memory < 512:
            raise InputError(
                f"a lab machine has at least 1 CPU and 512 MiB, got {self.cpus} and {self.memory} MiB"
            )

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes, gapless from 0: QEMU wants no holes."""
        named = [pf.numa_node for pf in self.pfs if pf.numa_node is not None]
        return tuple(range(max(named) + 1)) if named else ()

    def qemu_arguments(self) -> list[str]:
        """Machine, memory, NUMA, IOMMU and NICs. With pxb-pcie present any other device needs bus=pcie.0."""
        arguments = [
            # irqchip split: interrupt remapping needs it under KVM. No AHCI: probing empty ports takes a second.
            "-machine", "q35,kernel-irqchip=split,sata=off",
            # A socket per CPU: the kernel warns of siblings on different NUMA nodes.
            "-smp", f"cpus={self.cpus},sockets={self.cpus},cores=1,threads=1",
            "-m", f"{self.memory}M",
        ]
        if self.iommu:
            arguments += ["-device", "intel-iommu,intremap=on,device-iotlb=on"]
        return arguments + self._numa() + self._nics()

    def kernel_arguments(self) -> list[str]:
        return ["intel_iommu=on", "iommu=pt"] if self.iommu else []

    def _numa(self) -> list[str]:
        arguments = []
        for node in self.nodes:
            share = self.memory // len(self.nodes)    # the nodes' sizes must add up to -m exactly
            size = self.memory - share * (len(self.nodes) - 1) if node == 0 else share
            cpus = [f",cpus={cpu}" for cpu in range(self.cpus) if cpu % len(self.nodes) == node]
            arguments += [
                "-object", f"memory-backend-ram,id=mem{node},size={size}M",
                "-numa", f"node,nodeid={node},memdev=mem{node}{''.join(cpus)}",
            ]
        for node in sorted({pf.numa_node for pf in self.pfs if pf.numa_node is not None}):
            bus = 0x20 * (node + 1)
            arguments += ["-device", f"pxb-pcie,id=node{node},bus=pcie.0,bus_nr={bus:#x},numa_node={node}"]
        return arguments

    def _nics(self) -> list[str]:
        arguments = []
        for number, pf in enumerate(self.pfs):
            parent = "pcie.0" if pf.numa_node is None else f"node{pf.numa_node}"
            arguments += [
                "-netdev", f"hubport,id=wire{number},hubid=0",
                "-device", f"pcie-root-port,id=port{number},bus={parent},chassis={number + 1}",
                "-device", f"igb,bus=port{number},netdev=wire{number},mac=52:54:00:19:00:{number:02x}",
            ]
        return arguments


# As many PFs as a machine can have, on two NUMA nodes and on none.
FULL = Topology(pfs=(*[Pf(numa_node=0)] * 3, *[Pf(numa_node=1)] * 3, *[Pf()] * 2))
