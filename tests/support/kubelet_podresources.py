"""`v1.PodResourcesLister` of the stand-in kubelet, on pod-resources/kubelet.sock. Test equipment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc

from deviceplugin.kubelet import podresources_pb2 as api
from tests.support.kubelet_devices import DeviceManager


class PodResources:
    def __init__(self, devices: DeviceManager) -> None:
        self._devices = devices

    async def List(
        self, request: api.ListPodResourcesRequest, context: grpc.aio.ServicerContext
    ) -> api.ListPodResourcesResponse:
        return api.ListPodResourcesResponse(pod_resources=[self._pod(pod) for pod in self._devices.pods])

    async def Get(
        self, request: api.GetPodResourcesRequest, context: grpc.aio.ServicerContext
    ) -> api.GetPodResourcesResponse:
        pod = f"{request.pod_namespace}/{request.pod_name}"
        if pod not in self._devices.pods:
            await context.abort(grpc.StatusCode.UNKNOWN, f"pod {request.pod_name} not found")
        return api.GetPodResourcesResponse(pod_resources=self._pod(pod))

    async def GetAllocatableResources(
        self, request: api.AllocatableResourcesRequest, context: grpc.aio.ServicerContext
    ) -> api.AllocatableResourcesResponse:
        return api.AllocatableResourcesResponse(
            devices=[
                entry
                for resource in self._devices.devices
                for entry in self._entries(resource, self._devices.healthy(resource))
            ]
        )

    def _pod(self, pod: str) -> api.PodResources:
        namespace, _, name = pod.partition("/")
        return api.PodResources(
            name=name,
            namespace=namespace,
            containers=[self._container(name, held) for name, held in self._devices.pods[pod].items()],
        )

    def _container(self, name: str, held: Mapping[str, tuple[str, ...]]) -> api.ContainerResources:
        entries = [entry for resource, ids in held.items() for entry in self._entries(resource, ids)]
        self._devices.rng.shuffle(entries)
        return api.ContainerResources(name=name, devices=entries)

    def _entries(self, resource: str, ids: Iterable[str]) -> list[api.ContainerDevices]:
        """One for each device, as the kubelet does."""
        entries = []
        for name in ids:
            entry = api.ContainerDevices(resource_name=resource, device_ids=[name])
            device = self._devices.devices.get(resource, {}).get(name)
            if device is not None and device.HasField("topology"):
                entry.topology.nodes.extend(api.NUMANode(ID=node.ID) for node in device.topology.nodes)
            entries.append(entry)
        return entries
