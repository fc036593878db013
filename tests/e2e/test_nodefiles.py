from __future__ import annotations

import json
import subprocess
import tomllib

import yaml

from tests.e2e import agentimage
from tests.e2e.images import PAUSE
from tests.e2e.nodedisks import GUEST, PROGRAMS


def test_the_runtime_has_the_sandbox_image_that_is_imported_and_finds_runc():
    plugins = tomllib.loads((GUEST / "containerd.toml").read_text())["plugins"]
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == PAUSE
    runc = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]["options"]["BinaryName"]
    assert runc.removeprefix("/opt/node/bin/") in PROGRAMS


def test_the_kubelet_admits_a_pod_only_where_its_devices_are_on_one_numa_node():
    config = yaml.safe_load((GUEST / "kubelet.yaml").read_text())
    assert config["kind"] == "KubeletConfiguration"
    assert config["topologyManagerPolicy"] == "single-numa-node"
    assert "port" not in config    # of each cluster's own: --config-dir


def test_the_default_network_is_ipv4_of_the_reference_plugins():
    [plugin] = json.loads((GUEST / "10-bridge.conflist").read_text())["plugins"]
    assert (plugin["type"], plugin["ipam"]["type"]) == ("bridge", "host-local")
    assert all("." in entry["subnet"] for ranges in plugin["ipam"]["ranges"] for entry in ranges)


def test_the_script_is_one_and_refuses_what_it_does_not_know():
    script = str(GUEST / "node")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    done = subprocess.run([script, "dance"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "node: no action dance\n")


def test_the_first_layer_follows_the_dependencies():
    assert agentimage.base_key(["a>=1"]) == agentimage.base_key(["a>=1"])
    assert len({agentimage.base_key(lines) for lines in (["a>=1"], ["a>=2"], ["a>=1", "b"], [])}) == 4
