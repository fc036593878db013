from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation import DeviceNode, allocate, format_go_json, prefer
from sriov.errors import InputError, Refused
from sriov.pools.assignment import Member, variable_name
from tests.deviceplugin.harness import RESOURCE, make_members, make_vf


def on_nodes(*nodes: int | None) -> tuple[Member, ...]:
    return tuple(Member(vf=make_vf(n, numa_node=node), fault=None) for n, node in enumerate(nodes))


def ids(members: tuple[Member, ...], *indices: int) -> list[str]:
    return [members[index].vf.address for index in indices]


def test_preferred_devices_fill_the_smallest_node_that_holds_them() -> None:
    members = on_nodes(0, 0, 0, 1, 1, None)
    assert prefer(members, ids(members, 5, 4, 3, 2, 1, 0), (), 2) == tuple(ids(members, 3, 4))
    assert prefer(members, ids(members, 5, 4, 3, 2, 1, 0), (), 3) == tuple(ids(members, 0, 1, 2))


def test_preferred_devices_join_the_node_of_those_that_must_be_included() -> None:
    members = on_nodes(0, 0, 0, 1)
    assert prefer(members, ids(members, 0, 1, 2, 3), (), 1) == tuple(ids(members, 3))
    assert prefer(members, ids(members, 0, 1, 2, 3), ids(members, 2), 2) == tuple(ids(members, 0, 2))
    assert prefer(members, ids(members, 0, 1, 2, 3), ids(members, 2), 4) == tuple(ids(members, 0, 1, 2, 3))


def test_a_request_larger_than_any_node_starts_with_the_largest() -> None:
    members = on_nodes(0, 0, 0, 1, 1, 2, 2, 2, 2)
    assert prefer(members, ids(members, *range(9)), (), 6) == tuple(ids(members, 3, 4, 5, 6, 7, 8))


def test_preferred_devices_are_healthy() -> None:
    members = make_members(3, faults={0: "gone"})
    assert prefer(members, ids(members, 0, 1, 2), (), 2) == tuple(ids(members, 1, 2))


def test_an_offer_that_cannot_be_met_is_refused() -> None:
    members = on_nodes(0, 0)
    with pytest.raises(InputError, match="cannot prefer 3 devices: 0 must be included, 2 healthy"):
        prefer(members, ids(members, 0, 1), (), 3)
    with pytest.raises(InputError, match=r"'0000:3b:02\.1' must be included, but is not offered"):
        prefer(members, ids(members, 0), ids(members, 1), 1)
    with pytest.raises(InputError, match="cannot prefer 1 devices: 2 must be included"):
        prefer(members, ids(members, 0, 1), ids(members, 0, 1), 1)


@given(st.data())
def test_preference_is_exact_inside_the_offer_and_on_one_node_where_one_fits(data: st.DataObject) -> None:
    nodes = data.draw(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=20))
    members = on_nodes(*nodes)
    offer = data.draw(st.lists(st.sampled_from(ids(members, *range(len(nodes)))), unique=True, min_size=1))
    must = data.draw(st.lists(st.sampled_from(offer), unique=True, max_size=3))
    size = data.draw(st.integers(min_value=len(must), max_value=len(offer)))

    chosen = prefer(members, offer, must, size)

    assert len(set(chosen)) == len(chosen) == size
    assert set(must) <= set(chosen) <= set(offer)
    assert list(chosen) == sorted(chosen)
    assert chosen == prefer(members, data.draw(st.permutations(offer)), must, size)
    node_of = {member.vf.address: member.vf.numa_node for member in members}
    used = {node_of[address] for address in chosen}
    if not must:
        free = [sum(node_of[address] == node for address in node_of if address in offer) for node in used]
        capacities = [[node_of[a] for a in node_of if a in offer].count(node) for node in set(nodes)]
        if size and max(capacities) >= size:
            assert len(used) == 1
            assert free == [min(capacity for capacity in capacities if capacity >= size)]


