"""CHECK's comparisons, and what it says where there is nothing to compare."""

import dataclasses
import json
import time
from ipaddress import ip_interface

import pytest

from cni.attach import Attachments
from cni.check import compare_link, compare_settings, expect_settings, own_addresses
from cni.invocation import Invocation
from cni.protocol import Command
from cni.record import Phase, Wanted
from cni.result import Addresses, format_result, join_results
from sriov.errors import SriovError
from sriov.model import Link, LinkState, VfSettings
from sriov.pci import MacAddress
from tests.cni.test_ipam import NOW, opened
from tests.cni.test_protocol import request
from tests.cni.test_record import record
from tests.cni.test_result import ADDRESSES, INTERFACE

MAC, OTHER = MacAddress("02:00:00:00:00:01"), MacAddress("02:00:00:00:00:02")
LINK = Link(index=7, name="net1", mac=MAC, mtu=9000, up=True, carrier=True)
TOLD = {"name": "net1", "sandbox": "/run/netns/c1", "mac": str(MAC), "mtu": 1500}
FOUND = VfSettings(mac=MAC, vlan=5, vlan_qos=0, vlan_proto=0x8100, spoofchk=True, trust=False, min_tx_rate=0,
                   max_tx_rate=100, link_state=LinkState.AUTO)


def attached(**changes):
    return record(phase=Phase.ATTACHED, boot_id=NOW.boot_id, **changes)


@pytest.mark.parametrize(("changes", "told", "words"), [
    ({}, {}, []), ({}, {"mac": "02:00:00:00:00:01".upper()}, []), ({}, {"mac": None}, []), ({}, {"mac": ""}, []),
    ({"name": "eth7"}, {}, ["name: expected net1, found eth7"]),
    ({"mac": OTHER}, {}, [f"MAC: expected {MAC}, found {OTHER}"]),
    ({}, {"mac": OTHER}, [f"MAC: expected {OTHER}, found {MAC}"]),
    ({"mtu": 1500}, {}, ["MTU: expected 9000, found 1500"]),
    ({"up": False}, {}, ["it is down"]),
    ({"up": False, "name": "x", "mac": OTHER}, {}, [
        "name: expected net1, found x", f"MAC: expected {MAC}, found {OTHER}", "it is down"])])
def test_links(changes, told, words):
    wanted = attached(wanted=Wanted(mtu=9000))
    assert list(compare_link(wanted, TOLD | told, dataclasses.replace(LINK, **changes))) == words


def test_an_mtu_that_the_network_does_not_set_is_for_later_plugins():
    assert list(compare_link(attached(), TOLD, LINK)) == []


@pytest.mark.parametrize(("wanted", "words"), [
    (VfSettings(), []), (FOUND, []), (VfSettings(vlan=5), []), (VfSettings(max_tx_rate=100), []),
    (VfSettings(vlan=0), ["VLAN: expected 0, found 5"]),
    (VfSettings(vlan=6, vlan_qos=3), ["VLAN: expected 6, found 5", "VLAN priority: expected 3, found 0"]),
    (VfSettings(vlan=5, vlan_proto=0x88A8), ["VLAN protocol: expected 802.1ad, found 802.1q"]),
    (VfSettings(mac=OTHER), [f"the PF's MAC: expected {OTHER}, found {MAC}"]),
    (VfSettings(spoofchk=False), ["spoofchk: expected off, found on"]),
    (VfSettings(trust=True), ["trust: expected on, found off"]),
    (VfSettings(min_tx_rate=1, max_tx_rate=2), [
        "min_tx_rate: expected 1, found 0", "max_tx_rate: expected 2, found 100"]),
    (VfSettings(link_state=LinkState.DISABLE), ["link state: expected disable, found auto"])])
def test_settings(wanted, words):
    assert list(compare_settings(wanted, FOUND)) == words


@pytest.mark.parametrize(("asked", "told", "expected"), [
    (OTHER, OTHER, OTHER), (OTHER, None, OTHER), (OTHER, "", OTHER),
    (OTHER, str(MAC).upper(), None),      # a later plugin's, which the PF shows
    (None, MAC, None)])
def test_a_mac_that_a_later_plugin_changed(asked, told, expected):
    made = attached(wanted=Wanted(settings=VfSettings(mac=asked, vlan=5)))
    assert expect_settings(made, TOLD | {"mac": told}, FOUND) == VfSettings(mac=expected, vlan=5)


def test_settings_that_the_driver_stopped_to_report():
    assert list(compare_settings(VfSettings(trust=True), dataclasses.replace(FOUND, trust=None))) == [
        "trust: expected on, found nothing"]


def test_what_is_ours_of_a_result():
    alone = format_result(INTERFACE, ADDRESSES, "1.0.0")
    made = attached(result=alone)
    assert own_addresses(made) == Addresses(ips=ADDRESSES.ips, routes=ADDRESSES.routes)
    before = {"interfaces": [{"name": "eth9", "sandbox": "/s"}], "routes": [{"dst": "10.8.0.0/16"}],
              "ips": [{"address": "10.8.0.1/24", "interface": 0}]}
    later = attached(result=join_results(before, alone))
    assert [ip.address for ip in own_addresses(later).ips] == [ip.address for ip in ADDRESSES.ips]
    assert own_addresses(attached(result=format_result(INTERFACE, ADDRESSES, "0.2.0"))) == Addresses()
    assert ip_interface("10.8.0.1/24") not in [ip.address for ip in own_addresses(later).ips]


def check(store, result=None, **config):
    asked = request({"cniVersion": "1.0.0", "name": "net", **({"prevResult": result} if result else {}), **config},
                    CNI_COMMAND=Command.CHECK)
    call = Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10)
    with pytest.raises(SriovError) as caught:
        Attachments(NOW, store).handle(call)
    return caught.value.message


def test_what_is_not_attached(tmp_path):
    with opened(tmp_path) as store:
        absent = "container c1 has no net1 of network net"
        assert check(store) == absent
        store.write(attached(owner=dataclasses.replace(record().owner, network="other")))
        assert check(store) == absent
        store.write(attached(owner=dataclasses.replace(record().owner, ifname="net2")))
        assert check(store) == absent
        store.write(attached().detaching())
        assert check(store) == absent


def test_a_vf_that_its_pod_has_lost(tmp_path):
    who = f"VF {record().vf} of container c1, net1 of network net: "
    with opened(tmp_path) as store:
        for changes, words in (({"boot_id": "earlier"}, "the node has been rebooted since"),
                               ({"identity": 5}, "the VF is gone or was made anew"),
                               ({"phase": Phase.ATTACHING}, "its ADD or DEL was never finished")):
            store.write(dataclasses.replace(attached(), **changes))
            assert check(store, json.loads(json.dumps(format_result(INTERFACE, ADDRESSES, "1.0.0")))) == who + words
