"""The device manager of the stand-in kubelet: who has which device, and who may have it.

Test equipment. The rules are those of the kubelet's devicemanager package (release 1.36): healthy minus in
use is available, ids leave sets in no particular order, and every allocation is written to a checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

import grpc

from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet.deviceplugin_pb2_grpc import DevicePluginStub

T = TypeVar("T")

ENDPOINT_GRACE = 300.0                # seconds that a resource keeps its capacity without its plugin


class UnexpectedAdmissionError(Exception):
    """The pod is rejected for good: the kubelet does not try again."""


class TopologyAffinityError(UnexpectedAdmissionError):
    """No single NUMA node has all that the container asks for."""


class TopologyPolicy(Enum):
    NONE = "none"
    SINGLE_NUMA_NODE = "single-numa-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerAllocation:
    """What the runtime is told about one container, and the ids behind it in the order of the request."""

    envs: Mapping[str, str]
    devices: tuple[api.DeviceSpec, ...]
    mounts: tuple[api.Mount, ...]
    annotations: Mapping[str, str]
    cdi_devices: tuple[str, ...]
    device_ids: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class Plugin:
    """A connected plugin, or one that went away at `stopped` (monotonic seconds)."""

    stub: DevicePluginStub | None
    options: api.DevicePluginOptions
    stopped: float | None = None


@dataclass(slots=True)
class DeviceManager:
    checkpoint: Path
    policy: TopologyPolicy
    rng: random.Random
    plugins: dict[str, Plugin] = field(default_factory=dict)
    devices: dict[str, dict[str, api.Device]] = field(default_factory=dict)    # by resource and id
    # Pod, container, resource: ids.
    pods: dict[str, dict[str, dict[str, tuple[str, ...]]]] = field(default_factory=dict)

    # What plugins say

    def connected(self, resource: str, stub: DevicePluginStub, options: api.DevicePluginOptions) -> None:
        self.plugins[resource] = Plugin(stub, options)

    def listed(self, resource: str, devices: Iterable[api.Device]) -> None:
        self.devices[resource] = {device.ID: device for device in devices}
        self.save()

    def disconnected(self, resource: str) -> None:
        if (plugin := self.plugins.get(resource)) is not None:
            plugin.stub, plugin.stopped = None, time.monotonic()
            for device in self.devices.get(resource, {}).values():
                device.health = "Unhealthy"

    # What the node shows

    def capacity(self, resource: str) -> int:
        plugin = self.plugins.get(resource)
        if plugin is None:
            return 0
        if plugin.stopped is not None and time.monotonic() - plugin.stopped > ENDPOINT_GRACE:
            return 0
        return len(self.devices.get(resource, {}))

    def healthy(self, resource: str) -> set[str]:
        return {name for name, device in self.devices.get(resource, {}).items() if device.health == "Healthy"}

    def allocatable(self, resource: str) -> int:
        return min(self.capacity(resource), len(self.healthy(resource)))

    def in_use(self, resource: str) -> set[str]:
        containers = (container for pod in self.pods.values() for container in pod.values())
        return {name for container in containers for name in container.get(resource, ())}

    # Pods

    async def admit(
        self, pod: str, containers: Mapping[str, Mapping[str, int]]
    ) -> dict[str, ContainerAllocation]:
        if pod in self.pods:
            raise ValueError(f"pod {pod} is already here")
        self.pods[pod] = {}
        try:
            allocations = {
                container: await self._allocate(pod, container, request)
                for container, request in containers.items()
            }
        except BaseException:
            del self.pods[pod]
            raise
        finally:
            self.save()
        return allocations

    def remove(self, pod: str) -> None:
        del self.pods[pod]
        self.save()

    async def _allocate(self, pod: str, container: str, request: Mapping[str, int]) -> ContainerAllocation:
        node = self._admit_topology(request)
        held = self.pods[pod].setdefault(container, {})
        resources = list(request)
        self.rng.shuffle(resources)
        merged = api.ContainerAllocateResponse()
        for resource in resources:
            ids = await self._choose(resource, request[resource], node)
            held[resource] = tuple(ids)
            stub = self._stub(resource)
            wish = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=ids)])
            answer = await _answer(stub.Allocate(wish))
            if not answer.container_responses:
                raise UnexpectedAdmissionError(f"no containers in the answer for {resource}")
            _merge(merged, answer.container_responses[0])
        return ContainerAllocation(
            envs=dict(merged.envs),
            devices=tuple(merged.devices),
            mounts=tuple(merged.mounts),
            annotations=dict(merged.annotations),
            cdi_devices=tuple(device.name for device in merged.cdi_devices),
            device_ids=dict(held),
        )

    def _stub(self, resource: str) -> DevicePluginStub:
        plugin = self.plugins.get(resource)
        if plugin is None or plugin.stub is None:
            raise UnexpectedAdmissionError(f"no plugin is registered for {resource}")
        return plugin.stub

    async def _choose(self, resource: str, size: int, node: int | None) -> list[str]:
        """Aligned devices first; the plugin is asked whenever there is a choice."""
        available = self.healthy(resource) - self.in_use(resource)
        if len(available) < size:
            raise UnexpectedAdmissionError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {size}, Available: {len(available)}"
            )
        aligned = {name for name in available if node is not None and node in self._nodes(resource, name)}
        if size < len(aligned):
            preferred = await self._preferred(resource, aligned, set(), size)
            return self._take(size, preferred & aligned, aligned)
        chosen = self._take(len(aligned), aligned)
        if len(chosen) == size:
            return chosen
        preferred = await self._preferred(resource, available, aligned, size)
        return chosen + self._take(size - len(chosen), (preferred & available) - aligned, available - aligned)

    async def _preferred(self, resource: str, available: set[str], must: set[str], size: int) -> set[str]:
        if not self.plugins[resource].options.get_preferred_allocation_available:
            return set()
        wish = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=self._shuffled(available),
            must_include_deviceIDs=self._shuffled(must),
            allocation_size=size,
        )
        request = api.PreferredAllocationRequest(container_requests=[wish])
        answer = await _answer(self._stub(resource).GetPreferredAllocation(request))
        return set(answer.container_responses[0].deviceIDs)

    def _take(self, size: int, *sets: set[str]) -> list[str]:
        """`size` ids, from the first set before the next."""
        ordered = [name for names in sets for name in self._shuffled(names)]
        return self._shuffled(set(list(dict.fromkeys(ordered))[:size]))

    def _shuffled(self, names: set[str]) -> list[str]:
        ordered = sorted(names)                # a set's own order would not follow the seed
        self.rng.shuffle(ordered)
        return ordered

    # Topology

    def _nodes(self, resource: str, name: str) -> set[int]:
        return {node.ID for node in self.devices[resource][name].topology.nodes}

    def _admit_topology(self, request: Mapping[str, int]) -> int | None:
        """The one NUMA node that has all of `request`; None if nothing prefers any or the policy is none."""
        if self.policy is TopologyPolicy.NONE:
            return None
        hints: set[int] | None = None
        for resource, size in request.items():
            if not any(device.HasField("topology") for device in self.devices.get(resource, {}).values()):
                continue
            free: dict[int, int] = {}
            for name in self.healthy(resource) - self.in_use(resource):
                for node in self._nodes(resource, name):
                    free[node] = free.get(node, 0) + 1
            fitting = {node for node, count in free.items() if count >= size}
            hints = fitting if hints is None else hints & fitting
        if hints is None:
            return None
        if not hints:
            raise TopologyAffinityError(f"no NUMA node has {dict(request)}")
        return min(hints)

    # Checkpoint

    def save(self) -> None:
        """The kubelet's own shape (without its checksum): Multus reads it where pod-resources is missing."""
        entries = [
            {
                "PodUID": pod,
                "ContainerName": container,
                "ResourceName": resource,
                "DeviceIDs": {"-1": list(ids)},
            }
            for pod, containers in self.pods.items()
            for container, resources in containers.items()
            for resource, ids in resources.items()
        ]
        registered = {resource: sorted(self.healthy(resource)) for resource in self.devices}
        data = {"PodDeviceEntries": entries, "RegisteredDevices": registered}
        temporary = self.checkpoint.with_name(f".{self.checkpoint.name}")
        temporary.write_text(json.dumps({"Data": data}))
        temporary.rename(self.checkpoint)

    def load(self) -> None:
        """Pods keep their devices; each resource has none until its plugin registers again."""
        self.pods, self.plugins, self.devices = {}, {}, {}
        if not self.checkpoint.exists():
            return
        data = json.loads(self.checkpoint.read_text())["Data"]
        for entry in data["PodDeviceEntries"]:
            ids = tuple(name for names in entry["DeviceIDs"].values() for name in names)
            self.pods.setdefault(entry["PodUID"], {}).setdefault(entry["ContainerName"], {})[
                entry["ResourceName"]
            ] = ids
        for resource in data["RegisteredDevices"]:
            self.devices[resource] = {}
            self.plugins[resource] = Plugin(None, api.DevicePluginOptions(), stopped=time.monotonic())


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise UnexpectedAdmissionError(f"{error.code().name}: {error.details()}") from error
    except asyncio.CancelledError:
        # Raised as well where the channel was closed under the call.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise UnexpectedAdmissionError("CANCELLED: the connection was closed") from None


def _merge(merged: api.ContainerAllocateResponse, answer: api.ContainerAllocateResponse) -> None:
    """First wins, per key, container path, or CDI name."""
    for key, value in answer.envs.items():
        if key not in merged.envs:
            merged.envs[key] = value
    for key, value in answer.annotations.items():
        if key not in merged.annotations:
            merged.annotations[key] = value
    paths = {device.container_path for device in merged.devices}
    merged.devices.extend(device for device in answer.devices if device.container_path not in paths)
    paths = {mount.container_path for mount in merged.mounts}
    merged.mounts.extend(mount for mount in answer.mounts if mount.container_path not in paths)
    names = {device.name for device in merged.cdi_devices}
    merged.cdi_devices.extend(device for device in answer.cdi_devices if device.name not in names)
