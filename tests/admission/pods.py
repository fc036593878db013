"""Pods, reviews and NADs to decide on; and an API server's way of applying a patch."""

from __future__ import annotations

import copy
import json
from typing import Any

from admission.mutation import Nad
from cni.annotation import NETWORKS

SRIOV, DPDK = "intel.com/sriov", "intel.com/sriov_dpdk"
NADS = {
    ("default", "fast"): Nad(resource=SRIOV),
    ("default", "dpdk"): Nad(resource=DPDK),
    ("default", "bridge"): Nad(resource=None),
    ("default", "blank"): Nad(resource=""),
    ("other", "fast"): Nad(resource=SRIOV),
}


def container(name: str = "app", limits: Any = None, requests: Any = None, **keys: Any) -> dict[str, Any]:
    amounts = {"limits": limits, "requests": requests}
    return {"name": name, "image": "x", "resources": {kind: value for kind, value in amounts.items() if value},
            **keys}


def pod(networks: Any = None, *containers: dict[str, Any], annotations: Any = None, **spec: Any) -> dict[str, Any]:
    """`networks`: the annotation's text, or what it is as JSON."""
    notes = dict(annotations or {})
    if networks is not None:
        notes[NETWORKS] = networks if isinstance(networks, str) else json.dumps(networks)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": notes},
            "spec": {"containers": list(containers) or [container()], **spec}}


def review(document: Any, *, namespace: str = "default", uid: str = "u-1", **request: Any) -> dict[str, Any]:
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": uid, "operation": "CREATE", "namespace": namespace, "name": "p", "object": document,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"}, **request}}


def apply_patch(document: Any, patch: Any) -> Any:
    """RFC 6902 with the operation `add` on objects and lists; KeyError or IndexError where a parent is missing."""
    patched = copy.deepcopy(document)
    for operation in patch:
        assert set(operation) == {"op", "path", "value"}
        assert operation["op"] == "add"
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        target = patched
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        assert isinstance(target, dict), operation["path"]
        target[last] = copy.deepcopy(operation["value"])
    return patched
