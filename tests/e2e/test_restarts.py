"""What dies and comes back under running pods: they keep their traffic, and pods after it have their networks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from cni.protocol import Code
from tests.e2e.cluster import EXPECTED, NAMESPACE, POLL, Cluster
from tests.e2e.libcni import Libcni, PluginFailed
from tests.e2e.pods import SRIOV
from tests.e2e.traffic import NEXT, RIGHT, Traffic, peer
from tests.support.node import wait_for

pytestmark = pytest.mark.e2e

OUTAGE = 60        # seconds without an API server
RESTARTED = 180    # seconds, of which the kubelet rests up to a minute before it starts a container again


def test_kubelet_restart(multus: Cluster) -> None:
    traffic = Traffic(multus)
    multus.node.stop_kubelet()
    before = multus.heartbeat()
    multus.node.start_kubelet()
    wait_for("a status of the new kubelet", lambda: multus.heartbeat() != before, 120, POLL)
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


def test_agent_restart(multus: Cluster, libcni: Libcni) -> None:
    """Between two agents the executable says that no pod can be attached."""
    traffic = Traffic(multus)
    libcni.define("steady", {"type": "vfpool"}, version="1.1.0")
    libcni.status("steady")
    (old,) = multus.agent_pods()
    multus.kubectl.run("-n", NAMESPACE, "delete", "pod", old, "--wait=false")
    wait_for("STATUS to say code 50", lambda: status_code(libcni) == Code.UNAVAILABLE, 60, 0.1)
    wait_for("another agent", lambda: multus.agent_pods() not in ([], [old]), 120, POLL)
    multus.wait_allocatable(EXPECTED)
    libcni.status("steady")
    traffic.check()
    traffic.check_newcomer()


def status_code(libcni: Libcni) -> int | None:
    try:
        libcni.status("steady")
    except PluginFailed as failure:
        return failure.code
    return None


def test_agent_that_is_killed_again_and_again(multus: Cluster) -> None:
    """kill -9: a pod made then waits, and starts with its network, not without, once an agent stays alive."""
    traffic = Traffic(multus)

    def killed(reached: Callable[[], bool]) -> bool:
        multus.node.sh("pkill -KILL -f [v]fpool-agent", check=False)
        return reached()

    wait_for("no VF for a new pod", lambda: killed(lambda: not any(multus.allocatable().values())), 120, POLL)
    multus.kubectl.apply(peer("late", NEXT))
    waits = f"Insufficient {SRIOV}"
    wait_for("the pod to wait", lambda: killed(lambda: waits in unscheduled(multus, "late")), 60, POLL)
    multus.wait_running("late", timeout=RESTARTED)
    multus.ping("late", RIGHT)
    multus.wait_allocatable(EXPECTED)
    traffic.check()


def unscheduled(cluster: Cluster, name: str) -> str:
    """What the scheduler says of a pod that it has no node for."""
    conditions = cluster.pod(name)["status"].get("conditions", ())
    return " ".join(one.get("message", "") for one in conditions if one["type"] == "PodScheduled")


def test_api_server_away_for_a_minute(multus: Cluster) -> None:
    traffic = Traffic(multus)
    multus.plane.stop_apiserver()
    try:
        time.sleep(OUTAGE)
    finally:
        multus.plane.start_apiserver()
    multus.wait_node_ready()
    multus.wait_allocatable(EXPECTED)
    traffic.check()
    traffic.check_newcomer()
