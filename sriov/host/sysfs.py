"""sysfs: what PCI network functions exist, and the files through which VFs are made and drivers bound.

Files and formats: Documentation/ABI/testing/sysfs-bus-pci of the kernel, drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from sriov.errors import Gone, HostError, InputError
from sriov.host.scan import Scan
from sriov.host.sysfile import Malformed, list_folder, netdev_folder, read, read_int, read_link
from sriov.model import Host, Link, PhysicalFunction, is_uplink_port, printable
from sriov.pci import PciAddress

_POLL_SECONDS = 0.02                  # the kernel tells nobody when a driver's files are there


class Sysfs:
    """One sysfs mount. It shows the netdevs of the network namespace it was mounted in.

    Writes go out in one system call, as sysfs wants. They block for as long as the driver works: a
    `write_num_vfs` for seconds, and reading the same PF waits for it (the kernel takes the device lock).
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = os.fspath(root)
        self._pci = os.path.join(root, "bus", "pci")
        self._devices = os.path.join(self._pci, "devices")

    # ---- the whole host, one PF -------------------------------------------------------------------------

    def scan(self, links: Iterable[Link]) -> Host:
        """PFs and their VFs, other NICs and accelerators, joined with `links` of the same network namespace.

        Never raises for a device: what cannot be read is left out and named in `Host.unreadable`.
        """
        return Scan(self._root, links).host()

    def scan_pf(self, address: PciAddress, links: Iterable[Link]) -> PhysicalFunction:
        """One PF with its VFs, all or nothing.

        Raises Gone when there is no such device, HostError when it is no PF or any of its VFs cannot be read.
        """
        scan = Scan(self._root, links)
        try:
            pf = scan.pf(address)
        except (OSError, Malformed) as error:
            raise self._failure(f"cannot read PF {address}", address, error) from error
        if scan.unreadable:
            raise HostError("; ".join(sorted(scan.unreadable)))
        return pf

    # ---- single facts -----------------------------------------------------------------------------------

    def find_netdev(self, address: PciAddress) -> tuple[str, int] | None:
        """Name and ifindex of the device's netdev in this namespace; a PF's uplink before representors.

        Raises Gone when the device does not exist, HostError when it cannot be read.
        """
        device = f"{self._devices}/{address}"
        found: list[tuple[int, str]] = []
        try:
            os.lstat(device)
            folder = netdev_folder(device, read_link(f"{device}/driver"))
            for name in list_folder(folder):
                try:
                    found.append((read_int(f"{folder}/{name}/ifindex"), name))
                except FileNotFoundError:
                    continue          # renamed or moved away since it was listed
            found.sort(key=lambda netdev: (not _is_uplink(f"{folder}/{netdev[1]}"), netdev[0]))
        except (OSError, Malformed) as error:
            raise self._failure(f"cannot find the netdev of {address}", address, error) from error
        return (found[0][1], found[0][0]) if found else None

    def is_stacked_on(self, address: PciAddress) -> bool:
        """Whether another link of this namespace stands on the device's netdev: a bond, a VLAN, a macvlan.

        Tunnels do not count (netdev_adjacent_sysfs_add, net/core/dev.c): they need an address of the link below.
        Raises Gone, HostError.
        """
        netdev = self.find_netdev(address)
        device = f"{self._devices}/{address}"
        try:
            return netdev is not None and any(name.startswith("upper_") for name in os.listdir(
                f"{netdev_folder(device, read_link(f'{device}/driver'))}/{netdev[0]}"))
        except OSError as error:
            raise self._failure(f"cannot read what stands on the netdev of {address}", address, error) from error

    def locate_vf(self, address: PciAddress) -> tuple[PciAddress, int]:
        """PF of a VF, and the VF's index there; raises Gone, HostError, InputError where it is no VF."""
        device = f"{self._devices}/{address}"
        try:
            os.lstat(device)
            pf = read_link(f"{device}/physfn")
            if pf is None:
                raise InputError(f"{address} is not a VF: it has no physfn in sysfs")
            for name in os.listdir(f"{device}/physfn"):
                if name.startswith("virtfn") and read_link(f"{device}/physfn/{name}") == address:
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
        device = f"{self._devices}/{address}"
        try:
            folder = netdev_folder(device, read_link(f"{device}/driver"))
            return read_int(f"{folder}/{netdev[0]}/addr_assign_type") == 0
        except (OSError, Malformed) as error:
            raise self._failure(f"cannot read how {printable(netdev[0])} got its MAC", address, error) from error

    def read_driver(self, address: PciAddress) -> str | None:
        """Name of the driver that is bound; raises Gone when the device does not exist, HostError."""
        device = f"{self._devices}/{address}"
        try:
            driver = read_link(f"{device}/driver")
            os.lstat(device)
        except OSError as error:
            raise self._failure(f"cannot read the driver of {address}", address, error) from error
        return driver

    def read_driver_override(self, address: PciAddress) -> str | None:
        """The one driver that may bind to the device, None: any that fits. Raises Gone, HostError."""
        try:
            text = read(f"{self._devices}/{address}/driver_override")
        except OSError as error:
            raise self._failure(f"cannot read the driver override of {address}", address, error) from error
        return None if text in ("", "(null)") else text      # as driver_override_show prints no string

    def is_enabled(self, address: PciAddress) -> bool:
        """Whether a driver enabled the device (pci_enable_device) and did not disable it since.

        Raises Gone when the device does not exist, HostError when it cannot be read.
        """
        try:
            return read_int(f"{self._devices}/{address}/enable") > 0
        except (OSError, Malformed) as error:
            raise self._failure(f"cannot read whether {address} is enabled", address, error) from error

    def identify(self, address: PciAddress) -> int:
        """A number that no device has which is made at this address later; raises Gone, HostError.

        The inode of its folder: kernfs gives none out twice in a boot, a generation is part of it.
        """
        try:
            return os.stat(f"{self._devices}/{address}").st_ino
        except OSError as error:
            raise self._failure(f"cannot look at device {address}", address, error) from error

    def driver_exists(self, name: str) -> bool:
        """Whether a PCI driver of this name is loaded."""
        return os.path.isdir(f"{self._pci}/drivers/{name}")

    def allows_noiommu(self) -> bool:
        """Whether vfio takes devices that have no IOMMU (its module's unsafe mode); raises HostError."""
        path = f"{self._root}/module/vfio/parameters/enable_unsafe_noiommu_mode"
        try:
            return read(path) in ("Y", "1")
        except FileNotFoundError:      # vfio is not loaded, or the kernel has no such mode
            return False
        except OSError as error:
            raise HostError(f"cannot read {path}", errno=error.errno or 0) from None

    def read_num_vfs(self, pf: PciAddress) -> int:
        """How many VFs the PF has now; raises Gone, HostError."""
        try:
            return read_int(f"{self._devices}/{pf}/sriov_numvfs")
        except (OSError, Malformed) as error:
            raise self._failure(f"cannot read the number of VFs of PF {pf}", pf, error) from error

    def read_autoprobe(self, pf: PciAddress) -> bool:
        """Whether new VFs of the PF get a driver by themselves; raises Gone, HostError."""
        try:
            return read_int(f"{self._devices}/{pf}/sriov_drivers_autoprobe") == 1
        except (OSError, Malformed) as error:
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

    def _failure(self, operation: str, address: PciAddress, error: OSError | Malformed) -> Gone | HostError:
        if not os.path.lexists(f"{self._devices}/{address}"):
            return Gone(f"{operation}: there is no such PCI device")
        if isinstance(error, OSError):
            return HostError(f"{operation}: {error.filename}", errno=error.errno or 0)
        return HostError(f"{operation}: {error}")


def _is_uplink(netdev: str) -> bool:
    try:
        return is_uplink_port(read(f"{netdev}/phys_port_name"))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):    # the driver does not name its ports
            return True
        raise
