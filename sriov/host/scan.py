"""One pass over sysfs: every PF with its VFs, and the other NICs and accelerators, as values.

Files and formats: Documentation/ABI/testing/sysfs-bus-pci of the kernel, drivers/pci/iov.c.
"""
# Plain os calls: a scan of 1,024 VFs has 150 ms, and pathlib costs more than the read itself.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TypedDict

from sriov.errors import InputError
from sriov.host.rdma import read_rdma
from sriov.host.sysfile import (
    Malformed,
    list_folder,
    netdev_folder,
    pci_path,
    read_class,
    read_id,
    read_if_any,
    read_int,
    read_link,
    say,
)
from sriov.model import (
    Host,
    Link,
    PciFunction,
    PhysicalFunction,
    RdmaDevice,
    VirtualFunction,
    is_userspace,
    printable,
)
from sriov.pci import PciAddress

_NETWORK, _ACCELERATOR = 0x02, 0x12    # PCI's base classes


class Scan:
    """One look at the PCI devices below `root` of a sysfs, joined with `links` of the same network namespace.

    `unreadable` names what could not be read. A device is left out whose ids, driver, NUMA node, IOMMU group
    or netdev are among that; anything else that cannot be read of it is None.

    A PF is a network function that can have VFs. An accelerator that can is a plain function, and so are its
    VFs: nothing makes them, and pods may be given either.
    """

    def __init__(self, root: str, links: Iterable[Link]) -> None:
        self.unreadable: list[str] = []
        self._devices = f"{root}/bus/pci/devices"
        self._links = LinksByFunction(links)
        self._rdma = read_rdma(root, self.unreadable)
        self._vfs: set[str] = set()       # all that PFs list, those that could not be read among them

    def host(self) -> Host:
        """All of them; never raises for a device."""
        pfs: list[PhysicalFunction] = []
        rest: list[str] = []
        try:
            names = os.listdir(self._devices)
        except OSError as error:
            return Host(unreadable=(f"cannot list the PCI devices: {say(error)}",))
        for name in names:
            try:
                if self._is_pf(name):
                    pfs.append(self.pf(PciAddress.parse(name)))
                else:
                    rest.append(name)
            except (OSError, Malformed, InputError) as error:
                self.unreadable.append(f"cannot read PF {name}: {say(error)}")
        others = [other for name in rest if name not in self._vfs and (other := self._other(name))]
        pfs.sort(key=lambda pf: pf.address.order)
        others.sort(key=lambda other: other.address.order)
        return Host(pfs=tuple(pfs), others=tuple(others), unreadable=tuple(sorted(self.unreadable)))

    def pf(self, address: PciAddress) -> PhysicalFunction:
        """One PF; its VFs that cannot be read are left out and named. Raises OSError, Malformed."""
        device = f"{self._devices}/{address}"
        pci_class, path = read_class(f"{device}/class"), pci_path(os.readlink(device))
        vfs: list[VirtualFunction] = []
        for name in os.listdir(device):
            if not name.startswith("virtfn"):
                continue
            try:
                vfs.append(self._vf(address, f"{device}/{name}", int(name[6:]), pci_class, path))
            except (OSError, ValueError, InputError) as error:
                self.unreadable.append(f"cannot read VF {name[6:]} of PF {address}: {say(error)}")
        vfs.sort(key=lambda vf: vf.index)
        total_vfs, num_vfs = read_int(f"{device}/sriov_totalvfs"), read_int(f"{device}/sriov_numvfs")
        facts = self._facts(device, address)
        return PhysicalFunction(
            **facts, pci_class=pci_class, path=path, total_vfs=total_vfs, num_vfs=num_vfs,
            speed=self._speed(device, facts["driver"], facts["link"]), vfs=tuple(vfs),
            autoprobe=read_if_any(f"{device}/sriov_drivers_autoprobe") != "0",    # none: a kernel before 4.12
        )

    def _is_pf(self, name: str) -> bool:
        device = f"{self._devices}/{name}"
        try:
            os.lstat(f"{device}/sriov_totalvfs")
        except FileNotFoundError:     # nearly all devices, VFs among them: one cheap call each
            return False
        return read_class(f"{device}/class") >> 16 == _NETWORK

    def _vf(self, pf: PciAddress, virtfn: str, index: int, pci_class: int, path: tuple[PciAddress, ...],
            ) -> VirtualFunction:
        parent, _, name = os.readlink(virtfn).rpartition("/")
        address = PciAddress.parse(name)
        self._vfs.add(address)
        device = f"{self._devices}/{address}"
        # The kernel makes a VF's device beside its PF's and gives it the class of its PF's VFs, which the SR-IOV
        # specification wants to be the PF's own (pci_iov_add_virtfn, pci_class): neither is read for each.
        return VirtualFunction(
            **self._facts(device, address), pf=pf, index=index, pci_class=pci_class,
            path=(*path[:-1], address) if parent == ".." else pci_path(os.readlink(device)),
        )

    def _other(self, name: str) -> PciFunction | None:
        """A NIC that is no PF and no VF, or an accelerator; None for any other device."""
        device = f"{self._devices}/{name}"
        try:
            pci_class = read_class(f"{device}/class")
            base = pci_class >> 16
            if base != _ACCELERATOR and (base != _NETWORK or os.path.lexists(f"{device}/physfn")):
                return None
            address = PciAddress.parse(name)
            path = pci_path(os.readlink(device))
            return PciFunction(**self._facts(device, address), pci_class=pci_class, path=path)
        except (OSError, Malformed, InputError) as error:
            if os.path.lexists(device):       # else it went since the folder was listed: it is not there
                self.unreadable.append(f"cannot read device {name}: {say(error)}")
            return None

    def _facts(self, device: str, address: PciAddress) -> _Facts:
        driver = read_link(f"{device}/driver")
        numa_node = _read_numa_node(device)
        iommu_group = _read_iommu_group(device)
        userspace = driver is not None and is_userspace(driver)
        noiommu = userspace and iommu_group is not None and read_if_any(
            f"{device}/iommu_group/name") == "vfio-noiommu"
        vfio_device = min(list_folder(f"{device}/vfio-dev"), default=None) if userspace else None
        link = self._links.find(device, address, driver) if driver else None
        acpi_index = self._acpi_index(device, address)
        # The ids come last: they exist as long as the device does, so a VF that vanishes meanwhile is an
        # error and not a VF without driver, NUMA node and netdev.
        return {
            "address": address, "driver": driver, "numa_node": numa_node, "iommu_group": iommu_group,
            "noiommu": noiommu, "vfio_device": vfio_device, "link": link, "acpi_index": acpi_index,
            "rdma": self._rdma.get(address, ()),
            "vendor": read_id(f"{device}/vendor"), "device": read_id(f"{device}/device"),
        }

    def _acpi_index(self, device: str, address: PciAddress) -> str | None:
        try:
            return read_if_any(f"{device}/acpi_index")
        except OSError as error:      # firmware that does not answer its own _DSM (drivers/pci/pci-label.c)
            self.unreadable.append(f"cannot read the ACPI index of {address}: {say(error)}")
            return None

    def _speed(self, device: str, driver: str | None, link: Link | None) -> int | None:
        """Mbit/s; asked only with a carrier, since some drivers wake the device to answer."""
        if link is None or not link.carrier:
            return None
        path = f"{netdev_folder(device, driver)}/{link.name}/speed"
        try:
            speed = read_int(path)
        except (OSError, Malformed) as error:
            # The carrier went or the netdev was renamed since the dump; or the driver has no ethtool operation.
            if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                return None
            self.unreadable.append(f"cannot read the speed of {printable(link.name)}: {say(error)}")
            return None
        # SPEED_UNKNOWN of linux/ethtool.h is -1, which older kernels show without its sign.
        return speed if 0 < speed < 0xFFFFFFFF else None


