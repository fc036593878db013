"""The sysfs adapter on synthetic trees: what it finds, what it survives, what it writes."""

import errno
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.errors import Gone, HostError, InputError
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link
from sriov.pci import MacAddress, PciAddress
from tests.bench import scan as scan_bench
from tests.sriov.host_contract import check_all_vfs_found, check_host
from tests.support.tree import Pf, Tree

PF = PciAddress("0000:3b:00.0")
VF0 = PciAddress("0000:3b:02.0")
NONE = PciAddress("0000:99:00.0")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "sys")


def scan(tree):
    host = Sysfs(tree.root).scan(tree.links)
    check_host(host)
    return host


# ---- scan -----------------------------------------------------------------------------------------------


def test_everything_about_a_pf_and_its_vfs(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, numa_node=1, iommu=True, altnames=("enp59s0f0",),
                vf_drivers={1: "vfio-pci", 2: None}))
    host = scan(tree)
    check_all_vfs_found(host)
    (pf,) = host.pfs
    assert (pf.address, pf.vendor, pf.device, pf.driver) == (PF, "8086", "10c9", "igb")
    assert (pf.numa_node, pf.iommu_group, pf.total_vfs, pf.num_vfs) == (1, 0, 7, 3)
    assert pf.link is not None
    assert (pf.link.name, pf.link.altnames) == ("ens1f0", ("enp59s0f0",))
    assert [(vf.address, vf.index, vf.device, vf.driver, vf.numa_node, vf.iommu_group) for vf in pf.vfs] == [
        ("0000:3b:02.0", 0, "10ca", "igbvf", 1, 1),
        ("0000:3b:02.1", 1, "10ca", "vfio-pci", 1, 2),
        ("0000:3b:02.2", 2, "10ca", None, 1, 3),
    ]
    assert [vf.link.name if vf.link else None for vf in pf.vfs] == ["ens1f0v0", None, None]
    assert [vf.away for vf in pf.vfs] == [False, False, False]


def test_only_network_pfs_are_pfs(tree):
    tree.add(Pf("0000:5e:00.0", "ib0", pci_class="020700")).add(Pf(PF, "ens1f0", num_vfs=1))
    tree.add_other("0000:00:00.0", "060000")                                  # host bridge
    tree.add_other("0000:02:00.0", "010802", sriov_totalvfs=32)               # NVMe with SR-IOV
    tree.add_other("0000:03:00.0", "020000")                                  # NIC without SR-IOV
    assert [pf.address for pf in scan(tree).pfs] == [PF, "0000:5e:00.0"]


def test_domains_sort_as_numbers(tree):
    for address in ("10000:01:00.0", "0000:5e:00.0", "ffff:01:00.0"):
        tree.add(Pf(address, None))
    assert [pf.address for pf in scan(tree).pfs] == ["0000:5e:00.0", "ffff:01:00.0", "10000:01:00.0"]


def test_gaps_and_two_digit_numbers(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=20, total_vfs=64, gaps={0, 7}))
    host = scan(tree)
    assert [vf.index for vf in host.vfs] == [n for n in range(20) if n not in (0, 7)]
    assert host.unreadable == ()


def test_vfs_on_the_next_bus(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, offset=254, stride=2))
    assert [vf.address for vf in scan(tree).vfs] == ["0000:3b:1f.6", "0000:3c:00.0", "0000:3c:00.2"]


def test_a_vf_in_a_pod_is_away(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, vf_drivers={2: "vfio-pci"}, away={1}))
    host = scan(tree)
    assert [(vf.away, vf.driver) for vf in host.vfs] == [(False, "igbvf"), (True, "igbvf"), (False, "vfio-pci")]
    check_all_vfs_found(host)


def test_kernels_that_do_not_tell_parents(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, away={1}))
    host = Sysfs(tree.root).scan(tree.links_without_parent)
    check_host(host)
    names = [function.link and function.link.name for function in (*host.pfs, *host.vfs)]
    assert names == ["ens1f0", "ens1f0v0", None, "ens1f0v2"]


