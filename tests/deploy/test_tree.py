"""What deploy/ holds as a whole: nothing forgotten, one namespace, examples that are right."""

import json
import re
import textwrap

import pytest
import yaml

from cni.netconf import parse_netconf
from cni.protocol import parse_config
from sriov.pools.poolfile import load_pool_file
from tests.deploy.manifests import DEPLOY, pod_of, read, read_base

NETWORKS = read(DEPLOY / "examples/networks.yaml")
VF = "0000:21:10.0"


def test_every_file_is_used():
    listed = read(DEPLOY / "base/kustomization.yaml")[0]["resources"]
    assert {path.name for path in (DEPLOY / "base").iterdir()} == {"kustomization.yaml", *listed}


def test_one_namespace_privileged_because_of_the_agent():
    objects = read_base()
    labels = objects["Namespace", "vfpool-system"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    cluster_wide = {"Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}
    assert {each["metadata"].get("namespace") for (kind, _), each in objects.items()
            if kind not in cluster_wide} == {"vfpool-system"}


def test_one_image_for_both():
    image, = read(DEPLOY / "base/kustomization.yaml")[0]["images"]
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    assert f'version = "{image["newTag"]}"' in project
    for workload in (("DaemonSet", "vfpool-agent"), ("Deployment", "vfpool-webhook")):
        assert [each["image"] for each in pod_of(read_base()[workload])["containers"]] == [image["name"]]


def test_the_network_definition_is_the_specification_s():
    definition, = read(DEPLOY / "crd/network-attachment-definitions.yaml")
    names = definition["spec"]["names"]
    version, = definition["spec"]["versions"]
    assert definition["metadata"]["name"] == f"{names['plural']}.{definition['spec']['group']}"
    assert (definition["spec"]["group"], version["name"], definition["spec"]["scope"]) == (
        "k8s.cni.cncf.io", "v1", "Namespaced")
    assert (names["plural"], names["singular"], names["kind"]) == (
        "network-attachment-definitions", "network-attachment-definition", "NetworkAttachmentDefinition")
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert spec["properties"]["config"]["type"] == "string"
    assert "required" not in spec      # a network may be known to the implementation by its name alone


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["metadata"]["name"])
def test_an_example_network_is_accepted_without_a_warning(network):
    config = parse_config(network["spec"]["config"].encode())
    parsed = parse_netconf({**config, "deviceID": VF}, {})
    assert parsed.warnings == ()
    assert parsed.network == network["metadata"]["name"]


def test_example_networks_name_resources_of_the_example_pools():
    resources = {pool.resource for pool in load_pool_file(DEPLOY / "examples/pools.yaml").pools}
    assert {each["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"] for each in NETWORKS} == resources


def test_example_networks_are_of_both_types_and_families():
    configs = [json.loads(each["spec"]["config"]) for each in NETWORKS]
    assert {config["type"] for config in configs} == {"vfpool", "sriov"}
    ranges = [each["subnet"] for config in configs for group in config.get("ipam", {}).get("ranges", ())
              for each in group]
    assert {":" in subnet for subnet in ranges} == {True, False}


def test_paths_in_the_readme_exist():
    text = (DEPLOY / "README.md").read_text()
    for name in ("base/agent.yaml", "crd", "components/drop-in", "examples"):
        assert name in text
        assert (DEPLOY / name).exists()


README = (DEPLOY / "README.md").read_text()


def documents_of_the_guide():
    """What its YAML blocks say, those within lists too."""
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```$", README, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(textwrap.dedent(block)) for _, block in blocks]


def find_parent(value, path):
    """The mapping or list that a JSON pointer's last part is of, and that part."""
    *parts, last = [part.replace("~1", "/") for part in path.removeprefix("/").split("/")]
    for part in parts:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value, last


def test_the_guide_patches_what_is_there():
    patches = [patch for document in documents_of_the_guide() if "patches" in document
               for patch in document["patches"]]
    done = []
    for patch in patches:
        kinds, name = patch["target"]["kind"].split("|"), patch["target"].get("name")
        targets = [each for (kind, its_name), each in read_base().items()
                   if kind in kinds and name in (None, its_name)]
        assert {each["kind"] for each in targets} == set(kinds)
        for operation in yaml.safe_load(patch["patch"]):
            for target in targets:
                parent, last = find_parent(target, operation["path"])
                assert (last in parent) is (operation["op"] == "replace")
            done.append(operation["path"].rpartition("/")[2])
    assert done == ["caBundle", "failurePolicy", "imagePullSecrets", "example.com~1sriov"]


def test_the_files_that_the_guide_names_are_there():
    named = set(re.findall(r"(?:deploy/|`)((?:base|crd|examples|components|systemd)/[\w./-]+)", README))
    assert {"base/namespace.yaml", "examples/networks.yaml", "examples/test-pod.yaml", "components/drop-in",
            "systemd/vfpool-last-good.service"} <= named
    assert [name for name in named if not (DEPLOY / name).exists()] == []


def test_the_test_pod_asks_for_an_example_network():
    pod, = read(DEPLOY / "examples/test-pod.yaml")
    wanted = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
    network = next(each for each in NETWORKS if each["metadata"]["name"] == wanted)
    assert network["metadata"]["namespace"] == pod["metadata"]["namespace"]
    assert network["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"] == "intel.com/sriov"
