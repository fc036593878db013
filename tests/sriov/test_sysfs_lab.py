"""The sysfs adapter on a real kernel with three emulated 82576: what the other tests' synthetic trees claim."""

import errno
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sriov.errors import Gone, HostError
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.pools.assignment import assign
from sriov.pools.poolfile import load_pool_file
from tests.sriov.host_contract import check_all_vfs_found, check_host

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/pools.yaml"


def run(*argv):
    subprocess.run(argv, check=True, capture_output=True)


def read_links():
    with Links.open() as links:
        return links.dump()


def scan():
    host = Sysfs().scan(read_links())
    check_host(host)
    return host


@pytest.fixture(scope="module")
def made():
    """7 VFs on each PF, all with their driver; afterwards none."""
    sysfs, pfs = Sysfs(), scan().pfs
    for pf in pfs:
        run("ip", "link", "set", pf.link.name, "up")    # igbvf gets no answer from a PF that is down
        sysfs.write_num_vfs(pf.address, 7)
    yield
    for pf in pfs:
        sysfs.write_num_vfs(pf.address, 0)
        run("ip", "link", "set", pf.link.name, "down")
    run("udevadm", "settle")


@pytest.fixture
def vfs(made):
    """The host with all VFs, after udev has named their netdevs."""
    run("udevadm", "settle")
    return scan()


def test_pfs():
    host = scan()
    check_all_vfs_found(host)
    assert [(pf.vendor, pf.device, pf.driver, pf.total_vfs, pf.num_vfs) for pf in host.pfs] == [
        ("8086", "10c9", "igb", 7, 0)] * 3
    assert {pf.numa_node for pf in host.pfs} == {0, 1, None}
    for pf in host.pfs:
        assert pf.link is not None
        assert pf.link.pci == pf.address
        assert Sysfs().find_netdev(pf.address) == (pf.link.name, pf.link.index)


def test_vfs_without_driver_and_vfs_that_are_gone():
    sysfs, pf = Sysfs(), scan().pfs[0].address
    sysfs.write_autoprobe(pf, False)
    try:
        sysfs.write_num_vfs(pf, 2)
        vfs = sysfs.scan_pf(pf, read_links()).vfs
        assert [vf.driver for vf in vfs] == [None, None]
    finally:
        sysfs.write_autoprobe(pf, True)
        sysfs.write_num_vfs(pf, 0)
    for call in (sysfs.read_driver, sysfs.find_netdev, sysfs.unbind, sysfs.locate_vf):
        with pytest.raises(Gone, match="there is no such PCI device"):
            call(vfs[0].address)


# ---- with the VFs of all PFs; `made` stays until the end of the module --------------------------------------


def test_vfs(vfs):
    check_all_vfs_found(vfs)
    sysfs, links = Sysfs(), read_links()
    for pf in vfs.pfs:
        assert [(vf.index, vf.vendor, vf.device, vf.driver, vf.numa_node, vf.away) for vf in pf.vfs] == [
            (n, "8086", "10ca", "igbvf", pf.numa_node, False) for n in range(7)]
        assert sysfs.scan_pf(pf.address, links) == pf
        for vf in pf.vfs:
            assert vf.iommu_group is not None
            assert sysfs.locate_vf(vf.address) == (pf.address, vf.index)
    by_name = sysfs.scan(replace(link, pci=None) for link in links)
    assert [(vf.address, vf.link and vf.link.name) for vf in by_name.vfs] == [
        (vf.address, vf.link and vf.link.name) for vf in vfs.vfs]


def test_example_pools(vfs):
    assignment = assign(vfs, load_pool_file(EXAMPLE).pools)
    assert {name: len(members) for name, members in assignment.members.items()} == {
        "intel.com/sriov": 14, "intel.com/sriov_dpdk": 7}
    assert assignment.left_out == {}


def test_numbers_that_the_kernel_refuses(vfs):
    sysfs, pf = Sysfs(), vfs.pfs[0].address
    for count, reason in ((3, errno.EBUSY), (8, errno.ERANGE)):
        with pytest.raises(HostError, match=f"cannot set {count} VFs on PF {pf}: .*/sriov_numvfs") as caught:
            sysfs.write_num_vfs(pf, count)
        assert caught.value.errno == reason
    assert sysfs.read_num_vfs(pf) == 7


def test_a_vf_in_a_namespace_is_away(vfs):
    vf = vfs.pfs[0].vfs[2]
    run("ip", "netns", "add", "pod")
    try:
        run("ip", "link", "set", vf.link.name, "netns", "pod")
        host = scan()
        check_all_vfs_found(host)
        assert [other.index for other in host.vfs if other.away] == [2]
        assert host.find_vf(vf.address).away
        assert Sysfs().find_netdev(vf.address) is None
        run("ip", "-n", "pod", "link", "set", vf.link.name, "netns", "1")
    finally:
        run("ip", "netns", "delete", "pod")


def test_drivers_are_changed_and_changed_back(vfs):
    sysfs, vf = Sysfs(), vfs.pfs[0].vfs[0].address
    run("modprobe", "vfio-pci")
    assert sysfs.driver_exists("vfio-pci")
    sysfs.set_driver_override(vf, "vfio-pci")
    sysfs.unbind(vf)
    assert sysfs.read_driver(vf) is None
    sysfs.unbind(vf)
    sysfs.probe(vf)
    assert sysfs.read_driver(vf) == "vfio-pci"
    function = scan().find_vf(vf)
    assert (function.userspace, function.away, function.link) == (True, False, None)
    sysfs.set_driver_override(vf, None)
    sysfs.unbind(vf)
    sysfs.probe(vf)
    assert sysfs.read_driver(vf) == "igbvf"
