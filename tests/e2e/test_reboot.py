"""The node loses power and boots again from the same disk."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import EXPECTED, PATIENCE, POLL, Cluster, is_running
from tests.e2e.pods import STATUS, container, network, pod
from tests.support.node import wait_for

pytestmark = pytest.mark.e2e

REPLICAS = 2


def test_reboot(multus: Cluster) -> None:
    """VFs are made again from the pool file, old records are settled, and what has a controller works again."""
    multus.kubectl.apply(network("after", vlan=55, subnets=["10.56.5.0/24"]))
    multus.kubectl.apply(deployment("app", "after"), pod("bare", networks="after"))
    wait_for("the Deployment", lambda: len(ready(multus)) == REPLICAS, PATIENCE, POLL)
    multus.wait_running("bare")
    before = container_ids(multus)
    assert len(multus.host.records()) == REPLICAS + 1

    # host-local and libcni do not see to that, as the agent does for its records: a lease that is empty is never
    # given back, and of a result that is empty libcni's DEL makes an error for ever.
    multus.node.sh("sync /var/lib/cni/networks/after/* /var/lib/cni/results/*")
    old = known_boot(multus)
    multus.node.reset()
    wait_for("a status of the new boot", lambda: known_boot(multus) != old, PATIENCE, POLL)
    multus.wait_node_ready()
    # One emulated CPU takes 40 to 100 s: until the kubelet has the agent's container started, until Python has, and
    # to make and bind 21 VFs while the other pods start.
    multus.wait_allocatable(EXPECTED)
    # Until the kubelet has looked, the API server believes that the old containers run.
    wait_for("the Deployment again", lambda: len(ready(multus)) == REPLICAS and not container_ids(multus) & before,
             PATIENCE, POLL)

    first, *others = ready(multus)
    for other in others:
        multus.ping(first, multus.address_of(other))
    with_network = set(ready(multus)) | ({"bare"} if is_running(multus.pod("bare")) else set())
    for name in with_network:
        status = json.loads(multus.pod(name)["metadata"]["annotations"][STATUS])
        assert any(entry["interface"] == "net1" for entry in status)
    wait_for("no record of the time before", lambda: len(multus.host.records()) == len(with_network), 30, POLL)
    leased = multus.node.sh("ls /var/lib/cni/networks/after | grep -c ^10").strip()
    assert int(leased) == len(with_network)
    multus.kubectl.run("delete", "deployments,pods", "--all", "--now", "--wait", timeout=120)
    multus.host.wait_home(60, macs=False)
    multus.host.take_baseline()


def ready(cluster: Cluster) -> list[str]:
    """Names of the Deployment's pods that run."""
    pods = cluster.kubectl.get("pods", selector="app=app")["items"]
    return sorted(pod["metadata"]["name"] for pod in pods if is_running(pod))


def container_ids(cluster: Cluster) -> set[str]:
    """Of the containers of pods that run."""
    running = filter(is_running, cluster.kubectl.get("pods")["items"])
    return {status["containerID"] for pod in running for status in pod["status"].get("containerStatuses", ())}


def known_boot(cluster: Cluster) -> str:
    """The boot id of the node as the API server knows it: what else it says of the node is of that boot."""
    return str(cluster.kubectl.get("node", cluster.node.name)["status"]["nodeInfo"]["bootID"])


def deployment(name: str, networks: str) -> dict[str, object]:
    labels = {"app": name}
    template = pod("", container(), networks=networks, labels=labels)
    metadata = {"labels": labels, "annotations": template["metadata"]["annotations"]}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels},
                 "template": {"metadata": metadata, "spec": template["spec"]}},
    }
