"""A control plane without a node: who may do what, and what stays when the API server goes."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.components import Components, build_components
from tests.e2e.controlplane import ControlPlane, make_kubeconfig
from tests.e2e.kubectl import Kubectl, KubectlError
from tests.lab.errors import LabError

ETCD_IN_ITS_PLACE = """
import http.server, sys
from pathlib import Path
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
Path(flags["data-dir"]).mkdir()
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(flags["listen-client-urls"].rpartition(":")[2])), Ready).serve_forever()
"""


def processes_of(folder: Path) -> dict[int, str]:
    """Processes that have this folder in their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if entry.name.isdigit() and int(entry.name) != os.getpid() and str(folder) in command:
            found[int(entry.name)] = command
    return found


# ---- plain: no Kubernetes needed --------------------------------------------------------------------------


def test_kubeconfig_needs_no_other_file(tmp_path):
    (tmp_path / "ca.crt").write_text("the authority")
    config = make_kubeconfig("https://10.0.2.2:1", tmp_path / "ca.crt", {"token": "t"})
    (cluster,), (user,), (context,) = config["clusters"], config["users"], config["contexts"]
    assert cluster["cluster"]["server"] == "https://10.0.2.2:1"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == b"the authority"
    assert user["user"] == {"token": "t"}
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
    assert config["current-context"] == context["name"]
    assert str(tmp_path) not in json.dumps(config)


def test_start_that_fails_in_the_middle_leaves_no_process_and_no_data(tmp_path):
    """etcd serves, the API server ends at once: its last words are in the error."""
    programs = {
        "etcd": ETCD_IN_ITS_PLACE,
        "kube-apiserver": "import sys; sys.exit('unknown flag: --foo')",
        **dict.fromkeys(["kube-controller-manager", "kube-scheduler", "kubectl"], "raise AssertionError"),
    }
    (tmp_path / "components/bin").mkdir(parents=True)
    for name, script in programs.items():
        path = tmp_path / "components/bin" / name
        path.write_text(f"#!{sys.executable}\n{script}\n")
        path.chmod(0o755)
    folder = tmp_path / "plane"
    with (
        pytest.raises(LabError, match=r"kube-apiserver ended \(exit status 1\)(.|\n)*unknown flag: --foo"),
        ControlPlane(Components(tmp_path / "components"), folder),
    ):
        pytest.fail("it came up without an API server")
    assert processes_of(folder) == {}
    assert not (folder / "etcd").exists()


# ---- the real one -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def components():
    return build_components()


@pytest.fixture(scope="module")
def plane(components, tmp_path_factory):
    with ControlPlane(components, tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def kubectl(plane, components):
    return Kubectl(components.program("kubectl"), plane.admin)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.e2e
def test_it_is_of_use_once_entered(plane, kubectl):
    assert kubectl.run("get", "--raw", "/readyz").stdout == "ok"
    assert kubectl.get("nodes")["items"] == []
    assert kubectl.get("serviceaccount", "default")["metadata"]["name"] == "default"
    (endpoint,) = kubectl.get("endpointslices", selector="kubernetes.io/service-name=kubernetes")["items"]
    assert endpoint["endpoints"][0]["addresses"] == ["10.0.2.2"]
    assert endpoint["ports"][0]["port"] == plane.port


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "10.0.2.2", "10.96.0.1"])
def test_its_certificate_is_good_for_every_way_to_it(plane, name):
    context = ssl.create_default_context(cafile=str(plane.authority.certificate))
    with socket.create_connection(("127.0.0.1", plane.port)) as connection, \
            context.wrap_socket(connection, server_hostname=name) as tls:
        assert tls.version() == "TLSv1.3"


@pytest.mark.e2e
def test_a_user_without_rights_is_forbidden_and_one_with_them_is_not(plane, components, kubectl):
    alice = Kubectl(components.program("kubectl"), plane.kubeconfig("alice", common_name="alice",
                                                                    organizations=["staff"]))
    with pytest.raises(KubectlError) as caught:
        alice.get("pods")
    assert caught.value.stderr == (
        'Error from server (Forbidden): pods is forbidden: User "alice" cannot list resource "pods" '
        'in API group "" in the namespace "default"\n')
    kubectl.run("create", "rolebinding", "staff", "--clusterrole=view", "--group=staff")
    assert alice.get("pods")["items"] == []
    with pytest.raises(KubectlError, match=r'User "alice" cannot list resource "pods".*at the cluster scope'):
        alice.get("pods", namespace=None)


