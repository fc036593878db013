"""How the stand-in kubelet finds and keeps plugins: the Register call, the plugin watcher, the clients.

Test equipment. It keeps the hard edges of the kubelet (release 1.36): one client for each resource name; when
any stream for a name ends, whichever client has the name then is the one disconnected; a plugin in the
watcher's folder is dialled once, and again only if asking it failed or its socket was made anew.
"""

from __future__ import annotations

import asyncio
import logging
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import grpc

from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet import pluginregistration_pb2 as watcher
from deviceplugin.kubelet.deviceplugin_pb2_grpc import DevicePluginStub
from deviceplugin.kubelet.pluginregistration_pb2_grpc import RegistrationStub
from tests.support.kubelet_devices import DeviceManager

log = logging.getLogger(__name__)

DIAL_SECONDS = 10.0
GET_INFO_SECONDS = 1.0
NOTIFY_SECONDS = 5.0
FIRST_RETRY, LONGEST_RETRY = 0.5, 122.0

_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class PluginError(Exception):
    """The kubelet's answer to a plugin that it does not take."""


def check_plugin(resource: str, versions: Iterable[str]) -> None:
    """Raise PluginError unless the kubelet would take a device plugin for `resource`."""
    if "v1beta1" not in versions:
        raise PluginError(f"requested API versions {list(versions)} are not supported by kubelet: v1beta1")
    prefix, slash, name = resource.partition("/")
    native = not slash or prefix == "kubernetes.io" or prefix.endswith(".kubernetes.io")
    legal = _PREFIX.fullmatch(f"requests.{prefix}") and len(prefix) <= 244 and _NAME.fullmatch(name)
    if native or prefix.startswith("requests.") or not legal:
        raise PluginError(f"the resource name {resource!r} is not that of an extended resource")


@dataclass(slots=True, eq=False)
class Client:
    resource: str
    channel: grpc.aio.Channel
    stub: DevicePluginStub
    stream: grpc.aio.UnaryStreamCall | None = None


class Clients:
    """One client for each resource name."""

    def __init__(self, devices: DeviceManager) -> None:
        self._devices = devices
        self._by_resource: dict[str, Client] = {}
        self._runs: set[asyncio.Task[None]] = set()

    async def connect(self, resource: str, socket: Path) -> None:
        """Dial, ask for the options, and read its ListAndWatch from then on; raises grpc.aio.AioRpcError."""
        channel = dial(socket, authority="localhost")
        client = Client(resource, channel, DevicePluginStub(channel))
        self._by_resource[resource] = client
        try:
            options = await client.stub.GetDevicePluginOptions(
                api.Empty(), timeout=DIAL_SECONDS, wait_for_ready=True
            )
        except grpc.aio.AioRpcError:
            self._by_resource.pop(resource, None)
            await channel.close()
            raise
        self._devices.connected(resource, client.stub, options)
        run = asyncio.create_task(self._run(client), name=f"ListAndWatch of {resource}")
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    async def _run(self, client: Client) -> None:
        client.stream = client.stub.ListAndWatch(api.Empty())
        try:
            async for response in client.stream:
                self._devices.listed(client.resource, response.devices)
        except grpc.aio.AioRpcError as error:
            log.info("ListAndWatch of %s ended: %s", client.resource, error.code().name)
        except asyncio.CancelledError:
            # Raised as well where the channel is closed or the call cancelled from here.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        await client.channel.close()
        await self.disconnect(client.resource)

    async def disconnect(self, resource: str) -> None:
        """Of whichever client has the name now, even if it was another one that ended."""
        client = self._by_resource.pop(resource, None)
        if client is not None:
            self._devices.disconnected(resource)
            await client.channel.close()

    def cancel_stream(self, resource: str) -> None:
        stream = self._by_resource[resource].stream
        if stream is not None:
            stream.cancel()

    async def close(self) -> None:
        """As if the process had died: every connection is closed."""
        runs = list(self._runs)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        for client in list(self._by_resource.values()):
            await client.channel.close()
        self._by_resource.clear()


