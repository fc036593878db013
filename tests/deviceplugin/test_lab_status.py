"""`vfpool status` as an admin calls it, of an agent with real VFs: well, with a pod, ill, stopped, killed, gone."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sriov.host.sysfs import Sysfs
from tests.deviceplugin.asking import ask, check_silence
from tests.support.kubelet import Kubelet
from tests.support.node import Agent, Cni, config, netns, pfs, wait_for

pytestmark = pytest.mark.lab

POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - match: {numaNode: 0}
    numVfs: 3
pools:
  - resource: sriov
    select: [{pf: {numaNode: 0}}]
    driver: kernel
"""
PATIENCE = 30.0


@pytest.fixture
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as root:      # short: a unix socket's path has 107 characters
        agent = Agent(Path(root), POOLS)
        yield agent
        agent.kill()
    for pf in pfs():
        Sysfs().write_num_vfs(pf.address, 0)


def test_status_of_a_node(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a")

    async def run() -> None:
        async with Kubelet(agent.kubelet) as kubelet:
            await asyncio.to_thread(agent.start)
            await kubelet.wait_allocatable("intel.com/sriov", 3, timeout=PATIENCE)
            given = await kubelet.admit("default/a", {"app": {"intel.com/sriov": 1}})
            await asyncio.to_thread(check, *given["app"].device_ids["intel.com/sriov"])

    def check(given: str) -> None:
        wait_for("the status", lambda: ask(agent)[0] == 0)
        (pf,) = (pf for pf in pfs() if pf.numa_node == 0)
        (first,) = (vf for vf in pf.vfs if vf.address == given)
        second, _third = (vf for vf in pf.vfs if vf.address != given)
        status, out, err = ask(agent)
        assert (status, err) == (0, "")
        assert "all is well\n" in out
        assert out.count(" free\n") == 3
        with netns() as path:
            cni, conf = Cni(agent.socket), config(first.address)
            cni.add(conf, "c1", path)
            wait_for("the status", lambda: json.loads(ask(agent, "-o", "json")[1])["resources"][0]["counts"]
                     == {"vfs": 3, "healthy": 3, "inPods": 1})
            status, out, err = ask(agent)
            assert (status, err, out.count(" free\n")) == (0, "", 2)
            assert "pod default/a, net1 of network net\n" in out
            cni.delete(conf, "c1", path)
        Sysfs().unbind(second.address)
        wait_for("the status", lambda: ask(agent)[0] == 1)
        _, out, _ = ask(agent)
        assert f"! intel.com/sriov: VF {second.address} is not healthy: no driver is bound\n" in out
        assert out.count(" free\n") == 2

    asyncio.run(run())


def test_an_agent_that_does_not_answer(agent: Agent) -> None:
    agent.start()
    wait_for("the status socket", (agent.root / "status.sock").exists)
    check_silence(agent)
