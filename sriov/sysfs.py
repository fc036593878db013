"""sysfs: what PCI network functions exist, and the files through which VFs are made and drivers bound.

Files and formats: Documentation/ABI/testing/sysfs-bus-pci of the kernel, drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from sriov.errors import Gone, HostError, InputError
from sriov.model import Host, Link, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress

_NETWORK_CLASS = "0x02"               # PCI's base class of all network controllers
_ID = re.compile(r"0x[0-9a-f]{4}")
_UPLINK = re.compile(r"p\d+")         # phys_port_name of a physical port; a representor has pf0vf3
_POLL_SECONDS = 0.02                  # the kernel tells nobody when a driver's files are there


class _Malformed(ValueError):
    """A file holds something else than the kernel's documentation says."""


class Sysfs:
    """One sysfs mount. It shows the netdevs of the network namespace it was mounted in.

    Writes go out in one system call, as sysfs wants. They block for as long as the driver works: a
    `write_num_vfs` for seconds, and reading the same PF waits for it (the kernel takes the device lock).
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._pci = os.path.join(root, "bus", "pci")
        self._devices = os.path.join(self._pci, "devices")

    # ---- the whole host, one PF -------------------------------------------------------------------------

    def scan(self, links: Iterable[Link]) -> Host:
        """All PFs and their VFs, joined with `links` of the same network namespace.

        Never raises for a device: what cannot be read is left out and named in `Host.unreadable`.
        """
        netdevs = _Netdevs(links)
        pfs: list[PhysicalFunction] = []
        unreadable: list[str] = []
        try:
            names = os.listdir(self._devices)
        except OSError as error:
            return Host(unreadable=(f"cannot list the PCI devices: {_say(error)}",))
        for name in names:
            try:
                if self._is_pf(name):
                    pfs.append(self._read_pf(PciAddress.parse(name), netdevs, unreadable))
            except (OSError, _Malformed, InputError) as error:
                unreadable.append(f"cannot read PF {name}: {_say(error)}")
        pfs.sort(key=lambda pf: pf.address.order)
        return Host(pfs=tuple(pfs), unreadable=tuple(sorted(unreadable)))

    def scan_pf(self, address: PciAddress, links: Iterable[Link]) -> PhysicalFunction:
        """One PF with its VFs, all or nothing.

        Raises Gone when there is no such device, HostError when it is no PF or any of its VFs cannot be read.
        """
        unreadable: list[str] = []
        try:
            pf = self._read_pf(address, _Netdevs(links), unreadable)
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot read PF {address}", address, error) from error
        if unreadable:
            raise HostError("; ".join(sorted(unreadable)))
        return pf

    def _is_pf(self, name: str) -> bool:
        device = f"{self._devices}/{name}"
        try:
            os.lstat(f"{device}/sriov_totalvfs")
        except FileNotFoundError:     # nearly all devices, VFs among them: one cheap call each
            return False
        return _read(f"{device}/class").startswith(_NETWORK_CLASS)

    def _read_pf(self, address: PciAddress, netdevs: _Netdevs, unreadable: list[str]) -> PhysicalFunction:
        device = f"{self._devices}/{address}"
        vfs: list[VirtualFunction] = []
        for name in os.listdir(device):
            if not name.startswith("virtfn"):
                continue
            try:
                vfs.append(self._read_vf(address, f"{device}/{name}", int(name[6:]), netdevs))
            except (OSError, ValueError, InputError) as error:
                unreadable.append(f"cannot read VF {name[6:]} of PF {address}: {_say(error)}")
        vfs.sort(key=lambda vf: vf.index)
        driver = _read_link(f"{device}/driver")
        numa_node = _read_numa_node(device)
        iommu_group = _read_iommu_group(device)
        link = netdevs.find(device, address)
        return PhysicalFunction(
            address=address, driver=driver, numa_node=numa_node, iommu_group=iommu_group, link=link,
            total_vfs=_read_int(f"{device}/sriov_totalvfs"), num_vfs=_read_int(f"{device}/sriov_numvfs"),
            vendor=_read_id(f"{device}/vendor"), device=_read_id(f"{device}/device"), vfs=tuple(vfs),
        )

    def _read_vf(self, pf: PciAddress, virtfn: str, index: int, netdevs: _Netdevs) -> VirtualFunction:
        address = PciAddress.parse(os.readlink(virtfn).rpartition("/")[2])
        device = f"{self._devices}/{address}"
        driver = _read_link(f"{device}/driver")
        numa_node = _read_numa_node(device)
        iommu_group = _read_iommu_group(device)
        link = netdevs.find(device, address) if driver else None
        # The ids come last: they exist as long as the device does, so a VF that vanishes meanwhile is an
        # error and not a VF without driver, NUMA node and netdev.
        return VirtualFunction(
            address=address, pf=pf, index=index,
            driver=driver, numa_node=numa_node, iommu_group=iommu_group, link=link,
            vendor=_read_id(f"{device}/vendor"), device=_read_id(f"{device}/device"),
        )

    # ---- single facts -----------------------------------------------------------------------------------

    def find_netdev(self, address: PciAddress) -> tuple[str, int] | None:
        """Name and ifindex of the device's netdev in this namespace; a PF's uplink before representors.

        Raises Gone when the device does not exist, HostError when it cannot be read.
        """
        device = f"{self._devices}/{address}"
        found: list[tuple[int, str]] = []
        try:
            os.lstat(device)
            for name in _list_netdevs(device):
                try:
                    found.append((_read_int(f"{device}/net/{name}/ifindex"), name))
                except FileNotFoundError:
                    continue          # renamed or moved away since it was listed
            found.sort(key=lambda netdev: (not _is_uplink(device, netdev[1]), netdev[0]))
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot find the netdev of {address}", address, error) from error
        return (found[0][1], found[0][0]) if found else None

    def locate_vf(self, address: PciAddress) -> tuple[PciAddress, int]:
        """PF of a VF, and the VF's index there; raises Gone, HostError, InputError where it is no VF."""
        device = f"{self._devices}/{address}"
        try:
            os.lstat(device)
            pf = _read_link(f"{device}/physfn")
            if pf is None:
                raise InputError(f"{address} is not a VF: it has no physfn in sysfs")
            for name in os.listdir(f"{device}/physfn"):
                if name.startswith("virtfn") and _read_link(f"{device}/physfn/{name}") == address:
                    return PciAddress.parse(pf), int(name[6:])
        except OSError as error:
            raise self._failure(f"cannot find the PF of VF {address}", address, error) from error
        raise HostError(f"cannot find the index of VF {address}: PF {pf} does not list it")

    def has_permanent_mac(self, address: PciAddress) -> bool:
        """Whether the device's netdev carries a MAC that it got from below and that nobody set since.

        addr_assign_type 0, NET_ADDR_PERM of linux/netdevice.h; a VF driver that finds no MAC set by the PF
        makes a random one (1), and a MAC that was set through the netdev is NET_ADDR_SET (3).
        """
        netdev = self.find_netdev(address)
        if netdev is None:
            return False
        path = f"{self._devices}/{address}/net/{netdev[0]}/addr_assign_type"
        try:
            return _read_int(path) == 0
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot read how {netdev[0]} got its MAC", address, error) from error

    def read_driver(self, address: PciAddress) -> str | None:
        """Name of the driver that is bound; raises Gone when the device does not exist, HostError."""
        device = f"{self._devices}/{address}"
        try:
            driver = _read_link(f"{device}/driver")
            os.lstat(device)
        except OSError as error:
            raise self._failure(f"cannot read the driver of {address}", address, error) from error
        return driver

    def is_enabled(self, address: PciAddress) -> bool:
        """Whether a driver enabled the device (pci_enable_device) and did not disable it since.

        Raises Gone when the device does not exist, HostError when it cannot be read.
        """
        try:
            return _read_int(f"{self._devices}/{address}/enable") > 0
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot read whether {address} is enabled", address, error) from error

    def driver_exists(self, name: str) -> bool:
        """Whether a PCI driver of this name is loaded."""
        return os.path.isdir(f"{self._pci}/drivers/{name}")

    def read_num_vfs(self, pf: PciAddress) -> int:
        """How many VFs the PF has now; raises Gone, HostError."""
        try:
            return _read_int(f"{self._devices}/{pf}/sriov_numvfs")
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot read the number of VFs of PF {pf}", pf, error) from error

    def read_autoprobe(self, pf: PciAddress) -> bool:
        """Whether new VFs of the PF get a driver by themselves; raises Gone, HostError."""
        try:
            return _read_int(f"{self._devices}/{pf}/sriov_drivers_autoprobe") == 1
        except (OSError, _Malformed) as error:
            raise self._failure(f"cannot read driver autoprobe of PF {pf}", pf, error) from error

    # ---- writes -----------------------------------------------------------------------------------------

    def write_num_vfs(self, pf: PciAddress, count: int) -> None:
        """Make `count` VFs. Raises Gone, HostError: EBUSY where there are others already (only 0 -> n and
        n -> 0 are possible), ERANGE over totalvfs, ENOENT without a driver that can make VFs.

        A driver may make fewer and still report success: read the number back.
        """
        self._write(f"cannot set {count} VFs on PF {pf}", pf, "sriov_numvfs", str(count))

    def write_autoprobe(self, pf: PciAddress, enabled: bool) -> None:
        """Whether VFs that are made from now on get a driver by themselves; raises Gone, HostError."""
        operation = f"cannot {'enable' if enabled else 'disable'} driver autoprobe on PF {pf}"
        self._write(operation, pf, "sriov_drivers_autoprobe", str(int(enabled)))

    def set_driver_override(self, address: PciAddress, driver: str | None) -> None:
        """Let only this driver bind to the device, None: any that fits. Raises Gone, HostError."""
        self._write(f"cannot set the driver override of {address} to {driver or 'none'}", address,
                    "driver_override", f"{driver or ''}\n")

    def unbind(self, address: PciAddress, *, patience: float = 10.0) -> None:
        """Take the driver off the device; nothing to do where none is bound. Raises Gone, HostError.

        Waits up to `patience` seconds for a driver that is being loaded or unloaded.
        """
        deadline = time.monotonic() + patience
        while self.read_driver(address) is not None:
            try:
                self._write(f"cannot unbind the driver of {address}", address, "driver/unbind", address)
            except HostError as error:
                # A driver that loads first probes all devices and then gets its `unbind` file; one that unloads
                # loses that first (drivers/base/bus.c). And a probe that fails takes back the link, and the
                # binding that ENODEV misses (drivers/base/dd.c).
                if error.errno not in (errno.ENOENT, errno.ENODEV) or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(_POLL_SECONDS)

    def probe(self, address: PciAddress) -> None:
        """Let the kernel look for a driver; it reports success even if none was found: read the driver back.

        Raises Gone, HostError.
        """
        self._write(f"cannot probe a driver for {address}", address, f"{self._pci}/drivers_probe", address)

    def _write(self, operation: str, address: PciAddress, file: str, text: str) -> None:
        path = os.path.join(self._devices, address, file)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = path
            raise self._failure(operation, address, error) from error

    def _failure(self, operation: str, address: PciAddress, error: OSError | _Malformed) -> Gone | HostError:
        if not os.path.lexists(f"{self._devices}/{address}"):
            return Gone(f"{operation}: there is no such PCI device")
        if isinstance(error, OSError):
            return HostError(f"{operation}: {error.filename}", errno=error.errno or 0)
        return HostError(f"{operation}: {error}")


