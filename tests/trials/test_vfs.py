"""What counts as a loss, on iproute2's own words."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sriov.model import VirtualFunction
from sriov.pci import PciAddress
from tests.trials.vfs import Loss, VfState, describe, find_losses, read_states

PF, ADDRESS = PciAddress("0000:01:00.0"), PciAddress("0000:01:10.2")
VF = VirtualFunction(address=ADDRESS, vendor="8086", device="10ca", driver="igbvf", pf=PF, index=1,
                     numa_node=None, iommu_group=None, link=None)
LINKS: list[dict[str, Any]] = [
    {"ifname": "lo", "ifindex": 1, "mtu": 65536},
    {"ifname": "enp1s0", "ifindex": 2, "parentbus": "pci", "parentdev": "0000:01:00.0", "vfinfo_list": [
        {"vf": 0, "vlan_list": [{}]},
        {"vf": 1, "vlan_list": [{}], "address": "02:00:00:00:00:01", "trust": False}]},
    {"ifname": "enp1s0v1", "ifindex": 4, "parentbus": "pci", "parentdev": "0000:01:10.2", "mtu": 1500,
     "address": "02:00:00:00:00:01", "flags": ["BROADCAST"], "altnames": ["storage"], "qdisc": "noop"},
]


def state(**changes: Any) -> VfState:
    links = copy.deepcopy(LINKS)
    links[2].update(changes)
    return read_states(links, [VF])[ADDRESS]


def test_a_vf_is_found_by_its_pci_address_under_any_name():
    found = state(ifname="net1")
    assert found.link is not None
    assert found.link["ifname"] == "net1"
    assert found.enforced == LINKS[1]["vfinfo_list"][1]


@pytest.mark.parametrize(("changes", "losses"), [
    ({"ifindex": 9, "qdisc": "mq"}, []),
    ({"ifname": "net1"}, [Loss.NAME]),
    ({"address": "02:00:00:00:00:02"}, [Loss.MAC]),
    ({"mtu": 9000, "ifname": "dev4"}, [Loss.NAME, Loss.MTU]),
    ({"flags": ["BROADCAST", "UP"]}, [Loss.TRAITS]),
    ({"altnames": []}, [Loss.TRAITS]),
])
def test_losses_of_a_netdev(changes, losses):
    assert find_losses(state(), state(**changes)) == losses


def test_a_netdev_that_is_not_there():
    gone = read_states(LINKS[:2], [VF])[ADDRESS]
    assert find_losses(state(), gone) == [Loss.ABSENT]
    assert find_losses(gone, gone) == []


def test_what_the_pf_enforces_of_this_vf_alone():
    links = copy.deepcopy(LINKS)
    links[1]["vfinfo_list"][0]["vlan_list"] = [{"vlan": 7}]
    assert find_losses(state(), read_states(links, [VF])[ADDRESS]) == []
    links[1]["vfinfo_list"][1]["vlan_list"] = [{"vlan": 7}]
    after = read_states(links, [VF])[ADDRESS]
    assert find_losses(state(), after) == [Loss.ENFORCED]
    assert describe(ADDRESS, state(), after) == [
        "VF 0000:01:10.2: PF.vlan_list[0].vlan: was None, is 7"]
