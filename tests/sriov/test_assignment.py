"""Which VF belongs to which pool, with which fault, and why the others are left out. No files."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.model import Host, Link, PhysicalFunction, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import MAX_VFS, Driver, Pool, Selector, VfIndices, assign

spans = st.lists(st.tuples(st.integers(0, MAX_VFS), st.integers(0, 300)), min_size=1, max_size=8).map(
    lambda pairs: [(first, min(first + more, MAX_VFS)) for first, more in pairs])
INDEX = itertools.count(2)


def link(name, address, altnames=()):
    index = next(INDEX)
    return Link(index=index, name=name, altnames=altnames, mac=MacAddress(f"02:00:00:00:00:{index % 256:02x}"),
                mtu=1500, up=True, carrier=True, pci=PciAddress(address))


def pf(bus="3b", name="ens1f0", drivers=("igbvf",) * 4, *, away=(), numa_node=None, altnames=()):
    """A PF with a VF for each item of `drivers`."""
    address = PciAddress(f"0000:{bus}:00.0")
    vfs = []
    for n, driver in enumerate(drivers):
        vf_address = PciAddress(f"0000:{bus}:{2 + n // 8:02x}.{n % 8}")
        home = driver == "igbvf" and n not in away
        vfs.append(VirtualFunction(
            address=vf_address, pf=address, index=n, vendor="8086", device="10ca", driver=driver,
            numa_node=numa_node, iommu_group=n, link=link(f"{name}v{n}", vf_address) if home else None))
    return PhysicalFunction(
        address=address, vendor="8086", device="10c9", driver="igb", numa_node=numa_node, iommu_group=None,
        link=link(name, address, altnames) if name else None, total_vfs=7, num_vfs=len(vfs), vfs=tuple(vfs))


def pool(resource="intel.com/sriov", *selectors, wants=None, **keys):
    return Pool(resource=resource, selectors=selectors or (Selector(**keys),), driver=wants and Driver(wants))


def indices(assignment, resource="intel.com/sriov"):
    return [member.vf.index for member in assignment.members[resource]]


# ---- selectors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "expected"), [
    ({"pf": ("ens1f0",)}, [0, 1, 2, 3]),
    ({"pf": ("uplink",)}, [0, 1, 2, 3]),
    ({"pf": ("ens*",)}, [0, 1, 2, 3]),
    ({"pf": ("0000:3b:00.0",)}, [0, 1, 2, 3]),
    ({"pf": ("0000:3b:*",)}, [0, 1, 2, 3]),
    ({"pf": ("ens1f1", "ens1f0")}, [0, 1, 2, 3]),
    ({"pf": ("ENS1F0",)}, []),
    ({"pf": ("ens1",)}, []),
    ({"vfs": VfIndices.parse("0,2-9")}, [0, 2, 3]),
    ({"address": ("0000:3b:02.1", "0000:3b:02.3")}, [1, 3]),
    ({"address": ("0000:3b:00.0",)}, []),                 # a PF is never handed out
    ({"vendor": ("8086",), "device": ("10ca",)}, [0, 1, 2, 3]),
    ({"vendor": ("8086",), "device": ("10c9",)}, []),     # the PF's id, not the VF's
    ({"driver": ("vfio-pci",)}, [3]),
    ({"numa_node": (1,)}, [0, 1, 2, 3]),
    ({"numa_node": (0, -1)}, []),
    ({"pf": ("ens1f0",), "vfs": VfIndices.parse("1"), "numa_node": (0,)}, []),
])
def test_selector_keys(keys, expected):
    host = Host(pfs=(pf(drivers=("igbvf", "igbvf", "igbvf", "vfio-pci"), numa_node=1, altnames=("uplink",)),))
    assert indices(assign(host, [pool(**keys)])) == expected


def test_unknown_numa_node_is_minus_one():
    assert indices(assign(Host(pfs=(pf(numa_node=None),)), [pool(numa_node=(-1,))])) == [0, 1, 2, 3]


def test_pf_without_netdev_is_found_by_address():
    host = Host(pfs=(pf(name=None),))
    assert indices(assign(host, [pool(pf=("0000:3b:00.0",))])) == [0, 1, 2, 3]
    assert indices(assign(host, [pool(pf=("ens1f0",))])) == []


def test_selectors_of_a_pool_add_up():
    selectors = [Selector(pf=("ens1f0",), vfs=VfIndices.parse(text)) for text in ("0-1", "3")]
    assert indices(assign(Host(pfs=(pf(),)), [pool("intel.com/sriov", *selectors)])) == [0, 1, 3]


# ---- assignment -----------------------------------------------------------------------------------------


def test_first_match_wins_and_every_pool_is_there():
    pools = [pool("a/first", pf=("ens1f0",), vfs=VfIndices.parse("0-1")), pool("a/second", pf=("ens1f0",)),
             pool("a/third", pf=("ens1f0",))]
    assignment = assign(Host(pfs=(pf(),)), pools)
    assert [indices(assignment, name) for name in ("a/first", "a/second", "a/third")] == [[0, 1], [2, 3], []]
    assert assignment.left_out == {}


@pytest.mark.parametrize(("wanted", "bound", "fault"), [
    (None, "igbvf", None),
    (None, "vfio-pci", None),
    (None, None, "no driver is bound"),
    ("kernel", "igbvf", None),
    ("kernel", "vfio-pci", "bound to vfio-pci, the pool wants a kernel network driver"),
    ("kernel", "igb_uio", "bound to igb_uio, the pool wants a kernel network driver"),
    ("kernel", None, "no driver is bound"),
    (None, "igb_uio", "bound to igb_uio: of user-space drivers only vfio's can be handed out so far"),
    ("igb_uio", "igb_uio", "bound to igb_uio: of user-space drivers only vfio's can be handed out so far"),
    ("vfio-pci", "vfio-pci", None),
    ("vfio-pci", "igbvf", "bound to igbvf, the pool wants vfio-pci"),
    ("vfio-pci", None, "no driver is bound"),
])
def test_health(wanted, bound, fault):
    (member,) = assign(Host(pfs=(pf(drivers=[bound]),)), [pool(wants=wanted, pf=("*",))]).members["intel.com/sriov"]
    assert member.fault == fault


def test_what_others_know_of_a_vf_counts_where_the_host_shows_nothing_wrong():
    host = Host(pfs=(pf(drivers=["igbvf", "igbvf", None]),))
    told = {vf.address: "it is not home" for vf in host.pfs[0].vfs[1:3]}
    members = assign(host, [pool(pf=("*",), vfs=VfIndices.parse("0-2"))], told).members["intel.com/sriov"]
    assert [member.fault for member in members] == [None, "it is not home", "no driver is bound"]


@pytest.mark.parametrize(("driver", "group", "fault"), [
    ("vfio-pci", None, "bound to vfio-pci without an IOMMU group: a pod could not open it"),
    ("vfio-pci", 0, None),
    ("igb_uio", None, "bound to igb_uio: of user-space drivers only vfio's can be handed out so far"),
])
def test_only_vfio_needs_an_iommu_group(driver, group, fault):
    vf = replace(pf(drivers=[driver]).vfs[0], iommu_group=group)
    assert pool().find_fault(vf) == fault


@pytest.mark.parametrize("wanted", [None, "kernel", "vfio-pci"])
def test_what_the_node_itself_needs_is_a_member_that_nobody_gets(wanted):
    first, second = pf(drivers=["igbvf", "igbvf"]).vfs
    tied = replace(first, ties=("carries the default route", "has address 192.0.2.7/24"))
    node = replace(pf(), vfs=(tied, second))
    members = assign(Host(pfs=(node,)), [pool(wants=wanted)]).members["intel.com/sriov"]
    assert members[0].fault == "the node itself needs it: carries the default route, has address 192.0.2.7/24"
    assert members[1].fault == (None if wanted != "vfio-pci" else "bound to igbvf, the pool wants vfio-pci")


@pytest.mark.parametrize("driver", [None, "kernel", "igbvf"])
def test_a_vf_in_a_pod_stays_a_healthy_member(driver):
    wanted = [pool(wants=driver, pf=("ens1f0",))]
    home, away = (assign(Host(pfs=(pf(away=gone),)), wanted).members["intel.com/sriov"] for gone in ((), (1, 2)))
    assert [member.vf.away for member in away] == [False, True, True, False]
    assert [(m.vf.address, m.fault) for m in away] == [(m.vf.address, m.fault) for m in home]


def test_reason_names_the_nearest_selector():
    host = Host(pfs=(pf(),))
    pools = [pool("a/far", Selector(pf=("eth0",), vendor=("15b3",), place="pools.yaml:4:9")),
             pool("a/near", Selector(pf=("ens1f0",), vfs=VfIndices.parse("0-2"), place="pools.yaml:9:9"))]
    assert assign(host, pools).left_out == {
        "0000:3b:02.3": "no pool selects it; nearest is a/near at pools.yaml:9:9: vfs 0-2 has no 3"}


def test_reason_names_every_key_of_it():
    pools = [pool("a/b", Selector(vendor=("15b3", "1dd8"), numa_node=(0,), driver=("mlx5_core",)))]
    (reason, *_) = assign(Host(pfs=(pf(drivers=[None]),)), pools).left_out.values()
    assert reason == ("no pool selects it; nearest is a/b: vendor 15b3 or 1dd8 is not 8086, "
                      "driver mlx5_core is not bound: there is none, numaNode 0 is not -1")


def test_no_pools():
    assert set(assign(Host(pfs=(pf(),)), []).left_out.values()) == {"no pool selects it: there are no pools"}


selectors = st.builds(
    Selector,
    pf=st.lists(st.sampled_from(["ens1f0", "ens1f1", "ens*", "0000:5e:00.0", "*"]), max_size=2).map(tuple),
    vfs=st.none() | spans.map(VfIndices.merge) | st.sampled_from([VfIndices.parse("0-1"), VfIndices.parse("2")]),
    driver=st.lists(st.sampled_from(["igbvf", "vfio-pci"]), max_size=1).map(tuple),
)


@given(st.lists(st.lists(selectors, min_size=1, max_size=3), max_size=4),
       st.lists(st.sampled_from(["igbvf", "vfio-pci", None]), max_size=6))
def test_every_vf_is_in_one_pool_or_left_out(wanted, drivers):
    host = Host(pfs=(pf("3b", "ens1f0", drivers), pf("5e", "ens1f1", drivers)))
    pools = [Pool(resource=f"a/{n}", selectors=tuple(each)) for n, each in enumerate(wanted)]
    assignment = assign(host, pools)
    assert list(assignment.members) == [pool.resource for pool in pools]
    members = [member.vf.address for found in assignment.members.values() for member in found]
    assert sorted([*members, *assignment.left_out]) == sorted(vf.address for vf in host.vfs)
