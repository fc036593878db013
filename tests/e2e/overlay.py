"""The manifests of deploy/ for a cluster whose API server finds the webhook at a URL."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.e2e.kubectl import Kubectl

OVERLAY = Path(__file__).with_name("overlay")


def render(kubectl: Kubectl, *, url: str, ca_bundle: str, folder: Path) -> str:
    """All objects as YAML. `ca_bundle` is a PEM file in base64; `folder` becomes a kustomization."""
    folder.mkdir(parents=True, exist_ok=True)
    patch = [{"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": url, "caBundle": ca_bundle}}]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        # Relative, and from where the folder really is: kustomize takes no other path.
        "resources": [os.path.relpath(OVERLAY, folder.resolve())],
        "patches": [{"target": {"kind": "MutatingWebhookConfiguration"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization, indent=2))
    return kubectl.kustomize(folder)
