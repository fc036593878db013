"""What a pool file asks for and a node does not have: warnings with the places of all that they are about."""

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools.advice import warn_of_entries, warn_of_pools
from sriov.pools.assignment import PfEntry, PfMatch, Pool, Selector, VfIndices, assign
from sriov.pools.poolfile import parse_pool_file
from sriov.pools.prospects import find_prospects
from sriov.views.report import format_assignment
from tests.support.tree import Pf, Tree


def scan(tmp_path, *pfs):
    tree = Tree(tmp_path / "sys")
    for pf in pfs:
        tree.add(pf)
    return Sysfs(tree.root).scan(tree.links)


def some_host(tmp_path):
    return scan(tmp_path, Pf("0000:3b:00.0", "ens1f0", num_vfs=4))


def entry(num_vfs, place, **keys):
    return PfEntry(match=PfMatch(**keys), num_vfs=num_vfs, place=place)


def test_entries_against_the_host(tmp_path):
    host = some_host(tmp_path)
    entries = [entry(8, "p:4:5", name=("ens1f0",)), entry(2, "p:6:5", name=("ens*",)),
               entry(2, "p:8:5", name=("eth0",)), entry(7, "p:9:5", address=(PciAddress("0000:99:00.0"),))]
    assert list(warn_of_entries(entries, host)) == [
        "p:4:5: numVfs is 8, PF 0000:3b:00.0 can have 7 at most",
        "p:6:5: PF 0000:3b:00.0 belongs to the entry at p:4:5, which comes first",
        "p:8:5: no PF of this node matches: name eth0 is not ens1f0",
        "p:9:5: no PF of this node matches: address 0000:99:00.0 is not 0000:3b:00.0",
    ]
    assert list(warn_of_entries(entries[:1], Host())) == ["p:4:5: no PF of this node matches: it has none"]
    assert list(warn_of_entries([entry(7, "", name=("*",))], host)) == []


def test_pools_against_the_host(tmp_path):
    host = some_host(tmp_path)
    pools = [Pool(resource="a/all", selectors=(Selector(pf=("ens1f0",)),), place="p:4:5"),
             Pool(resource="a/late", selectors=(Selector(vfs=VfIndices.parse("0")),), place="p:6:5"),
             Pool(resource="a/none", selectors=(Selector(pf=("eth0",), vfs=VfIndices.parse("3")),), place="p:8:5")]
    assert list(warn_of_pools(pools, host, assign(host, pools))) == [
        "p:6:5: a/late gets no VF: all that it selects belong to a/all at p:4:5, which comes first",
        "p:8:5: a/none gets no VF: no PF of this node is named eth0",
    ]
    assert list(warn_of_pools(pools[:1], Host(), assign(Host(), pools[:1]))) == [
        "p:4:5: a/all gets no VF: this node has none"]


NAMED = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - match: {name: ens1f0}
    numVfs: 7
pools:
  - resource: sriov
    select: [{pf: %s, vfs: %s, device: 10ca}]
