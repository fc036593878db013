"""What a PF is told of a VF: the bytes of each attribute, and those that pyroute2 makes of the same."""

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from sriov.host.nlattr import HEADER
from sriov.host.vfinfo import encode_vf_changes
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress

MAC = MacAddress("02:00:00:00:00:0a")


def pyroute2(*attributes):
    message = ifinfmsg()
    message["attrs"] = [("IFLA_VFINFO_LIST", {"attrs": [("IFLA_VF_INFO", {"attrs": list(attributes)})]})]
    message.encode()
    return bytes(message.data[HEADER.size + 16 :])      # behind struct ifinfomsg


@pytest.mark.parametrize(("changes", "attributes"), [
    (VfSettings(mac=MAC), [("IFLA_VF_MAC", {"vf": 3, "mac": str(MAC)})]),
    (VfSettings(vlan=5), [("IFLA_VF_VLAN", {"vf": 3, "vlan": 5, "qos": 0})]),
    (VfSettings(vlan=5, vlan_qos=2, vlan_proto=0x8100), [("IFLA_VF_VLAN", {"vf": 3, "vlan": 5, "qos": 2})]),
    (VfSettings(vlan=0, vlan_proto=0x88A8), [("IFLA_VF_VLAN", {"vf": 3, "vlan": 0, "qos": 0})]),
    (VfSettings(max_tx_rate=9), [("IFLA_VF_RATE", {"vf": 3, "min_tx_rate": 0, "max_tx_rate": 9})]),
    (VfSettings(min_tx_rate=7), [("IFLA_VF_RATE", {"vf": 3, "min_tx_rate": 7, "max_tx_rate": 0})]),
    (VfSettings(spoofchk=False, trust=True, link_state=LinkState.DISABLE), [
        ("IFLA_VF_SPOOFCHK", {"vf": 3, "spoofchk": 0}), ("IFLA_VF_LINK_STATE", {"vf": 3, "link_state": 2}),
        ("IFLA_VF_TRUST", {"vf": 3, "trust": 1})]),
])
def test_the_same_as_pyroute2(changes, attributes):
    assert encode_vf_changes(3, changes) == pyroute2(*attributes)


def test_a_vlan_of_another_protocol_is_a_list_of_one():
    """pyroute2 leaves out the padding of struct ifla_vf_vlan_info, which the kernel counts (do_setvfinfo)."""
    changes = VfSettings(vlan=100, vlan_qos=5, vlan_proto=0x88A8)
    assert encode_vf_changes(3, changes).hex(" ", 4) == (
        "20001600 1c000100 18000c00 14000100 03000000 64000000 05000000 88a80000")
