"""The stand-in kubelet does what its tests rely on; the rules are those of kubelet 1.36."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from deviceplugin.inventory import Inventory
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet import podresources_pb2 as podresources
from deviceplugin.kubelet.deviceplugin_pb2_grpc import RegistrationStub
from deviceplugin.kubelet.podresources_pb2_grpc import PodResourcesListerStub
from deviceplugin.plugin import make_server
from deviceplugin.session import Session
from sriov.pools.assignment import Member
from tests.deviceplugin.harness import (
    RESOURCE,
    agent,
    assign_members,
    configure,
    make_members,
    make_vf,
    run,
    until,
)
from tests.support.kubelet import Kubelet, TopologyAffinityError, TopologyPolicy, UnexpectedAdmissionError
from tests.support.kubelet_plugins import PluginError, check_plugin, dial


def publish(*members: Member) -> Inventory:
    inventory = Inventory()
    inventory.publish(assign_members(*members))
    return inventory


@asynccontextmanager
async def node(
    root: Path, *members: Member, policy: TopologyPolicy = TopologyPolicy.NONE, seed: int = 0
) -> AsyncIterator[Kubelet]:
    async with (
        Kubelet(root, topology_policy=policy, seed=seed) as kubelet,
        agent(configure(root), publish(*members)),
    ):
        await kubelet.wait_allocatable(RESOURCE, len(members))
        yield kubelet


@asynccontextmanager
async def plugin(path: Path, inventory: Inventory) -> AsyncIterator[Session]:
    """A plugin served on `path` that does not register."""
    session = Session(lambda: None)
    server = make_server(RESOURCE, inventory, path.parent, session)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield session
    finally:
        await server.stop(None)


async def register(kubelet: Kubelet, endpoint: str, version: str = "v1beta1") -> None:
    async with dial(kubelet.device_plugins / "kubelet.sock", authority="localhost") as channel:
        await RegistrationStub(channel).Register(
            api.RegisterRequest(version=version, endpoint=endpoint, resource_name=RESOURCE)
        )


def test_the_end_of_the_older_stream_disconnects_the_newer_plugin(root: Path) -> None:
    async def scenario() -> None:
        async with (
            Kubelet(root, plugin_watcher=False) as kubelet,
            plugin(kubelet.device_plugins / "new.sock", publish(*make_members(3))) as newer,
        ):
            async with plugin(kubelet.device_plugins / "old.sock", publish(*make_members(1))):
                await register(kubelet, "old.sock")
                await kubelet.wait_allocatable(RESOURCE, 1)
                await register(kubelet, "new.sock")
                await kubelet.wait_allocatable(RESOURCE, 3)
                assert newer.streams == 1
            await kubelet.wait_allocatable(RESOURCE, 0)
            await until(lambda: newer.streams == 0)
            assert kubelet.capacity(RESOURCE) == 3

    run(scenario)


def test_register_is_answered_after_the_plugin_was_dialled(root: Path) -> None:
    async def scenario() -> None:
        async with Kubelet(root, plugin_watcher=False) as kubelet:
            with pytest.raises(grpc.aio.AioRpcError, match="not supported by kubelet"):
                await register(kubelet, "any.sock", version="v1alpha")
            async with plugin(kubelet.device_plugins / "a.sock", publish(*make_members(1))):
                await register(kubelet, "a.sock")
                await kubelet.wait_allocatable(RESOURCE, 1)

    run(scenario)


@pytest.mark.parametrize(
    "name",
    [
        "sriov",
        "kubernetes.io/x",
        "a.kubernetes.io/x",
        "requests.a/x",
        "Intel.com/x",
        "a_b/x",
        "a/-x",
        "a/" + "x" * 64,
    ],
)
def test_names_that_are_not_extended_resources(name: str) -> None:
    check_plugin("intel.com/sriov_Net-1.a", ["v1alpha1", "v1beta1"])
    with pytest.raises(PluginError, match="not that of an extended resource"):
        check_plugin(name, ["v1beta1"])


def test_ids_come_in_no_order_but_the_same_for_a_seed(root: Path) -> None:
    async def scenario() -> None:
        orders = []
        for seed in (1, 1, 2, 3, 4):
            async with node(root, *make_members(6), seed=seed) as kubelet:
                pod = await kubelet.admit("default/a", {"app": {RESOURCE: 6}})
                orders.append(pod["app"].device_ids[RESOURCE])
                kubelet.remove("default/a")
        assert orders[0] == orders[1]
        assert len(set(orders)) > 1
        assert any(list(order) != sorted(order) for order in orders)

    run(scenario)


def test_containers_share_nothing_and_a_removed_pod_frees_its_devices(root: Path) -> None:
    async def scenario() -> None:
        async with node(root, *make_members(3)) as kubelet:
            pod = await kubelet.admit("default/a", {"one": {RESOURCE: 1}, "two": {RESOURCE: 1}})
            assert pod["one"].device_ids != pod["two"].device_ids
            with pytest.raises(UnexpectedAdmissionError, match="Requested: 2, Available: 0"):
                await kubelet.admit("default/b", {"one": {RESOURCE: 1}, "two": {RESOURCE: 2}})
            with pytest.raises(UnexpectedAdmissionError, match="Requested: 1, Available: 0"):
                await kubelet.admit("default/b", {"app": {"intel.com/other": 1}})
            kubelet.remove("default/a")
            await kubelet.admit("default/b", {"app": {RESOURCE: 3}})

    run(scenario)


def test_single_numa_node_aligns_or_refuses(root: Path) -> None:
    members = [Member(vf=make_vf(n, numa_node=n // 3), fault=None) for n in range(5)]

    async def scenario() -> None:
        async with node(root, *members, policy=TopologyPolicy.SINGLE_NUMA_NODE) as kubelet:
            with pytest.raises(TopologyAffinityError):
                await kubelet.admit("default/x", {"app": {RESOURCE: 4}})
            pod = await kubelet.admit("default/a", {"app": {RESOURCE: 2}})
            assert set(pod["app"].device_ids[RESOURCE]) == {members[0].vf.address, members[1].vf.address}
            pod = await kubelet.admit("default/b", {"app": {RESOURCE: 2}})
            assert set(pod["app"].device_ids[RESOURCE]) == {members[3].vf.address, members[4].vf.address}
            with pytest.raises(TopologyAffinityError):
                await kubelet.admit("default/c", {"app": {RESOURCE: 2}})

    run(scenario)


def test_without_a_policy_the_plugin_chooses_the_node(root: Path) -> None:
    members = [Member(vf=make_vf(n, numa_node=0 if n < 4 else 1), fault=None) for n in range(6)]

    async def scenario() -> None:
        async with node(root, *members) as kubelet:
            pod = await kubelet.admit("default/a", {"app": {RESOURCE: 2}})
            assert set(pod["app"].device_ids[RESOURCE]) == {members[4].vf.address, members[5].vf.address}

    run(scenario)


def test_the_checkpoint_keeps_pods_over_a_restart_but_no_capacity(root: Path) -> None:
    async def scenario() -> None:
        async with node(root, *make_members(2)) as kubelet:
            held = (await kubelet.admit("default/a", {"app": {RESOURCE: 1}}))["app"].device_ids[RESOURCE]
        async with Kubelet(root) as kubelet:
            assert kubelet.capacity(RESOURCE) == 0
            with pytest.raises(UnexpectedAdmissionError):
                await kubelet.admit("default/b", {"app": {RESOURCE: 1}})
            async with agent(configure(root), publish(*make_members(2))):
                await kubelet.wait_allocatable(RESOURCE, 2)
                other = (await kubelet.admit("default/b", {"app": {RESOURCE: 1}}))["app"].device_ids[RESOURCE]
                assert held != other

    run(scenario)


def test_pod_resources_lists_one_entry_for_each_device(root: Path) -> None:
    async def scenario() -> None:
        async with (
            node(root, *make_members(3)) as kubelet,
            dial(kubelet.pod_resources_socket, authority="localhost") as channel,
        ):
            await kubelet.admit("prod/a", {"app": {RESOURCE: 2}})
            stub = PodResourcesListerStub(channel)
            (pod,) = (await stub.List(podresources.ListPodResourcesRequest())).pod_resources
            assert (pod.namespace, pod.name, [each.name for each in pod.containers]) == ("prod", "a", ["app"])
            entries = pod.containers[0].devices
            assert [len(entry.device_ids) for entry in entries] == [1, 1]
            assert {entry.device_ids[0] for entry in entries} == {"0000:3b:02.0", "0000:3b:02.1"}
            assert [node.ID for node in entries[0].topology.nodes] == [0]
            request = podresources.GetPodResourcesRequest(pod_name="a", pod_namespace="prod")
            assert (await stub.Get(request)).pod_resources.name == "a"
            request.pod_name = "b"
            with pytest.raises(grpc.aio.AioRpcError, match="pod b not found"):
                await stub.Get(request)
            allocatable = await stub.GetAllocatableResources(podresources.AllocatableResourcesRequest())
            assert len(allocatable.devices) == 3

    run(scenario)


def test_the_watcher_asks_again_with_back_off_until_the_plugin_answers(root: Path) -> None:
    async def scenario() -> None:
        async with Kubelet(root) as kubelet:
            path = kubelet.plugins_registry / "late.sock"
            server = grpc.aio.server()
            server.add_insecure_port(f"unix:{path}")
            await server.start()                         # answers UNIMPLEMENTED to GetInfo
            await asyncio.sleep(0.2)
            await server.stop(None)
            async with plugin(path, publish(*make_members(1))) as session:
                await kubelet.wait_allocatable(RESOURCE, 1)
                await until(lambda: session.registered)

    run(scenario)


def test_a_dead_plugin_leaves_unhealthy_devices(root: Path) -> None:
    async def scenario() -> None:
        async with Kubelet(root) as kubelet:
            inventory = publish(*make_members(2))
            async with plugin(kubelet.plugins_registry / "a.sock", inventory):
                await kubelet.wait_allocatable(RESOURCE, 2)
                first, second = make_members(2)
                inventory.publish(assign_members(first, replace(second, fault="no driver is bound")))
                await kubelet.wait_allocatable(RESOURCE, 1)
            await kubelet.wait_allocatable(RESOURCE, 0)
            assert kubelet.capacity(RESOURCE) == 2

    run(scenario)
