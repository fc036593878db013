"""The agent's DaemonSet gives it what it uses, and no more."""

import inspect
import re
from pathlib import Path, PurePosixPath

import pytest
import yaml

from cni.wire import SOCKET_PATH
from deviceplugin.__main__ import _parse_args
from deviceplugin.kubeletdir import KUBELET, Way
from sriov.__main__ import _parser
from sriov.host.sysfs import Sysfs
from sriov.host.udev import Udev
from sriov.provision.makers import FOLDERS
from tests.deploy.manifests import DEPLOY, pod_of, read, read_base

AGENT = read_base()["DaemonSet", "vfpool-agent"]
POD = pod_of(AGENT)
CONTAINER = POD["containers"][0]
MOUNTS = {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}
VOLUMES = {volume["name"]: volume for volume in POD["volumes"]}
HOST_PATHS = {name: volume["hostPath"]["path"] for name, volume in VOLUMES.items() if "hostPath" in volume}
ENV = {each["name"]: each for each in CONTAINER["env"]}
ARGS = _parse_args([*CONTAINER["args"]])


def mount_of(path):
    """The innermost mount that `path` is in."""
    inside = [mount for mount in MOUNTS.values() if PurePosixPath(path).is_relative_to(mount["mountPath"])]
    return max(inside, key=lambda mount: len(mount["mountPath"]), default=None)


def test_its_command_is_one_of_the_package():
    pyproject = (DEPLOY.parent / "pyproject.toml").read_text()
    assert CONTAINER["command"] == ["vfpool-agent"]
    assert re.search(r'^vfpool-agent = "deviceplugin\.__main__:main"$', pyproject, re.MULTILINE)


def test_every_volume_is_mounted_and_the_other_way_round():
    assert MOUNTS.keys() == VOLUMES.keys()
    assert len(MOUNTS) == len(CONTAINER["volumeMounts"])


# What is only looked at to see who else makes VFs, by the place of the file in the host's own tree.
SEEN = {name: path for name, path in HOST_PATHS.items() if name.startswith("host-")}


def test_a_host_path_has_the_same_name_inside():
    assert {name: MOUNTS[name]["mountPath"] for name in HOST_PATHS.keys() - SEEN.keys()} == {
        name: path for name, path in HOST_PATHS.items() if name not in SEEN}


def test_who_else_makes_vfs_is_seen():
    """And modprobe's configuration.

    All of it but /etc/sysconfig: to make that on a host that is not of Red Hat's kind would say it is.
    """
    root = ENV["VFPOOL_HOST_ROOT"]["value"]
    assert root != "/"
    assert {MOUNTS[name]["mountPath"] for name in SEEN} == {f"{root}{path}" for path in SEEN.values()}
    assert all(MOUNTS[name]["readOnly"] for name in SEEN)
    unseen = {folder for folder in FOLDERS
              if not any(PurePosixPath("/", folder).is_relative_to(path) for path in SEEN.values())}
    assert unseen == {"etc/sysconfig/network-scripts", "lib/netplan"}     # the latter is in /usr, or is not used
    assert "usr/lib/netplan" in FOLDERS


def test_nothing_is_made_where_a_host_may_forbid_it():
    assert {VOLUMES[name]["hostPath"]["type"] for name, path in SEEN.items() if path.startswith("/usr")} == {
        "Directory"}


def default(function, name):
    return inspect.signature(function).parameters[name].default


@pytest.mark.parametrize(("path", "writes"), [
    (ARGS.pool_file, False),
    (ARGS.state_dir / "vfs", True),
    (ARGS.state_dir / "known.json", True),
    (ARGS.socket, True),
    (ARGS.status_socket, True),
    (SOCKET_PATH, True),                       # where the installed executable looks
    (ARGS.kubelet_dir / Way.CALL.value, True),
    (ARGS.kubelet_dir / Way.WATCHER.value, True),
    (ARGS.kubelet_dir / "pod-resources/kubelet.sock", False),
    (ARGS.device_info_dir, True),
    *((target, True) for target in ARGS.install_cni),
    (default(Udev, "run") / "control", False),
    (default(Sysfs, "root") / "bus/pci/drivers_probe", True),
    (default(Sysfs, "root") / "devices/pci0000:00/0000:00:01.0/sriov_numvfs", True),
    ("/var/run/netns/cni-1", False),           # where containerd and CRI-O make them
    ("/var/lib/cni/networks/net", True),       # host-local's leases
    ("/run/cni/dhcp.sock", True),              # who connects to a socket writes
], ids=str)
def test_what_the_agent_uses_is_mounted(path, writes):
    mount = mount_of(path)
    assert mount is not None
    assert not (writes and mount.get("readOnly", False))


