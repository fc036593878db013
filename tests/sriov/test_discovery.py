"""What a scan finds beyond PFs and their VFs: other NICs, RDMA, vfio, firmware's names, where a device sits."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.host.discovery import discover
from sriov.host.sysfs import Sysfs
from sriov.model import RdmaDevice
from sriov.pci import PciAddress
from tests.sriov.host_contract import check_all_vfs_found, check_host
from tests.support.nics import NICS, nic
from tests.support.tree import Pf, Tree

PF = PciAddress("0000:3b:00.0")
PF2 = PciAddress("0000:5e:00.0")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "sys")


def scan(tree):
    host = Sysfs(tree.root).scan(tree.links)
    check_host(host)
    return host


def name_of(function):
    return function.link and function.link.name


# ---- the drivers that the lab lacks -----------------------------------------------------------------------


@pytest.mark.parametrize("parents", [True, False], ids=["netlink tells parents", "sysfs does"])
@pytest.mark.parametrize("kind", NICS)
def test_every_kind_of_nic(tree, kind, parents):
    tree.add(nic(kind, PF, "ens1f0", num_vfs=4, vf_drivers={3: "vfio-pci"}, away={1}, iommu=True))
    tree.add(nic(kind, PF2, "ens2f0", num_vfs=0))
    host = Sysfs(tree.root).scan(tree.links if parents else tree.links_without_parent)
    check_host(host)
    check_all_vfs_found(host)
    pf, idle = host.pfs
    assert (name_of(pf), name_of(idle), pf.num_vfs, idle.vfs) == ("ens1f0", "ens2f0", 4, ())
    assert pf.driver == NICS[kind].get("driver", "igb")
    assert pf.speed == NICS[kind].get("speed")
    assert [name_of(vf) for vf in pf.vfs] == ["ens1f0v0", None, "ens1f0v2", None]
    assert [(vf.away, vf.userspace) for vf in pf.vfs] == [
        (False, False), (True, False), (False, False), (False, True)]
    assert [len(function.rdma) for function in (pf, *pf.vfs)] == (
        [1, 1, 0, 1, 0] if NICS[kind].get("rdma") else [0] * 5)
    for function in (pf, *pf.vfs):
        assert Sysfs(tree.root).find_netdev(function.address) == (
            function.link and (function.link.name, function.link.index))
    assert Sysfs(tree.root).has_permanent_mac(pf.vfs[0].address)


@pytest.mark.parametrize(("port", "uplink"), [
    ("p0", True), ("p1", True), ("p0s1", True), ("pf0vf3", False), ("pf0", False), ("c1pf0vf0", False),
    ("pf0sf88", False)])
def test_representors_are_not_the_pf(tree, port, uplink):
    """By what netlink says of the port, and by what its file says."""
    tree.add(Pf(PF, "ens1f0np0", port=port, representors=("eth0",)))
    (pf,) = scan(tree).pfs
    assert pf.link is not None
    assert (pf.link.name, pf.link.is_uplink) == (("ens1f0np0", True) if uplink else ("eth0", False))
    assert Sysfs(tree.root).find_netdev(PF) == (pf.link.name, pf.link.index)


def test_infiniband(tree):
    tree.add(nic("mlx5 legacy", PF, "ib0", num_vfs=1, pci_class="020700"))
    host = scan(tree)
    assert [(function.pci_class, function.link and function.link.kind, len(function.rdma))
            for function in (*host.pfs, *host.vfs)] == [(0x020700, "infiniband", 1)] * 2


def test_a_pf_without_netdev(tree):
    tree.add(Pf(PF, None, num_vfs=2)).add(Pf(PF2, None, driver="vfio-pci", num_vfs=0))
    host = scan(tree)
    check_all_vfs_found(host)
    assert [(pf.link, pf.speed) for pf in host.pfs] == [(None, None)] * 2
    assert [vf.link is None for vf in host.vfs] == [False, False]


def test_five_digit_domains(tree):
    """A VMD controller's: the path names the controller's own function, too."""
    pf = PciAddress("10000:01:00.0")
    tree.add(Pf(pf, "ens1f0", num_vfs=2, behind=("0000:5d:05.5", "10000:00:02.0"), rdma=True, iommu=True))
    host = scan(tree)
    check_all_vfs_found(host)
    assert host.pfs[0].path == ("0000:5d:05.5", "10000:00:02.0", pf)
    assert [vf.address for vf in host.vfs] == ["10000:01:02.0", "10000:01:02.1"]
    assert [function.rdma[0].name for function in (*host.pfs, *host.vfs)] == ["mlx5_0", "mlx5_1", "mlx5_2"]


# ---- where it is ------------------------------------------------------------------------------------------


def test_paths(tree):
    bridges = ("0000:3a:00.0", "0000:3a:01.0")
    tree.add(Pf(PF, "ens1f0", num_vfs=2, behind=bridges)).add(Pf(PF2, "ens2f0", num_vfs=1))
    host = scan(tree)
    assert [function.path for function in (*host.pfs, *host.vfs)] == [
        (*bridges, PF), (PF2,), (*bridges, "0000:3b:02.0"), (*bridges, "0000:3b:02.1"), ("0000:5e:02.0",)]


def test_a_path_without_the_kernels_short_cut(tree):
    """Should a VF ever not be its PF's neighbour, its own link says where it is."""
    tree.add(Pf(PF, "ens1f0", num_vfs=1, behind=("0000:3a:00.0",)))
    link = tree.path(PF, "virtfn0")
    link.unlink()
    os.symlink("../../0000:3a:00.0/0000:3b:02.0", link)
    (vf,) = scan(tree).vfs
    assert vf.path == ("0000:3a:00.0", "0000:3b:02.0")


