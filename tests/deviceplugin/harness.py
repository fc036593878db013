"""VFs to hand out, an agent to serve them, and what these tests ask of a kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc

from deviceplugin.inventory import Inventory, View
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet.deviceplugin_pb2_grpc import DevicePluginStub
from deviceplugin.kubeletdir import KubeletDirectory, Way
from deviceplugin.service import Service, ServiceConfig
from sriov.model import VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, Member, Pool
from tests.support.kubelet import ContainerAllocation
from tests.support.kubelet_plugins import dial

RESOURCE = "intel.com/sriov"
POOL = Pool(resource=RESOURCE, selectors=())


class Node(Protocol):
    """What a protocol test may ask of the kubelet, be it the stand-in or a real one."""

    plugin_watcher: bool

    def capacity(self, resource: str) -> int: ...
    def allocatable(self, resource: str) -> int: ...
    async def wait_allocatable(self, resource: str, count: int, *, timeout: float = 5.0) -> None: ...
    async def wait_capacity(self, resource: str, count: int, *, timeout: float = 5.0) -> None: ...
    async def admit(
        self, pod: str, containers: Mapping[str, Mapping[str, int]]
    ) -> dict[str, ContainerAllocation]: ...
    def remove(self, pod: str) -> None: ...
    async def restart(self) -> None: ...


def make_vf(index: int, **changes: Any) -> VirtualFunction:
    values: dict[str, Any] = {
        "address": PciAddress(f"0000:3b:{2 + index // 8:02x}.{index % 8}"),
        "vendor": "8086",
        "device": "10ca",
        "driver": "igbvf",
        "numa_node": 0,
        "iommu_group": 40 + index,
        "link": None,
        "pf": PciAddress("0000:3b:00.0"),
        "index": index,
    }
    return VirtualFunction(**{**values, **changes})


def make_members(count: int, faults: Mapping[int, str] | None = None, **changes: Any) -> tuple[Member, ...]:
    return tuple(Member(vf=make_vf(n, **changes), fault=(faults or {}).get(n)) for n in range(count))


def assign_members(
    *members: Member, resource: str = RESOURCE, left_out: Mapping[PciAddress, str] | None = None
) -> View:
    return view(Assignment(members={resource: members}, left_out=left_out or {}))


def view(assignment: Assignment, *pools: Pool, generation: int = 1) -> View:
    """As the agent publishes it; without pools each of the assignment's resources is that of a plain one."""
    plain = (Pool(resource=resource, selectors=()) for resource in assignment.members)
    return View(pools=pools or tuple(plain), assignment=assignment, generation=generation)


def run(scenario: Callable[[], Awaitable[None]], seconds: float = 60.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(bounded())


def configure(root: Path, *, stream_grace: float = 0.1, patience: float = 5.0) -> ServiceConfig:
    """The poll is far away: what a test sees was noticed by an event."""
    return ServiceConfig(kubelet=KubeletDirectory(root), device_info=root / "devinfo", stream_grace=stream_grace,
                         patience=patience, poll=60.0)


@asynccontextmanager
async def agent(config: ServiceConfig, inventory: Inventory) -> AsyncIterator[None]:
    """The service, running; an error in it fails the test."""
    task = asyncio.create_task(Service(config, inventory).run(), name="agent")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def socket_of(root: Path, plugin_watcher: bool, resource: str = RESOURCE) -> Path:
    way = Way.WATCHER if plugin_watcher else Way.CALL
    return KubeletDirectory(root).socket(way, resource)


@asynccontextmanager
async def connect(socket: Path) -> AsyncIterator[DevicePluginStub]:
    async with dial(socket, authority="localhost") as channel:
        yield DevicePluginStub(channel)


class Stream:
    """A ListAndWatch of our own beside the kubelet's."""

    def __init__(self, stub: DevicePluginStub) -> None:
        self._call = stub.ListAndWatch(api.Empty(), wait_for_ready=True)

    async def read(self) -> dict[str, str]:
        response = await self._call.read()
        assert response is not grpc.aio.EOF
        return {device.ID: device.health for device in response.devices}

    def cancel(self) -> None:
        self._call.cancel()


async def until(reached: Callable[[], bool]) -> None:
    """For facts that have no event of their own; the test's own time limit bounds it."""
    while not reached():  # noqa: ASYNC110 - it happens in the file system or in gRPC
        await asyncio.sleep(0.005)
