"""What dies and comes back under running pods: they keep their traffic, and pods after it have their networks."""

from __future__ import annotations

import time

import pytest

from tests.e2e.cluster import EXPECTED, NAMESPACE, POLL, Cluster
from tests.e2e.pods import SRIOV
from tests.e2e.traffic import NEXT, RIGHT, Traffic, peer
from tests.support.node import wait_for

pytestmark = pytest.mark.e2e

OUTAGE = 60    # seconds without an API server


def test_kubelet_restart(multus: Cluster) -> None:
    traffic = Traffic(multus)
    multus.node.stop_kubelet()
    multus.node.start_kubelet()
    multus.wait_node_ready()
    multus.wait_allocatable(EXPECTED)
    traffic.check()
    traffic.check_newcomer()


def test_containerd_restart(multus: Cluster) -> None:
    traffic = Traffic(multus)
    multus.node.restart_containerd()
    multus.wait_node_ready()
    traffic.check()
    traffic.check_newcomer()


def test_agent_restart(multus: Cluster) -> None:
    traffic = Traffic(multus)
    (old,) = multus.agent_pods()
    multus.kubectl.run("-n", NAMESPACE, "delete", "pod", old, "--wait=false")
    wait_for("another agent", lambda: multus.agent_pods() not in ([], [old]), 120, POLL)
    multus.wait_allocatable(EXPECTED)
    traffic.check()
    traffic.check_newcomer()


def test_agent_killed_while_a_pod_starts(multus: Cluster) -> None:
    """kill -9; a pod made at that moment waits for the next agent, and starts with its network or not at all."""
    traffic = Traffic(multus)
    multus.node.sh("pkill -KILL -f [v]fpool-agent")
    multus.kubectl.apply(peer("late", NEXT))
    multus.wait_running("late")
    multus.ping("late", RIGHT)
    multus.wait_allocatable(EXPECTED)
    traffic.check()


def test_api_server_away_for_a_minute(multus: Cluster) -> None:
    traffic = Traffic(multus)
    multus.plane.stop_apiserver()
    try:
        time.sleep(OUTAGE)
    finally:
        multus.plane.start_apiserver()
    multus.wait_node_ready()
    multus.wait_allocatable(EXPECTED)
    assert multus.allocatable()[SRIOV] == EXPECTED[SRIOV]
    traffic.check()
    traffic.check_newcomer()