@pytest.mark.parametrize("parents", [True, False])
def test_uplink_before_representors(tree, parents):
    tree.add(Pf(PF, "eth1", port="p0", representors=("eth0",)))
    links = tree.links if parents else tree.links_without_parent
    (pf,) = Sysfs(tree.root).scan(links).pfs
    assert pf.link is not None
    assert pf.link.name == "eth1"
    assert Sysfs(tree.root).find_netdev(PF) == ("eth1", pf.link.index)


def test_kernel_without_numa(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, numa_node=1))
    for address in (PF, VF0):
        tree.remove(address, "numa_node")
    host = scan(tree)
    assert host.unreadable == ()
    assert [function.numa_node for function in (*host.pfs, *host.vfs)] == [None, None]


# ---- what cannot be read --------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "spoil", "reason"), [
    ("vendor", "make_unreadable", "EISDIR"),
    ("vendor", "remove", "ENOENT"),
    ("device", "make_unreadable", "EISDIR"),
    ("numa_node", "make_unreadable", "EISDIR"),
    ("driver", "make_unreadable", "EINVAL"),
    ("iommu_group", "make_unreadable", "EINVAL"),
])
def test_unreadable_vf_is_named_and_hides_nothing_else(tree, file, spoil, reason):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, iommu=True)).add(Pf("0000:5e:00.0", "ens2f0", num_vfs=2))
    getattr(tree, spoil)(VF0, file)
    host = scan(tree)
    assert [vf.address for vf in host.vfs] == ["0000:3b:02.1", "0000:3b:02.2", "0000:5e:02.0", "0000:5e:02.1"]
    assert host.unreadable == (f"cannot read VF 0 of PF {PF}: {tree.path(VF0, file)}: {reason}",)


@pytest.mark.parametrize(("file", "text", "complaint"), [
    ("vendor", "8086\n", "expected an id like 0x8086, got '8086'"),
    ("device", "", "expected an id like 0x8086, got ''"),
    ("numa_node", "x\n", "expected a number, got 'x'"),
])
def test_malformed_file_is_named(tree, file, text, complaint):
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    tree.write(VF0, file, text)
    host = scan(tree)
    assert [vf.index for vf in host.vfs] == [1]
    assert host.unreadable == (f"cannot read VF 0 of PF {PF}: {tree.path(VF0, file)}: {complaint}",)


@pytest.mark.parametrize(("file", "reason"), [
    ("class", "EISDIR"), ("sriov_totalvfs", "EISDIR"), ("sriov_numvfs", "EISDIR"), ("vendor", "EISDIR"),
    ("driver", "EINVAL"),
])
def test_unreadable_pf_is_named_and_hides_no_other(tree, file, reason):
    tree.add(Pf(PF, "ens1f0", num_vfs=3)).add(Pf("0000:5e:00.0", "ens2f0", num_vfs=2))
    tree.make_unreadable(PF, file)
    host = scan(tree)
    assert [pf.address for pf in host.pfs] == ["0000:5e:00.0"]
    assert host.unreadable == (f"cannot read PF {PF}: {tree.path(PF, file)}: {reason}",)


