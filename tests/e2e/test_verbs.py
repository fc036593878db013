"""libcni and the installed executable: each verb at the versions of the specification that have it."""

from __future__ import annotations

from typing import Any

import pytest

from cni.protocol import VERSIONS, Code
from tests.e2e.cluster import Cluster
from tests.e2e.libcni import IFNAME, Libcni, PluginFailed, container

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("home")]

NET = "verbs"
MAC, OTHER = "02:00:00:00:20:01", "02:00:00:00:20:02"


def plugin(**keys: Any) -> dict[str, Any]:
    """Ours; which VF an attachment gets is the runtime's word."""
    ranges = [[{"subnet": "10.56.20.0/24"}], [{"subnet": "fd00:56:20::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "10.50.0.0/16"}]}
    return {"type": "vfpool", "capabilities": {"deviceID": True, "mac": True}, "ipam": ipam, **keys}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_an_attachment_at_each_version(running_cluster: Cluster, libcni: Libcni, version: str) -> None:
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, plugin(vlan=20), version=version)
    assert version in libcni.versions("vfpool")
    libcni.status(NET)
    with libcni.pod() as pod:
        result = libcni.add(NET, pod, deviceID=vf)
        link = libcni.link(pod)
        assert link is not None
        assert result["cniVersion"] == version
        (made,) = result["interfaces"]
        assert (made["name"], made["sandbox"], made["mac"]) == (IFNAME, pod, link["address"])
        found = {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each["scope"] == "global"}
        assert {ip["address"] for ip in result["ips"]} == found
        if version == "0.3.1":
            with pytest.raises(PluginFailed, match="does not support the CHECK"):
                libcni.check(NET, pod)
        else:
            libcni.check(NET, pod)
        libcni.delete(NET, pod)
        assert (libcni.link(pod), libcni.cached(NET), libcni.leases(NET)) == (None, [], [])
        libcni.delete(NET, pod)


def test_versions(libcni: Libcni) -> None:
    assert libcni.versions("vfpool") == libcni.versions("sriov") == list(VERSIONS)


@pytest.mark.parametrize("damage", ["rm {}", ": > {}"], ids=["lost", "empty"])
def test_del_without_libcnis_cache(running_cluster: Cluster, libcni: Libcni, damage: str) -> None:
    """No prevResult, no capabilities: the executable gets neither addresses nor a VF's name."""
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, plugin(vlan=20))
    with libcni.pod() as pod:
        libcni.add(NET, pod, deviceID=vf)
        (path,) = libcni.cached(NET)
        running_cluster.node.sh(damage.format(path))
        libcni.delete(NET, pod)
        assert (libcni.link(pod), libcni.cached(NET), libcni.leases(NET)) == (None, [], [])


def test_gc(running_cluster: Cluster, libcni: Libcni) -> None:
    """Of three attachments one is valid; libcni knows of one of the others, and the third only we know."""
    vfs = running_cluster.host.find_vfs("igbvf")
    libcni.define(NET, plugin(vlan=20), version="1.1.0")
    with libcni.pod() as valid, libcni.pod() as stale, libcni.pod() as unknown:
        addresses = {}
        for vf, pod in zip(vfs, (valid, stale, unknown), strict=False):
            result = libcni.add(NET, pod, deviceID=vf)
            addresses[pod] = sorted(ip["address"].partition("/")[0] for ip in result["ips"])
        (lost,) = [path for path in libcni.cached(NET) if path.endswith(f"{container(unknown)}-{IFNAME}")]
        running_cluster.node.sh(f"rm {lost}")
        libcni.collect(NET, [valid])
        assert [libcni.link(pod) is None for pod in (valid, stale, unknown)] == [False, True, True]
        assert libcni.leases(NET) == addresses[valid]
        libcni.check(NET, valid)
        with pytest.raises(PluginFailed, match="valid-attachments: expected a list, it is not there"):
            libcni.collect(NET, None)     # libcni's own part of it is done before: a DEL of what it knows
        assert libcni.leases(NET) == []


def test_check_names_what_was_changed_by_hand(running_cluster: Cluster, libcni: Libcni) -> None:
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, plugin(vlan=20, trust="on", mtu=1400))
    with libcni.pod() as pod:
        result = libcni.add(NET, pod, deviceID=vf, mac=MAC)
        (sixth,) = [ip["address"] for ip in result["ips"] if ":" in ip["address"]]
        libcni.check_code(NET, pod)

        def check(words: str) -> None:
            with pytest.raises(PluginFailed) as failure:
                libcni.check_code(NET, pod)
            assert (failure.value.code, failure.value.words.endswith(f": {words}")) == (Code.DIFFERS, True), words

        for changed, undone, words in (
                (f"link set {IFNAME} mtu 1300", f"link set {IFNAME} mtu 1400", "MTU: expected 1400, found 1300"),
                (f"link set {IFNAME} address {OTHER}", f"link set {IFNAME} address {MAC}",
                 f"MAC: expected {MAC}, found {OTHER}"),
                (f"route del 10.50.0.0/16 dev {IFNAME}", f"route add 10.50.0.0/16 via 10.56.20.1 dev {IFNAME}",
                 "route to 10.50.0.0/16 through 10.56.20.1: it is not there"),
                (f"addr del {sixth} dev {IFNAME}", f"addr add {sixth} dev {IFNAME} nodad",
                 f"address {sixth}: it is not there")):
            libcni.ip(pod, changed)
            check(words)
            libcni.ip(pod, undone)
            libcni.check_code(NET, pod)
        running_cluster.host.set_vf(vf, "vlan 21")
        check("VLAN: expected 20, found 21")
        running_cluster.host.set_vf(vf, "vlan 20")
        libcni.check_code(NET, pod)
        libcni.delete(NET, pod)
