"""What a node has, as frozen values: PFs, VFs, their netdevs, and what a PF enforces on a VF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Protocol, TypeVar

from sriov.pci import MacAddress, PciAddress

_UPLINK_PORT = re.compile(r"p\d+(s\d+)?")      # p0s1: the second part of a port that is split


def printable(text: str) -> str:
    """The text with what a terminal would obey instead of show, and what is no text, as escapes.

    For whatever names a netdev: the kernel takes nearly any bytes as its name, altname or alias, and a pod may
    choose them.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def is_uplink_port(name: str) -> bool:
    """Whether a phys_port_name is a physical port's (__devlink_port_phys_port_name_get of the kernel)."""
    return _UPLINK_PORT.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A netdev of the namespace that was asked, as routing netlink shows it."""

    index: int
    name: str                         # this and the altnames may be any bytes: as os.fsdecode makes text of them
    altnames: tuple[str, ...] = ()
    mac: MacAddress
    mtu: int
    up: bool                          # IFF_UP: what the admin wants
    carrier: bool                     # IFF_LOWER_UP: what the wire says
    pci: PciAddress | None = None     # IFLA_PARENT_DEV_NAME on the pci bus; None on kernels before 5.14
    kind: str = "ether"               # hardware type (ARPHRD_*) as iproute2 names it: ether, infiniband, loopback
    master: int | None = None         # ifindex of the bond, team, bridge or vSwitch that it is a port of
    lower: int | None = None          # ifindex of the link that it stands on: a VLAN's, a macvlan's
    software: str | None = None       # what the kernel made it of, IFLA_INFO_KIND: bond, bridge, vlan, veth
    port: str | None = None           # the driver's name of its port: p0 an uplink, pf0vf3 a representor

    @property
    def is_uplink(self) -> bool:
        """Whether it is the port of the NIC, and not what stands for a VF in switchdev mode."""
        return self.port is None or is_uplink_port(self.port)


class LinkState(IntEnum):
    """IFLA_VF_LINK_STATE_* of linux/if_link.h."""

    AUTO = 0
    ENABLE = 1
    DISABLE = 2


VLAN_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}      # EtherTypes of linux/if_ether.h


@dataclass(frozen=True, slots=True, kw_only=True)
class VfSettings:
    """What the PF enforces on one of its VFs; None where the driver does not report it.

    Rates in Mbit/s, 0 = unlimited. `vlan` 0 = untagged. `vlan_proto` is one of VLAN_PROTOCOLS.
    Source: struct ifla_vf_* of linux/if_link.h.
    """

    mac: MacAddress | None = None
    vlan: int | None = None
    vlan_qos: int | None = None
    vlan_proto: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    min_tx_rate: int | None = None
    max_tx_rate: int | None = None
    link_state: LinkState | None = None


def show_setting(name: str, value: object) -> str:
    """The value of a field of VfSettings as NADs and pool files have it: `on`, `802.1ad`, `enable`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "vlan_proto" and isinstance(value, int):
        return next((known for known, number in VLAN_PROTOCOLS.items() if number == value), f"{value:#06x}")
    return value.name.lower() if isinstance(value, IntEnum) else str(value)


def is_userspace(driver: str) -> bool:
    """Whether a driver hands the device to user space: the vfio family, variants included, or a uio driver."""
    return "vfio" in driver or "uio" in driver


@dataclass(frozen=True, slots=True, kw_only=True)
class RdmaDevice:
    """An RDMA device of a PCI function: `mlx5_0` and its character devices, sorted."""

    name: str
    nodes: tuple[str, ...] = ()       # "/dev/infiniband/issm0", "/dev/infiniband/umad0", "/dev/infiniband/uverbs0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """A function on the PCI bus that pods may want: a network controller or an accelerator."""

    address: PciAddress
    vendor: str                       # four hex digits, lower case
    device: str
    driver: str | None
    numa_node: int | None             # None: the platform does not say (sysfs shows -1)
    iommu_group: int | None
    link: Link | None                 # None: no netdev, or it is in another network namespace
    pci_class: int = 0x020000         # 24 bits: base class, subclass, interface
    path: tuple[PciAddress, ...] = ()    # the PCI functions from the root port down to this one, itself last
    acpi_index: str | None = None
    noiommu: bool = False             # its IOMMU group is vfio's make-believe one, without protection
    vfio_device: str | None = None    # name below /dev/vfio/devices ("vfio3"), where the kernel has iommufd
    rdma: tuple[RdmaDevice, ...] = ()
    ties: tuple[str, ...] = ()        # what the node itself needs it for: "carries the default route"
    last_link: Link | None = None     # of what is in a pod: its netdev as it was last seen here, by this boot

    @property
    def known_link(self) -> Link | None:
        """Its netdev, or what is known of it while a pod has it: name, altnames, MAC and MTU of home."""
        return self.link or self.last_link

    @property
    def userspace(self) -> bool:
        return self.driver is not None and is_userspace(self.driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualFunction(PciFunction):
    pf: PciAddress
    index: int                        # n of the PF's virtfn<n>: the number that netlink uses

    @property
    def away(self) -> bool:
        """A kernel driver holds it but this namespace has no netdev of it: it is in a pod."""
        return self.driver is not None and not self.userspace and self.link is None

    @property
    def maybe_open(self) -> bool:
        """A uio driver holds it: unlike vfio's, none of them tells whether a process has it open."""
        return self.driver is not None and "uio" in self.driver


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalFunction(PciFunction):
    total_vfs: int
    num_vfs: int
    speed: int | None = None          # Mbit/s of the link; None: no carrier, or the driver does not say
    eswitch: str | None = None        # legacy, switchdev, ...; None: no devlink, or the driver has none
    firmware_package: str | None = None    # devlink's fw.app.name: on Intel NICs the DDP package
    vfs: tuple[VirtualFunction, ...] = ()    # sorted by index
    autoprobe: bool = True            # whether drivers probe VFs that are made from now on by themselves


_Function = TypeVar("_Function", bound=PciFunction)


class _Change(Protocol):
    def __call__(self, function: _Function, /) -> _Function: ...


@dataclass(frozen=True, kw_only=True)
class Host:
    """One look at the node. `unreadable` names what could not be read and why: never the same as absent."""

    pfs: tuple[PhysicalFunction, ...] = ()
    others: tuple[PciFunction, ...] = ()     # NICs and accelerators that are neither PF nor VF
    unreadable: tuple[str, ...] = field(default=())

    @property
    def vfs(self) -> Iterator[VirtualFunction]:
        return (vf for pf in self.pfs for vf in pf.vfs)

    @cached_property
    def _vf_by_address(self) -> dict[PciAddress, VirtualFunction]:
        return {vf.address: vf for vf in self.vfs}

    @cached_property
    def _pf_by_address(self) -> dict[PciAddress, PhysicalFunction]:
        return {pf.address: pf for pf in self.pfs}

    def map_functions(self, change: _Change) -> Host:
        """The host with each function as `change` gives it back, PFs, VFs and others."""
        pfs = tuple(change(replace(pf, vfs=tuple(map(change, pf.vfs))) if pf.vfs else pf) for pf in self.pfs)
        return replace(self, pfs=pfs, others=tuple(map(change, self.others)))

    def find_vf(self, address: PciAddress) -> VirtualFunction | None:
        return self._vf_by_address.get(address)

    def find_pf(self, address: PciAddress) -> PhysicalFunction | None:
        return self._pf_by_address.get(address)