def test_a_kernel_vf_gets_its_addresses_in_the_order_of_the_kubelet() -> None:
    members = make_members(3)
    allocation = allocate(RESOURCE, members, ids(members, 2, 0))
    assert allocation.env == {
        "PCIDEVICE_INTEL_COM_SRIOV": "0000:3b:02.2,0000:3b:02.0",
        "PCIDEVICE_INTEL_COM_SRIOV_INFO": '{"0000:3b:02.0":{"generic":{"deviceID":"0000:3b:02.0"}},'
        '"0000:3b:02.2":{"generic":{"deviceID":"0000:3b:02.2"}}}',
    }
    assert allocation.devices == ()
    assert allocation.vfs == (members[2].vf, members[0].vf)


def test_vfio_vfs_get_the_container_node_once_and_each_group_once() -> None:
    members = (
        Member(vf=make_vf(0, driver="vfio-pci", iommu_group=7), fault=None),
        Member(vf=make_vf(1, driver="vfio-pci", iommu_group=7), fault=None),
        Member(vf=make_vf(2, driver="mlx5_vfio_pci", iommu_group=9), fault=None),
    )
    allocation = allocate("intel.com/dpdk", members, ids(members, 0, 1, 2))
    paths = "/dev/vfio/vfio", "/dev/vfio/7", "/dev/vfio/9"
    assert allocation.devices == tuple(
        DeviceNode(host_path=path, container_path=path, permissions="rw") for path in paths
    )
    info = json.loads(allocation.env["PCIDEVICE_INTEL_COM_DPDK_INFO"])
    assert info["0000:3b:02.2"] == {
        "generic": {"deviceID": "0000:3b:02.2"},
        "vfio": {"dev-mount": "/dev/vfio/9", "mount": "/dev/vfio/vfio"},
    }


def test_an_unknown_id_is_wrong_input_and_an_unhealthy_one_is_refused_with_its_fault() -> None:
    members = make_members(2, faults={1: "no driver is bound"})
    with pytest.raises(InputError, match=r"cannot allocate '0000:3b:09\.0' of intel\.com/sriov: no such"):
        allocate(RESOURCE, members, ["0000:3b:02.0", "0000:3b:09.0"])
    with pytest.raises(Refused, match=r"cannot allocate 0000:3b:02\.1 of intel\.com/sriov: no driver"):
        allocate(RESOURCE, members, ["0000:3b:02.0", "0000:3b:02.1"])


@pytest.mark.parametrize(
    ("driver", "group", "reason"),
    [("vfio-pci", None, "has no IOMMU group"), ("igb_uio", 4, "it is bound to igb_uio")],
)
def test_a_user_space_vf_without_a_node_to_hand_out_is_refused(
    driver: str, group: int | None, reason: str
) -> None:
    members = make_members(1, driver=driver, iommu_group=group)
    with pytest.raises(Refused, match=reason):
        allocate(RESOURCE, members, ids(members, 0))


@pytest.mark.parametrize(
    ("resource", "key"),
    [
        ("intel.com/sriov", "PCIDEVICE_INTEL_COM_SRIOV"),
        ("mellanox/net-a.b", "PCIDEVICE_MELLANOX_NET-A_B"),
        ("openshift.io/mlx_2", "PCIDEVICE_OPENSHIFT_IO_MLX_2"),
    ],
)
def test_env_key(resource: str, key: str) -> None:
    assert variable_name(resource) == key


def test_json_is_written_as_go_writes_it() -> None:
    value = {"b": {"x": {"k": "<a & b>\u2028é\n\"\x01"}}, "a": {}}
    assert format_go_json(value) == (
        '{"a":{},"b":{"x":{"k":"\\u003ca \\u0026 b\\u003e\\u2028é\\n\\"\\u0001"}}}'
    )


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_json_reads_back_and_carries_nothing_that_html_would_interpret(leaves: dict[str, str]) -> None:
    value = {"0000:3b:02.0": {"extra": leaves}}
    text = format_go_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
