"""Tables fit 100 columns and say what is so; JSON documents hold everything."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link, PciFunction, PhysicalFunction, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Pool, Selector, VfIndices, assign
from sriov.views.drawing import draw
from sriov.views.exports import assignment_document, host_document
from sriov.views.report import format_assignment, format_host, say_speed
from sriov.views.tables import WIDTH
from tests.support.nics import NICS, nic
from tests.support.tree import Pf, Tree


def scan(tmp_path, *pfs):
    tree = Tree(tmp_path / "sys")
    for pf in pfs:
        tree.add(pf)
    return Sysfs(tree.root).scan(tree.links)


def some_host(tmp_path):
    return scan(tmp_path, Pf("0000:3b:00.0", "ens1f0", num_vfs=4, numa_node=1, iommu=True, away={1},
                             vf_drivers={2: None, 3: "vfio-pci"}))


def test_host_table(tmp_path):
    assert format_host(some_host(tmp_path)) == """\
PCI ADDRESS     VF   NETDEV      IDS        DRIVER    NUMA  IOMMU  MAC                MTU   LINK
0000:3b:00.0    4/7  ens1f0      8086:10c9  igb       1     0      02:00:00:00:00:02  1500  up
  0000:3b:02.0  0    ens1f0v0    8086:10ca  igbvf     1     1      02:00:00:00:00:03  1500  up
  0000:3b:02.1  1    (not here)  8086:10ca  igbvf     1     2      -                  -     -
  0000:3b:02.2  2    -           8086:10ca  -         1     3      -                  -     -
  0000:3b:02.3  3    -           8086:10ca  vfio-pci  1     4      -                  -     -
"""


def test_host_without_pfs_and_with_something_unreadable():
    assert format_host(Host()) == "no SR-IOV capable network PF found\n"
    assert format_host(Host(unreadable=("cannot read PF 0000:3b:00.0: x/class: EIO",))) == (
        "no SR-IOV capable network PF found\n\nunreadable: cannot read PF 0000:3b:00.0: x/class: EIO\n")


def test_what_a_line_has_no_room_for(tmp_path):
    """Speed, switch, firmware and RDMA of PFs, what the node needs a NIC for; what is no PF and no VF."""
    tree = Tree(tmp_path / "sys").add(nic("ice", "0000:3b:00.0", "ens1f0", num_vfs=1))
    tree.add_other("0000:17:00.0", "020000", netdev="eno1", driver="tg3")
    tree.add_other("0000:18:00.0", "120000")
    host = Sysfs(tree.root).scan(tree.links)
    (pf,), (plain, accelerator) = host.pfs, host.others
    (vf,) = pf.vfs
    pf = replace(pf, eswitch="switchdev", firmware_package="ICE OS Default Package",
                 vfs=(replace(vf, ties=("has address 192.0.2.9/24",)),))
    plain = replace(plain, ties=("carries the default route (via bond0)", "port of bond0 (bond)",
                                 "has address 192.0.2.1/24 (via bond0)"))
    assert format_host(Host(pfs=(pf,), others=(plain, accelerator))) == """\
PCI ADDRESS     VF     NETDEV    IDS        DRIVER  NUMA  IOMMU  MAC                MTU   LINK
0000:3b:00.0    1/256  ens1f0    8086:1592  ice     -     -      02:00:00:00:00:02  1500  up
  0000:3b:01.0  0      ens1f0v0  8086:1889  iavf    -     -      02:00:00:00:00:03  1500  up
0000:17:00.0    -      eno1      8086:0001  tg3     -     -      02:00:00:00:00:04  1500  up
0000:18:00.0    -      -         8086:0001  -       -     -      -                  -     -

PCI ADDRESS   NETDEV    MORE
0000:3b:00.0  ens1f0    100 Gbit/s; eswitch switchdev; firmware package ICE OS Default Package; RDMA
                        mlx5_0