def test_vf_that_vanishes_is_not_a_vf_without_driver(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    tree.unplug(VF0)
    host = scan(tree)
    assert [vf.index for vf in host.vfs] == [1]
    assert host.unreadable == (f"cannot read VF 0 of PF {PF}: {tree.path(VF0, 'vendor')}: ENOENT",)


def test_no_pci_bus_is_not_an_empty_one(tmp_path):
    assert Sysfs(tmp_path).scan([]) == Host(unreadable=(
        f"cannot list the PCI devices: {tmp_path}/bus/pci/devices: ENOENT",))


FILES = ("class", "vendor", "device", "numa_node", "driver", "iommu_group", "net", "sriov_totalvfs", "sriov_numvfs",
         "virtfn0", "virtfn1", "physfn")
SPOILT = st.tuples(st.sampled_from(["0000:3b:00.0", "0000:3b:02.0", "0000:3b:02.1"]), st.sampled_from(FILES),
                   st.sampled_from(["missing", "unreadable", "", "nonsense\n", "0x\n", "-7\n", "\xff"]))


@settings(deadline=None)    # builds a tree each time
@given(st.lists(SPOILT, min_size=1, max_size=6, unique_by=lambda spoilt: spoilt[:2]))
def test_spoilt_files_never_fail_the_scan(spoilt):
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder) / "sys").add(Pf(PF, "ens1f0", num_vfs=2, iommu=True))
        tree.add(Pf("0000:5e:00.0", "ens2f0", num_vfs=2))
        for address, file, how in spoilt:
            path = tree.path(address, file)
            if not (path.is_symlink() or path.exists()):
                continue
            if how == "missing":
                tree.remove(address, file)
            elif how == "unreadable" or path.is_dir():
                tree.make_unreadable(address, file)
            else:
                path.write_text(how)
        for links in (tree.links, tree.links_without_parent):
            host = Sysfs(tree.root).scan(links)
            assert [vf.index for vf in host.pfs[-1].vfs] == [0, 1]
            assert host.pfs[-1].address == "0000:5e:00.0"
            assert all("0000:3b:0" in sentence for sentence in host.unreadable)


# ---- one PF ---------------------------------------------------------------------------------------------


def test_one_pf_as_the_whole_scan_has_it(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3)).add(Pf("0000:5e:00.0", "ens2f0"))
    assert Sysfs(tree.root).scan_pf(PF, tree.links) == scan(tree).pfs[0]


def test_one_pf_all_or_nothing(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3))
    tree.write(VF0, "vendor", "x")
    with pytest.raises(HostError, match=f"cannot read VF 0 of PF {PF}: .*/vendor: expected an id like 0x"):
        Sysfs(tree.root).scan_pf(PF, tree.links)


def test_one_pf_that_is_none(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    with pytest.raises(Gone, match=f"cannot read PF {NONE}: there is no such PCI device"):
        Sysfs(tree.root).scan_pf(NONE, ())
    with pytest.raises(HostError, match=f"cannot read PF {VF0}: .*/sriov_totalvfs: ENOENT") as caught:
        Sysfs(tree.root).scan_pf(VF0, ())
    assert caught.value.errno == errno.ENOENT


# ---- single facts and writes ----------------------------------------------------------------------------


def test_find_netdev(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2, away={1}))
    sysfs = Sysfs(tree.root)
    index = {link.name: link.index for link in tree.links}
    assert sysfs.find_netdev(PF) == ("ens1f0", index["ens1f0"])
    assert sysfs.find_netdev(VF0) == ("ens1f0v0", index["ens1f0v0"])
    assert sysfs.find_netdev(PciAddress("0000:3b:02.1")) is None
    with pytest.raises(Gone, match=f"cannot find the netdev of {NONE}: there is no such PCI device"):
        sysfs.find_netdev(NONE)


def test_locate_vf(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=12, total_vfs=64))
    sysfs = Sysfs(tree.root)
    assert [sysfs.locate_vf(vf.address) for vf in scan(tree).vfs] == [(PF, n) for n in range(12)]
    with pytest.raises(InputError, match=f"{PF} is not a VF: it has no physfn in sysfs"):
        sysfs.locate_vf(PF)
    with pytest.raises(Gone, match=f"cannot find the PF of VF {NONE}: there is no such PCI device"):
        sysfs.locate_vf(NONE)
    tree.remove(PF, "virtfn0")
    with pytest.raises(HostError, match=f"cannot find the index of VF {VF0}: PF {PF} does not list it"):
        sysfs.locate_vf(VF0)


@pytest.mark.parametrize(("kind", "permanent"), [("0", True), ("1", False), ("3", False)])
def test_permanent_mac(tree, kind, permanent):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    tree.write(VF0, "net/ens1f0v0/addr_assign_type", f"{kind}\n")
    assert Sysfs(tree.root).has_permanent_mac(VF0) is permanent


