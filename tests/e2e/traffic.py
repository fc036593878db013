"""Two pods and a ping between them over their VFs that does not end: what a fault may not interrupt."""

from __future__ import annotations

import re

from tests.e2e.cluster import POLL, Cluster
from tests.e2e.pods import container, network, pod
from tests.support.node import wait_for

NETWORK = "steady"
LEFT, RIGHT, NEXT = "10.56.9.1", "10.56.9.2", "10.56.9.3"
LOSS = 3    # echoes, over a whole test: emulated NICs drop some where the guest's one CPU is late


def steady_network() -> dict[str, object]:
    return network(NETWORK, vlan=900, capabilities={"ips": True}, ipam={"type": "static"})


def peer(name: str, address: str, *command: str) -> dict[str, object]:
    asked = [{"name": NETWORK, "ips": [f"{address}/24"]}]
    return pod(name, *([container(command=command)] if command else []), networks=asked)


class Traffic:
    """Pod `left` pings pod `right` once a second for as long as both live."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.kubectl.apply(steady_network())
        cluster.kubectl.apply(peer("right", RIGHT))
        cluster.wait_running("right")
        cluster.kubectl.apply(peer("left", LEFT, "ping", "-I", "net1", RIGHT))
        cluster.wait_running("left")
        self.wait_answers(2)

    def answers(self) -> list[int]:
        """Sequence numbers that were answered so far."""
        # The kubelet answers, and not at once after its start.
        said = wait_for(
            "the log of left", lambda: self._cluster.kubectl.run("logs", "left", check=False).stdout, 60, POLL)
        return [int(number) for number in re.findall(r"seq=(\d+) ", said)]

    def wait_answers(self, more: int, timeout: float = 60) -> None:
        """Until so many more than now have been answered."""
        now = len(self.answers())
        wait_for("answers", lambda: len(self.answers()) >= now + more, timeout, 0.5)

    def check(self) -> None:
        """It still flows, flowed all the time, and the pods are the same ones."""
        self.wait_answers(2)
        found = self.answers()
        lost = sorted(set(range(found[-1])) - set(found))
        assert len(lost) <= LOSS, f"lost {lost} of {found[-1]}"
        for name in ("left", "right"):
            (status,) = self._cluster.pod(name)["status"]["containerStatuses"]
            assert status["restartCount"] == 0

    def check_newcomer(self) -> None:
        """A pod that starts now has its network and joins in."""
        self._cluster.kubectl.apply(peer("newcomer", NEXT))
        self._cluster.wait_running("newcomer")
        self._cluster.ping("newcomer", RIGHT)
        self._cluster.kubectl.delete("pod", "newcomer")