0000:3b:01.0  ens1f0v0  has address 192.0.2.9/24
0000:17:00.0  eno1      carries the default route (via bond0); port of bond0 (bond); has address
                        192.0.2.1/24 (via bond0)
0000:18:00.0  -         accelerator
"""
    assert format_host(Host(others=(accelerator,))).startswith("no SR-IOV capable network PF found\n\nPCI ADDRESS")


@pytest.mark.parametrize(("speed", "text"), [(10, "10 Mbit/s"), (2500, "2.5 Gbit/s"), (400000, "400 Gbit/s")])
def test_speeds(speed, text):
    assert say_speed(speed) == text


@pytest.mark.parametrize("kind", NICS)
def test_documents_of_each_kind_of_nic(tmp_path, kind):
    tree = Tree(tmp_path / "sys").add(nic(kind, "0000:3b:00.0", "ens1f0", num_vfs=2, away={1}))
    host = Sysfs(tree.root).scan(tree.links)
    (pf,) = json.loads(json.dumps(host_document(host)))["physicalFunctions"]
    assert (pf["netdev"]["name"], pf["netdev"]["kind"]) == ("ens1f0", "ether")
    assert pf["path"] == ["0000:3b:00.0"]
    assert [vf["netdevElsewhere"] for vf in pf["virtualFunctions"]] == [False, True]
    assert bool(pf["rdma"]) == NICS[kind].get("rdma", False)
    assert {key for vf in pf["virtualFunctions"] for key in vf} - set(pf) == {"index", "netdevElsewhere"}


def widest(function):
    link = function.link and replace(function.link, name="enp130s0f1np1v0", mtu=65535, up=False)
    return replace(function, driver="mlx5_vfio_pci", numa_node=11, iommu_group=12345, link=link)


def test_widest_table_fits(tmp_path):
    (pf,) = scan(tmp_path, Pf("0000:3b:00.0", "ens1f0", num_vfs=64, total_vfs=64)).pfs
    host = Host(pfs=(replace(widest(pf), vfs=tuple(widest(vf) for vf in pf.vfs)),),
                unreadable=("cannot read VF 7 of PF 0000:5e:00.0: /sys/bus/pci/devices/0000:5e:02.1/vendor: EIO",))
    pools = [Pool(resource=f"intel.com/{'a' * 40}", selectors=(Selector(pf=("none",), place="pools.yaml:14:9"),))]
    for table in (format_host(host), format_assignment(host, assign(host, pools))):
        assert max(map(len, table.splitlines())) <= WIDTH
        assert all(vf.address in table for vf in host.vfs)


# The kernel lets a netdev have any name of up to 15 bytes without spaces, slashes and colons.
names, words = st.text(max_size=15), st.text(max_size=4)
addresses = st.builds("{}:3b:{:02x}.{}".format, st.sampled_from(["0000", "10000"]), st.integers(0, 31),
                      st.integers(0, 7)).map(PciAddress)
links = st.builds(Link, index=st.integers(1, 99), name=names, mac=st.just(MacAddress("02:00:00:00:00:01")),
                  mtu=st.integers(0, 1 << 31), up=st.booleans(), carrier=st.booleans())
facts = {
    "address": addresses, "vendor": st.just("8086"), "device": st.just("10c9"), "driver": st.none() | names,
    "numa_node": st.none() | st.integers(0, 300), "iommu_group": st.none() | st.integers(0, 99999),
    "link": st.none() | links, "ties": st.lists(words, max_size=3).map(tuple),
}
vfs = st.builds(VirtualFunction, **facts, pf=addresses, index=st.integers(0, 9999))
pfs = st.builds(PhysicalFunction, **facts, total_vfs=st.integers(0, 65535), num_vfs=st.integers(0, 65535),
                speed=st.none() | st.integers(1, 1 << 31), eswitch=st.none() | words,
                vfs=st.lists(vfs, max_size=4).map(tuple))
hosts = st.builds(Host, pfs=st.lists(pfs, max_size=3).map(tuple),
                  others=st.lists(st.builds(PciFunction, **facts), max_size=2).map(tuple),
                  unreadable=st.lists(words, max_size=2).map(tuple))


@settings(deadline=None)
@given(hosts)
def test_any_host_can_be_shown(host):
    text = format_host(host)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(character.isprintable() or character == "\n" for character in text)
    assert json.loads(json.dumps(host_document(host)))["unreadable"] == list(host.unreadable)
    assert ElementTree.fromstring(draw(host)).tag.endswith("svg")


def test_assignment_table(tmp_path):
    host = some_host(tmp_path)
    pools = [Pool(resource="a/kernel", selectors=(Selector(pf=("ens*",), vfs=VfIndices.parse("0-2")),)),
             Pool(resource="a/none", selectors=(Selector(numa_node=(0,)),))]
    assert format_assignment(host, assign(host, pools)) == """\