class Registration:
    """`v1beta1.Registration` on device-plugins/kubelet.sock."""

    def __init__(self, folder: Path, clients: Clients) -> None:
        self._folder = folder
        self._clients = clients
        self.calls: list[tuple[float, api.RegisterRequest]] = []       # when (monotonic), what

    async def Register(self, request: api.RegisterRequest, context: grpc.aio.ServicerContext) -> api.Empty:
        self.calls.append((time.monotonic(), request))
        try:
            check_plugin(request.resource_name, [request.version])
            await self._clients.connect(request.resource_name, self._folder / request.endpoint)
        except PluginError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except grpc.aio.AioRpcError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, f"failed to dial device plugin: {error.details()}")
        return api.Empty()


@dataclass(slots=True)
class Watched:
    """A socket in the watcher's folder, in one incarnation."""

    identity: tuple[int, int]
    resource: str | None = None       # set when it was taken up: it is not dialled again then


@dataclass(slots=True)
class Retry:
    """After failures with a path: of whichever incarnation, and whether it is still there or not."""

    due: float                        # monotonic
    delay: float                      # seconds, of the next failure


class PluginWatcher:
    """Looks at plugins_registry every `period` seconds (the kubelet: 1 s, woken by no event either).

    `first_retry`: seconds that a path is left alone after its first failure.
    """

    def __init__(self, folder: Path, clients: Clients, period: float, first_retry: float) -> None:
        self._folder = folder
        self._clients = clients
        self._period = period
        self._first_retry = first_retry
        self._watched: dict[Path, Watched] = {}
        self._retries: dict[Path, Retry] = {}
        self._dialled: set[Path] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._reconcile(tasks)
                await asyncio.sleep(self._period)

    async def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        present = find_sockets(self._folder)
        for path, watched in list(self._watched.items()):
            if present.get(path) != watched.identity:
                del self._watched[path]
                if watched.resource is not None:
                    await self._clients.disconnect(watched.resource)
        for path, identity in present.items():
            watched = self._watched.setdefault(path, Watched(identity))
            retry = self._retries.get(path)
            waits = retry is not None and time.monotonic() < retry.due
            if watched.resource is None and not waits and path not in self._dialled:
                self._dialled.add(path)
                tasks.create_task(self._take(path, watched), name=f"register {path}")

    async def _take(self, path: Path, watched: Watched) -> None:
        try:
            await self._register(path, watched)
        except (PluginError, TimeoutError, grpc.aio.AioRpcError) as error:
            log.info("%s is not registered: %s", path, error)
            last = self._retries.get(path)
            delay = self._first_retry if last is None else last.delay
            self._retries[path] = Retry(time.monotonic() + delay, min(2 * delay, LONGEST_RETRY))
        else:
            self._retries.pop(path, None)
        finally:
            self._dialled.discard(path)

    async def _register(self, path: Path, watched: Watched) -> None:
        async with dial(path, authority=quote(str(path), safe="")) as channel:
            async with asyncio.timeout(DIAL_SECONDS):
                await channel.channel_ready()
            stub = RegistrationStub(channel)
            info = await stub.GetInfo(watcher.InfoRequest(), timeout=GET_INFO_SECONDS)
            try:
                check_plugin(info.name, info.supported_versions)
            except PluginError as error:
                await self._notify(stub, f"plugin validation failed with err: {error}")
                raise
            watched.resource = info.name
            try:
                await self._clients.connect(info.name, Path(info.endpoint or path))
            except grpc.aio.AioRpcError as error:
                await self._notify(stub, f"plugin registration failed with err: {error.details()}")
            else:
                await self._notify(stub, "")

    async def _notify(self, stub: RegistrationStub, error: str) -> None:
        status = watcher.RegistrationStatus(plugin_registered=not error, error=error)
        await stub.NotifyRegistrationStatus(status, timeout=NOTIFY_SECONDS)


def dial(socket: Path, *, authority: str) -> grpc.aio.Channel:
    """Its own connection: otherwise channels to one path share one, and its back-off."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", authority)]
    return grpc.aio.insecure_channel(f"unix:{socket}", options)


def find_sockets(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every unix socket below `folder` that has no hidden name, with what tells its incarnations apart."""
    found = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue                           # it went while we looked
        if stat.S_ISSOCK(status.st_mode) and not path.name.startswith("."):
            found[path] = status.st_ino, status.st_mtime_ns
    return found
