"""NADs through Multus, thin and thick, as `vfpool` and under the drop-in name: pods reach each other over VFs."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.multus import Kind
from tests.e2e.pods import STATUS, network, pod

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_pods_reach_each_other_over_vfs(cluster: Cluster, kind: Kind) -> None:
    """Two pods on a NAD of `type: vfpool`, two on one of `type: sriov`, IPv4 and IPv6; each pair its own VLAN."""
    if cluster.peers.find("multus") is None:
        pytest.skip(cluster.peers.reason or "without Multus")
    cluster.multus.use(kind)
    cluster.kubectl.apply(
        network("ours", vlan=100, subnets=["10.56.2.0/24", "fd00:56:2::/64"]),
        network("dropin", kind="sriov", vlan=200, spoofchk="on", trust="off", link_state="auto",
                subnets=["10.56.3.0/24", "fd00:56:3::/64"]),
    )
    pairs = {"ours": ("a", "b"), "dropin": ("c", "d")}
    cluster.kubectl.apply(*(pod(name, networks=net) for net, names in pairs.items() for name in names))
    cluster.wait_running("a", "b", "c", "d")
    for first, second in pairs.values():
        for family in ("inet", "inet6"):
            cluster.ping(first, cluster.address_of(second, family))
    for name in ("a", "c"):
        check_status(cluster, name)


def check_status(cluster: Cluster, name: str) -> None:
    """network-status, PCIDEVICE_* and the kernel say the same."""
    status = json.loads(cluster.pod(name)["metadata"]["annotations"][STATUS])
    (entry,) = [entry for entry in status if entry["interface"] == "net1"]
    (link,) = cluster.host.links_in("default", name, "net1")
    (vf,) = cluster.vfs_of(name)
    addresses = {each["local"] for each in link["addr_info"] if each["scope"] == "global"}
    assert set(entry["ips"]) == addresses
    assert entry["mac"] == link["address"]
    assert entry["device-info"]["pci"]["pci-address"] == vf == link["parentdev"]