RESOURCE  VFS  HEALTHY
a/kernel  3    2
a/none    0    0

PCI ADDRESS   PF      VF  RESOURCE, OR WHY NOT
0000:3b:02.0  ens1f0  0   a/kernel
0000:3b:02.1  ens1f0  1   a/kernel (netdev elsewhere)
0000:3b:02.2  ens1f0  2   a/kernel, not healthy: no driver is bound
0000:3b:02.3  ens1f0  3   no pool selects it; nearest is a/kernel: vfs 0-2 has no 3
"""


def test_documents_hold_everything(tmp_path):
    host = Host(pfs=some_host(tmp_path).pfs, unreadable=("x",))
    document = json.loads(json.dumps(host_document(host)))
    assert document["unreadable"] == ["x"]
    (pf,) = document["physicalFunctions"]
    assert (pf["address"], pf["numVfs"], pf["totalVfs"], pf["netdev"]["name"]) == ("0000:3b:00.0", 4, 7, "ens1f0")
    assert [(vf["index"], vf["driver"], vf["netdevElsewhere"], vf["netdev"] and vf["netdev"]["name"])
            for vf in pf["virtualFunctions"]] == [
        (0, "igbvf", False, "ens1f0v0"), (1, "igbvf", True, None), (2, None, False, None),
        (3, "vfio-pci", False, None)]
    pools = [Pool(resource="a/b", selectors=(Selector(vfs=VfIndices.parse("1-2")),))]
    assert json.loads(json.dumps(assignment_document(host, assign(host, pools)))) == {
        "resources": {"a/b": [{"address": "0000:3b:02.1", "fault": None},
                              {"address": "0000:3b:02.2", "fault": "no driver is bound"}]},
        "leftOut": {"0000:3b:02.0": "no pool selects it; nearest is a/b: vfs 1-2 has no 0",
                    "0000:3b:02.3": "no pool selects it; nearest is a/b: vfs 1-2 has no 3"},
        "unreadable": ["x"],
    }


def test_documents_name_every_field_of_the_model(tmp_path):
    """A field that the model gains is not forgotten here."""
    (pf,) = json.loads(json.dumps(host_document(some_host(tmp_path))))["physicalFunctions"]
    known = {"numa_node": "numaNode", "iommu_group": "iommuGroup", "link": "netdev", "num_vfs": "numVfs",
             "total_vfs": "totalVfs", "vfs": "virtualFunctions", "pci_class": "class", "acpi_index": "acpiIndex",
             "vfio_device": "vfioDevice", "last_link": "lastNetdev", "firmware_package": "firmwarePackage"}
    assert {known.get(name, name) for name in PhysicalFunction.__dataclass_fields__} == set(pf)
    vf_fields = {known.get(name, name) for name in VirtualFunction.__dataclass_fields__} - {"pf"}
    assert vf_fields | {"netdevElsewhere"} == set(pf["virtualFunctions"][0])