def test_acpi_index(tree):
    tree.add(Pf(PF, "eno1", acpi_index="3", num_vfs=1)).add(Pf(PF2, "ens2f0"))
    host = scan(tree)
    assert [function.acpi_index for function in (*host.pfs, *host.vfs)] == ["3", None, None]


def test_an_unreadable_acpi_index_is_named_and_hides_nothing(tree):
    tree.add(Pf(PF, "eno1", acpi_index="3", num_vfs=1))
    tree.make_unreadable(PF, "acpi_index")
    host = scan(tree)
    assert [pf.acpi_index for pf in host.pfs] == [None]
    assert host.unreadable == (
        f"cannot read the ACPI index of {PF}: {tree.path(PF, 'acpi_index')}: EISDIR",)


# ---- link speed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "speed"), [
    ("100000\n", 100000), ("-1\n", None), ("4294967295\n", None), ("0\n", None)])
def test_speed(tree, text, speed):
    tree.add(Pf(PF, "ens1f0"))
    tree.write(PF, "net/ens1f0/speed", text)
    assert scan(tree).pfs[0].speed == speed


def test_no_speed_file_is_no_speed(tree):
    tree.add(Pf(PF, "ens1f0", speed=1000))
    tree.remove(PF, "net/ens1f0/speed")
    host = scan(tree)
    assert (host.pfs[0].speed, host.unreadable) == (None, ())


@pytest.mark.parametrize(("text", "reason"), [(None, "EISDIR"), ("fast\n", "expected a number, got 'fast'")])
def test_an_unreadable_speed_is_named(tree, text, reason):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    if text is None:
        tree.make_unreadable(PF, "net/ens1f0/speed")
    else:
        tree.write(PF, "net/ens1f0/speed", text)
    host = scan(tree)
    assert [(pf.speed, len(pf.vfs)) for pf in host.pfs] == [(None, 1)]
    assert host.unreadable == (
        f"cannot read the speed of ens1f0: {tree.path(PF, 'net/ens1f0/speed')}: {reason}",)


# ---- vfio -------------------------------------------------------------------------------------------------


def test_noiommu(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2, vf_drivers={1: "vfio-pci"}, noiommu=True))
    tree.add(Pf(PF2, "ens2f0", num_vfs=1, vf_driver="vfio-pci", iommu=True))
    host = scan(tree)
    assert [(vf.noiommu, vf.iommu_group) for vf in host.vfs] == [(False, None), (True, 0), (False, 2)]


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci"])
def test_vfio_character_devices(tree, driver):
    tree.add(Pf(PF, "ens1f0", num_vfs=3, vf_drivers={1: driver, 2: driver}, iommu=True, iommufd=True))
    tree.add(Pf(PF2, "ens2f0", num_vfs=1, vf_driver=driver, iommu=True))
    assert [vf.vfio_device for vf in scan(tree).vfs] == [None, "vfio0", "vfio1", None]