def test_permanent_mac_of_what_is_not_here(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, away={0}))
    assert Sysfs(tree.root).has_permanent_mac(VF0) is False
    with pytest.raises(Gone):
        Sysfs(tree.root).has_permanent_mac(NONE)


def test_what_stands_on_a_vf(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2, away={1}))
    sysfs = Sysfs(tree.root)
    assert sysfs.is_stacked_on(VF0) is False
    tree.write(VF0, "net/ens1f0v0/upper_bond0", "")
    assert sysfs.is_stacked_on(VF0) is True
    assert sysfs.is_stacked_on(PciAddress("0000:3b:02.1")) is False
    with pytest.raises(Gone):
        sysfs.is_stacked_on(NONE)


def test_drivers(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, vf_driver=None))
    sysfs = Sysfs(tree.root)
    assert (sysfs.read_driver(PF), sysfs.read_driver(VF0)) == ("igb", None)
    assert (sysfs.driver_exists("igb"), sysfs.driver_exists("vfio-pci")) == (True, False)
    with pytest.raises(Gone, match=f"cannot read the driver of {NONE}: there is no such PCI device"):
        sysfs.read_driver(NONE)


def test_enabled(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2, vf_drivers={1: "vfio-pci"}))
    sysfs, vf1 = Sysfs(tree.root), PciAddress("0000:3b:02.1")
    assert (sysfs.is_enabled(VF0), sysfs.is_enabled(vf1)) == (True, False)
    tree.write(vf1, "enable", "2\n")                     # as often as drivers enabled it
    assert sysfs.is_enabled(vf1) is True
    tree.write(vf1, "enable", "x\n")
    with pytest.raises(HostError, match=f"cannot read whether {vf1} is enabled: .*/enable: expected a number"):
        sysfs.is_enabled(vf1)
    with pytest.raises(Gone, match=f"cannot read whether {NONE} is enabled: there is no such PCI device"):
        sysfs.is_enabled(NONE)


def test_writes(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, total_vfs=64))
    sysfs = Sysfs(tree.root)
    sysfs.write_num_vfs(PF, 16)
    assert (tree.read(PF, "sriov_numvfs"), sysfs.read_num_vfs(PF)) == ("16", 16)
    sysfs.write_num_vfs(PF, 0)
    assert sysfs.read_num_vfs(PF) == 0
    sysfs.write_autoprobe(PF, False)
    assert tree.read(PF, "sriov_drivers_autoprobe") == "0"
    assert sysfs.read_autoprobe(PF) is False
    sysfs.write_autoprobe(PF, True)
    assert tree.read(PF, "sriov_drivers_autoprobe") == "1"
    assert sysfs.read_autoprobe(PF) is True
    sysfs.set_driver_override(VF0, "vfio-pci")
    assert tree.read(VF0, "driver_override") == "vfio-pci\n"
    sysfs.set_driver_override(VF0, None)
    assert tree.read(VF0, "driver_override") == "\n"    # an empty write would not reach the kernel
    sysfs.unbind(VF0)
    assert (tree.root / "bus/pci/drivers/igbvf/unbind").read_text() == VF0
    sysfs.probe(VF0)
    assert (tree.root / "bus/pci/drivers_probe").read_text() == VF0


def test_unbind_of_an_unbound_device_is_done(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, vf_driver=None))
    Sysfs(tree.root).unbind(VF0)
    assert (tree.root / "bus/pci/drivers/igb/unbind").read_text() == ""


class Losing(Sysfs):
    """Its writes fail with `errors`, one after the other, before one gets through; `lost` at the first."""

    def __init__(self, root, errors, lost=lambda: None):
        super().__init__(root)
        self.errors = list(errors)
        self._lost = lost

    def _write(self, operation, address, file, text):
        if self.errors:
            self._lost()
            raise HostError(operation, errno=self.errors.pop(0))
        super()._write(operation, address, file, text)