@pytest.mark.e2e
def test_a_service_accounts_token_has_its_rights_and_no_others(plane, components, kubectl):
    kubectl.run("create", "serviceaccount", "reader")
    kubectl.run("create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader")
    reader = Kubectl(components.program("kubectl"), plane.token_kubeconfig("reader", "default", "reader"))
    assert reader.get("pods")["items"] == []
    with pytest.raises(KubectlError, match='User "system:serviceaccount:default:reader" cannot create'):
        reader.apply(config_map("a"))
    with pytest.raises(KubectlError, match='"nobody" not found'):
        plane.token_kubeconfig("nobody", "default", "nobody")


@pytest.mark.e2e
def test_a_kubelet_may_register_its_own_node_only(plane, components, kubectl):
    kubelet = Kubectl(components.program("kubectl"), plane.kubeconfig(
        "kubelet", common_name="system:node:localhost", organizations=["system:nodes"]))

    def node(name: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}

    with pytest.raises(KubectlError, match='node "localhost" is not allowed to modify node "other"'):
        kubelet.run("create", "--filename=-", input=json.dumps(node("other")))
    kubelet.run("create", "--filename=-", input=json.dumps(node("localhost")))
    assert kubectl.find("node", "localhost") is not None
    kubectl.delete("node", "localhost")
    assert kubectl.find("node", "localhost") is None


@pytest.mark.e2e
def test_data_and_port_stay_when_the_api_server_goes_and_controllers_go_on(plane, kubectl):
    kubectl.apply(config_map("kept", a="1"), config_map("changed", a="1"))
    server = plane.server
    plane.stop_apiserver()
    with pytest.raises(KubectlError, match=f"The connection to the server 127.0.0.1:{plane.port} was refused"):
        kubectl.get("configmap", "kept")
    plane.start_apiserver()
    assert plane.server == server
    assert kubectl.get("configmap", "kept")["data"] == {"a": "1"}
    kubectl.apply(config_map("changed", a="2"))
    assert kubectl.get("configmap", "changed")["data"] == {"a": "2"}
    kubectl.run("create", "deployment", "web", "--image=vfpool.test/none:1")
    kubectl.wait_until("create", "pod", "--selector=app=web")    # deployment and replica set controllers
    kubectl.wait_until("condition=PodScheduled=false", "pod", "--selector=app=web")    # the scheduler
    (pod,) = kubectl.get("pods", selector="app=web")["items"]
    assert "no nodes available" in pod["status"]["conditions"][0]["message"]
    kubectl.delete("deployment", "web")


@pytest.mark.e2e
def test_dry_run_and_kustomize(kubectl, tmp_path):
    (tmp_path / "kustomization.yaml").write_text("namePrefix: my-\nresources: [map.yaml]\n")
    (tmp_path / "map.yaml").write_text(json.dumps(config_map("map")))
    manifest = kubectl.kustomize(tmp_path)
    assert "name: my-map" in manifest
    said = kubectl.apply_manifest(manifest, server_side=True, dry_run=True)
    assert said == "configmap/my-map serverside-applied (server dry run)\n"
    assert kubectl.find("configmap", "my-map") is None


@pytest.mark.e2e
def test_nothing_is_left_but_logs_and_certificates(components, tmp_path, monkeypatch):
    """Nor is anything written into the user's home."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "plane"
    started = time.monotonic()
    with ControlPlane(components, folder) as plane:
        assert len(processes_of(folder)) == 4
        assert folder.stat().st_mode & 0o077 == 0
        assert "Version: v1." in plane.log_tail("kube-apiserver", lines=10_000)
        Kubectl(components.program("kubectl"), plane.admin).get("pods")
    assert time.monotonic() - started < 60
    assert processes_of(folder) == {}
    assert not (folder / "etcd").exists()
    assert list((tmp_path / "home").iterdir()) == []
