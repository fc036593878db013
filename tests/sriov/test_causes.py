"""Each thing that keeps a VF from existing or working is named, with what to do; a sound node has no findings."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.diagnosis.causes import Wishes, diagnose
from sriov.diagnosis.examination import Examination
from sriov.diagnosis.modprobe import (
    Block,
    Modules,
    order_files,
    parse_boot_options,
    parse_modprobe,
    parse_module_names,
    parse_pci_aliases,
)
from sriov.diagnosis.symptoms import Capability, Symptoms, parse_resources
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver, PfEntry, PfMatch, Pool, PoolFile, Selector
from tests.support.nics import NICS, nic
from tests.support.tree import Tree

PF, VF0, VF1 = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:02.0"), PciAddress("0000:3b:02.1")
ALIASES = {("8086", "154c"): ("iavf",)}
SOUND = Symptoms(has_iommu=True, drivers=frozenset({"i40e", "iavf", "vfio-pci"}),
                 modules=Modules(names=frozenset({"i40e", "iavf", "vfio_pci"}), by_ids=ALIASES))
VFIO = {VF0: Driver("vfio-pci")}


def look(tmp_path, **keys):
    """A host with one i40e PF of two VFs."""
    tree = Tree(tmp_path / "sys").add(nic("i40e", PF, "ens1f0", **{"num_vfs": 2, "iommu": True, **keys}))
    return Sysfs(tree.root).scan(tree.links)


def with_link(host, **keys):
    (pf,) = host.pfs
    assert pf.link is not None
    return Host(pfs=(replace(pf, link=replace(pf.link, **keys)),))


def say(host, symptoms=SOUND, num_vfs=None, drivers=None):
    wishes = Wishes(num_vfs={} if num_vfs is None else {PF: num_vfs}, drivers=drivers or {})
    return [(finding.device, finding.problem, finding.action) for finding in diagnose(host, symptoms, wishes)]


@pytest.mark.parametrize("kind", NICS)
def test_nothing_is_wrong_with_a_sound_node(tmp_path, kind):
    tree = Tree(tmp_path / "sys").add(nic(kind, "0000:3b:00.0", "ens1f0", num_vfs=4, iommu=True, away={2}))
    assert say(Sysfs(tree.root).scan(tree.links), Symptoms()) == []


# ---- PFs --------------------------------------------------------------------------------------------------


def test_sriov_off_in_firmware(tmp_path):
    tree = Tree(tmp_path / "sys")
    tree.add_other("0000:17:00.0", "020000", netdev="eno1", driver="i40e")
    tree.add_other("0000:18:00.0", "020000", netdev="eno2", driver="tg3")
    ((device, problem, action),) = say(Sysfs(tree.root).scan(tree.links))
    assert device == "0000:17:00.0"
    assert "shows no SR-IOV capability (no sriov_totalvfs in sysfs)" in problem
    assert "BIOS" in action


def test_a_vf_in_a_guest_is_no_card_without_sriov(tmp_path):
    tree = Tree(tmp_path / "sys").add_other("0000:17:00.0", "020000", netdev="eno1", driver="mlx5_core")
    (other,) = Sysfs(tree.root).scan(tree.links).others
    assert say(Host(others=(replace(other, vendor="15b3", device="101e"),))) == []
    ((_, _, action),) = say(Host(others=(replace(other, vendor="15b3", device="101d"),)))
    assert action == "mlxconfig -d 0000:17:00.0 set SRIOV_EN=1 NUM_OF_VFS=8, then reboot"


def test_no_vfs_at_all(tmp_path):
    ((_, problem, action),) = say(look(tmp_path, num_vfs=0, total_vfs=0))
    assert problem == "it can have no VFs (sriov_totalvfs is 0)"
    assert "firmware setup" in action


def test_totalvfs_too_low(tmp_path):
    host = look(tmp_path, num_vfs=0)
    assert say(host, num_vfs=65) == [
        (PF, "65 VFs are wanted, it can have 64 at most (sriov_totalvfs)", "ask for 64 or fewer")]
    nvidia = Host(pfs=tuple(replace(pf, vendor="15b3") for pf in host.pfs))
    assert say(nvidia, num_vfs=65)[0][2] == (
        "ask for 64 or fewer, or set NUM_OF_VFS=65 with mlxconfig -d 0000:3b:00.0 and reboot")


def test_pf_set_down_and_pf_without_carrier(tmp_path):
    host = look(tmp_path)
    assert say(with_link(host, up=False, carrier=False)) == [
        (PF, "ens1f0 is set down: drivers of VFs may refuse them, and no packet passes", "ip link set ens1f0 up")]
    assert say(with_link(host, carrier=False)) == [
        (PF, "ens1f0 has no carrier: its VFs have no way out", "check cable, transceiver and switch port")]


def test_pf_without_netdev_and_pf_of_another_driver(tmp_path):
    host = look(tmp_path)
    ((_, problem, _),) = say(Host(pfs=tuple(replace(pf, link=None) for pf in host.pfs)))
    assert problem == "it has no netdev here: it is in another network namespace, or its driver failed"
    ((_, problem, action),) = say(Host(pfs=tuple(replace(pf, driver="vfio-pci", link=None) for pf in host.pfs)))
    assert problem.startswith("it is bound to vfio-pci")
    assert action == "bind it to its kernel driver"


def test_pf_whose_driver_is_missing(tmp_path):
    tree = Tree(tmp_path / "sys").add(nic("i40e", PF, None, driver=None))
    symptoms = replace(SOUND, drivers=frozenset(), modules=Modules(
        names=frozenset({"i40e"}), by_ids={("8086", "1572"): ("i40e",)}))
    assert say(Sysfs(tree.root).scan(tree.links), symptoms) == [
        (PF, "its driver i40e is not loaded", "modprobe i40e, and list it in /etc/modules-load.d")]


def test_what_the_node_needs(tmp_path):
    (pf,) = look(tmp_path, num_vfs=0).pfs
    ((device, problem, _),) = say(Host(pfs=(replace(pf, ties=("carries the default route (via bond0)",)),)))
    assert (device, problem) == (PF, "the node itself needs it: it carries the default route (via bond0)")


@pytest.mark.parametrize(("last_bus", "wanted", "hint"), [
    (0x3b, 64, None),                 # the last is at 3b:09.7
    (0x3b, 240, None),
    (0x3b, 241, "ask for 240 VFs, or turn on ARI"),
    (0x3c, 241, None),
    (None, 241, None),
])
def test_bus_numbers(tmp_path, last_bus, wanted, hint):
    host = look(tmp_path, num_vfs=0, total_vfs=256)
    symptoms = replace(SOUND, capabilities={PF: Capability(offset=16, stride=1, last_bus=last_bus)})
    found = say(host, symptoms, wanted)
    assert [action[:len(hint or "")] for _, _, action in found] == ([hint] if hint else [])
    if hint:
        assert found[0][1] == ("VF 240 would be on PCI bus 3c, the bridge above it has none after 3b: the kernel "
                               "would refuse 241 VFs with ENOMEM")


def test_vfs_that_would_have_no_driver(tmp_path):
    host = look(tmp_path, num_vfs=0)
    capability = {PF: Capability(vf_device="154c")}
    blocked = Modules(names=frozenset({"iavf"}), by_ids=ALIASES, blocks=(
        Block(module="iavf", place="there", always=False),))
    for symptoms in (SOUND, replace(SOUND, drivers=frozenset())):    # which is loaded once there is a VF
        assert say(host, replace(symptoms, capabilities=capability), 4) == []
    symptoms = Symptoms(modules=blocked, capabilities=capability)
    assert say(host, symptoms, 4) == [
        (PF, "of its VFs: driver iavf is kept from loading: there", "take that away, then modprobe iavf")]
    assert say(host, symptoms) == []                             # none is wanted
    assert say(host, replace(symptoms, modules=replace(blocked, names=frozenset(), blocks=())), 4)[0][1] == (
        "of its VFs: driver iavf is missing: this kernel has no such module")


def test_no_memory_for_vfs_counts_only_until_they_are_there(tmp_path):
    symptoms = replace(SOUND, capabilities={PF: Capability(has_memory=False)})
    host = look(tmp_path)
    assert say(host, symptoms) == []
    ((_, problem, action),) = say(host, symptoms, 4)
    assert problem.startswith("the firmware left no memory addresses (MMIO) for its VFs")
    assert "Above 4G decoding" in action


# ---- VFs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "problem", "action"), [
    ({}, "no driver is bound, though iavf could take it", "write its address"),
    ({"drivers": frozenset()}, "its driver iavf is not loaded", "modprobe iavf, and list it"),
    ({"drivers": frozenset(), "modules": Modules(names=frozenset({"vfio_pci"}), by_ids=ALIASES)},
     "driver iavf is missing: this kernel has no such module", "install"),
    ({"drivers": frozenset(), "modules": Modules(names=frozenset({"iavf"}), by_ids=ALIASES, blocks=(
        Block(module="iavf", place="blacklist in /etc/modprobe.d/a.conf:3", always=False),))},
     "driver iavf is kept from loading: blacklist in /etc/modprobe.d/a.conf:3", "take that away, then modprobe"),
    ({"modules": Modules(names=frozenset({"i40e"}))},
     "no driver is bound, and no module of this kernel is for 8086:154c", "install"),
    ({"modules": Modules()}, "no driver is bound", "write its address"),    # what modules there are is not known
])
def test_a_vf_without_driver(tmp_path, changes, problem, action):
    ((device, said, hint),) = say(look(tmp_path, vf_drivers={0: None}), replace(SOUND, **changes))
    assert (device, said) == (VF0, problem)
    assert hint.startswith(action)


def vfio_modules(*names, **block):
    blocks = (Block(module="vfio_pci", place="there", **block),) if block else ()
    return Modules(names=frozenset(names), blocks=blocks)


@pytest.mark.parametrize(("modules", "problems"), [
    (vfio_modules("vfio_pci"), []),                              # loaded by name when it is needed
    (vfio_modules("vfio_pci", always=False), []),                # which a blacklist does not keep from being done
    (vfio_modules("vfio_pci", always=True), ["driver vfio-pci is kept from loading: there"]),
    (vfio_modules("iavf"), ["driver vfio-pci is missing: this kernel has no such module"]),
    (Modules(), []),
])
def test_the_driver_that_a_pool_wants(tmp_path, modules, problems):
    symptoms = Symptoms(has_iommu=True, drivers=frozenset({"iavf"}), modules=modules)
    assert [problem for _, problem, _ in say(look(tmp_path), symptoms, drivers=VFIO)] == problems
    loaded = replace(symptoms, drivers=frozenset({"iavf", "vfio-pci"}))
    assert say(look(tmp_path / "again"), loaded, drivers=VFIO) == []


def test_no_iommu(tmp_path):
    host = look(tmp_path, iommu=False)
    assert say(host) == []                                       # kernel drivers need none
    ((device, problem, action),) = say(host, replace(SOUND, has_iommu=False), drivers=VFIO)
    assert (device, problem) == (VF0, "it has no IOMMU group: the node has no IOMMU")
    assert action.endswith("on Intel machines boot with intel_iommu=on")
    ((_, problem, action),) = say(host, replace(SOUND, boot_options=("quiet", "iommu=off")), drivers=VFIO)
    assert problem == "it has no IOMMU group"
    assert action.endswith("boot without iommu=off")


def test_noiommu_and_shared_groups(tmp_path):
    bound = {0: "vfio-pci"}
    ((device, problem, _),) = say(look(tmp_path, iommu=False, noiommu=True, vf_drivers=bound))
    assert device == VF0
    assert "noiommu mode" in problem
    (pf,) = look(tmp_path / "again", vf_drivers=bound).pfs
    shared = replace(pf, vfs=tuple(replace(vf, iommu_group=7) for vf in pf.vfs))
    ((device, problem, action),) = say(Host(pfs=(shared,)))
    assert (device, problem) == (
        VF0, "it shares IOMMU group 7 with 0000:3b:02.1: only one process can have all of them")
    assert "ACS" in action


def test_wishes_are_those_of_what_matches_first(tmp_path):
    host = look(tmp_path)
    file = PoolFile(
        resource_prefix="a",
        physical_functions=tuple(PfEntry(match=PfMatch(name=(name,)), num_vfs=n)
                                 for name, n in (("eth0", 1), ("ens*", 2), ("ens1f0", 3))),
        pools=(Pool(resource="a/b", selectors=(Selector(address=(VF0,)),), driver=Driver("vfio-pci")),
               Pool(resource="a/c", selectors=(Selector(pf=("ens1f0",)),))))
    assert Wishes.of(file, host) == Wishes(num_vfs={PF: 2}, drivers={VF0: Driver("vfio-pci"), VF1: None})


# ---- modprobe's files -------------------------------------------------------------------------------------


def test_what_keeps_modules_from_loading():
    text = """\
