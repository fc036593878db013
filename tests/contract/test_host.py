"""What the sysfs adapter finds, on the synthetic tree and on the kernel of the lab: the same must hold for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sriov.errors import Gone, InputError
from sriov.host.netlink import Links
from sriov.host.sysfile import pci_path, read_class
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link, PhysicalFunction
from sriov.pci import PciAddress
from tests.sriov.host_contract import check_all_vfs_found, check_host
from tests.support import node
from tests.support.tree import Pf, Tree

NONE = PciAddress("0000:ff:1f.7")
COUNT = 3


@dataclass(frozen=True)
class Node:
    """Two igb PFs with three VFs each, one way or the other."""

    root: Path
    sysfs: Sysfs
    dump: Callable[[], tuple[Link, ...]]

    def scan(self) -> Host:
        """The host of the two PFs; the lab has more."""
        host = self.sysfs.scan(self.dump())
        return replace(host, pfs=tuple(pf for pf in host.pfs if pf.num_vfs))


def dump_links() -> tuple[Link, ...]:
    with Links.open() as links:
        return links.dump()


@pytest.fixture(scope="module")
def lab() -> Iterator[Node]:
    pfs = node.pfs()[:2]
    for pf in pfs:
        node.make_vfs(pf, COUNT)
    yield Node(Path("/sys"), Sysfs(), dump_links)
    for pf in pfs:
        Sysfs().write_num_vfs(pf.address, 0)


@pytest.fixture(params=["synthetic", pytest.param("kernel", marks=pytest.mark.lab)])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Node:
    if request.param == "kernel":
        made: Node = request.getfixturevalue("lab")
        return made
    tree = Tree(tmp_path_factory.mktemp("node") / "sys")
    tree.add(Pf("0000:01:00.0", "enp1s0", num_vfs=COUNT, iommu=True, behind=("0000:00:02.0",)))
    tree.add(Pf("0000:02:00.0", "enp2s0", num_vfs=COUNT, iommu=True))
    tree.add_other("0000:00:00.0", "060000")
    return Node(tree.root, Sysfs(tree.root), lambda: tree.links)


@pytest.fixture
def pfs(machine: Node) -> tuple[PhysicalFunction, ...]:
    return machine.scan().pfs


def test_the_host_is_whole(machine: Node) -> None:
    host = machine.scan()
    check_host(host)
    check_all_vfs_found(host)
    assert [pf.num_vfs for pf in host.pfs] == [COUNT, COUNT]
    assert [vf.index for vf in host.vfs] == [*range(COUNT)] * 2


def test_an_igb_pf(pfs: tuple[PhysicalFunction, ...]) -> None:
    for pf in pfs:
        assert (pf.vendor, pf.device, pf.driver, pf.total_vfs) == ("8086", "10c9", "igb", 7)
        assert pf.link is not None
        assert pf.link.pci == pf.address


def test_igbvf_vfs(pfs: tuple[PhysicalFunction, ...]) -> None:
    for vf in (vf for pf in pfs for vf in pf.vfs):
        assert (vf.vendor, vf.device, vf.driver, vf.away, vf.userspace) == ("8086", "10ca", "igbvf", False, False)
        assert vf.iommu_group is not None
        assert vf.link is not None
        assert vf.link.mac


def test_where_it_is_and_of_what_class(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    """What the scan takes over from a PF to its VFs is what their own files say."""
    for function in (function for pf in pfs for function in (pf, *pf.vfs)):
        device = machine.root / "bus/pci/devices" / function.address
        assert function.path == pci_path(str(device.resolve()))
        assert function.pci_class == read_class(f"{device}/class") == 0x020000
        assert (function.noiommu, function.vfio_device, function.rdma) == (False, None, ())


def test_one_pf_is_as_in_the_whole_scan(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    assert tuple(machine.sysfs.scan_pf(pf.address, machine.dump()) for pf in pfs) == pfs


def test_the_join_without_the_kernels_help(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    """Before Linux 5.14 links do not name their device: sysfs has to."""
    blind = machine.sysfs.scan([replace(link, pci=None) for link in machine.dump()])
    for pf in pfs:
        found = blind.find_pf(pf.address)
        assert found is not None
        assert [function.link and function.link.index for function in (found, *found.vfs)] == [
            function.link and function.link.index for function in (pf, *pf.vfs)]


def test_single_facts(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    sysfs = machine.sysfs
    for pf in pfs:
        assert sysfs.read_num_vfs(pf.address) == COUNT
        assert sysfs.read_autoprobe(pf.address) is True
        for vf in pf.vfs:
            assert sysfs.locate_vf(vf.address) == (pf.address, vf.index)
        for function in (pf, *pf.vfs):
            assert function.link is not None
            assert sysfs.find_netdev(function.address) == (function.link.name, function.link.index)
            assert sysfs.read_driver(function.address) == function.driver
        assert sysfs.has_permanent_mac(pf.address)
    assert sysfs.driver_exists("igbvf")
    assert not sysfs.driver_exists("no-such-driver")


def test_what_is_not_there(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    sysfs = machine.sysfs
    for call in (sysfs.read_driver, sysfs.find_netdev, sysfs.has_permanent_mac, sysfs.locate_vf, sysfs.read_num_vfs,
                 sysfs.read_autoprobe, sysfs.unbind):
        with pytest.raises(Gone, match=f"{NONE}: there is no such PCI device"):
            call(NONE)
    with pytest.raises(InputError, match="is not a VF"):
        sysfs.locate_vf(pfs[0].address)


def test_autoprobe_is_read_as_it_was_written(machine: Node, pfs: tuple[PhysicalFunction, ...]) -> None:
    for wanted in (False, True):
        machine.sysfs.write_autoprobe(pfs[0].address, wanted)
        assert machine.sysfs.read_autoprobe(pfs[0].address) is wanted
