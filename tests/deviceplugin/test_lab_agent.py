"""The agent on real VFs: made from the pool file, advertised, handed out, watched."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from deviceplugin.kubelet import (
    deviceplugin_pb2,
    deviceplugin_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from sriov.commands.status import ask_agent
from sriov.host.sysfs import Sysfs
from sriov.pci import PciAddress
from sriov.status import NodeStatus
from tests.deviceplugin.test_poolsource import ConfigMap
from tests.support import node
from tests.support.kubelet import Kubelet, TopologyPolicy
from tests.support.node import Agent, Cni, CniFailed, config, netns, pfs, wait_for

pytestmark = pytest.mark.lab

T = TypeVar("T")
EXAMPLE = Path(__file__).parents[2] / "deploy/examples/pools.yaml"
SRIOV, DPDK = "intel.com/sriov", "intel.com/sriov_dpdk"
PATIENCE = 90.0      # seconds: 21 VFs are made and bound, in a guest that may have half a CPU
SLACK = 5.0          # seconds for what the kubelet gives 1 s for: an emulated CPU, and others on the machine


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent with the example pool file; at the end the PFs are as they were: without VFs."""
    with tempfile.TemporaryDirectory() as root:      # short: a unix socket's path has 107 characters
        agent = Agent(Path(root), EXAMPLE.read_text())
        yield agent
        agent.kill()
    for pf in pfs():
        Sysfs().write_num_vfs(pf.address, 0)


def with_kubelet(agent: Agent, work: Callable[[Kubelet], Awaitable[T]], **options: object) -> T:
    async def run() -> T:
        async with Kubelet(agent.kubelet, **options) as kubelet:      # type: ignore[arg-type]
            await asyncio.to_thread(agent.start)
            await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)
            await kubelet.wait_allocatable(DPDK, 7, timeout=PATIENCE)
            return await work(kubelet)

    return asyncio.run(run())


@pytest.mark.parametrize("plugin_watcher", [True, False], ids=["plugins_registry", "kubelet.sock"])
def test_makes_binds_and_advertises_and_allocates(agent: Agent, plugin_watcher: bool) -> None:
    async def work(kubelet: Kubelet) -> None:
        by_node = {pf.numa_node: pf for pf in pfs()}
        for numa_node in (0, 1):
            assert {vf.driver for vf in by_node[numa_node].vfs} == {"igbvf"}
        assert {vf.driver for vf in by_node[None].vfs} == {"vfio-pci"}
        pod = await kubelet.admit("default/a", {"app": {SRIOV: 2, DPDK: 1}})
        devices = pod["app"].device_ids
        assert set(devices[SRIOV]) < {vf.address for n in (0, 1) for vf in by_node[n].vfs}
        assert pod["app"].envs["PCIDEVICE_INTEL_COM_SRIOV"].split(",") == list(devices[SRIOV])
        vf = next(vf for vf in by_node[None].vfs if vf.address == devices[DPDK][0])
        info = json.loads(pod["app"].envs["PCIDEVICE_INTEL_COM_SRIOV_DPDK_INFO"])
        group = f"/dev/vfio/{vf.iommu_group}"
        assert info == {vf.address: {"generic": {"deviceID": vf.address},
                                     "vfio": {"mount": "/dev/vfio/vfio", "dev-mount": group}}}
        nodes = {device.host_path for device in pod["app"].devices}
        assert nodes == {"/dev/vfio/vfio", group}
        assert all(Path(path).is_char_device() for path in nodes)
        file = agent.root / "devinfo" / f"intel.com-sriov_dpdk-{vf.address}-device.json"
        assert json.loads(file.read_text()) == {
            "type": "pci", "version": "1.1.0", "pci": {"pci-address": vf.address}}

    with_kubelet(agent, work, plugin_watcher=plugin_watcher)


def test_numa_nodes_reach_the_kubelet(agent: Agent) -> None:
    """Two VFs of one node for a container under single-numa-node; none promised for the PF that has no node."""

    async def work(kubelet: Kubelet) -> None:
        numa = {vf.address: pf.numa_node for pf in pfs() for vf in pf.vfs}
        for n in range(4):
            pod = await kubelet.admit(f"default/pod{n}", {"app": {SRIOV: 3}})
            assert len({numa[PciAddress(vf)] for vf in pod["app"].device_ids[SRIOV]}) == 1
        pod = await kubelet.admit("default/dpdk", {"app": {DPDK: 7}})
        assert {numa[PciAddress(vf)] for vf in pod["app"].device_ids[DPDK]} == {None}

    with_kubelet(agent, work, topology_policy=TopologyPolicy.SINGLE_NUMA_NODE)


