"""Objects of the tests: pods, networks and what they are made of, as dicts for kubectl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE = "vfpool.test/busybox:1"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"
SRIOV, DPDK = "intel.com/sriov", "intel.com/sriov_dpdk"
SLEEP = ("sleep", "1000000")


def container(
    name: str = "app", *, command: Sequence[str] = SLEEP, resources: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """A container of the test image; `resources` are its requests and its limits."""
    amounts = {resource: str(number) for resource, number in (resources or {}).items()}
    return {
        "name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": list(command),
        "resources": {"requests": amounts, "limits": amounts} if amounts else {},
    }


def pod(
    name: str, *containers: Mapping[str, Any], networks: str | Sequence[Mapping[str, Any]] | None = None,
    namespace: str = "default", labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A pod that ends at once when deleted; `networks` is the annotation's text, or its JSON form as values."""
    text = networks if networks is None or isinstance(networks, str) else json.dumps(networks)
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": dict(labels or {}),
            "annotations": {} if text is None else {NETWORKS: text},
        },
        "spec": {
            "containers": [dict(each) for each in containers] or [container()],
            "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
        },
    }


def network(
    name: str, *, resource: str = SRIOV, kind: str = "vfpool", namespace: str = "default",
    subnets: Sequence[str] = (), **keys: Any,
) -> dict[str, Any]:
    """A NAD; `subnets` are for host-local, a range each; `keys` go into its configuration as they are."""
    config: dict[str, Any] = {"cniVersion": "1.0.0", "name": name, "type": kind, **keys}
    if subnets:
        config["ipam"] = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets]}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": namespace, "annotations": {RESOURCE_NAME: resource}},
        "spec": {"config": json.dumps(config)},
    }


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
