"""The gRPC servicers of one resource: protobuf to values and back, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from deviceplugin.allocation import Allocation, allocate, prefer
from deviceplugin.deviceinfo import DeviceInfo, write_device_info
from deviceplugin.inventory import Inventory
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet import pluginregistration_pb2 as watcher
from deviceplugin.kubelet.deviceplugin_pb2_grpc import add_DevicePluginServicer_to_server
from deviceplugin.kubelet.pluginregistration_pb2_grpc import add_RegistrationServicer_to_server
from deviceplugin.session import Session
from sriov.errors import InputError, Refused, SriovError
from sriov.pools.assignment import Member

VERSION = "v1beta1"
OPTIONS = api.DevicePluginOptions(get_preferred_allocation_available=True)


class DevicePlugin:
    """`v1beta1.DevicePlugin`: what the kubelet's device manager asks."""

    def __init__(self, resource: str, inventory: Inventory, device_info: Path, session: Session) -> None:
        self._resource = resource
        self._inventory = inventory
        self._device_info = device_info
        self._session = session

    async def GetDevicePluginOptions(
        self, request: api.Empty, context: grpc.aio.ServicerContext
    ) -> api.DevicePluginOptions:
        return OPTIONS

    async def ListAndWatch(self, request: api.Empty, context: grpc.aio.ServicerContext) -> None:
        """Sends the whole list whenever it changed; ends when the client goes away (gRPC cancels it then)."""
        version, sent = 0, None
        with self._session.stream():
            while True:
                snapshot = await self._inventory.wait_newer(version)
                version = snapshot.version
                members = snapshot.get_members(self._resource)
                response = format_devices(members, snapshot.excludes_topology(self._resource))
                if response != sent:
                    await context.write(response)
                    sent = response

    async def GetPreferredAllocation(
        self, request: api.PreferredAllocationRequest, context: grpc.aio.ServicerContext
    ) -> api.PreferredAllocationResponse:
        members = self._inventory.snapshot.get_members(self._resource)
        try:
            preferred = [
                prefer(members, wish.available_deviceIDs, wish.must_include_deviceIDs, wish.allocation_size)
                for wish in request.container_requests
            ]
        except SriovError as error:
            await context.abort(status(error), str(error))
        return api.PreferredAllocationResponse(
            container_responses=[api.ContainerPreferredAllocationResponse(deviceIDs=ids) for ids in preferred]
        )

    async def Allocate(
        self, request: api.AllocateRequest, context: grpc.aio.ServicerContext
    ) -> api.AllocateResponse:
        """Every container is decided before the first file is written: all of the request or nothing."""
        resource = self._resource
        members = self._inventory.snapshot.get_members(resource)
        try:
            allocations = [
                allocate(resource, members, wish.devices_ids) for wish in request.container_requests
            ]
            for vf in (vf for allocation in allocations for vf in allocation.vfs):
                write_device_info(self._device_info, DeviceInfo(resource=resource, address=vf.address))
        except SriovError as error:
            await context.abort(status(error), str(error))
        return api.AllocateResponse(container_responses=[format_allocation(each) for each in allocations])

    async def PreStartContainer(
        self, request: api.PreStartContainerRequest, context: grpc.aio.ServicerContext
    ) -> api.PreStartContainerResponse:
        return api.PreStartContainerResponse()


class Registration:
    """`pluginregistration.Registration`: what the kubelet's plugin watcher asks of the same socket."""

    def __init__(self, resource: str, session: Session) -> None:
        # No endpoint: the socket that was asked. Its path may differ between the agent's mounts and the host.
        self._info = watcher.PluginInfo(type="DevicePlugin", name=resource, supported_versions=[VERSION])
        self._session = session

    async def GetInfo(
        self, request: watcher.InfoRequest, context: grpc.aio.ServicerContext
    ) -> watcher.PluginInfo:
        self._session.ask()
        return self._info

    async def NotifyRegistrationStatus(
        self, request: watcher.RegistrationStatus, context: grpc.aio.ServicerContext
    ) -> watcher.RegistrationStatusResponse:
        self._session.notify(None if request.plugin_registered else request.error or "no reason given")
        return watcher.RegistrationStatusResponse()


def make_server(resource: str, inventory: Inventory, device_info: Path, session: Session) -> grpc.aio.Server:
    """A server, not yet started, that answers the kubelet for `resource`."""
    server = grpc.aio.server()
    add_DevicePluginServicer_to_server(DevicePlugin(resource, inventory, device_info, session), server)
    add_RegistrationServicer_to_server(Registration(resource, session), server)
    return server


def format_devices(members: Sequence[Member], exclude_topology: bool) -> api.ListAndWatchResponse:
    return api.ListAndWatchResponse(
        devices=[
            api.Device(
                ID=member.vf.address,
                health="Healthy" if member.fault is None else "Unhealthy",
                topology=None if exclude_topology else format_topology(member.vf.numa_node),
            )
            for member in members
        ]
    )


def format_topology(numa_node: int | None) -> api.TopologyInfo | None:
    """None where the platform does not say: an empty TopologyInfo would mean aligned with no node at all."""
    return None if numa_node is None else api.TopologyInfo(nodes=[api.NUMANode(ID=numa_node)])


def format_allocation(allocation: Allocation) -> api.ContainerAllocateResponse:
    return api.ContainerAllocateResponse(
        envs=allocation.env,
        devices=[
            api.DeviceSpec(
                host_path=node.host_path, container_path=node.container_path, permissions=node.permissions
            )
            for node in allocation.devices
        ],
    )


def status(error: SriovError) -> grpc.StatusCode:
    match error:
        case InputError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case Refused():
            return grpc.StatusCode.FAILED_PRECONDITION
        case _:
            return grpc.StatusCode.INTERNAL
