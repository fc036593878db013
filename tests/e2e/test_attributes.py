"""What a NAD says about a VF is what its PF enforces; other plugins before and after ours work as ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.pods import RESOURCE_NAME, SRIOV, network, pod

pytestmark = pytest.mark.e2e


def test_attributes(multus: Cluster) -> None:
    """Two pods whose networks say the opposite: spoofchk, trust; one has a VLAN with priority, one an MTU."""
    networks: dict[str, dict[str, Any]] = {
        "strict": {"spoofchk": "on", "trust": "off", "vlan": 7, "vlanQoS": 5},
        "loose": {"spoofchk": "off", "trust": "on", "mtu": 1400},
    }
    multus.kubectl.apply(*(network(name, kind="sriov", **keys) for name, keys in networks.items()))
    multus.kubectl.apply(*(pod(name, networks=name) for name in networks))
    multus.wait_running(*networks)
    strict, loose = (multus.host.enforced(multus.vfs_of(name)[0]) for name in networks)
    assert (strict["spoofchk"], strict["trust"]) == (True, False)
    assert (loose["spoofchk"], loose["trust"]) == (False, True)
    assert strict["vlan_list"] == [{"vlan": 7, "qos": 5}]
    (link,) = multus.host.links_in("default", "loose", "net1")
    assert link["mtu"] == 1400


def test_beside_and_before_other_plugins(multus: Cluster) -> None:
    """A VF and a bridge network in one pod, and a chain in which tuning comes after us."""
    chained = network("chained", vlan=8)
    ours = json.loads(chained["spec"]["config"])
    del ours["cniVersion"], ours["name"]
    chained["spec"]["config"] = json.dumps({
        "cniVersion": "1.0.0", "name": "chained",
        "plugins": [ours, {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}],
    })
    bridge = network("bridge", kind="bridge", subnets=["10.56.8.0/24"], bridge="other0")
    del bridge["metadata"]["annotations"][RESOURCE_NAME]
    multus.kubectl.apply(chained, bridge)
    multus.kubectl.apply(pod("mixed", networks="chained,bridge"))
    (running,) = multus.wait_running("mixed")
    assert running["spec"]["containers"][0]["resources"]["limits"] == {SRIOV: "1"}
    links = {link["ifname"]: link for link in multus.host.links_in("default", "mixed")}
    assert links["net1"]["parentdev"] == multus.vfs_of("mixed")[0]
    assert links["net2"]["linkinfo"]["info_kind"] == "veth"
    assert multus.kubectl.exec("mixed", "cat", "/proc/sys/net/ipv4/conf/net1/arp_filter").stdout.strip() == "1"
    assert multus.host.enforced(links["net1"]["parentdev"])["vlan_list"][0]["vlan"] == 8
