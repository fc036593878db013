"""A real VF that the node itself uses is offered to nobody, and no ADD takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sriov.host.discovery import discover
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from sriov.pools.assignment import Pool, Selector, assign
from tests.support import node
from tests.support.node import POOLS, Agent, Cni, CniFailed, config, ip, netns

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def vf() -> Iterator[VirtualFunction]:
    pf = node.pfs()[0]
    yield node.make_vfs(pf, 1)[0]
    Sysfs().write_num_vfs(pf.address, 0)


@pytest.fixture(scope="module")
def cni(tmp_path_factory: pytest.TempPathFactory, vf: VirtualFunction) -> Iterator[Cni]:
    agent = Agent(tmp_path_factory.mktemp("node") / "agent", POOLS)
    agent.start()
    yield Cni(agent.socket)
    assert agent.stop() == 0, agent.tail()


def find_fault(vf: VirtualFunction) -> str | None:
    pool = Pool(resource="intel.com/sriov", selectors=(Selector(),))
    (member,) = (each for each in assign(discover(Sysfs()), [pool]).members[pool.resource]
                 if each.vf.address == vf.address)
    return member.fault


@pytest.mark.parametrize(("make", "undo", "words"), [
    ("address add 192.0.2.7/24 dev {}", "address flush dev {}", "has address 192.0.2.7/24"),
    ("route add default dev {} table 77", "route flush table 77", "carries the default route of table 77"),
    ("link add link {} name v5 type vlan id 5", "link delete v5", "has address 192.0.2.8/24 (via v5)"),
    ("link set {} master br7", "link set {} nomaster", "port of br7 (bridge)"),
], ids=["address", "route", "vlan", "bridge"])
def test_a_vf_that_the_node_uses_is_not_for_pods(
    vf: VirtualFunction, cni: Cni, make: str, undo: str, words: str
) -> None:
    netdev = Sysfs().find_netdev(vf.address)
    assert netdev is not None
    ip("link", "set", netdev[0], "up")
    ip("link", "add", "br7", "type", "bridge")
    try:
        ip(*make.format(netdev[0]).split())
        try:
            if "vlan" in make:
                ip("address", "add", "192.0.2.8/24", "dev", "v5")
            assert find_fault(vf) == f"the node itself needs it: {words}"
            with netns() as pod, pytest.raises(
                CniFailed, match=re.escape(f"the node itself needs {netdev[0]}: {words}")
            ):
                cni.add(config(vf.address), "c1", pod)
            assert Sysfs().find_netdev(vf.address) == netdev
            assert find_fault(vf) == f"the node itself needs it: {words}"
        finally:
            ip(*undo.format(netdev[0]).split())
        assert find_fault(vf) is None
        # What it had in a pod does not count once it is home: the next one gets it at once.
        for container in ("c1", "c2"):
            with netns() as pod:
                cni.add(config(vf.address), container, pod)
                ip("-n", Path(pod).name, "address", "add", "198.51.100.7/24", "dev", "net1")
                ip("-n", Path(pod).name, "route", "add", "default", "via", "198.51.100.1")
                cni.delete(config(vf.address), container, pod)
    finally:
        ip("link", "set", netdev[0], "down")
        ip("link", "delete", "br7")
