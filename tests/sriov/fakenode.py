"""A node in memory: the parts of kernel and drivers that provisioning meets; any write of it fails, or is the last.

What it plays is what the lab shows of igb, igbvf and vfio-pci; tests/sriov/test_provision_lab.py holds the same
claims on a kernel.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import fields, replace
from typing import Literal

from sriov.errors import Gone, HostError, Refused
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link, LinkState, PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.provision.executor import Executor

FRESH = VfSettings(mac=MacAddress.ZERO, vlan=0, vlan_qos=0, vlan_proto=0x8100, spoofchk=True, trust=False,
                   min_tx_rate=0, max_tx_rate=0, link_state=LinkState.AUTO)


def make_pf(address: str, number: int, **facts) -> PhysicalFunction:
    """A PF without VFs, its netdev `ens<number>` up."""
    link = Link(index=number * 100, name=f"ens{number}", mac=MacAddress(f"02:00:00:00:{number:02x}:ff"), mtu=1500,
                up=True, carrier=True, pci=PciAddress(address))
    return replace(PhysicalFunction(
        address=PciAddress(address), vendor="8086", device="10c9", driver="igb", numa_node=None, iommu_group=1,
        link=link, total_vfs=7, num_vfs=0, eswitch="legacy"), **facts)


class Died(BaseException):
    """The process is no more: nothing that it would still do is done, not even what cleans up."""


class FakeNode(Sysfs):
    """Sysfs, netlink and devlink of a node with these PFs; threads may write at the same time.

    `log` has each write. The write number `fail_at` fails, and all after it while `fail_all`; where
    `late`, it fails after it has had its effect. At the write number `die_at` the process dies, and it writes
    nothing more until `revive`.

    Drivers differ: `reported` are the fields of VF attributes that the PFs' tells of, none at all where it has no
    such call; `takes_mac`, whether the VFs' takes the MAC over that the PF has for it; `netdevs_come`, whether a
    VF's netdev is there once its driver has probed, or only when there is news of links, or never; `in_reset`, how
    often a VF's attributes cannot be set yet; `eswitch`, what another eswitch mode takes.
    """

    def __init__(self, *pfs: PhysicalFunction) -> None:
        super().__init__()
        self.pfs = {pf.address: pf for pf in pfs}
        self.settings = {vf.address: FRESH for pf in pfs for vf in pf.vfs}
        self.overrides: dict[PciAddress, str] = {}
        self.opened: set[PciAddress] = set()
        self.made = 0                     # how often VFs were made; what tells the last from others
        self._identities: dict[PciAddress, int] = {}
        self.log: list[tuple[str, object]] = []
        self.fail_at: int | None = None
        self.die_at: int | None = None
        self.reported = frozenset(field.name for field in fields(VfSettings))
        self.takes_mac = True
        self.netdevs_come: Literal["at once", "late", "never"] = "at once"
        self.in_reset = 0
        self.noiommu = False
        self.eswitch: Literal["no VFs", "no VFs, another netdev", "VFs"] = "no VFs"
        self._coming: dict[PciAddress, Link] = {}
        self.late = self.fail_all = self.dead = False
        self._guard = threading.RLock()

    def executor(self) -> Executor:
        return Executor(self, lambda: Links(self), lambda: Devlink(self), lambda: News(self), netdev_patience=0.2)

    def host(self) -> Host:
        return Host(pfs=tuple(self.pfs.values()))

    def state(self) -> object:
        """All that provisioning may change, to be compared."""
        return ({address: (pf.num_vfs, pf.autoprobe, pf.eswitch, pf.link,
                           [(vf.address, vf.driver, vf.link) for vf in pf.vfs])
                 for address, pf in self.pfs.items()},
                self.settings, {key: value for key, value in self.overrides.items() if value})

    # ---- reading ----------------------------------------------------------------------------------------

    def scan(self, links):
        return self.host()

    def scan_pf(self, address, links):
        return self.pfs[address]

    def find_netdev(self, address):
        link = self._function(address).link
        return (link.name, link.index) if link else None

    def read_driver(self, address):
        return self._function(address).driver

    def read_driver_override(self, address):
        return self.overrides.get(address) or None

    def is_enabled(self, address):
        return address in self.opened

    def identify(self, address):
        return self._identities.get(address, 0)

    def allows_noiommu(self):
        return self.noiommu

    def driver_exists(self, name):
        return name in ("igbvf", "vfio-pci")

    def read_num_vfs(self, pf):
        return self.pfs[pf].num_vfs

    def read_autoprobe(self, pf):
        return self.pfs[pf].autoprobe

    # ---- writing ----------------------------------------------------------------------------------------

    def write(self, operation, value, effect):
        """Do `effect`, or fail as asked for."""
        with self._guard:
            number = len(self.log)
            dies = self.dead or number == self.die_at
            if dies and (self.dead or not self.late):
                self.dead = True
                raise Died
            self.log.append((operation, value))
            first = len(self.log) if self.fail_at is None else self.fail_at
            fails = number == first or (self.fail_all and number > first)
            if fails and not self.late:
                raise HostError(f"{operation} failed", errno=errno.EIO)
            result = effect()
            if dies:
                self.dead = True
                raise Died
            if fails:
                raise HostError(f"{operation} failed late", errno=errno.EIO)
            return result

    def revive(self):
        """Another process begins."""
        self.dead, self.die_at = False, None

    def write_num_vfs(self, pf, count):
        self.write("numvfs", (pf, count), lambda: self._make(self.pfs[pf], count))

    def write_autoprobe(self, pf, enabled):
        self.write("autoprobe", (pf, enabled), lambda: self._put(replace(self.pfs[pf], autoprobe=enabled)))

    def set_driver_override(self, address, driver):
        self.write("override", (address, driver), lambda: self.overrides.__setitem__(address, driver or ""))

    def unbind(self, address, *, patience=0.0):
        if self.read_driver(address) is not None:
            self.write("unbind", address, lambda: self._bind(address, None))

    def probe(self, address):
        def effect():
            vf, override = self._function(address), self.overrides.get(address)
            # pci_device_can_probe() of drivers/pci/pci-driver.c
            if vf.driver is None and (self.pfs[vf.pf].autoprobe or override):
                self._bind(address, override or "igbvf")

        self.write("probe", address, effect)

    # ---- the kernel's part ------------------------------------------------------------------------------

    def _make(self, pf, count):
        if count > pf.total_vfs:
            raise HostError("numvfs", errno=errno.ERANGE)
        if count and pf.num_vfs:
            raise HostError("numvfs", errno=errno.EBUSY)
        for vf in pf.vfs:
            assert vf.address not in self.opened, "the kernel would hang"
            self.settings.pop(vf.address)
            self.overrides.pop(vf.address, None)
        vfs = tuple(make_vf(pf, index) for index in range(count))
        self._put(replace(pf, num_vfs=count, vfs=vfs))
        self.made += 1
        for vf in vfs:
            self.settings[vf.address] = FRESH
            self._identities[vf.address] = self.made
            if pf.autoprobe:
                self._bind(vf.address, "igbvf")

    def _bind(self, address, driver):
        assert address not in self.opened, "the kernel would hang"
        vf = self._function(address)
        if driver == "vfio-pci" and vf.iommu_group is None and not self.noiommu:
            return
        netdev = None
        if driver == "igbvf":
            own = MacAddress(f"02:{address[5:7]}:{address[8:10]}:0{address[11:12]}:00:01")
            pf = self.pfs[vf.pf]      # igbvf_probe(): only a PF that is up answers, else it makes a MAC of its own
            asks = self.takes_mac and (pf.link is None or pf.link.up)
            given = self.settings[address].mac if asks else None
            netdev = Link(index=int(address[5:7], 16) * 1000 + vf.index, name=f"v{vf.index}", mtu=1500, up=False,
                          carrier=False, mac=own if given in (None, MacAddress.ZERO) else given, pci=address)
        self._coming.pop(address, None)
        if netdev is not None and self.netdevs_come != "at once":      # iavf: iavf_init_task of iavf_main.c
            self._coming[address] = netdev
            netdev = None
        self._put_vf(replace(vf, driver=driver, link=netdev))

    def bring_netdevs(self):
        """Drivers that make netdevs later make them now."""
        with self._guard:
            for address in list(self._coming) if self.netdevs_come == "late" else ():
                self._put_vf(replace(self._function(address), link=self._coming.pop(address)))

    def _function(self, address):
        every = (each for pf in tuple(self.pfs.values()) for each in (pf, *pf.vfs))
        found = next((each for each in every if each.address == address), None)
        if found is None:
            raise Gone(f"there is no {address}")
        return found

    def _put(self, pf):
        self.pfs[pf.address] = pf

    def _put_vf(self, vf):
        pf = self.pfs[vf.pf]
        self._put(replace(pf, vfs=tuple(vf if each.address == vf.address else each for each in pf.vfs)))

    def change(self, index, changes):
        """A netdev's attributes, as a routing netlink message."""
        for pf in tuple(self.pfs.values()):
            for function in (pf, *pf.vfs):
                if function.link is not None and function.link.index == index:
                    changed = replace(function, link=replace(function.link, **changes))
                    self._put_vf(changed) if isinstance(function, VirtualFunction) else self._put(changed)


