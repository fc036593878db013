"""The Register call: tells a kubelet without a plugin watcher where a resource is served."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from deviceplugin.endpoint import Endpoint
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet.deviceplugin_pb2_grpc import DevicePluginStub, RegistrationStub
from deviceplugin.kubeletdir import Identity, identify
from deviceplugin.plugin import OPTIONS, VERSION
from deviceplugin.session import Session
from sriov.errors import HostError

DIAL_SECONDS = 5.0
REGISTER_SECONDS = 15.0               # the kubelet dials back before it answers, and has 10 s for that


def backoff(first: float, longest: float) -> Iterator[float]:
    """Delays in seconds, doubling."""
    delay = first
    while True:
        yield delay
        delay = min(2 * delay, longest)


async def register(kubelet_socket: Path, endpoint: Path, resource: str) -> None:
    """Make sure that our own socket answers, then call Register; raise HostError if either fails."""
    try:
        async with grpc.aio.insecure_channel(f"unix:{endpoint}") as channel:
            await DevicePluginStub(channel).GetDevicePluginOptions(api.Empty(), timeout=DIAL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise HostError(f"cannot register {resource}: {endpoint} is silent: {error.details()}") from error
    try:
        async with grpc.aio.insecure_channel(f"unix:{kubelet_socket}") as channel:
            request = api.RegisterRequest(
                version=VERSION, endpoint=endpoint.name, resource_name=resource, options=OPTIONS
            )
            await RegistrationStub(channel).Register(request, timeout=REGISTER_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise HostError(
            f"cannot register {resource}: the kubelet at {kubelet_socket} says {error.code().name}: "
            f"{error.details()}"
        ) from error


class Registrar:
    """Registers one incarnation of an endpoint once with every kubelet that comes up.

    A kubelet is new when its socket is; `forget` says that it is as good as new.
    """

    def __init__(self, kubelet_socket: Path, endpoint: Endpoint, resource: str, session: Session) -> None:
        self._socket = kubelet_socket
        self._endpoint = endpoint.path
        self._resource = resource
        self._session = session
        self._kubelet: Identity | None = None
        self._seen = 0.0                       # since when there is this kubelet
        self._next = 0.0
        self._delays = backoff(0.02, 30)       # short at first: the socket exists before it accepts

    def forget(self) -> None:
        """The kubelet has let go of us: register again, although it is the same one."""
        self._session.registered = False

    def wait_seconds(self, grace: float) -> float | None:
        """How long until `attempt` should be called; None: not before something changes."""
        now = time.monotonic()
        kubelet = identify(self._socket)
        if kubelet != self._kubelet:
            self._kubelet, self._seen, self._next = kubelet, now, now
            self._delays = backoff(0.02, 30)
            self._session.registered = False
        if kubelet is None or self._session.registered:
            return None
        # The streams of a dead kubelet end at once. Registering beside a living stream makes the kubelet
        # drop the new one when the old one ends.
        settled = self._seen + grace if self._session.streams else 0.0
        return max(0.0, settled - now, self._next - now)

    async def attempt(self) -> None:
        """Register; raises HostError, after which `wait_seconds` backs off."""
        self._next = time.monotonic() + next(self._delays)
        await register(self._socket, self._endpoint, self._resource)
        self._delays = backoff(0.02, 30)
        self._session.notify(None)
