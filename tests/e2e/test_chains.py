"""The reference plugins after ours in a chain: they work and the VF comes home as it was, or they say why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.libcni import IFNAME, Libcni, PluginFailed

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("home")]

NET = "chain"
OURS, TUNED = "02:00:00:00:21:01", "02:00:00:00:21:02"
IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.56.21.0/24"}], [{"subnet": "fd00:56:21::/64"}]],
        "routes": [{"dst": "10.51.0.0/16"}]}
TUNING = {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mac": TUNED, "mtu": 1300,
          "promisc": True, "allmulti": True, "txQLen": 500}
LIMITS = {"egressRate": 50_000_000, "egressBurst": 8_000_000, "ingressRate": 50_000_000, "ingressBurst": 8_000_000}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Plugins after ours, keys of ours, and what shows that the plugins did their work."""

    later: tuple[Mapping[str, Any], ...]
    shows: Callable[[Libcni, str, dict[str, Any]], bool]
    ours: Mapping[str, Any] = field(default_factory=dict)


def _tuned(libcni: Libcni, pod: str, result: dict[str, Any]) -> bool:
    link = libcni.link(pod)
    assert link is not None
    found = [link["address"], link["mtu"], link["promiscuity"], "ALLMULTI" in link["flags"], link["txqlen"],
             result["interfaces"][0]["mac"]]
    return found == [TUNED, 1300, 1, True, 500, TUNED]


def _routed_by_source(libcni: Libcni, pod: str, result: dict[str, Any]) -> bool:
    main, other = (libcni.ip(pod, f"route show table {table}") for table in ("main", "100"))
    return "10.51.0.0/16" not in main and "10.51.0.0/16" in other


def _in_vrf(libcni: Libcni, pod: str, result: dict[str, Any]) -> bool:
    link = libcni.link(pod)
    return link is not None and link["master"] == "blue" and len(result["ips"]) == 2


CASES = {
    "tuning": Case(later=(TUNING,), shows=_tuned),
    "tuning a trusted VF": Case(later=(TUNING,), shows=_tuned, ours={"trust": "on", "mac": OURS}),
    "sbr": Case(later=({"type": "sbr"},), shows=_routed_by_source),
    "vrf": Case(later=({"type": "vrf", "vrfname": "blue"},), shows=_in_vrf),
    "all": Case(later=(TUNING, {"type": "vrf", "vrfname": "blue"}, {"type": "sbr"}), shows=_tuned),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_plugin_after_ours(running_cluster: Cluster, libcni: Libcni, case: Case) -> None:
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, {"type": "vfpool", "deviceID": vf, "vlan": 21, "ipam": IPAM, **case.ours}, *case.later)
    with libcni.pod() as pod:
        result = libcni.add(NET, pod)
        assert case.shows(libcni, pod, result)
        libcni.check(NET, pod)
        libcni.delete(NET, pod)
        assert (libcni.link(pod), libcni.link(pod, "blue"), libcni.leases(NET)) == (None, None, [])
        assert running_cluster.host.astray() == []


@pytest.mark.parametrize(("ours", "later", "words"), [
    ({"mac": OURS}, TUNING, "cannot assign requested address"),
    ({}, {"type": "bandwidth", **LIMITS}, f"container interface {IFNAME} has no veth peer")],
    ids=["tuning's MAC after ours", "bandwidth"])
def test_a_plugin_that_cannot_do_it(running_cluster: Cluster, libcni: Libcni, ours: dict[str, Any],
                                    later: dict[str, Any], words: str) -> None:
    """The chain's ADD fails with the plugin's reason; the DEL that follows brings the VF home."""
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, {"type": "vfpool", "deviceID": vf, "vlan": 21, "ipam": IPAM, **ours}, later)
    with libcni.pod() as pod:
        with pytest.raises(PluginFailed, match=words):
            libcni.add(NET, pod)
        libcni.delete(NET, pod)
        assert (libcni.link(pod), libcni.leases(NET)) == (None, [])
        assert running_cluster.host.astray() == []


def test_a_pods_bandwidth_needs_no_plugin(running_cluster: Cluster, libcni: Libcni) -> None:
    vf = running_cluster.host.find_vfs("igbvf")[0]
    libcni.define(NET, {"type": "vfpool", "deviceID": vf, "capabilities": {"bandwidth": True}})
    with libcni.pod() as pod:
        libcni.add(NET, pod, bandwidth={"egressRate": 50_000_000, "egressBurst": 8_000_000})
        assert running_cluster.host.enforced(vf)["rate"]["max_tx"] == 50
        libcni.check(NET, pod)
        libcni.delete(NET, pod)