def test_unbound_vf_and_lost_pf_turn_unhealthy_and_come_back(agent: Agent) -> None:
    async def work(kubelet: Kubelet) -> None:
        sysfs = Sysfs()
        first, second = [pf for pf in pfs() if pf.numa_node is not None]
        # Before, the agent may take it for a VF that has no driver yet.
        done = "the host is as the pool file says"
        await asyncio.to_thread(wait_for, "the agent's work", lambda: done in agent.log.read_text())
        sysfs.unbind(first.vfs[0].address)
        await kubelet.wait_allocatable(SRIOV, 13, timeout=PATIENCE)
        await asyncio.to_thread(sysfs.probe, first.vfs[0].address)
        await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)
        await asyncio.to_thread(sysfs.write_num_vfs, second.address, 0)
        await kubelet.wait_allocatable(SRIOV, 7, timeout=PATIENCE)
        assert kubelet.capacity(SRIOV) == 14
        await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)

    with_kubelet(agent, work)


def test_vf_in_a_pod_stays_in_its_pool_over_agent_restarts(agent: Agent) -> None:
    async def work(kubelet: Kubelet) -> None:
        pod = await kubelet.admit("default/a", {"app": {SRIOV: 1}})
        (vf,) = pod["app"].device_ids[SRIOV]
        with netns() as path:
            cni, conf = Cni(agent.socket), config(vf, vlan=5)
            await asyncio.to_thread(cni.add, conf, "c1", path)
            for number in (signal.SIGTERM, signal.SIGKILL):
                await asyncio.to_thread(agent.stop, number)
                await asyncio.to_thread(agent.start)
                await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)
                assert "net1" in node.in_netns(path, "ip", "link").stdout
            await kubelet.restart()
            await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)
            await asyncio.to_thread(cni.delete, conf, "c1", path)
        others = await kubelet.admit("default/b", {"app": {SRIOV: 13}})
        assert vf not in others["app"].device_ids[SRIOV]

    with_kubelet(agent, work)


def test_a_pod_gets_no_vf_but_its_own(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(kubelet: Kubelet) -> None:
        mine = await kubelet.admit("default/a", {"app": {SRIOV: 1}})
        (vf,) = mine["app"].device_ids[SRIOV]
        await kubelet.admit("default/b", {"app": {SRIOV: 1}})
        await asyncio.to_thread(attach, vf)
        kubelet.remove("default/a")
        await asyncio.to_thread(refuse, vf, "default/a")

    def call(pod: str) -> Cni:
        namespace, _, name = pod.partition("/")
        monkeypatch.setenv("CNI_ARGS", f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}")
        return Cni(agent.socket)

    def refuse(vf: str, pod: str) -> None:
        before = node.links()
        with netns() as path, pytest.raises(CniFailed, match=f"VF {vf} is not allocated to pod {pod}") as failure:
            call(pod).add(config(vf, vlan=5), "c1", path)
        assert failure.value.code == 101
        assert node.differences(before, node.links()) == []
        assert agent.records() == []

    def attach(vf: str) -> None:
        refuse(vf, "default/b")
        refuse(vf, "default/nobody")
        with netns() as path:
            cni = call("default/a")
            cni.add(config(vf, vlan=5), "c1", path)
            cni.delete(config(vf), "c1", path)
            monkeypatch.delenv("CNI_ARGS")                # by hand
            cni.add(config(vf, vlan=5), "c1", path)
            cni.delete(config(vf), "c1", path)

    with_kubelet(agent, work)


def test_vf_in_a_pod_gets_the_driver_of_its_pool_once_it_is_home(agent: Agent) -> None:
    async def work(kubelet: Kubelet) -> None:
        vf = next(vf for pf in pfs() if pf.numa_node == 0 for vf in pf.vfs)
        with netns() as path:
            cni, conf = Cni(agent.socket), config(vf.address, vlan=5)
            await asyncio.to_thread(cni.add, conf, "c1", path)
            await asyncio.to_thread(agent.stop)
            (agent.root / "pools.yaml").write_text(
                EXAMPLE.read_text().replace("driver: kernel", "driver: vfio-pci", 1))
            await asyncio.to_thread(agent.start)
            refusal = f"VF {vf.address} is bound to igbvf, its pool wants vfio-pci: it is in use"
            await asyncio.to_thread(wait_for, "the refusal", lambda: refusal in agent.log.read_text())
            await kubelet.wait_allocatable(SRIOV, 13, timeout=PATIENCE)
            assert "net1" in node.in_netns(path, "ip", "link").stdout
            await asyncio.to_thread(cni.delete, conf, "c1", path)
            await kubelet.wait_allocatable(SRIOV, 14, timeout=PATIENCE)
            assert Sysfs().read_driver(vf.address) == "vfio-pci"

    with_kubelet(agent, work)


def test_another_number_of_vfs_is_refused_while_some_exist(agent: Agent) -> None:
    async def work(kubelet: Kubelet) -> None:
        vf = next(vf for pf in pfs() if pf.numa_node == 0 for vf in pf.vfs)
        with netns() as path:
            cni, conf = Cni(agent.socket), config(vf.address, vlan=5)
            await asyncio.to_thread(cni.add, conf, "c1", path)
            node.run("udevadm", "settle")            # other VFs' netdevs may not have their names yet
            before = node.links()
            await asyncio.to_thread(agent.stop)
            (agent.root / "pools.yaml").write_text(EXAMPLE.read_text().replace("numVfs: 7", "numVfs: 4"))
            await asyncio.to_thread(agent.start)
            await asyncio.to_thread(wait_for, "the refusal", lambda: "numVfs 4" in agent.tail())
            assert f"it has 7, in use are {vf.address}" in agent.tail()
            assert node.differences(before, node.links()) == []
            assert {pf.num_vfs for pf in pfs()} == {7}
            await asyncio.to_thread(cni.delete, conf, "c1", path)

    with_kubelet(agent, work)


def test_answers_the_kubelet_while_vfs_are_made(agent: Agent) -> None:
    """Making 21 VFs takes seconds; GetInfo has 1 s where nothing is emulated, and streams must stay open."""

    async def run() -> None:
        (agent.kubelet / "plugins_registry").mkdir(parents=True)
        await asyncio.to_thread(agent.start)
        path = agent.kubelet / "plugins_registry/intel.com_sriov.sock"
        await asyncio.to_thread(wait_for, "the plugin's socket", path.exists)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            registration = pluginregistration_pb2_grpc.RegistrationStub(channel)
            plugin = deviceplugin_pb2_grpc.DevicePluginStub(channel)
            stream = plugin.ListAndWatch(deviceplugin_pb2.Empty())
            answered, complete = 0, asyncio.create_task(wait_complete(stream))
            while not complete.done():
                info = await registration.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=SLACK)
                assert info.name == SRIOV
                answered += agent.log.read_text().count("done: make 7 VFs") < 3
            assert await complete == 14
            assert answered, "all VFs were made before the first answer: nothing was tried"

    asyncio.run(run())


POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - match: {numaNode: 0}
    numVfs: 3
pools:
  - resource: one
    select: [{pf: {numaNode: 0}, vfs: 0-1}]
    driver: kernel
  - resource: two
    select: [{pf: {numaNode: 0}}]
    driver: vfio-pci
"""
MORE = POOLS.replace("numVfs: 3", "numVfs: 5\n    force: disturb-vfs").replace("resource: two", "resource: three")


def test_a_changed_config_map_is_followed(agent: Agent) -> None:
    """A resource comes, one goes, another number of VFs; a bad file keeps what the last good one said."""
    volume = ConfigMap(agent.root / "volume")
    volume.write(POOLS)
    (agent.root / "pools.yaml").unlink()
    (agent.root / "pools.yaml").symlink_to(volume.path)

    def status() -> NodeStatus:
        return ask_agent(agent.root / "status.sock", PATIENCE)

    async def run() -> None:
        async with Kubelet(agent.kubelet) as kubelet:
            await asyncio.to_thread(agent.start)
            await kubelet.wait_allocatable("intel.com/one", 2, timeout=PATIENCE)
            await kubelet.wait_allocatable("intel.com/two", 1, timeout=PATIENCE)
            volume.write(POOLS.replace("vfs: 0-1", "vfs: 0-"))
            await asyncio.to_thread(wait_for, "the mistake", lambda: status().pool_file.error is not None)
            assert "expected an index range like 0-3, got '0-'" in (status().pool_file.error or "")
            assert [(kubelet.allocatable(f"intel.com/{name}"), name) for name in ("one", "two")] == [
                (2, "one"), (1, "two")]
            volume.write(MORE)
            await kubelet.wait_allocatable("intel.com/three", 3, timeout=PATIENCE)
            await kubelet.wait_allocatable("intel.com/one", 2, timeout=PATIENCE)
            await kubelet.wait_allocatable("intel.com/two", 0, timeout=PATIENCE)
            (pf,) = (pf for pf in pfs() if pf.numa_node == 0)
            assert [vf.driver for vf in pf.vfs] == ["igbvf", "igbvf", "vfio-pci", "vfio-pci", "vfio-pci"]
            assert list((agent.kubelet / "plugins_registry").glob("intel.com_two*")) == []
            await asyncio.to_thread(wait_for, "a status without problems", lambda: not [*status().find_problems()])
            now = status()
            assert {each.resource: each.healthy for each in now.resources} == {
                "intel.com/one": 2, "intel.com/three": 3}
            assert agent.log.read_text().count("cannot be used") == 1

    asyncio.run(run())


async def wait_complete(stream: object) -> int:
    async with asyncio.timeout(PATIENCE):
        async for answer in stream:      # type: ignore[attr-defined]
            if len(answer.devices) == 14 and all(device.health == "Healthy" for device in answer.devices):
                return len(answer.devices)
    raise AssertionError("the stream ended")
