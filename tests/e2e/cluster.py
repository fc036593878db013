"""The whole of it: control plane on this host, the lab VM as its node, Multus, vfpool's manifests and webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from sriov.errors import SriovError
from tests.e2e.components import build_components
from tests.e2e.controlplane import ControlPlane
from tests.e2e.host import Host
from tests.e2e.kubectl import Kubectl
from tests.e2e.multus import Multus
from tests.e2e.node import Node
from tests.e2e.overlay import render
from tests.e2e.peers import find_peers
from tests.e2e.pods import DPDK, SRIOV
from tests.e2e.webhook import Webhook
from tests.lab.image import CHECKOUT
from tests.lab.progress import Progress
from tests.lab.scratch import scratch_folder
from tests.support.node import wait_for

DEPLOY = CHECKOUT / "deploy"
NAMESPACE = "vfpool-system"
EXPECTED = {SRIOV: 14, DPDK: 7}      # of deploy/examples/pools.yaml on the lab's three PFs
PATIENCE = 240.0                     # seconds, for what emulation makes slow, with slack for slower machines
POLL = 0.5                           # seconds between questions: node and control plane share two cores


class Cluster:
    """`with Cluster() as cluster`: a Ready node; with `install()` vfpool on it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.progress = Progress("cluster")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.components = build_components()
            self.peers = find_peers()
            self.folder = stack.enter_context(scratch_folder("vfpool-e2e-"))
            started = time.monotonic()
            self.plane = stack.enter_context(ControlPlane(self.components, self.folder / "plane"))
            self.kubectl = Kubectl(self.components.program("kubectl"), self.plane.admin)
            self.node = stack.enter_context(Node(self.components, self.plane, self.peers, self.folder / "node"))
            self.host = Host(self.node)
            self.multus = Multus(self.node, self.plane, self.kubectl)
            self.wait_node_ready()
            self.progress.note(f"node Ready {time.monotonic() - started:.0f} s after the start")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def install(self) -> None:
        """vfpool as its manifests have it, and the webhook; until every VF is allocatable."""
        self.apply_crd()
        self.webhook = Webhook(self.plane, self.folder / "webhook")
        manifest = render(self.kubectl, url=self.webhook.url, ca_bundle=self.webhook.ca_bundle,
                          folder=self.folder / "overlay")
        self.kubectl.apply_manifest(manifest)
        self._stack.callback(self.webhook.stop)
        self.webhook.start()
        self.wait_allocatable(EXPECTED)
        self.host.take_baseline()
        self.progress.note("vfpool installed: " + ", ".join(f"{n} {r}" for r, n in EXPECTED.items()))

    def find_end(self) -> str | None:
        """Which process of the installed cluster ended by itself, with its last words; None where none did."""
        return self.plane.find_end() or self.node.find_end() or self.webhook.find_end()

    def apply_crd(self) -> None:
        self.kubectl.run("apply", "-f", str(DEPLOY / "crd"))
        self.kubectl.run("wait", "--for=condition=Established", "--timeout=30s",
                         "crd/network-attachment-definitions.k8s.cni.cncf.io")

    # -- what the API server says -----------------------------------------------------------------------

    def wait_node_ready(self, timeout: float = PATIENCE) -> None:
        wait_for("node Ready", self._node_ready, timeout, POLL)

    def _node_ready(self) -> bool:
        nodes = self.kubectl.get("nodes")["items"]
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for node in nodes for condition in node["status"].get("conditions", ())
        )

    def heartbeat(self) -> str:
        """When the kubelet last wrote the node's status."""
        conditions = self.kubectl.get("node", self.node.name)["status"]["conditions"]
        return max(str(condition["lastHeartbeatTime"]) for condition in conditions)

    def allocatable(self) -> dict[str, int]:
        """Of our resources, as the node's status has them."""
        status = self.kubectl.get("node", self.node.name)["status"]
        return {name: int(n) for name, n in status.get("allocatable", {}).items() if name.startswith("intel.com/")}

    def wait_allocatable(self, wanted: Mapping[str, int], timeout: float = PATIENCE) -> None:
        def fits() -> bool:
            found = self.allocatable()
            return all(found.get(resource) == number for resource, number in wanted.items())

        try:
            wait_for(f"allocatable {dict(wanted)}", fits, timeout, POLL)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.allocatable()}\n{self.agent_log()}") from None

    def pod(self, name: str, namespace: str = "default") -> dict[str, Any]:
        return self.kubectl.get("pod", name, namespace)

    def wait_pod(
        self, name: str, wanted: Callable[[dict[str, Any]], Any], what: str, *, namespace: str = "default",
        timeout: float = PATIENCE,
    ) -> dict[str, Any]:
        """The pod as it is when `wanted` first holds; a failure shows its status and events."""
        try:
            wait_for(what, lambda: wanted(self.pod(name, namespace)), timeout, POLL)
        except AssertionError as error:
            described = self.kubectl.run("-n", namespace, "describe", "pod", name, check=False).stdout
            raise AssertionError(f"{error}\n{described}\n{self.agent_log()}") from None
        return self.pod(name, namespace)

    def wait_running(
        self, *names: str, namespace: str = "default", timeout: float = PATIENCE
    ) -> list[dict[str, Any]]:
        return [
            self.wait_pod(name, is_running, f"pod {namespace}/{name} Running", namespace=namespace, timeout=timeout)
            for name in names
        ]

    def vfs_of(self, name: str, resource: str = SRIOV, *, container: str = "app") -> list[str]:
        """PCI addresses of the VFs that a container was told it has."""
        variable = "PCIDEVICE_" + resource.translate(str.maketrans("./-", "___")).upper()
        return self.kubectl.exec(
            name, "sh", "-c", f"echo ${variable}", container=container).stdout.strip().split(",")

    def ping(self, name: str, target: str, *, link: str = "net1", count: int = 3) -> None:
        """A pod reaches an address over one of its links; a fresh link may lose its first packets."""
        wait_for(f"{name} reaches {target} over {link}", lambda: self.kubectl.exec(
            name, "ping", "-c", str(count), "-W", "2", "-I", link, target, check=False).returncode == 0, 60, POLL)

    def address_of(self, name: str, family: str = "inet", *, link: str = "net1") -> str:
        """The pod's global address on a link, by the kernel's word."""
        (found,) = self.host.links_in("default", name, link)
        return next(str(entry["local"]) for entry in found["addr_info"]
                    if entry["family"] == family and entry["scope"] == "global")

    def wait_default_account(self, namespace: str) -> None:
        """A namespace takes pods only once the controller manager has made its default service account."""
        wait_for(f"service account of {namespace}", lambda: self.kubectl.run(
            "-n", namespace, "get", "serviceaccount", "default", check=False).returncode == 0, PATIENCE, POLL)

    def agent_pods(self) -> list[str]:
        """Names of the agent's pods that run."""
        pods = self.kubectl.get("pods", namespace=NAMESPACE, selector="app.kubernetes.io/name=vfpool-agent")
        return [str(pod["metadata"]["name"]) for pod in pods["items"] if is_running(pod)]

    def agent_log(self, lines: int = 40) -> str:
        return self.kubectl.run(
            "-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/name=vfpool-agent", f"--tail={lines}", check=False
        ).stdout

    def post_mortem(self) -> list[tuple[str, str]]:
        """Title and text of what helps to explain a failure, or why that cannot be said."""
        sources: dict[str, Callable[[], str]] = {
            "agent": self.agent_log,
            "webhook": lambda: self.webhook.log_tail(),
            "kubelet": lambda: self.node.log_tail("kubelet"),
            "events": self.events,
            "astray": lambda: "\n".join(self.host.astray()),
        }
        found = []
        for title, read in sources.items():
            try:
                found.append((title, read()))
            except (SriovError, OSError, ValueError) as error:
                found.append((title, f"not to be had: {error}"))
        return found

    def events(self, last: int = 25) -> str:
        said = self.kubectl.run("get", "events", "-A", "--sort-by=.lastTimestamp", check=False).stdout
        return "\n".join(said.splitlines()[-last:])

    def clean(self) -> None:
        """No pods and networks of tests in `default`, and every VF home."""
        self.kubectl.run("delete", "deployments,pods", "--all", "--now", "--wait", timeout=PATIENCE)
        self.kubectl.run("delete", "network-attachment-definitions", "--all")
        self.wait_home()

    def wait_home(self) -> None:
        """Until every VF is home; where one is not, that is not held against later tests."""
        try:
            self.host.wait_home(PATIENCE)
        except AssertionError:
            self.host.take_baseline()
            raise


def is_running(pod: Mapping[str, Any]) -> bool:
    """Running, every container ready, and not on its way out."""
    statuses = pod["status"].get("containerStatuses", ())
    return (pod["status"].get("phase") == "Running" and all(status["ready"] for status in statuses)
            and "deletionTimestamp" not in pod["metadata"])