# blacklist commented
blacklist iavf
options i40e debug=1
install vfio-pci /bin/false
install ice /sbin/modprobe --ignore-install ice
install a\\
  /usr/bin/true
blacklist
"""
    assert list(parse_modprobe(text, "/etc/modprobe.d/a.conf")) == [
        Block(module="iavf", place="blacklist in /etc/modprobe.d/a.conf:2", always=False),
        Block(module="vfio_pci", place="install /bin/false in /etc/modprobe.d/a.conf:4", always=True),
        Block(module="a", place="install /usr/bin/true in /etc/modprobe.d/a.conf:6", always=True),
    ]
    options = ["quiet", "modprobe.blacklist=iavf,vfio-pci", "module_blacklist=ice"]
    blocks = tuple(parse_boot_options(options))
    assert [(each.module, each.always) for each in blocks] == [("iavf", False), ("vfio_pci", False), ("ice", True)]
    modules = Modules(blocks=blocks)
    assert modules.find_block("vfio-pci", by_name=True) is None
    assert modules.find_block("vfio-pci", by_name=False) is blocks[1]
    assert modules.find_block("ice", by_name=True) is blocks[2]


@given(st.text())
def test_any_text_is_read(text):
    assert all(block.module for block in parse_modprobe(text, "x"))
    parse_pci_aliases(text)
    assert "" not in parse_module_names(text)
    assert parse_resources(text) in (None, True, False)


def test_module_lists():
    names = parse_module_names("k/a/vfio-pci.ko.xz: k/b/vfio.ko\nextra/igb_uio.ko:\n", "k/c/igb.ko\n")
    assert names == {"vfio_pci", "igb_uio", "igb"}
    aliases = parse_pci_aliases("""\