class _Facts(TypedDict):
    """What is read of each function alike."""

    address: PciAddress
    vendor: str
    device: str
    driver: str | None
    numa_node: int | None
    iommu_group: int | None
    noiommu: bool
    vfio_device: str | None
    link: Link | None
    acpi_index: str | None
    rdma: tuple[RdmaDevice, ...]


class LinksByFunction:
    """Links by the PCI function they belong to."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._by_pci: dict[PciAddress, list[Link]] = {}
        self._by_name: dict[str, Link] = {}
        for link in links:
            if link.pci is None:
                self._by_name[link.name] = link
            else:
                self._by_pci.setdefault(link.pci, []).append(link)

    def find(self, device: str, address: PciAddress, driver: str) -> Link | None:
        """The function's link, an uplink before representors, then by ifindex."""
        # Kernels before 5.14 do not tell a link's parent device, and virtio's is none on the PCI bus: there a
        # folder lists the names.
        links = self._by_pci.get(address) or [
            self._by_name[name] for name in list_folder(netdev_folder(device, driver)) if name in self._by_name
        ]
        if len(links) < 2:
            return links[0] if links else None
        return min(links, key=lambda link: (not link.is_uplink, link.index))


def _read_numa_node(device: str) -> int | None:
    try:
        node = read_int(f"{device}/numa_node")
    except FileNotFoundError:         # a kernel without NUMA
        return None
    return node if node >= 0 else None


def _read_iommu_group(device: str) -> int | None:
    group = read_link(f"{device}/iommu_group")
    try:
        return None if group is None else int(group)
    except ValueError:
        raise Malformed(f"{device}/iommu_group: expected a numbered group, got {group!r}") from None
