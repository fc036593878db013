"""Pods as a trial has them: a network namespace, and what its network asks of a VF."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cni.netns import links_in, open_netns
from sriov.errors import Gone
from sriov.host.netlink import Links
from sriov.model import VfSettings, VirtualFunction
from sriov.pci import MacAddress
from tests.support import node

NETWORK = "storm"
PREFIX = "storm-"     # of the names of namespaces


@dataclass(slots=True, kw_only=True)
class Pod:
    """`ended`: its DEL was answered, or its namespace is gone; whoever gets its VF next gets a free one."""

    vf: VirtualFunction
    container: str
    config: Mapping[str, Any]
    netns: str = field(init=False)
    ended: bool = False

    def __post_init__(self) -> None:
        self.netns = f"/run/netns/{PREFIX}{self.container}"

    def start(self) -> None:
        node.run("ip", "netns", "add", Path(self.netns).name)

    def remove(self) -> None:
        """The namespace's end; nothing to do where it is gone."""
        if Path(self.netns).exists():
            node.run("ip", "netns", "del", Path(self.netns).name)


class Network:
    """What networks ask for, at random; `leases` is where host-local keeps the addresses that it gave."""

    def __init__(self, leases: Path) -> None:
        self._leases = leases

    def make_pod(self, vf: VirtualFunction, random: Random) -> Pod:
        """VLAN always; the rest at random. A MAC only with trust: without it sriov-cni fails on igb."""
        keys: dict[str, Any] = {"vlan": random.randrange(1, 4095)}
        if random.random() < 0.6:
            keys |= {"mac": f"02:{random.randbytes(5).hex(':')}", "trust": "on"}
        if random.random() < 0.3:
            keys |= {"spoofchk": "off"}
        if random.random() < 0.3:
            keys |= {"max_tx_rate": random.randrange(100, 900)}
        ipam = {"type": "host-local", "dataDir": str(self._leases), "ranges": [[{"subnet": "10.57.0.0/16"}]]}
        config = node.config(vf.address, **keys, ipam=ipam) | {"name": NETWORK, "type": "sriov"}
        return Pod(vf=vf, container=uuid.UUID(bytes=random.randbytes(16)).hex, config=config)

    def reserved(self) -> list[str]:
        """The addresses that are not given back."""
        folder = self._leases / NETWORK
        return sorted(path.name for path in folder.iterdir() if path.name[0].isdigit()) if folder.is_dir() else []

    def forget(self, address: str) -> None:
        """Give an address back that nobody else will."""
        (self._leases / NETWORK / address).unlink()


def devices_in(netns: str) -> dict[str, tuple[str, MacAddress]]:
    """Name and MAC of the netdevs of PCI devices in a namespace, by device; raise Gone where there is none."""
    with open_netns(netns) as fd, links_in(fd) as links:
        return {str(link.pci): (link.name, link.mac) for link in links.dump() if link.pci is not None}


def is_inside(pod: Pod) -> bool:
    """Whether the pod's VF is in its namespace; not where that is gone."""
    try:
        return str(pod.vf.address) in devices_in(pod.netns)
    except Gone:
        return False


def find_fault(pod: Pod, pf_index: int) -> tuple[bool, str] | None:
    """What is wrong with an attached pod: whether its VF is with it, and the fault in words; None: nothing.

    `pf_index` is the ifindex of its VF's PF.
    """
    try:
        found = devices_in(pod.netns)
    except Gone as error:
        return False, str(error)
    if list(found) != [pod.vf.address]:
        return False, f"expected VF {pod.vf.address} in {pod.netns}, found {sorted(found)}"
    name, mac = found[pod.vf.address]
    with Links.open() as host:
        enforced = host.vf_settings(pf_index)[pod.vf.index]
    if faults := [*_differing(pod.config, name, mac), *_not_enforced(pod.config, enforced)]:
        return True, f"VF {pod.vf.address} in {pod.netns}: {', '.join(faults)}"
    return None


def _differing(config: Mapping[str, Any], name: str, mac: MacAddress) -> list[str]:
    faults = [] if name == "net1" else [f"named {name}"]
    return faults if mac == config.get("mac", mac) else [*faults, f"MAC {mac} instead of {config['mac']}"]


def _not_enforced(config: Mapping[str, Any], enforced: VfSettings) -> list[str]:
    wanted = {key: {"on": True, "off": False}.get(config[key], config[key])
              for key in ("vlan", "mac", "trust", "spoofchk", "max_tx_rate") if key in config}
    return [f"{key} {getattr(enforced, key)} on the PF instead of {value}" for key, value in wanted.items()
            if getattr(enforced, key) != value]