def test_an_unreadable_vfio_folder_is_not_an_old_kernel(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1, vf_driver="vfio-pci", iommufd=True))
    vf = scan(tree).pfs[0].vfs[0].address
    tree.make_unreadable(vf, "vfio-dev")
    host = scan(tree)
    assert list(host.vfs) == []
    assert host.unreadable == (f"cannot read VF 0 of PF {PF}: {tree.path(vf, 'vfio-dev')}: ENOTDIR",)


# ---- RDMA -------------------------------------------------------------------------------------------------


def test_rdma_devices_and_their_nodes(tree):
    tree.add(nic("mlx5 legacy", PF, "ens1f0np0", num_vfs=1))
    tree.add_rdma(PF)
    (pf,) = scan(tree).pfs
    dev = "/dev/infiniband"
    assert pf.rdma == (
        RdmaDevice(name="mlx5_0", nodes=(f"{dev}/issm0", f"{dev}/umad0", f"{dev}/uverbs0")),
        RdmaDevice(name="mlx5_2", nodes=(f"{dev}/issm2", f"{dev}/umad2", f"{dev}/uverbs2")))
    assert pf.vfs[0].rdma == (
        RdmaDevice(name="mlx5_1", nodes=(f"{dev}/issm1", f"{dev}/umad1", f"{dev}/uverbs1")),)


def test_rdma_without_its_character_devices(tree):
    """ib_core is loaded, ib_uverbs and ib_umad are not."""
    tree.add(nic("mlx5 legacy", PF, "ens1f0np0"))
    for name in ("infiniband_verbs", "infiniband_mad"):
        for entry in (tree.root / "class" / name).iterdir():
            entry.unlink()
        (tree.root / "class" / name).rmdir()
    host = scan(tree)
    assert (host.pfs[0].rdma, host.unreadable) == ((RdmaDevice(name="mlx5_0"),), ())


def test_rdma_that_is_not_a_pci_functions_own(tree):
    """Soft-RoCE is nobody's; a sub-function's belongs to the auxiliary bus, not to the PF."""
    tree.add(Pf(PF, "ens1f0"))
    classes = tree.root / "class/infiniband"
    classes.mkdir()
    os.symlink("../../devices/virtual/infiniband/rxe0", classes / "rxe0")
    os.symlink(f"../../devices/pci0000:3b/{PF}/mlx5_core.sf.4/infiniband/mlx5_7", classes / "mlx5_7")
    host = scan(tree)
    assert (host.pfs[0].rdma, host.unreadable) == ((), ())


@pytest.mark.parametrize(("spoilt", "sentence"), [
    ("infiniband", "cannot list the RDMA devices: {}/class/infiniband: ENOTDIR"),
    ("infiniband/mlx5_0", "cannot read RDMA device mlx5_0: {}/class/infiniband/mlx5_0: EINVAL"),
    ("infiniband_verbs", "cannot list RDMA character devices: {}/class/infiniband_verbs: ENOTDIR"),
    ("infiniband_verbs/uverbs0",
     "cannot read RDMA character device uverbs0: {}/class/infiniband_verbs/uverbs0/ibdev: ENOTDIR"),
])
def test_unreadable_rdma_is_named_and_hides_no_nic(tree, spoilt, sentence):
    tree.add(nic("mlx5 legacy", PF, "ens1f0np0", num_vfs=1))
    path = tree.root / "class" / spoilt
    if path.is_symlink():
        path.unlink()
    else:
        path.rename(tree.root / "gone")
    path.write_text("")
    host = scan(tree)
    assert len(list(host.vfs)) == 1
    assert host.unreadable == (sentence.format(tree.root),)


# ---- NICs and accelerators that are neither PF nor VF -------------------------------------------------------