def test_no_other_host_path():
    """A new one wants a reason, and a line above."""
    assert set(HOST_PATHS.values()) - set(SEEN.values()) == {
        "/etc/cni/net.d", "/opt/cni/bin", "/run/cni", "/run/udev", "/run/vfpool", "/sys/bus/pci",
        "/sys/devices", "/var/lib/cni", f"{KUBELET}/device-plugins", f"{KUBELET}/plugins_registry",
        f"{KUBELET}/pod-resources", "/var/lib/vfpool", "/var/run/k8s.cni.cncf.io/devinfo/dp", "/var/run/netns",
    }


def test_later_namespaces_are_seen_and_dead_ones_let_go():
    assert {name: mount["mountPropagation"] for name, mount in MOUNTS.items() if "mountPropagation" in mount} == {
        "netns": "HostToContainer"}


def test_a_wrong_kubelet_folder_fails_and_is_not_made():
    types = {name: VOLUMES[name]["hostPath"]["type"] for name in HOST_PATHS}
    assert {name for name, kind in types.items() if kind == "Directory"} == {
        "device-plugins", "plugins-registry", "pod-resources", "sys-devices", "sys-bus-pci", "host-usr"}
    assert set(types.values()) == {"Directory", "DirectoryOrCreate"}


def test_rights():
    context = CONTAINER["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"]}
    assert context["readOnlyRootFilesystem"] is True
    assert not context.get("privileged", False)
    assert POD["hostNetwork"] is True
    assert not POD.keys() & {"hostPID", "hostIPC"}
    assert len(POD["containers"]) == 1
    assert "initContainers" not in POD


def test_it_has_no_token():
    objects = read_base()
    assert POD["serviceAccountName"] == "vfpool-agent"
    assert POD["automountServiceAccountToken"] is False
    assert objects["ServiceAccount", "vfpool-agent"]["automountServiceAccountToken"] is False
    bound = [subject["name"] for (kind, _), each in objects.items() if kind.endswith("RoleBinding")
             for subject in each["subjects"]]
    assert bound == ["vfpool-webhook"]


def test_it_runs_on_every_node_and_never_twice():
    assert POD["tolerations"] == [{"operator": "Exists"}]
    assert POD["priorityClassName"] == "system-node-critical"
    assert AGENT["spec"]["updateStrategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}


def test_agent_and_commands_in_its_container_read_the_same_host(monkeypatch, tmp_path):
    """`kubectl exec` has the container's environment, and none of the agent's arguments."""
    assert ENV.keys() == {"NODE_NAME", "VFPOOL_HOST_ROOT"}
    assert ENV["VFPOOL_HOST_ROOT"]["value"] == "/host"
    monkeypatch.setenv("VFPOOL_HOST_ROOT", str(tmp_path))
    assert _parse_args([*CONTAINER["args"]]).host_root == tmp_path
    for words in (["plan", "f"], ["apply", "f"], ["reset"], ["explain", "f"]):
        assert _parser().parse_args(words).host_root == tmp_path


def test_it_knows_its_node_s_name(monkeypatch):
    name = ENV["NODE_NAME"]
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    monkeypatch.setenv(name["name"], "worker-7")
    assert _parse_args([*CONTAINER["args"]]).node_name == "worker-7"
    assert _parse_args(["--node-name", "other"]).node_name == "other"


def test_its_memory_has_no_limit():
    assert "limits" not in CONTAINER["resources"]


def test_the_pool_file_is_the_site_s():
    """The generated ConfigMap is found by its name before kustomize adds the hash that rolls the agents."""
    site = read(DEPLOY / "examples/kustomization.yaml")[0]
    generator, = site["configMapGenerator"]
    assert VOLUMES["pools"]["configMap"]["name"] == generator["name"]
    assert generator["namespace"] == AGENT["metadata"]["namespace"]
    assert [str(Path(MOUNTS["pools"]["mountPath"], file)) for file in generator["files"]] == [str(ARGS.pool_file)]
    assert "generatorOptions" not in site
    assert "options" not in generator


def test_drop_in_adds_the_other_name():
    component = read(DEPLOY / "components/drop-in/kustomization.yaml")[0]
    patch, = component["patches"]
    operation, = yaml.safe_load(patch["patch"])
    assert patch["target"] == {"kind": "DaemonSet", "name": "vfpool-agent"}
    assert (operation["op"], operation["path"]) == ("add", "/spec/template/spec/containers/0/args/-")
    args = _parse_args([*CONTAINER["args"], operation["value"]])
    assert [str(target) for target in args.install_cni] == ["/opt/cni/bin/vfpool", "/opt/cni/bin/sriov"]
