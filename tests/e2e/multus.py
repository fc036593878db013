"""Multus on the node, both ways: thin, an executable that asks the API server, and thick, a daemon and its shim."""

from __future__ import annotations

import json
import textwrap
from typing import Any, Literal

from tests.e2e.controlplane import ControlPlane
from tests.e2e.kubectl import Kubectl
from tests.e2e.node import Node

Kind = Literal["thin", "thick"]
KUBECONFIG = "/etc/kubernetes/multus.kubeconfig"
CONF = "00-multus.conf"
MASTER = "/etc/cni/net.d/10-bridge.conflist"
PATIENCE = 120.0
_LABELS = {"app": "multus"}
_RULES = [
    {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "list", "update", "watch"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
]


class Multus:
    """Installs one kind at a time; pods that run keep what they have."""

    def __init__(self, node: Node, plane: ControlPlane, kubectl: Kubectl) -> None:
        self._node = node
        self._plane = plane
        self._kubectl = kubectl
        self.kind: Kind | None = None

    def use(self, kind: Kind) -> None:
        """Make `kind` the node's CNI plugin and wait until the runtime would call it."""
        if kind == self.kind:
            return
        self._kubectl.apply(*self._access())
        if kind == "thin":
            self._remove_daemon()
            self._install_thin()
        else:
            self._node.remove_cni_conf(CONF)
            self._kubectl.apply(self._daemon_config(), self._daemon_set())
            self._kubectl.run("-n", "kube-system", "rollout", "status", "daemonset/multus",
                              f"--timeout={PATIENCE:.0f}s", timeout=PATIENCE + 10)
            self._node.wait_for(f"test -s /etc/cni/net.d/{CONF}")
        self.kind = kind

    def _install_thin(self) -> None:
        kubeconfig = self._plane.kubeconfig("multus", common_name="multus", server=self._plane.guest_server)
        self._node.channel.copy_in(kubeconfig, KUBECONFIG)
        self._node.sh(f"sync {KUBECONFIG}")      # a power cut comes before the kernel writes it by itself
        self._node.install_cni("/peers/multus")
        master = json.loads(self._node.sh(f"cat {MASTER}"))
        self._node.set_cni_conf(CONF, json.dumps({
            "cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "kubeconfig": KUBECONFIG,
            "delegates": [master],
        }))

    def _remove_daemon(self) -> None:
        self._kubectl.run("-n", "kube-system", "delete", "daemonset/multus", "--ignore-not-found", "--wait")

    def _access(self) -> list[dict[str, Any]]:
        rbac = "rbac.authorization.k8s.io"
        return [
            {"apiVersion": "v1", "kind": "ServiceAccount",
             "metadata": {"name": "multus", "namespace": "kube-system"}},
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "multus"}, "rules": _RULES},
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "multus"},
             "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "multus"},
             "subjects": [{"kind": "ServiceAccount", "name": "multus", "namespace": "kube-system"},
                          {"apiGroup": rbac, "kind": "User", "name": "multus"}]},
        ]

    def _daemon_config(self) -> dict[str, Any]:
        config = {
            "cniVersion": "1.0.0", "chrootDir": "/hostroot", "socketDir": "/host/run/multus/",
            "cniConfigDir": "/host/etc/cni/net.d", "multusAutoconfigDir": "/host/etc/cni/net.d",
            "multusConfigFile": "auto", "logLevel": "verbose", "logToStderr": True,
        }
        return {"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "multus", "namespace": "kube-system"},
                "data": {"daemon-config.json": json.dumps(config)}}

    def _daemon_set(self) -> dict[str, Any]:
        """As the project's own manifest has it, but for resource limits, which emulation does not fit."""
        mounts = {    # mountPath: (hostPath, propagation)
            "/hostroot": ("/", "HostToContainer"),
            "/host/run": ("/run", None),
            "/host/etc/cni/net.d": ("/etc/cni/net.d", None),
            "/opt/cni/bin": ("/opt/cni/bin", None),    # the daemon looks here, the chroot runs it there
            "/var/lib/cni/multus": ("/var/lib/cni/multus", None),
            "/var/lib/kubelet": ("/var/lib/kubelet", "HostToContainer"),
            "/run/k8s.cni.cncf.io": ("/run/k8s.cni.cncf.io", None),
            "/run/netns": ("/run/netns", "HostToContainer"),
        }
        volumes: list[dict[str, Any]] = [
            {"name": f"host{number}", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
            for number, (path, _) in enumerate(mounts.values())
        ]
        volumes.append({"name": "config", "configMap": {"name": "multus"}})
        volume_mounts: list[dict[str, Any]] = [
            {"name": f"host{number}", "mountPath": path}
            | ({"mountPropagation": propagation} if propagation else {})
            for number, (path, (_, propagation)) in enumerate(mounts.items())
        ]
        volume_mounts.append({"name": "config", "mountPath": "/etc/cni/net.d/multus.d", "readOnly": True})
        script = textwrap.dedent("""\
            set -e
            cp /usr/bin/multus-shim /opt/cni/bin/.multus-shim
            mv /opt/cni/bin/.multus-shim /opt/cni/bin/multus-shim
            exec /usr/bin/multus-daemon
        """)
        environment = {"KUBERNETES_SERVICE_HOST": "10.0.2.2", "KUBERNETES_SERVICE_PORT": str(self._plane.port),
                       "MULTUS_NODE_NAME": self._node.name}    # there is no kube-proxy: past the service address
        return {
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "multus", "namespace": "kube-system"},
            "spec": {"selector": {"matchLabels": _LABELS}, "template": {
                "metadata": {"labels": _LABELS},
                "spec": {
                    "serviceAccountName": "multus", "hostNetwork": True, "hostPID": True,
                    "terminationGracePeriodSeconds": 10, "tolerations": [{"operator": "Exists"}],
                    "volumes": volumes,
                    "containers": [{
                        "name": "multus", "image": "vfpool.test/multus:1", "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", script], "securityContext": {"privileged": True},
                        "env": [{"name": name, "value": value} for name, value in environment.items()],
                        "volumeMounts": volume_mounts,
                    }],
                },
            }},
        }