"""


@pytest.mark.parametrize(("pf", "indices", "warnings", "prospects"), [
    ("ens1fO", "0-3", [("p:8:14: intel.com/sriov gets no VF: no PF of this node is named ens1fO, did you mean "
                        "ens1f0?")], {}),
    ("eno9", "0-3", ["p:8:14: intel.com/sriov gets no VF: no PF of this node is named eno9"], {}),
    ("ens1f0", "0-3", [], {"intel.com/sriov": "none yet, the entry at p:4:5 makes 7"}),
    ("ens*", "6", [], {"intel.com/sriov": "none yet, the entry at p:4:5 makes 7"}),
    ("ens1f0", "7-9", ["p:7:5: intel.com/sriov gets no VF: this node has none"], {}),
])
def test_a_node_whose_vfs_are_still_to_be_made(tmp_path, pf, indices, warnings, prospects):
    host = scan(tmp_path, Pf("0000:3b:00.0", "ens1f0"))
    file = parse_pool_file(NAMED % (pf, indices), "p")
    assignment = assign(host, file.pools)
    assert list(warn_of_pools(file.pools, host, assignment, file.physical_functions)) == warnings
    found = find_prospects(file.pools, file.physical_functions, host, assignment)
    assert found == prospects
    assert all(told in format_assignment(host, assignment, prospects=found) for told in prospects.values())


def claims(*pools):
    """Pools `a/0`, `a/1`... of one selector each, which are pairs of keys and excluded VFs."""
    return [Pool(resource=f"a/{n}", place=f"p:{n}:5", selectors=(Selector(place=f"p:{n}:9", **keys),),
                 exclude=tuple(Selector(vfs=VfIndices.parse(text), place=f"p:{n}:19") for text in exclude))
            for n, (keys, *exclude) in enumerate(pools)]


def vfs(text, **keys):
    return {"vfs": VfIndices.parse(text), **keys}


@pytest.mark.parametrize(("pools", "warnings"), [
    # Each has some of its own, and they meet in VF 1 and 2 by keys that only the node can compare.
    (claims((vfs("0-2", pf=("ens1f0",)),), (vfs("1-3", pf=("0000:3b:00.0",)),)),
     ["p:1:9: a/1 does not get 0000:3b:02.1, 0000:3b:02.2: they belong to a/0 at p:0:9, which comes first"]),
    (claims((vfs("0-2", pf=("ens1f0",)),), ({"device": ("10ca",)},)), []),        # the exception, then the rule
    (claims((vfs("0-2"), "1-2"), (vfs("1-3"),)), []),
    (claims((vfs("0-1"),), (vfs("2-3"),)), []),
    (claims((vfs("0-3"), "0-3"),),
     ["p:0:5: a/0 gets no VF: all that it selects are taken out by its exclude at p:0:19"]),
    (claims((vfs("0-1"),), (vfs("2-3"),), (vfs("1-2"),)),
     ["p:2:5: a/2 gets no VF: all that it selects belong to a/0 at p:0:5, a/1 at p:1:5, which come first"]),
    (claims((vfs("0-3", node=("worker-*",)),)),
     ["p:0:5: a/0 gets no VF: node worker-* is not known to be this one"]),
])
def test_pools_that_claim_each_other_s_vfs(tmp_path, pools, warnings):
    host = some_host(tmp_path)
    assert list(warn_of_pools(pools, host, assign(host, pools))) == warnings


def test_selector_that_gets_no_vf_though_its_pool_does(tmp_path):
    host = some_host(tmp_path)
    first, = claims((vfs("0-1", pf=("ens1f0",)),))
    pools = [first, Pool(resource="a/b", place="p:3:5", selectors=(
        Selector(pf=("0000:3b:00.0",), vfs=VfIndices.parse("1"), place="p:4:9"),
        Selector(vfs=VfIndices.parse("3"), place="p:5:9")))]
    assert list(warn_of_pools(pools, host, assign(host, pools))) == [
        "p:4:9: a/b gets no VF from this selector: all that it selects belong to a/0 at p:0:9"]


def test_an_entry_for_the_rest_is_no_mistake(tmp_path):
    host = scan(tmp_path, Pf("0000:3b:00.0", "ens1f0"), Pf("0000:5e:00.0", "ens2f0"))
    entries = [entry(4, "p:4:5", name=("ens1f0",)), entry(2, "p:6:5", name=("*",))]
    assert list(warn_of_entries(entries, host)) == []
    assert list(warn_of_entries(entries[::-1], host)) == [
        "p:4:5: PF 0000:3b:00.0 belongs to the entry at p:6:5, which comes first"]


# ---- drivers ----------------------------------------------------------------------------------------------


def warnings_of_driver(driver):
    text = ("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\npools:\n"
            f"  - resource: sriov\n    select: [{{pf: ens1f0}}]\n    driver: {driver}\n")
    file = parse_pool_file(text, "pools.yaml")
    assert file.pools[0].driver == driver
    return file.warnings


@pytest.mark.parametrize(("driver", "meant"), [
    ("kernal", "kernel"), ("Kernel", "kernel"), ("kern", "kernel"),
    ("vfio_pci", "vfio-pci"), ("vfiopci", "vfio-pci"), ("vfio", "vfio-pci"),
    ("VFIO-PCI", "vfio-pci"), ("vifo-pci", "vfio-pci"),
    ("netdevice", "kernel"), ("netDevice", "kernel"), ("iavff", "iavf"), ("mlx5-core", "mlx5_core"),
])
def test_a_driver_that_is_nearly_a_known_one(driver, meant):
    assert warnings_of_driver(driver) == (
        f"pools.yaml:6:13: intel.com/sriov wants the driver '{driver}', did you mean '{meant}'?",)


@pytest.mark.parametrize("driver", [
    "kernel", "vfio-pci", "mlx5_vfio_pci", "hisi_acc_vfio_pci", "qat_vfio_pci", "virtio_vfio_pci", "xe_vfio_pci",
    "uio_pci_generic", "igb_uio", "virtio-pci", "iavf", "ixgbevf", "mlx5_core", "pci-stub",
])
def test_a_driver_of_any_other_name_is_meant(driver):
    assert warnings_of_driver(driver) == ()


def test_no_driver_is_no_driver_of_that_name():
    (warning,) = warnings_of_driver("none")
    assert warning == ("pools.yaml:6:13: intel.com/sriov wants the driver 'none': leave the key out for VFs that "
                       "are to stay as they are")


def test_resources_that_pods_cannot_tell_apart():
    names = ("sriov", "SRIOV", "sri-ov", "sri_ov")
    pools = "".join(f"  - {{resource: {name}, select: [{{pf: ens{n}}}]}}\n" for n, name in enumerate(names))
    assert parse_pool_file("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\npools:\n" + pools, "p").warnings == (
        ("p:5:5: intel.com/SRIOV and intel.com/sriov at p:4:5 have one environment variable in pods, "
         "PCIDEVICE_INTEL_COM_SRIOV: a pod with both sees VFs of one only"),)


# ---- what is no VF ----------------------------------------------------------------------------------------


def test_a_selector_that_names_what_is_no_vf(tmp_path):
    tree = Tree(tmp_path / "sys").add(Pf("0000:3b:00.0", "ens1f0", num_vfs=2))
    tree.add_other("0000:5e:00.0", "020000", netdev="eno1", driver="tg3")
    host = Sysfs(tree.root).scan(tree.links)
    named = {"a/pf": Selector(address=("0000:3b:00.0",)), "a/vf": Selector(address=("0000:3b:02.1",)),
             "a/nic": Selector(address=("0000:3b:02.9", "0000:5E:00.0")),
             "a/none": Selector(address=("0000:3b:*",), vendor=("15b3",))}
    pools = [Pool(resource=name, selectors=(selector,), place="p") for name, selector in named.items()]
    assert list(warn_of_pools(pools, host, assign(host, pools))) == [
        "p: a/pf gets no VF: 0000:3b:00.0 is a PF, and only VFs are handed out",
        "p: a/nic gets no VF: 0000:5e:00.0 is no VF, and only VFs are handed out",
        "p: a/none gets no VF: vendor 15b3 is not 8086",
    ]


@pytest.mark.parametrize(("classes", "warned"), [
    ("accelerator", True), ("[network, accelerator]", False), ("network", False)])
def test_accelerators_are_not_handed_out_yet(classes, warned):
    text = ("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\npools:\n"
            f"  - resource: fec\n    select: [{{class: {classes}}}]\n")
    assert parse_pool_file(text, "pools.yaml").warnings == (
        "pools.yaml:5:14: intel.com/fec gets no VF from this selector: accelerators are not handed out yet",
    )[:warned]


# ---- values that do not go together -----------------------------------------------------------------------


def test_more_macs_than_vfs():
    macs = "['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03']"
    text = ("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\nphysicalFunctions:\n"
            f"  - {{match: {{name: ens1f0}}, numVfs: %d, vfMacs: {macs}}}\n")
    assert parse_pool_file(text % 3, "p").warnings == ()
    assert parse_pool_file(text % 1, "p").warnings == (
        "p:4:5: vfMacs has 3 addresses, but numVfs makes 1 VFs: 02:00:00:00:00:02 and what follows is never used",)


@pytest.mark.parametrize(("of_pf", "selector", "warned"), [
    ("mtu: 1500", "pf: ens1f0", True), ("mtu: 9000", "pf: ens1f0", False), ("mtu: 9216", "pf: ens1f0", False),
    ("eswitch: legacy", "pf: ens1f0", False), ("mtu: 1500", "pf: ens2", False),
    ("mtu: 1500", "pf: {name: ens1f0}", True), ("mtu: 1500", "pf: ens1f0, vfs: 0-1}, {pf: ens1f0, vfs: 2", True),
])
def test_vfs_with_more_mtu_than_their_pf(of_pf, selector, warned):
    text = ("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\nphysicalFunctions:\n"
            f"  - {{match: {{name: ens1f0}}, numVfs: 4, {of_pf}}}\n"
            f"pools:\n  - resource: jumbo\n    select: [{{{selector}}}]\n    defaults: {{mtu: 9000}}\n")
    assert parse_pool_file(text, "p").warnings == (
        "p:6:5: intel.com/jumbo wants MTU 9000 on its VFs, but the entry at p:4:5 gives their PF 1500",)[:warned]
