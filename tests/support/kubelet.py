"""A stand-in for the kubelet: test equipment, not a kubelet.

It speaks the device-plugin, plugin-registration and pod-resources APIs over real unix sockets in a folder and
admits pods that exist only as a name. What it does with plugins and devices follows kubelet 1.36; what needs
a cluster (API server, containers, cgroups) is not there.

    async with Kubelet(Path("/tmp/k"), seed=1) as kubelet:
        await kubelet.wait_allocatable("intel.com/sriov", 8)
        pod = await kubelet.admit("default/a", {"app": {"intel.com/sriov": 1}})
        pod["app"].envs["PCIDEVICE_INTEL_COM_SRIOV"]
"""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from deviceplugin.kubelet.deviceplugin_pb2_grpc import add_RegistrationServicer_to_server
from deviceplugin.kubelet.podresources_pb2_grpc import add_PodResourcesListerServicer_to_server
from tests.support.kubelet_devices import (
    ContainerAllocation,
    DeviceManager,
    TopologyAffinityError,
    TopologyPolicy,
    UnexpectedAdmissionError,
)
from tests.support.kubelet_plugins import FIRST_RETRY, Clients, PluginWatcher, Registration
from tests.support.kubelet_podresources import PodResources

__all__ = [
    "ContainerAllocation",
    "Kubelet",
    "TopologyAffinityError",
    "TopologyPolicy",
    "UnexpectedAdmissionError",
]


class Kubelet:
    """The process between start and stop; the folder, with checkpoint and plugins' sockets, outlives it.

    `plugin_watcher` decides whether plugins_registry exists at start (a folder that is there stays).
    `watch_period` is how often the watcher looks at it, in seconds: 1 s in a kubelet; `first_retry` how long it
    leaves a socket's path alone after the first failure with it.
    """

    def __init__(
        self,
        root: Path,
        *,
        plugin_watcher: bool = True,
        topology_policy: TopologyPolicy = TopologyPolicy.NONE,
        seed: int = 0,
        watch_period: float = 0.05,
        first_retry: float = FIRST_RETRY,
    ) -> None:
        self.root = root
        self.plugin_watcher = plugin_watcher
        self._watch_period = watch_period
        self._first_retry = first_retry
        self._devices = DeviceManager(
            checkpoint=self.device_plugins / "kubelet_internal_checkpoint",
            policy=topology_policy,
            rng=random.Random(seed),
        )
        self._clients = Clients(self._devices)
        self._registration = Registration(self.device_plugins, self._clients)
        self._servers: list[grpc.aio.Server] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def device_plugins(self) -> Path:
        return self.root / "device-plugins"

    @property
    def plugins_registry(self) -> Path:
        return self.root / "plugins_registry"

    @property
    def pod_resources_socket(self) -> Path:
        return self.root / "pod-resources" / "kubelet.sock"

    # Life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self.device_plugins.mkdir(parents=True, exist_ok=True)
        self.pod_resources_socket.parent.mkdir(exist_ok=True)
        for path in self.device_plugins.iterdir():
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink(missing_ok=True)
        self._devices.load()

        registration = grpc.aio.server()
        add_RegistrationServicer_to_server(self._registration, registration)
        # gRPC removes the name that it bound when it stops; a kubelet that dies leaves its socket behind.
        hidden = self.device_plugins / ".kubelet.sock"
        registration.add_insecure_port(f"unix:{hidden}")
        hidden.rename(self.device_plugins / "kubelet.sock")
        pod_resources = grpc.aio.server()
        add_PodResourcesListerServicer_to_server(PodResources(self._devices), pod_resources)
        pod_resources.add_insecure_port(f"unix:{self.pod_resources_socket}")
        self._servers = [registration, pod_resources]
        for server in self._servers:
            await server.start()

        if self.plugin_watcher:
            self.plugins_registry.mkdir(exist_ok=True)
            plugins = PluginWatcher(self.plugins_registry, self._clients, self._watch_period, self._first_retry)
            self._watching = asyncio.create_task(plugins.run(), name="plugin watcher")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            if not self._watching.cancelled():
                self._watching.result()
            self._watching = None
        for server in self._servers:
            await server.stop(None)
        self._servers = []
        await self._clients.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    # The node's status

    def capacity(self, resource: str) -> int:
        return self._devices.capacity(resource)

    def allocatable(self, resource: str) -> int:
        return self._devices.allocatable(resource)

    async def wait_allocatable(self, resource: str, count: int, *, timeout: float = 5.0) -> None:
        """Until exactly `count` devices of `resource` can be handed out; raise TimeoutError with what is."""
        await self._wait(
            lambda: self.allocatable(resource) == count,
            lambda: f"{self.allocatable(resource)} of {self.capacity(resource)} {resource} are allocatable, "
            f"{count} wanted",
            timeout,
        )

    async def wait_capacity(self, resource: str, count: int, *, timeout: float = 5.0) -> None:
        """As wait_allocatable, healthy or not."""
        await self._wait(
            lambda: self.capacity(resource) == count,
            lambda: f"the capacity of {resource} is {self.capacity(resource)}, {count} wanted",
            timeout,
        )

    async def _wait(self, reached: Callable[[], bool], describe: Callable[[], str], timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        while not reached():
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(describe())
            await asyncio.sleep(0.002)

    # Pods

    async def admit(
        self, pod: str, containers: Mapping[str, Mapping[str, int]]
    ) -> dict[str, ContainerAllocation]:
        """Give `pod` ("namespace/name") its devices: container, resource, count. Containers go in order.

        Raises UnexpectedAdmissionError; the pod then has nothing.
        """
        return await self._devices.admit(pod, containers)

    def remove(self, pod: str) -> None:
        """The pod is gone: its devices are free."""
        self._devices.remove(pod)

    # Faults

    def cancel_stream(self, resource: str) -> None:
        """End the ListAndWatch of `resource` from this side, and do not dial again."""
        self._clients.cancel_stream(resource)

    @property
    def register_calls(self) -> list[tuple[float, str]]:
        """When (monotonic seconds) Register was called, and for which resource."""
        return [(when, request.resource_name) for when, request in self._registration.calls]
