"""A pod's neighbours learn at once whose its addresses are, from the agent as its DaemonSet runs it."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.libcni import IFNAME, Libcni
from tests.support.node import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("home")]

NET = "neighbours"
STALE = "02:00:00:00:23:ff"


def test_a_neighbour_forgets_who_had_the_addresses_before(running_cluster: Cluster, libcni: Libcni) -> None:
    """By gratuitous ARP and unsolicited advertisement, through the PF's switch; the pod itself sends nothing."""
    first, second = running_cluster.host.find_vfs("igbvf")[:2]
    libcni.define(NET, {
        "type": "vfpool", "vlan": 23, "capabilities": {"deviceID": True, "ips": True}, "ipam": {"type": "static"}})
    with libcni.pod() as neighbour, libcni.pod() as pod:
        libcni.add(NET, neighbour, deviceID=first, ips=["10.56.23.1/24", "fd00:56:23::1/64"])
        addresses = ["10.56.23.2", "fd00:56:23::2"]
        for address in addresses:
            libcni.ip(neighbour, f"neigh replace {address} lladdr {STALE} dev {IFNAME} nud reachable")
        result = libcni.add(NET, pod, deviceID=second, ips=["10.56.23.2/24", "fd00:56:23::2/64"])
        mac = result["interfaces"][0]["mac"]

        def known() -> dict[str, str]:
            entries = json.loads(libcni.ip(neighbour, f"-j neigh show dev {IFNAME}"))
            return {entry["dst"]: entry.get("lladdr", "") for entry in entries if entry["dst"] in addresses}

        wait_for("the neighbour to know", lambda: known() == dict.fromkeys(addresses, mac), 15, 0.2)
        for each in (neighbour, pod):
            libcni.delete(NET, each)
