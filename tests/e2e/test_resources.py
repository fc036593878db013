"""The VFs as the kubelet and the scheduler see them: numbers, NUMA nodes, containers, health."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import EXPECTED, Cluster
from tests.e2e.pods import DPDK, SRIOV, container, network, pod
from tests.support.node import wait_for

pytestmark = pytest.mark.e2e


def networks(name: str, count: int) -> str:
    return ",".join([name] * count)


def test_the_node_advertises_the_pools(cluster: Cluster) -> None:
    cluster.wait_allocatable(EXPECTED)       # the node's status is up to 10 s behind
    assert cluster.allocatable() == EXPECTED
    status = cluster.kubectl.get("node", cluster.node.name)["status"]
    assert {name: int(status["capacity"][name]) for name in EXPECTED} == EXPECTED


def test_numa_and_all_vfs_used(multus: Cluster) -> None:
    """Topology manager single-numa-node: 7 of one NUMA node fit into one pod, 8 do not; pod 15 waits for a VF."""
    multus.kubectl.apply(network("plain"))
    multus.kubectl.apply(pod("eight", networks=networks("plain", 8)))
    failed = multus.wait_pod("eight", lambda found: found["status"].get("phase") == "Failed", "the refusal")
    assert failed["status"]["reason"] == "TopologyAffinityError"
    multus.kubectl.delete("pod", "eight")

    for name in ("first", "second"):
        multus.kubectl.apply(pod(name, networks=networks("plain", 7)))
    multus.wait_running("first", "second")
    numa = {name: {multus.node.sh(f"cat /sys/bus/pci/devices/{vf}/numa_node").strip()
                   for vf in multus.vfs_of(name)} for name in ("first", "second")}
    assert sorted(map(sorted, numa.values())) == [["0"], ["1"]]

    multus.kubectl.apply(pod("third", networks="plain"))
    waiting = multus.wait_pod("third", lambda found: found["status"].get("conditions"), "the scheduler's word")
    (condition,) = [c for c in waiting["status"]["conditions"] if c["type"] == "PodScheduled"]
    assert waiting["status"]["phase"] == "Pending"
    assert f"Insufficient {SRIOV}" in condition["message"]
    multus.kubectl.delete("pod", "first")
    multus.wait_running("third")


def test_two_networks_and_two_containers_on_one_resource(multus: Cluster) -> None:
    multus.kubectl.apply(network("red", vlan=10), network("blue", vlan=20))
    asked = pod("both", container("one", resources={SRIOV: 1}), container("two", resources={SRIOV: 1}),
                networks="red,blue")
    multus.kubectl.apply(asked)
    (created,) = multus.wait_running("both")
    assert [each["resources"]["limits"][SRIOV] for each in created["spec"]["containers"]] == ["1", "1"]
    told = [vf for name in ("one", "two") for vf in multus.vfs_of("both", container=name)]
    moved = {link["ifname"]: link["parentdev"] for link in multus.host.links_in("default", "both")
             if link.get("parentbus") == "pci"}
    assert set(moved) == {"net1", "net2"}
    assert sorted(moved.values()) == sorted(told)
    vlans = {name: multus.host.enforced(vf)["vlan_list"][0]["vlan"] for name, vf in moved.items()}
    assert vlans == {"net1": 10, "net2": 20}


def test_a_vf_for_dpdk_opens_in_its_container(multus: Cluster) -> None:
    """VFIO_GROUP_GET_STATUS says viable and VFIO_GROUP_GET_DEVICE_FD gives the device, in the container itself."""
    multus.kubectl.apply(network("user", resource=DPDK, vlan=30))
    multus.kubectl.apply(pod("dpdk", networks="user"))
    multus.wait_running("dpdk")
    (vf,) = multus.vfs_of("dpdk", DPDK)
    probed = json.loads(multus.kubectl.exec("dpdk", "vfio_probe", vf).stdout)
    assert probed["viable"] is True
    assert probed["device"] == vf
    assert probed["regions"] > 0
    assert multus.host.enforced(vf)["vlan_list"][0]["vlan"] == 30


def test_an_unbound_vf_is_not_offered(cluster: Cluster) -> None:
    vf = cluster.node.sh("ls /sys/bus/pci/drivers/igbvf | grep ^0000 | head -1").strip()
    cluster.node.sh(f"echo {vf} > /sys/bus/pci/drivers/igbvf/unbind")
    try:
        cluster.wait_allocatable({SRIOV: EXPECTED[SRIOV] - 1}, timeout=10)
    finally:
        cluster.node.sh(f"echo {vf} > /sys/bus/pci/drivers/igbvf/bind")
    cluster.wait_allocatable(EXPECTED, timeout=30)
    cluster.host.take_baseline()    # bound anew, it has another random MAC


def test_a_pf_that_goes_and_comes_back(cluster: Cluster) -> None:
    """Its VFs are not offered while it is gone, and are made again when it is back."""
    numa = "1"
    pf = cluster.node.sh(f"""
        for device in /sys/bus/pci/drivers/igb/0000*; do
            [ "$(cat $device/numa_node)" = {numa} ] && basename $device
        done""").strip()
    cluster.node.sh(f"echo 1 > /sys/bus/pci/devices/{pf}/remove")
    try:
        cluster.wait_allocatable({SRIOV: EXPECTED[SRIOV] - 7}, timeout=10)
    finally:
        cluster.node.sh("echo 1 > /sys/bus/pci/rescan")
    cluster.wait_allocatable(EXPECTED)
    wait_for("the VFs' netdevs", lambda: cluster.host.links().keys() == cluster.host.baseline.keys(), 30, 0.5)
    cluster.host.take_baseline()    # MACs that a driver draws at random are others now