class _Netdevs:
    """Links by the PCI function they belong to."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._by_pci: dict[PciAddress, list[Link]] = {}
        self._by_name: dict[str, Link] = {}
        for link in links:
            if link.pci is None:
                self._by_name[link.name] = link
            else:
                self._by_pci.setdefault(link.pci, []).append(link)

    def find(self, device: str, address: PciAddress) -> Link | None:
        # Kernels before 5.14 do not tell a link's parent device: there its folder lists the names.
        links = self._by_pci.get(address) or [
            self._by_name[name] for name in _list_netdevs(device) if name in self._by_name
        ]
        if len(links) < 2:
            return links[0] if links else None
        links = sorted(links, key=lambda link: link.index)
        return next((link for link in links if _is_uplink(device, link.name)), links[0])


def _is_uplink(device: str, name: str) -> bool:
    try:
        return _UPLINK.fullmatch(_read(f"{device}/net/{name}/phys_port_name")) is not None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):    # the driver does not name its ports
            return True
        raise


def _list_netdevs(device: str) -> list[str]:
    try:
        return os.listdir(f"{device}/net")
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("ascii", "replace").strip()
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _read_int(path: str) -> int:
    text = _read(path)
    try:
        return int(text)
    except ValueError:
        raise _Malformed(f"{path}: expected a number, got {text!r}") from None


def _read_id(path: str) -> str:
    text = _read(path)
    if _ID.fullmatch(text) is None:
        raise _Malformed(f"{path}: expected an id like 0x8086, got {text!r}")
    return text[2:]


def _read_numa_node(device: str) -> int | None:
    try:
        node = _read_int(f"{device}/numa_node")
    except FileNotFoundError:         # a kernel without NUMA
        return None
    return node if node >= 0 else None


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path).rpartition("/")[2]
    except FileNotFoundError:
        return None


def _read_iommu_group(device: str) -> int | None:
    group = _read_link(f"{device}/iommu_group")
    try:
        return None if group is None else int(group)
    except ValueError:
        raise _Malformed(f"{device}/iommu_group: expected a numbered group, got {group!r}") from None


def _say(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {errno.errorcode.get(error.errno or 0, error.strerror)}"
    return str(error)