@pytest.mark.parametrize("errors", [[errno.ENOENT], [errno.ENODEV], [errno.ENOENT] * 20])
def test_unbind_waits_for_a_driver_that_is_being_loaded(tree, errors):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    Losing(tree.root, errors).unbind(VF0)
    assert (tree.root / "bus/pci/drivers/igbvf/unbind").read_text() == VF0


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENODEV])
def test_unbind_where_the_driver_has_gone_since_the_look(tree, error):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    Losing(tree.root, [error], lambda: tree.remove(VF0, "driver")).unbind(VF0)
    assert (tree.root / "bus/pci/drivers/igbvf/unbind").read_text() == ""


@pytest.mark.parametrize(("error", "waits"), [(errno.ENOENT, True), (errno.ENODEV, True), (errno.EACCES, False)])
def test_unbind_gives_up(tree, error, waits):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    sysfs = Losing(tree.root, [error] * 100)
    with pytest.raises(HostError, match=f"cannot unbind the driver of {VF0}") as caught:
        sysfs.unbind(VF0, patience=0.1)
    assert caught.value.errno == error
    assert (len(sysfs.errors) < 99) is waits


def test_unbind_of_a_device_that_goes_meanwhile(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    with pytest.raises(Gone):
        Losing(tree.root, [errno.ENOENT], lambda: tree.unplug(VF0)).unbind(VF0)


def writes(sysfs, address):
    return [lambda: sysfs.write_num_vfs(address, 4), lambda: sysfs.write_autoprobe(address, True),
            lambda: sysfs.set_driver_override(address, "vfio-pci"), lambda: sysfs.unbind(address),
            lambda: sysfs.read_num_vfs(address), lambda: sysfs.read_autoprobe(address)]


@pytest.mark.parametrize("which", range(6))
def test_writes_to_a_device_that_is_gone(tree, which):
    with pytest.raises(Gone, match=rf"{NONE}.*: there is no such PCI device"):
        writes(Sysfs(tree.root), NONE)[which]()


@pytest.mark.parametrize(("which", "file", "operation"), [
    (0, "sriov_numvfs", f"cannot set 4 VFs on PF {PF}"),
    (1, "sriov_drivers_autoprobe", f"cannot enable driver autoprobe on PF {PF}"),
    (2, "driver_override", f"cannot set the driver override of {PF} to vfio-pci"),
    (3, "driver/unbind", f"cannot unbind the driver of {PF}"),
])
def test_refused_writes_name_operation_path_and_errno(tree, which, file, operation):
    tree.add(Pf(PF, "ens1f0"))
    tree.make_unreadable(PF, file)
    with pytest.raises(HostError) as caught:
        writes(Sysfs(tree.root), PF)[which]()
    assert caught.value.errno == errno.EISDIR
    assert caught.value.message == f"{operation}: {tree.path(PF, file)}: EISDIR"


# ---- this machine's own kernel ----------------------------------------------------------------------------


def test_the_real_sysfs():
    """Holds wherever the tests run; a machine without SR-IOV has no PFs, and nothing is unreadable."""
    host = Sysfs().scan(())
    check_host(host)
    if Path("/sys/bus/pci/devices").is_dir():
        assert host.unreadable == ()


def test_links_of_other_devices_are_ignored(tree):
    tree.add(Pf(PF, None))
    other = Link(index=9, name="eth9", mac=MacAddress.ZERO, mtu=1500, up=True, carrier=True,
                 pci=PciAddress("0000:01:00.0"))
    (pf,) = Sysfs(tree.root).scan([other, replace(other, index=10, name="veth0", pci=None)]).pfs
    assert pf.link is None


def test_scan_budgets():
    """1,024 VFs in 150 ms, one PF of 128 in 20 ms: the best of five, so that a busy machine does not decide."""
    rows = {row.name: row for row in scan_bench.run(5)}
    assert rows["scan of 1,024 VFs on 8 PFs"].best < 150
    assert rows["rescan of one PF, 128 VFs"].best < 20
