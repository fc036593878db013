"""Bursts: pods made all at once and force-deleted all at once, and where their VFs are afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.e2e.cluster import POLL, Cluster, is_running
from tests.e2e.pods import namespace, network, pod
from tests.support.node import wait_for

PODS = 10
START = 480.0    # seconds for ten pods at once in an emulated node, which take 80 to 130 where nothing else runs
END = 480.0      # for their sandboxes to go
LINES = 200      # of the agent's log, of which a burst makes about 50
HOME = 10.0      # for every VF to be home once the last sandbox has gone


def burst(cluster: Cluster, name: str, *, delete_namespace: bool) -> None:
    """One burst in a Kubernetes namespace of its own; AssertionError where a VF is not home in time."""
    many = network("many", namespace=name, vlan=77, capabilities={"mac": True},
                   subnets=["10.56.7.0/24", "fd00:56:7::/64"])
    try:
        start_pods(cluster, name, many, [
            pod(f"p{n}", namespace=name, networks=[{"name": "many", "mac": f"02:00:00:00:07:{n:02x}"}])
            for n in range(PODS)
        ])
        delete_pods(cluster, name, delete_namespace=delete_namespace)
        cluster.host.wait_home(HOME)
        lost = [line for line in cluster.agent_log(LINES).splitlines() if "no record says whose" in line]
        assert lost == [], "VFs on their way home were taken for lost"
    finally:
        cluster.kubectl.run("delete", "namespace", name, "--ignore-not-found", "--wait", timeout=120)


def start_pods(cluster: Cluster, name: str, many: dict[str, Any], pods: Sequence[dict[str, Any]]) -> None:
    """All pods at once in a new Kubernetes namespace, until all of them run."""
    cluster.kubectl.apply(namespace(name))
    cluster.wait_default_account(name)
    cluster.kubectl.apply(many)
    cluster.kubectl.apply(*pods)
    wait_for(f"{len(pods)} pods Running", lambda: running(cluster, name) == len(pods), START, POLL)


def running(cluster: Cluster, name: str) -> int:
    return sum(map(is_running, cluster.kubectl.get("pods", namespace=name)["items"]))


def delete_pods(cluster: Cluster, name: str, *, delete_namespace: bool) -> None:
    """By force, all at once, or with all that Multus would look up; until the node has no sandbox of them."""
    if delete_namespace:
        cluster.kubectl.run("delete", "namespace", name, "--wait=false")
    cluster.kubectl.run("-n", name, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false",
                        timeout=120)
    wait_for("the last sandbox gone", lambda: not cluster.host.sandboxes(), END, POLL)
