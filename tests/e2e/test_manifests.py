"""deploy/ as the API server takes it, and the rights and mounts that the agent and the webhook then have."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from tests.e2e.cluster import DEPLOY, NAMESPACE, Cluster

pytestmark = pytest.mark.e2e

NET_ADMIN, NET_RAW, SYS_ADMIN = 12, 13, 21    # linux/capability.h
READ = ["get", "list", "watch"]


def test_everything_passes_the_server_side_dry_run(cluster: Cluster) -> None:
    """As a user applies it, drop-in and NADs included; an unknown or misplaced field is refused."""
    site = cluster.kubectl.kustomize(DEPLOY / "examples")
    crd = (DEPLOY / "crd/network-attachment-definitions.yaml").read_text()
    networks = (DEPLOY / "examples/networks.yaml").read_text()
    everything = "---\n".join([crd, site, networks])
    said = cluster.kubectl.run(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", input=everything).stdout
    wanted = {(each["kind"].lower(), each["metadata"]["name"]) for each in yaml.safe_load_all(everything) if each}
    lines = re.findall(r"^(\S+)/(\S+) \w+ \(server dry run\)$", said, re.MULTILINE)
    assert {(kind.partition(".")[0], name) for kind, name in lines} == wanted


@pytest.mark.parametrize(("account", "rules"), [
    ("vfpool-agent", {}),
    ("vfpool-webhook", {"network-attachment-definitions.k8s.cni.cncf.io": READ}),
])
def test_accounts_have_the_rights_that_are_used(
    cluster: Cluster, account: str, rules: dict[str, list[str]]
) -> None:
    """Beyond what every identity has in this cluster (asking for its own rights, reading API discovery)."""
    def listed(name: str) -> set[tuple[str, ...]]:
        said = cluster.kubectl.run(
            "auth", "can-i", "--list", "--no-headers", f"--as=system:serviceaccount:{NAMESPACE}:{name}",
            "--as-group=system:serviceaccounts", "--as-group=system:authenticated").stdout
        return {tuple(line.split(maxsplit=1)) for line in said.splitlines()}

    more = listed(account) - listed("nobody-at-all")
    found = {line[0]: sorted(re.findall(r"\[([a-z ]*)\]$", line[1])[0].split()) for line in more}
    assert found == rules


def test_the_agent_runs_with_three_capabilities_and_no_token(cluster: Cluster) -> None:
    (name,) = cluster.agent_pods()
    status = cluster.kubectl.exec(name, "cat", "/proc/1/status", namespace=NAMESPACE).stdout
    effective = int(re.findall(r"CapEff:\s*(\w+)", status)[0], 16)
    assert effective == 1 << NET_ADMIN | 1 << NET_RAW | 1 << SYS_ADMIN
    assert re.findall(r"Seccomp:\s*(\d)", status) == ["2"]
    paths = cluster.kubectl.exec(name, "cat", "/proc/1/mounts", namespace=NAMESPACE).stdout
    assert "serviceaccount" not in paths


def test_the_webhook_runs_as_its_deployment(cluster: Cluster) -> None:
    """Its own token, Secret, user and read-only root; ready means that it has read the NADs."""
    host = "vfpool-webhook.vfpool-system.svc"
    pair = cluster.plane.authority.issue("in-cluster", common_name=host, hosts=[host])
    cluster.kubectl.run("-n", NAMESPACE, "create", "secret", "tls", "vfpool-webhook-tls",
                        f"--cert={pair.certificate}", f"--key={pair.key}")
    # This node has no kube-proxy, and only its own address is let out to the API server.
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.2.2", "KUBERNETES_SERVICE_PORT": str(cluster.plane.port)}
    patch = {"spec": {"replicas": 1, "template": {"spec": {"hostNetwork": True, "containers": [
        {"name": "webhook", "env": [{"name": name, "value": value} for name, value in environment.items()]}]}}}}
    deployment = ("-n", NAMESPACE, "deployment/vfpool-webhook")
    try:
        cluster.kubectl.run("patch", *deployment, f"--patch={json.dumps(patch)}")
        cluster.kubectl.run("rollout", "status", *deployment, "--timeout=120s", timeout=150)
        said = cluster.kubectl.run("logs", *deployment).stdout
        assert "NADs are known" in said
    finally:
        cluster.kubectl.run("scale", *deployment, "--replicas=0")
        cluster.kubectl.run("-n", NAMESPACE, "delete", "secret", "vfpool-webhook-tls")
