"""A synthetic sysfs in a folder, laid out as the kernel does, and the links that netlink would show with it.

    tree = Tree(tmp_path).add(Pf("0000:3b:00.0", "ens1f0", num_vfs=4, vf_drivers={3: "vfio-pci"}, away={1}))
    host = Sysfs(tree.root).scan(tree.links)
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sriov.model import Link
from sriov.pci import MacAddress, PciAddress


@dataclass(frozen=True, slots=True)
class Pf:
    """A PF and the VFs it has now. VF n is at PF + `offset` + n * `stride` in PCI routing ids."""

    address: str
    name: str | None                  # None: no netdev
    num_vfs: int = 0
    total_vfs: int = 7
    vendor: str = "8086"
    device: str = "10c9"
    driver: str | None = "igb"
    numa_node: int = -1
    pci_class: str = "020000"
    behind: tuple[str, ...] = ()                             # the bridges above it, from the root port down
    altnames: tuple[str, ...] = ()
    port: str | None = None                                  # phys_port_name of its netdev
    speed: int = -1                                          # Mbit/s, -1: unknown
    acpi_index: str | None = None
    representors: tuple[str, ...] = ()                       # more netdevs: phys_port_name is pf0vf<n>
    vf_device: str = "10ca"
    vf_driver: str | None = "igbvf"
    vf_drivers: Mapping[int, str | None] = field(default_factory=dict)    # where it differs from vf_driver
    away: AbstractSet[int] = frozenset()                     # VFs whose netdev is in a pod
    gaps: AbstractSet[int] = frozenset()                     # virtfn numbers that do not exist
    iommu: bool = False
    noiommu: bool = False                                    # vfio's own groups, for what a vfio driver has
    iommufd: bool = False                                    # vfio devices have a character device each
    rdma: bool = False                                       # it and its VFs at home have an RDMA device each
    offset: int = 16
    stride: int = 1

    def vf_address(self, index: int) -> PciAddress:
        domain, bus, slot = self.address.split(":")
        device, function = slot.split(".")
        start = int(bus, 16) << 8 | int(device, 16) << 3 | int(function)
        rid = start + self.offset + index * self.stride
        return PciAddress(f"{domain}:{rid >> 8:02x}:{rid >> 3 & 31:02x}.{rid & 7}")


class Tree:
    """The folder. `links` holds what a netlink dump in the host's namespace returns, `lo` included."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.links: tuple[Link, ...] = (
            Link(index=1, name="lo", mac=MacAddress.ZERO, mtu=65536, up=True, carrier=True),
        )
        for folder in ("bus/pci/devices", "bus/pci/drivers", "class/net", "kernel/iommu_groups", "devices"):
            (root / folder).mkdir(parents=True)
        (root / "bus/pci/drivers_probe").write_text("")
        self._counts: Counter[str] = Counter()

    def add(self, pf: Pf) -> Tree:
        device = self._add_device(pf.address, pf, pf.device, pf.driver)
        self._write(device, {
            "sriov_totalvfs": pf.total_vfs, "sriov_numvfs": pf.num_vfs, "sriov_offset": pf.offset,
            "sriov_stride": pf.stride, "sriov_vf_device": pf.vf_device, "sriov_drivers_autoprobe": 1,
        })
        if pf.acpi_index is not None:
            self._write(device, {"acpi_index": pf.acpi_index})
        for n, name in enumerate(pf.representors):
            self._add_netdev(device, pf.address, name, port=f"pf0vf{n}")
        if pf.name is not None:
            self._add_netdev(device, pf.address, pf.name, altnames=pf.altnames, port=pf.port, speed=pf.speed)
        if pf.rdma:
            self.add_rdma(pf.address)
        for n in range(pf.num_vfs):
            if n in pf.gaps:
                continue
            address, driver = pf.vf_address(n), pf.vf_drivers.get(n, pf.vf_driver)
            vf = self._add_device(address, pf, pf.vf_device, driver)
            os.symlink(f"../{pf.address}", vf / "physfn")
            os.symlink(f"../{address}", device / f"virtfn{n}")
            if driver is not None and "vfio" not in driver:
                if n in pf.away:
                    (vf / "net").mkdir()
                    continue
                self._add_netdev(vf, address, f"{pf.name or 'p' + pf.address[:-5].replace(':', '')}v{n}")
                if pf.rdma:
                    self.add_rdma(address)
        return self

    def add_other(self, address: str, pci_class: str, *, netdev: str | None = None, driver: str | None = None,
                  **files: object) -> Tree:
        """A device that is no network PF: a bridge, a disk (NVMe disks have sriov_totalvfs too), a plain NIC."""
        device = self._add_device(address, Pf(address, None, pci_class=pci_class), "0001", driver)
        self._write(device, files)
        if netdev is not None:
            self._add_netdev(device, address, netdev)
        return self

    def add_rdma(self, address: str) -> str:
        """An RDMA device of a PCI function, with its character devices; its name."""
        device, n = self.path(address).resolve(), self._count("rdma")
        name = f"mlx5_{n}"
        for folder, node in (("infiniband", name), ("infiniband_verbs", f"uverbs{n}"),
                             ("infiniband_mad", f"umad{n}"), ("infiniband_mad", f"issm{n}")):
            home = device / folder / node
            home.mkdir(parents=True)
            if folder != "infiniband":
                self._write(home, {"ibdev": name})
            classes = self.root / "class" / folder
            if not classes.exists():
                classes.mkdir()
                self._write(classes, {"abi_version": 5} if folder != "infiniband" else {})
            _link(classes / node, home)
        return name

    @property
    def links_without_parent(self) -> tuple[Link, ...]:
        """The same dump from a kernel before 5.14."""
        return tuple(replace(link, pci=None) for link in self.links)

    def path(self, address: str, file: str = "") -> Path:
        return self.root / "bus/pci/devices" / address / file

    def write(self, address: str, file: str, text: str) -> None:
        self.path(address, file).write_text(text)

    def read(self, address: str, file: str) -> str:
        return self.path(address, file).read_text()

    def remove(self, address: str, file: str) -> None:
        _remove(self.path(address, file))

    def make_unreadable(self, address: str, file: str) -> None:
        """Reading fails, for root too: a folder in place of a file, a file in place of a link or folder."""
        path = self.path(address, file)
        was_file = path.is_file() and not path.is_symlink()
        _remove(path)
        if was_file:
            path.mkdir()
        else:
            path.write_text("")

    def set_noiommu(self, value: str) -> None:
        """As vfio shows its parameter once it is loaded, Y or N."""
        folder = self.root / "module/vfio/parameters"
        folder.mkdir(parents=True)
        self._write(folder, {"enable_unsafe_noiommu_mode": value})

    def unplug(self, address: str) -> None:
        """The device goes; a link that points to it stays behind, as seen by a scan in the middle."""
        shutil.rmtree(self.path(address).resolve())
        (self.root / "bus/pci/devices" / address).unlink()

    def _add_device(self, address: str, pf: Pf, device_id: str, driver: str | None) -> Path:
        root_bus = (pf.behind or (address,))[0].rpartition(":")[0]
        device = self.root.joinpath("devices", f"pci{root_bus}", *pf.behind, address)
        device.mkdir(parents=True)
        _link(self.root / "bus/pci/devices" / address, device)
        self._write(device, {
            "class": f"0x{pf.pci_class}", "vendor": f"0x{pf.vendor}", "device": f"0x{device_id}",
            "numa_node": pf.numa_node, "driver_override": "(null)",
            "enable": int(driver is not None and "vfio" not in driver),
        })
        if driver is not None:
            home = self.root / "bus/pci/drivers" / driver
            if not home.exists():
                home.mkdir()
                (home / "bind").write_text("")
                (home / "unbind").write_text("")
            _link(device / "driver", home)
            _link(home / address, device)
        vfio = driver is not None and "vfio" in driver
        if pf.iommu or (pf.noiommu and vfio):
            group = self.root / f"kernel/iommu_groups/{self._count('group')}"
            (group / "devices").mkdir(parents=True)
            _link(group / "devices" / address, device)
            _link(device / "iommu_group", group)
            if pf.noiommu and not pf.iommu:
                self._write(group, {"name": "vfio-noiommu"})
        if pf.iommufd and vfio:
            (device / f"vfio-dev/vfio{self._count('vfio')}").mkdir(parents=True)
        return device

    def _add_netdev(self, device: Path, address: str, name: str, *, altnames: tuple[str, ...] = (),
                    port: str | None = None, speed: int = -1) -> None:
        index = len(self.links) + 1
        mac = MacAddress(f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}")
        virtio = os.path.basename(os.path.realpath(device / "driver")) == "virtio-pci"
        parent = device / f"virtio{self._count('virtio')}" if virtio else device
        netdev = parent / "net" / name
        netdev.mkdir(parents=True)
        self._write(netdev, {"ifindex": index, "address": mac, "mtu": 1500, "operstate": "up",
                             "addr_assign_type": 0, "speed": speed})
        if port is not None:
            self._write(netdev, {"phys_port_name": port})
        _link(netdev / "device", parent)
        _link(self.root / "class/net" / name, netdev)
        link = Link(index=index, name=name, altnames=altnames, mac=mac, mtu=1500, up=True, carrier=True,
                    pci=None if virtio else PciAddress(address), port=port,
                    kind="infiniband" if (device / "class").read_text().startswith("0x0207") else "ether")
        self.links += (link,)

    def _count(self, what: str) -> int:
        self._counts[what] += 1
        return self._counts[what] - 1

    @staticmethod
    def _write(folder: Path, files: Mapping[str, Any]) -> None:
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")


def _link(path: Path, target: Path) -> None:
    os.symlink(os.path.relpath(target, path.parent), path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