def make_vf(pf: PhysicalFunction, index: int) -> VirtualFunction:
    return VirtualFunction(address=PciAddress(f"{pf.address[:8]}10.{index}"), pf=pf.address, index=index,
                           vendor="8086", device="10ca", driver=None, numa_node=None, link=None,
                           iommu_group=pf.iommu_group and 10 + index)


class _Adapter:
    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Links(_Adapter):
    def dump(self):
        return tuple(each.link for pf in self._node.pfs.values() for each in (pf, *pf.vfs) if each.link)

    def find(self, key):
        return next((link for link in self.dump() if link.index == key), None)

    def change(self, index, what, *, mtu=None, up=None):
        changes = {key: value for key, value in (("mtu", mtu), ("up", up)) if value is not None}
        self._node.write("link", (index, *changes.items()), lambda: self._node.change(index, changes))

    def vf_settings(self, pf_index):
        pf = next(pf for pf in self._node.pfs.values() if pf.link and pf.link.index == pf_index)
        if not self._node.reported:      # no ndo_get_vf_config: no IFLA_VFINFO_LIST (rtnl_fill_vf)
            return {}
        hidden = {field.name: None for field in fields(VfSettings) if field.name not in self._node.reported}
        return {vf.index: replace(self._node.settings[vf.address], **hidden) for vf in pf.vfs}

    def set_vf(self, pf_index, vf, changes, what):
        pf = next(pf for pf in self._node.pfs.values() if pf.link and pf.link.index == pf_index)
        address = next(each.address for each in pf.vfs if each.index == vf)
        given = {each.name: value for each in fields(VfSettings)
                 if (value := getattr(changes, each.name)) is not None}
        if self._node.in_reset:
            self._node.in_reset -= 1
            raise HostError(f"cannot {what}: VF still in reset", errno=errno.EAGAIN)
        if "vlan" in given:      # IFLA_VF_VLAN, where no protocol is given, is 802.1Q (do_setvfinfo)
            given.setdefault("vlan_proto", 0x8100)
        self._node.write("vf", (address, *given.items()), lambda: self._node.settings.__setitem__(
            address, replace(self._node.settings[address], **given)))

    def dump_addresses(self):
        return ()

    def dump_routes(self):
        return ()