def test_others(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    tree.add_other("10000:01:00.0", "120000", driver="habanalabs")
    tree.add_other("0000:03:00.0", "020000", netdev="eno1", driver="tg3")
    tree.add_other("0000:00:03.0", "020000", netdev="eth0", driver="virtio-pci")
    tree.add_other("0000:00:00.0", "060000")
    tree.add_other("0000:02:00.0", "010802", sriov_totalvfs=32)
    host = scan(tree)
    assert [(other.address, other.pci_class, other.driver, name_of(other)) for other in host.others] == [
        ("0000:00:03.0", 0x020000, "virtio-pci", "eth0"), ("0000:03:00.0", 0x020000, "tg3", "eno1"),
        ("10000:01:00.0", 0x120000, "habanalabs", None)]
    assert host.unreadable == ()


def test_accelerators_are_plain_functions_with_vfs_or_without(tree):
    tree.add(Pf(PF, None, num_vfs=1, pci_class="120000"))
    host = scan(tree)
    assert (host.pfs, [other.address for other in host.others]) == ((), [PF, "0000:3b:02.0"])


def test_a_vf_is_no_plain_nic_even_if_its_pf_does_not_list_it(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    tree.remove(PF, "virtfn0")
    host = scan(tree)
    assert ([vf.index for vf in host.vfs], host.others) == ([1], ())


def test_a_vf_that_could_not_be_read_is_no_plain_nic(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    tree.make_unreadable("0000:3b:02.0", "vendor")
    tree.remove("0000:3b:02.0", "physfn")
    host = scan(tree)
    assert (host.others, len(host.unreadable)) == ((), 1)


def test_a_device_of_unknown_class_is_named(tree):
    tree.add_other("0000:03:00.0", "020000", netdev="eno1", driver="tg3")
    tree.add_other("0000:04:00.0", "020000", netdev="eno2", driver="tg3")
    tree.make_unreadable("0000:03:00.0", "class")
    host = scan(tree)
    assert [other.address for other in host.others] == ["0000:04:00.0"]
    assert host.unreadable == (
        f"cannot read device 0000:03:00.0: {tree.path('0000:03:00.0', 'class')}: EISDIR",)


def test_a_device_that_went_since_the_folder_was_listed_is_not_there(tree, monkeypatch):
    tree.add_other("0000:03:00.0", "020000", netdev="eno1", driver="tg3")
    listed = os.listdir

    def list_then_lose(path):
        names = listed(path)
        if str(path).endswith("/devices"):
            tree.unplug("0000:03:00.0")
        return names

    monkeypatch.setattr(os, "listdir", list_then_lose)
    host = Sysfs(tree.root).scan(tree.links)
    assert (host.others, host.unreadable) == ((), ())


# ---- this machine's own kernel ----------------------------------------------------------------------------


def test_the_whole_look_at_this_machine():
    """All dumps and, where there is one, devlink; as any user, who may be refused the eswitch mode."""
    host = discover(Sysfs())
    check_host(host)
    assert [sentence for sentence in host.unreadable if "eswitch mode" not in sentence] == []
    assert [other.address for other in host.others] == [other.address for other in Sysfs().scan(()).others]


# ---- whatever is broken, the rest is found -------------------------------------------------------------------


HEALTHY = PciAddress("0000:86:00.0")


def spoilable(root):
    """Everything below the folder but the healthy PF's own and the folders that say what there is at all."""
    found = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.relpath(os.path.join(folder, name), root)
            if "0000:86" not in path and path.count("/") >= 2 and not path.endswith("pci/devices"):
                found.append(path)
    return sorted(found)


@settings(deadline=None, max_examples=60)    # builds a tree each time
@given(st.data())
def test_broken_files_never_fail_the_scan(data):
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder) / "sys")
        tree.add(nic("mlx5 switchdev", PF, "ens1f0np0", num_vfs=2, behind=("0000:3a:00.0",), iommu=True,
                     iommufd=True, vf_drivers={1: "vfio-pci"}, acpi_index="3"))
        tree.add(nic("i40e", HEALTHY, "ens8f0", num_vfs=2, away={1}))
        tree.add_other("0000:03:00.0", "020000", netdev="eno1", driver="virtio-pci")
        healthy = [pf for pf in Sysfs(tree.root).scan(tree.links).pfs if pf.address == HEALTHY]
        spoilt = st.tuples(st.sampled_from(spoilable(tree.root)),
                           st.sampled_from(["missing", "folder", "", "nonsense\n", "0x\n", "-7\n", "\xff"]))
        for path, how in data.draw(st.lists(spoilt, min_size=1, max_size=8)):
            spoil(tree.root / path, how)
        for links in (tree.links, tree.links_without_parent):
            host = Sysfs(tree.root).scan(links)
            assert [pf for pf in host.pfs if pf.address == HEALTHY] in (healthy, [
                without_parent(pf) for pf in healthy])
            assert not [sentence for sentence in host.unreadable if "0000:86" in sentence]


def without_parent(pf):
    def blind(function):
        return replace(function, link=function.link and replace(function.link, pci=None))

    return replace(blind(pf), vfs=tuple(blind(vf) for vf in pf.vfs))


def spoil(path, how):
    if not os.path.lexists(path):             # an earlier one took its folder
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_text(how)
