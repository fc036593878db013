"""One annotation, and the pod has its VF; what cannot work is refused as kubectl prints it."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.pods import NETWORKS, SRIOV, container, network, pod
from tests.support.node import wait_for

pytestmark = pytest.mark.e2e

MAC = "02:00:00:00:0a:01"


def test_an_annotation_is_enough(multus: Cluster) -> None:
    multus.kubectl.apply(network(
        "fast", vlan=100, capabilities={"mac": True}, subnets=["10.56.1.0/24", "fd00:56:1::/64"]))
    multus.kubectl.apply(pod("annotated", networks=[{"name": "fast", "mac": MAC, "interface": "data0"}]))
    (running,) = multus.wait_running("annotated")
    resources = running["spec"]["containers"][0]["resources"]
    assert resources["requests"][SRIOV] == resources["limits"][SRIOV] == "1"

    (vf,) = multus.vfs_of("annotated")
    (link,) = multus.host.links_in("default", "annotated", "data0")
    assert link["address"] == MAC
    assert link["parentdev"] == vf
    assert "UP" in link["flags"]
    addresses = {(entry["family"], entry["local"]) for entry in link["addr_info"] if entry["scope"] == "global"}
    assert {family for family, _ in addresses} == {"inet", "inet6"}
    enforced = multus.host.enforced(vf)
    assert enforced["vlan_list"][0]["vlan"] == 100
    assert enforced["address"] == MAC


def test_a_pod_that_asks_twice_gets_what_it_needs(multus: Cluster) -> None:
    """The request declared by hand counts; what is missing is added."""
    multus.kubectl.apply(network("fast"))
    multus.kubectl.apply(pod("twice", container(resources={SRIOV: 1}), networks="fast,default/fast@data1"))
    created = multus.pod("twice")
    assert created["spec"]["containers"][0]["resources"]["limits"][SRIOV] == "2"
    multus.wait_running("twice")
    assert len(multus.vfs_of("twice")) == 2


@pytest.mark.parametrize(("text", "expected"), [
    pytest.param("fats", ["fats", "default/fast"], id="no such network"),
    pytest.param("other/fast", ["other/fast", "default/fast"], id="in another namespace"),
    pytest.param("fast@a-name-that-is-too-long", ["networks[0]", "a-name-that-is-too-long", "15"], id="interface"),
    pytest.param("fast,,fast", ["networks[1]"], id="empty item"),
    pytest.param('[{"name": "fast", "mac": "aa:bb"}]', ["networks[0].mac", "aa:bb"], id="mac"),
    pytest.param('[{"name": "fast",}]', ["JSON"], id="JSON"),
    pytest.param('[{"name": "fast", "deviceID": "0000:21:10.0"}]', ["deviceID"], id="deviceID"),
])
def test_a_denial_says_what_is_wrong(cluster: Cluster, text: str, expected: list[str]) -> None:
    cluster.kubectl.apply(network("fast"))
    refused = cluster.kubectl.run("create", "-f", "-", input=json.dumps(pod("wrong", networks=text)), check=False)
    assert refused.returncode == 1
    assert "denied the request" in refused.stderr
    assert all(part in refused.stderr for part in expected), refused.stderr
    assert cluster.kubectl.run("get", "pod", "wrong", check=False).returncode == 1


def test_an_unknown_key_is_admitted_with_a_warning(cluster: Cluster) -> None:
    cluster.kubectl.apply(network("fast"))
    asked = pod("warned", networks='[{"name": "fast", "interfcae": "data0"}]')
    created = cluster.kubectl.run("create", "--dry-run=server", "-f", "-", input=json.dumps(asked))
    assert "Warning:" in created.stderr
    assert "interface" in created.stderr


def test_a_network_made_a_moment_ago_is_known(cluster: Cluster) -> None:
    """The cache may not have it yet: a miss is confirmed by one live read."""
    for number in range(5):
        cluster.kubectl.apply(network(f"new{number}"))
        asked = json.dumps(pod("p", networks=f"new{number}"))
        created = cluster.kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", input=asked)
        assert json.loads(created.stdout)["spec"]["containers"][0]["resources"]["limits"] == {SRIOV: "1"}


def test_without_the_webhook_plain_pods_start_and_others_are_refused(multus: Cluster) -> None:
    multus.kubectl.apply(network("fast"))
    multus.webhook.stop()
    try:
        multus.kubectl.apply(pod("plain"))
        refused = multus.kubectl.run(
            "create", "-f", "-", input=json.dumps(pod("annotated", networks="fast")), check=False)
        assert refused.returncode == 1
        assert "failed calling webhook" in refused.stderr
        multus.wait_running("plain")
        assert NETWORKS not in multus.pod("plain")["metadata"].get("annotations", {})
    finally:
        multus.webhook.start()
    wait_for("a pod admitted again", lambda: multus.kubectl.run(
        "create", "--dry-run=server", "-f", "-", input=json.dumps(pod("annotated", networks="fast")), check=False,
    ).returncode == 0, every=0.5)
