"""What the agent owes any kubelet, over real unix sockets; each test runs both ways of registration."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from deviceplugin.inventory import Inventory, View
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet import pluginregistration_pb2 as watcher
from deviceplugin.kubelet.pluginregistration_pb2_grpc import RegistrationStub
from sriov.model import Host, Link, PhysicalFunction
from sriov.pci import MacAddress
from sriov.pools.assignment import Assignment, Driver, Member, Pool, Selector, assign
from tests.deviceplugin.harness import (
    POOL,
    RESOURCE,
    Node,
    Stream,
    agent,
    assign_members,
    configure,
    connect,
    make_members,
    make_vf,
    run,
    socket_of,
    view,
)
from tests.support.kubelet import Kubelet, UnexpectedAdmissionError
from tests.support.kubelet_plugins import dial


@asynccontextmanager
async def kubelet(root: Path, plugin_watcher: bool) -> AsyncIterator[Node]:
    async with Kubelet(root, plugin_watcher=plugin_watcher) as node:
        yield node


def publish(*members: Member) -> Inventory:
    inventory = Inventory()
    inventory.publish(assign_members(*members))
    return inventory


def test_devices_appear_on_the_node_and_a_pod_gets_them(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = publish(*make_members(4))
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            await node.wait_allocatable(RESOURCE, 4)
            pod = await node.admit("default/a", {"app": {RESOURCE: 2}})
            held = pod["app"].device_ids[RESOURCE]
            assert pod["app"].envs["PCIDEVICE_INTEL_COM_SRIOV"] == ",".join(held)
            assert set(held) == {"0000:3b:02.0", "0000:3b:02.1"}
            names = {path.name for path in (root / "devinfo").iterdir()}
            assert names == {f"intel.com-sriov-{address}-device.json" for address in held}

    run(scenario)


def test_a_vfio_container_gets_each_node_once(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = publish(*make_members(2, driver="vfio-pci"))
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            await node.wait_allocatable(RESOURCE, 2)
            pod = await node.admit("default/a", {"app": {RESOURCE: 2}})
            paths = {(device.host_path, device.permissions) for device in pod["app"].devices}
            assert paths == {("/dev/vfio/vfio", "rw"), ("/dev/vfio/40", "rw"), ("/dev/vfio/41", "rw")}

    run(scenario)


def test_several_resources_in_one_container(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = Inventory()
        kernel, dpdk = make_vf(0), make_vf(1, driver="vfio-pci")
        members = {"a.b/kernel": (Member(vf=kernel, fault=None),), "a.b/dpdk": (Member(vf=dpdk, fault=None),)}
        inventory.publish(view(Assignment(members=members, left_out={})))
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            for resource in members:
                await node.wait_allocatable(resource, 1)
            pod = await node.admit("default/a", {"app": {"a.b/kernel": 1, "a.b/dpdk": 1}})
            assert pod["app"].envs["PCIDEVICE_A_B_KERNEL"] == kernel.address
            assert pod["app"].envs["PCIDEVICE_A_B_DPDK"] == dpdk.address

    run(scenario)


def test_the_kubelet_restarts(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = publish(*make_members(3))
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            await node.wait_allocatable(RESOURCE, 3)
            held = (await node.admit("default/a", {"app": {RESOURCE: 1}}))["app"].device_ids[RESOURCE]
            for _ in range(3):
                await node.restart()
                await node.wait_allocatable(RESOURCE, 3)
            other = (await node.admit("default/b", {"app": {RESOURCE: 2}}))["app"].device_ids[RESOURCE]
            assert not set(held) & set(other)

    run(scenario)


def test_the_kubelet_comes_after_the_agent(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        async with agent(configure(root), publish(*make_members(2))):
            await asyncio.sleep(0.05)                   # its first attempts find no folder at all
            async with kubelet(root, plugin_watcher) as node:
                await node.wait_allocatable(RESOURCE, 2)

    run(scenario)


def test_the_agent_restarts_while_a_pod_holds_a_vf(root: Path, plugin_watcher: bool) -> None:
    def scan(away: tuple[str, ...] = ()) -> Inventory:
        """A VF in a pod is on the PCI bus and has its driver; its netdev is in another namespace."""
        links = [Link(index=9 + n, name=f"v{n}", mac=MacAddress.ZERO, mtu=1500, up=False, carrier=False)
                 for n in range(2)]
        vfs = [make_vf(n, link=link) for n, link in enumerate(links)]
        pf = PhysicalFunction(
            address=vfs[0].pf, vendor="8086", device="10c9", driver="igb", numa_node=0, iommu_group=1,
            link=None, total_vfs=7, num_vfs=2,
            vfs=tuple(replace(vf, link=None) if vf.address in away else vf for vf in vfs),
        )
        inventory = Inventory()
        pool = Pool(resource=RESOURCE, selectors=(Selector(),), driver=Driver.KERNEL)
        inventory.publish(view(assign(Host(pfs=(pf,)), [pool]), pool))
        return inventory

    async def scenario() -> None:
        async with kubelet(root, plugin_watcher) as node:
            async with agent(configure(root), scan()):
                await node.wait_allocatable(RESOURCE, 2)
                held = (await node.admit("default/a", {"app": {RESOURCE: 1}}))["app"].device_ids[RESOURCE]
            await node.wait_allocatable(RESOURCE, 0)
            assert node.capacity(RESOURCE) == 2
            async with agent(configure(root), scan(away=held)):
                await node.wait_allocatable(RESOURCE, 2)
                free = (await node.admit("default/b", {"app": {RESOURCE: 1}}))["app"].device_ids[RESOURCE]
                assert set(held) | set(free) == {"0000:3b:02.0", "0000:3b:02.1"}

    run(scenario)


def test_a_vf_that_loses_its_driver_or_is_gone_is_unhealthy_and_comes_back(
    root: Path, plugin_watcher: bool
) -> None:
    async def scenario() -> None:
        first, second, third = make_members(3)
        inventory = publish(first, second, third)
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            await node.wait_allocatable(RESOURCE, 3)
            inventory.publish(assign_members(first, replace(second, fault="no driver is bound")))
            await node.wait_allocatable(RESOURCE, 1)
            assert node.capacity(RESOURCE) == 3
            with pytest.raises(UnexpectedAdmissionError, match="Requested: 2, Available: 1"):
                await node.admit("default/a", {"app": {RESOURCE: 2}})
            inventory.publish(assign_members(first, second, third))
            await node.wait_allocatable(RESOURCE, 3)

    run(scenario)


def test_a_pool_without_vfs_is_registered_and_fills_later(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = publish()
        async with kubelet(root, plugin_watcher) as node, agent(configure(root), inventory):
            async with connect(socket_of(root, plugin_watcher)) as stub:
                assert await Stream(stub).read() == {}
            inventory.publish(assign_members(*make_members(2)))
            await node.wait_allocatable(RESOURCE, 2)

    run(scenario)


def test_streams_see_every_change_and_a_new_one_sees_the_truth(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        first, second = make_members(2)
        inventory = publish(first, second)
        healthy = {first.vf.address: "Healthy", second.vf.address: "Healthy"}
        broken = {first.vf.address: "Healthy", second.vf.address: "Unhealthy"}
        async with (
            kubelet(root, plugin_watcher) as node,
            agent(configure(root), inventory),
            connect(socket_of(root, plugin_watcher)) as stub,
        ):
            await node.wait_allocatable(RESOURCE, 2)
            streams = [Stream(stub), Stream(stub)]
            assert [await stream.read() for stream in streams] == [healthy, healthy]
            streams.pop().cancel()
            inventory.publish(assign_members(first))
            assert [await stream.read() for stream in [*streams, Stream(stub)]] == [broken, broken]
            await node.wait_allocatable(RESOURCE, 1)

    run(scenario)


def test_nothing_is_sent_for_a_change_that_the_kubelet_cannot_see(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        member, other = make_members(2)
        inventory = publish(member, other)
        async with (
            kubelet(root, plugin_watcher) as node,
            agent(configure(root), inventory),
            connect(socket_of(root, plugin_watcher)) as stub,
        ):
            await node.wait_allocatable(RESOURCE, 2)
            stream = Stream(stub)
            await stream.read()
            before = inventory.snapshot.version
            inventory.publish(assign_members(replace(member, vf=replace(member.vf, iommu_group=77)), other))
            await asyncio.sleep(0.05)
            inventory.publish(assign_members(member))
            assert inventory.snapshot.version == before + 2
            assert await stream.read() == {member.vf.address: "Healthy", other.vf.address: "Unhealthy"}

    run(scenario)


def test_topology_is_told_only_where_it_is_known_and_wanted(root: Path, plugin_watcher: bool) -> None:
    async def nodes(pool: Pool) -> list[list[int] | None]:
        members = Member(vf=make_vf(0, numa_node=1), fault=None), Member(vf=make_vf(1, numa_node=None), fault=None)
        inventory = Inventory([pool])
        inventory.publish(view(Assignment(members={RESOURCE: members}, left_out={}), pool))
        async with (
            kubelet(root, plugin_watcher) as node,
            agent(configure(root), inventory),
            connect(socket_of(root, plugin_watcher)) as stub,
        ):
            await node.wait_allocatable(RESOURCE, 2)
            response = await stub.ListAndWatch(api.Empty()).read()
            return [
                [node.ID for node in device.topology.nodes] if device.HasField("topology") else None
                for device in response.devices
            ]

    async def scenario() -> None:
        assert await nodes(POOL) == [[1], None]
        assert await nodes(Pool(resource=RESOURCE, selectors=(), exclude_topology=True)) == [None, None]

    run(scenario)


def test_answers_on_the_socket(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        inventory = publish(*make_members(3))
        async with (
            kubelet(root, plugin_watcher) as node,
            agent(configure(root), inventory),
            dial(socket_of(root, plugin_watcher), authority="localhost") as channel,
            connect(socket_of(root, plugin_watcher)) as stub,
        ):
            await node.wait_allocatable(RESOURCE, 3)
            info = await RegistrationStub(channel).GetInfo(watcher.InfoRequest())
            assert (info.type, info.name, info.endpoint) == ("DevicePlugin", RESOURCE, "")
            assert list(info.supported_versions) == ["v1beta1"]
            options = await stub.GetDevicePluginOptions(api.Empty())
            assert options.get_preferred_allocation_available
            assert not options.pre_start_required
            wish = api.ContainerPreferredAllocationRequest(
                available_deviceIDs=["0000:3b:02.2", "0000:3b:02.1", "0000:3b:02.0"], allocation_size=2
            )
            preferred = await stub.GetPreferredAllocation(
                api.PreferredAllocationRequest(container_requests=[wish])
            )
            assert list(preferred.container_responses[0].deviceIDs) == ["0000:3b:02.0", "0000:3b:02.1"]
            await stub.PreStartContainer(api.PreStartContainerRequest())

    run(scenario)


@pytest.mark.parametrize(
    ("device", "code", "detail"),
    [
        ("0000:3b:02.7", grpc.StatusCode.INVALID_ARGUMENT, "cannot allocate '0000:3b:02.7'"),
        ("0000:3b:02.1", grpc.StatusCode.FAILED_PRECONDITION, "no driver is bound"),
    ],
)
def test_allocate_refuses_the_whole_request_for_one_bad_id(
    root: Path, device: str, code: grpc.StatusCode, detail: str
) -> None:
    async def scenario() -> None:
        inventory = publish(*make_members(2, faults={1: "no driver is bound"}))
        async with (
            kubelet(root, True) as node,
            agent(configure(root), inventory),
            connect(socket_of(root, True)) as stub,
        ):
            await node.wait_allocatable(RESOURCE, 1)
            wishes = [api.ContainerAllocateRequest(devices_ids=[name]) for name in ("0000:3b:02.0", device)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Allocate(api.AllocateRequest(container_requests=wishes))
            assert caught.value.code() is code
            assert detail in (caught.value.details() or "")
            assert not (root / "devinfo").exists()

    run(scenario)


def test_a_devinfo_folder_that_cannot_be_written_fails_the_allocation(root: Path) -> None:
    async def scenario() -> None:
        (root / "devinfo").touch()
        async with kubelet(root, True) as node, agent(configure(root), publish(*make_members(1))):
            await node.wait_allocatable(RESOURCE, 1)
            with pytest.raises(UnexpectedAdmissionError, match=r"INTERNAL: cannot write .*devinfo"):
                await node.admit("default/a", {"app": {RESOURCE: 1}})

    run(scenario)


def test_device_info_of_a_running_pod_survives_a_restart_of_the_agent(root: Path) -> None:
    async def scenario() -> None:
        async with kubelet(root, True) as node:
            async with agent(configure(root), publish(*make_members(1))):
                await node.wait_allocatable(RESOURCE, 1)
                await node.admit("default/a", {"app": {RESOURCE: 1}})
            async with agent(configure(root), publish(*make_members(1))):
                await node.wait_allocatable(RESOURCE, 1)
                assert len(list((root / "devinfo").iterdir())) == 1

    run(scenario)


def test_the_kubelet_is_answered_while_a_write_to_sysfs_blocks(root: Path, plugin_watcher: bool) -> None:
    """A FIFO without a reader stands for sriov_numvfs: opening it for writing blocks in the kernel."""
    numvfs = root / "sriov_numvfs"
    os.mkfifo(numvfs)
    blocked = asyncio.Event()
    readers: list[int] = []

    def release() -> None:
        readers.append(os.open(numvfs, os.O_RDONLY | os.O_NONBLOCK))

    rescue = threading.Timer(10, release)       # where the loop itself blocks, no time limit of its own helps
    rescue.start()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        inventory = publish(*make_members(2))

        def scan() -> View:
            loop.call_soon_threadsafe(blocked.set)
            with numvfs.open("w") as file:
                file.write("4")
            return assign_members(*make_members(4))

        async with (
            kubelet(root, plugin_watcher) as node,
            agent(configure(root), inventory),
            dial(socket_of(root, plugin_watcher), authority="localhost") as channel,
            connect(socket_of(root, plugin_watcher)) as stub,
        ):
            scanning = asyncio.create_task(inventory.run(scan))
            await blocked.wait()
            await node.wait_allocatable(RESOURCE, 2)
            info = await RegistrationStub(channel).GetInfo(watcher.InfoRequest(), timeout=1.0)
            assert info.name == RESOURCE
            async with asyncio.timeout(1.0):
                assert len(await Stream(stub).read()) == 2
            await node.admit("default/a", {"app": {RESOURCE: 1}})
            assert inventory.snapshot.version == 1

            assert not readers
            release()
            await node.wait_allocatable(RESOURCE, 4)
            scanning.cancel()
            await asyncio.wait([scanning])

    try:
        run(scenario)
    finally:
        rescue.cancel()
        for reader in readers:
            os.close(reader)