class News:
    """There is always some, as on a node where links come and go, or none where netdevs never come."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._fd = os.eventfd(int(node.netdevs_come == "late"))

    def fileno(self):
        return self._fd

    def drain(self):
        self._node.bring_netdevs()

    def close(self):
        os.close(self._fd)


class Devlink(_Adapter):
    def eswitch_mode(self, address):
        return self._node.pfs[address].eswitch

    def firmware_package(self, address):
        return None

    def set_eswitch_mode(self, address, mode):
        pf = self._node.pfs[address]
        if pf.eswitch is None:
            raise Refused(f"cannot set eswitch mode {mode} of {address}: its driver does not register with devlink")
        if self._node.eswitch == "VFs":      # bnxt_en
            if not pf.num_vfs and mode == "switchdev":
                raise HostError("eswitch", errno=errno.EPERM)
        elif pf.num_vfs:                     # ice
            raise HostError("eswitch", errno=errno.EBUSY)
        link = pf.link
        if link is not None and self._node.eswitch == "no VFs, another netdev":      # mlx5_core
            link = replace(link, index=link.index + 1, mtu=1500, up=False)
        self._node.write("eswitch", (address, mode), lambda: self._node.pfs.__setitem__(
            address, replace(pf, eswitch=mode, link=link)))
