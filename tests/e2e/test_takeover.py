"""A node that sriov-cni served: its attachments are ended by ours, which has its name, from the files it left."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.libcni import IFNAME, Libcni, PluginFailed, container
from tests.e2e.node import CNI_BIN

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("home")]

OLD, NEW = "old", "new"
MAC = "02:00:00:00:22:01"
FORERUNNER = f"/peers:{CNI_BIN}"     # where sriov-cni is `sriov`, before the folder where we are
FILES = "/var/lib/cni/sriov"
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.56.22.0/24"}], [{"subnet": "fd00:56:22::/64"}]]}
ALL = {"vlan": 77, "vlanQoS": 3, "mac": MAC, "trust": "on", "spoofchk": "off", "max_tx_rate": 100, "ipam": IPAM}


@pytest.fixture
def sriov_cni(running_cluster: Cluster, libcni: Libcni) -> Libcni:
    """libcni, where there is a sriov-cni to attach with."""
    if running_cluster.peers.find("sriov") is None:
        pytest.skip(running_cluster.peers.reason or "without sriov-cni")
    return libcni


def define(libcni: Libcni, vf: str, **keys: Any) -> None:
    libcni.define(OLD, {"type": "sriov", "deviceID": vf, **keys})
    libcni.define(NEW, {"type": "sriov", "deviceID": vf, "vlan": 22, "ipam": IPAM})


def files(cluster: Cluster) -> list[str]:
    return cluster.node.sh(f"find {FILES} -type f -not -path '*/vf_lock/*' -printf '%P\\n'").split()


def netdev(vf: str) -> str:
    """Succeeds in the guest once the kernel has handed the VF back."""
    return f"ls /sys/bus/pci/devices/{vf}/net/*"


@pytest.mark.parametrize("keys", [{}, {"vlan": 77}, ALL], ids=["plain", "vlan", "all"])
def test_del_of_its_attachment(running_cluster: Cluster, sriov_cni: Libcni, keys: dict[str, Any]) -> None:
    vf = running_cluster.host.find_vfs("igbvf")[0]
    define(sriov_cni, vf, **keys)
    with sriov_cni.pod() as pod:
        sriov_cni.add(OLD, pod, path=FORERUNNER)
        assert sorted(files(running_cluster)) == sorted([f"{container(pod)}-{IFNAME}", f"pci/{vf}"])
        with sriov_cni.pod() as other, pytest.raises(PluginFailed, match=f"VF {vf} is in use: sriov-cni gave it"):
            sriov_cni.add(NEW, other)
        sriov_cni.delete(OLD, pod)
        assert (sriov_cni.link(pod), files(running_cluster), sriov_cni.leases(OLD)) == (None, [], [])
        running_cluster.host.wait_home()


def test_del_of_a_vf_that_a_program_drives(running_cluster: Cluster, sriov_cni: Libcni) -> None:
    vf = running_cluster.host.find_vfs("vfio-pci")[0]
    define(sriov_cni, vf, vlan=77, mac=MAC)
    with sriov_cni.pod() as pod:
        sriov_cni.add(OLD, pod, path=FORERUNNER)
        assert running_cluster.host.enforced(vf)["address"] == MAC
        sriov_cni.delete(OLD, pod)
        assert files(running_cluster) == []
        running_cluster.host.wait_home()


def test_a_pod_of_its_that_died(running_cluster: Cluster, sriov_cni: Libcni) -> None:
    """Nobody called DEL; the VF's next ADD is ours, and the late DEL then frees what is left: the addresses."""
    vf = running_cluster.host.find_vfs("igbvf")[0]
    define(sriov_cni, vf, **ALL)
    with sriov_cni.pod() as dead:
        sriov_cni.add(OLD, dead, path=FORERUNNER)
    with sriov_cni.pod() as pod:
        running_cluster.node.wait_for(netdev(vf))
        sriov_cni.add(NEW, pod)
        found = running_cluster.host.enforced(vf)
        assert [found["vlan_list"][0]["vlan"], found["trust"], found["spoofchk"]] == [22, False, True]
        sriov_cni.delete(OLD, dead)
        sriov_cni.check(NEW, pod)
        assert (files(running_cluster), sriov_cni.leases(OLD)) == ([], [])
        sriov_cni.delete(NEW, pod)
        running_cluster.host.wait_home()


def test_a_file_that_is_damaged(running_cluster: Cluster, sriov_cni: Libcni) -> None:
    """It says nothing of the VF: the agent's log says so, the addresses are free, the VF can be had as it is."""
    vf = running_cluster.host.find_vfs("igbvf")[0]
    home = next(name for name, link in running_cluster.host.baseline.items() if link.get("parentdev") == vf)
    define(sriov_cni, vf, ipam=IPAM)
    with sriov_cni.pod() as pod:
        sriov_cni.add(OLD, pod, path=FORERUNNER)
        cache = f"{container(pod)}-{IFNAME}"
        running_cluster.node.sh(f"truncate -s 100 {FILES}/{cache}")
        sriov_cni.delete(OLD, pod)
        assert f"set aside sriov-cni's file {FILES}/{cache}" in running_cluster.agent_log()
        assert (sriov_cni.leases(OLD), sriov_cni.link(pod) is None) == ([], False)
        with sriov_cni.pod() as other, pytest.raises(PluginFailed, match=f"VF {vf} is in use: sriov-cni gave it"):
            sriov_cni.add(NEW, other)
    with sriov_cni.pod() as pod:
        running_cluster.node.wait_for(netdev(vf))
        sriov_cni.add(NEW, pod)
        assert f"VF {vf}: sriov-cni gave it to" in running_cluster.agent_log()
        sriov_cni.delete(NEW, pod)
    assert files(running_cluster) == [f"{cache}.damaged"]
    running_cluster.node.sh(f"""
        rm {FILES}/{cache}.damaged
        now=$(ls /sys/bus/pci/devices/{vf}/net)
        ip link property del dev $now altname {home} || true
        ip link set $now name {home}""")      # an admin's part