alias pci:v00008086d0000154Csv*sd*bc*sc*i* iavf
alias pci:v00008086d0000154Csv*sd*bc*sc*i* other
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias usb:v0BDApA811d*dc*dsc*dp*ic*isc*ip*in* rtw
""")
    assert aliases == {("8086", "154c"): ("iavf", "other")}


def test_of_two_files_of_one_name_the_first_counts():
    assert order_files(["/etc/modprobe.d/b.conf", "/etc/modprobe.d/c", "/lib/modprobe.d/a.conf",
                        "/lib/modprobe.d/b.conf"]) == ["/lib/modprobe.d/a.conf", "/etc/modprobe.d/b.conf"]


# ---- what is read of a node -------------------------------------------------------------------------------


def bars(*pairs):
    lines = [(0xf0000000, 0x140204), *6 * [(0, 0)], *pairs, *(6 - len(pairs)) * [(0, 0)]]
    return "".join(f"0x{start:016x} 0x{start + 0xffff:016x} 0x{flags:016x}\n" for start, flags in lines)


@pytest.mark.parametrize(("text", "placed"), [
    (bars((0x90000000, 0x14220c), (0, 0), (0, 0), (0x91000000, 0x14220c)), True),
    (bars((0x90000000, 0x14220c), (0, 0), (0, 0), (0, 0x14220c)), False),
    (bars((0x90000000, 0x2014220c)), False),                     # IORESOURCE_UNSET
    (bars(), False),
    (bars((0x90000000, 0x14220c)).rsplit("\n", 2)[0], None),     # a kernel without CONFIG_PCI_IOV
    ("", None),
])
def test_memory_of_vfs(text, placed):
    assert parse_resources(text) is placed


@pytest.fixture
def node(tmp_path):
    """A tree with a bridge over the PF, and the files below /."""
    tree = Tree(tmp_path / "sys").add_other("0000:3a:00.0", "060400", subordinate_bus_number=0x3c)
    tree.add(nic("i40e", PF, "ens1f0", num_vfs=2, iommu=True, behind=("0000:3a:00.0",)))
    tree.write(PF, "resource", bars((0x90000000, 0x14220c)))
    files = {
        "proc/cmdline": "quiet module_blacklist=ice\n", "proc/sys/kernel/osrelease": "6.12.0\n",
        "etc/modprobe.d/a.conf": "blacklist iavf\n", "lib/modprobe.d/a.conf": "blacklist i40e\n",
        "lib/modules/6.12.0/modules.dep": "kernel/i40e.ko:\n",
        "lib/modules/6.12.0/modules.builtin": "kernel/igb.ko\n",
        "lib/modules/6.12.0/modules.alias": "alias pci:v00008086d0000154Csv*sd*bc*sc*i* iavf\n",
    }
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree, tmp_path / "root"


def examine(tree, root):
    return Examination(tree.root, root, root / "proc").examine(Sysfs(tree.root).scan(tree.links))


def test_all_of_a_node(node):
    assert examine(*node) == Symptoms(
        has_iommu=True, boot_options=("quiet", "module_blacklist=ice"), drivers=frozenset({"i40e", "iavf"}),
        modules=Modules(names=frozenset({"i40e", "igb"}), by_ids=ALIASES, blocks=(
            Block(module="iavf", place="blacklist in /etc/modprobe.d/a.conf:1", always=False),
            Block(module="ice", place="module_blacklist=ice on the kernel's command line", always=True))),
        capabilities={PF: Capability(offset=16, stride=1, vf_device="154c", last_bus=0x3c, has_memory=True)})


def test_nothing_of_a_node(tmp_path):
    tree = Tree(tmp_path / "sys").add(nic("i40e", PF, "ens1f0"))
    for file in ("sriov_offset", "sriov_stride", "sriov_vf_device"):
        tree.remove(PF, file)
    (tree.root / "kernel/iommu_groups").rmdir()
    symptoms = examine(tree, tmp_path / "none")
    assert symptoms == Symptoms(has_iommu=False, drivers=frozenset({"i40e"}), capabilities={PF: Capability()})


def test_the_kernel_does_not_pad_the_vfs_device_id(tmp_path):
    tree = Tree(tmp_path / "sys").add(nic("i40e", PF, "ens1f0", vf_device="3e"))
    assert examine(tree, tmp_path).capabilities[PF].vf_device == "003e"


def test_groups_of_noiommu_mode_are_no_iommu(tmp_path):
    tree = Tree(tmp_path / "sys")
    tree.add(nic("i40e", PF, "ens1f0", num_vfs=1, noiommu=True, vf_driver="vfio-pci"))
    assert examine(tree, tmp_path).has_iommu is False


def test_a_container_that_has_usr_of_the_host_and_no_link_to_it(node):
    tree, root = node
    before = examine(tree, root)
    (root / "usr").mkdir(exist_ok=True)
    (root / "lib").rename(root / "usr/lib")
    assert examine(tree, root).modules.names == before.modules.names is not None


@pytest.mark.parametrize("file", ["proc/cmdline", "etc/modprobe.d/a.conf", "lib/modules/6.12.0/modules.dep"])
def test_what_cannot_be_read_is_named(node, file):
    tree, root = node
    (root / file).unlink()
    (root / file).mkdir()             # unreadable for root too
    symptoms = examine(tree, root)
    assert symptoms.unreadable == (f"cannot read {root / file}: EISDIR",)
    assert file != "lib/modules/6.12.0/modules.dep" or symptoms.modules.names is None


@given(index=st.integers(0, 2000), offset=st.integers(1, 200), stride=st.integers(1, 8))
def test_where_a_vf_would_be(index, offset, stride):
    pf = nic("igb", PF, None, offset=offset, stride=stride)
    capability = Capability(offset=offset, stride=stride)
    assert capability.index_at(PF, pf.vf_address(index)) == index
    assert capability.bus_of(PF, index) == int(pf.vf_address(index)[5:7], 16)
    assert capability.index_at(PF, PF) is None
