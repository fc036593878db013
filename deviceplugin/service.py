"""Serves every resource to the kubelet and keeps it registered, whatever happens to sockets and kubelet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deviceplugin import deviceinfo
from deviceplugin.endpoint import Endpoint, check_unserved, make_room, serving
from deviceplugin.folders import watch
from deviceplugin.inventory import Inventory
from deviceplugin.kubeletdir import KubeletDirectory, Way
from deviceplugin.plugin import make_server
from deviceplugin.registration import Registrar, backoff
from deviceplugin.session import Session
from sriov.errors import HostError, InputError, Refused, SriovError

log = logging.getLogger(__name__)

# Seconds from the kubelet's GetInfo to its word whether it takes the plugin: 10 to dial, 5 to say so, and slack.
CONNECTING = 20.0
LONGEST_PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    kubelet: KubeletDirectory = field(default_factory=KubeletDirectory)
    device_info: Path = deviceinfo.DIRECTORY
    stream_grace: float = 1.0         # seconds that the kubelet has to open a new stream after it closed one
    patience: float = 5.0             # seconds that its watcher has to register a socket; it looks every second
    poll: float = 5.0                 # seconds; the backstop for inotify


class Service:
    """Serves the resources of the inventory's pools, those that it has at the moment."""

    def __init__(self, config: ServiceConfig, inventory: Inventory) -> None:
        self._config = config
        self._inventory = inventory
        self._served: dict[str, tuple[Resource, asyncio.Task[None]]] = {}

    @property
    def problems(self) -> Mapping[str, str | None]:
        """By resource, why the kubelet does not take its VFs from us; None where it does."""
        return {name: resource.problem for name, (resource, _) in self._served.items()}

    async def run(self) -> None:
        """Serve until cancelled; then the sockets are gone.

        Resources that a newer snapshot has are served from then on; the sockets of those that it has not are
        closed, upon which the kubelet gives their VFs to no more pods. Failures of registration are logged, once
        per change, and tried again: this never gives up.
        """
        folders = self._config.kubelet.folders
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(self._config.kubelet.root, lambda: folders, self._wake_all),
                              name="watch the kubelet's directory")
            snapshot = self._inventory.snapshot
            while True:
                await self._end([name for name in self._served if name not in snapshot.pools])
                for name in snapshot.pools:
                    if name not in self._served:
                        resource = Resource(self._config, name, self._inventory)
                        self._served[name] = resource, tasks.create_task(resource.run(), name=f"serve {name}")
                snapshot = await self._inventory.wait_newer(snapshot.version)

    async def _end(self, names: Sequence[str]) -> None:
        tasks = [self._served.pop(name)[1] for name in names]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)      # a resource of the same name may come again, to the same path

    def _wake_all(self) -> None:
        for resource, _ in self._served.values():
            resource.wake.set()


class Resource:
    """One resource: one server on one socket at a time, made anew when the kubelet needs it to be.

    `wake` is a hint from inotify and the servicers; what happened is read from the file system and from
    the session, so that lost and spurious hints do no harm.
    """

    def __init__(self, config: ServiceConfig, resource: str, inventory: Inventory) -> None:
        self.wake = asyncio.Event()
        self._config = config
        self._resource = resource
        self._inventory = inventory
        self._session: Session | None = None
        self._reported: str | None = None
        self._delays = backoff(0.5, 30)
        self._graces = backoff(config.stream_grace, 60)
        self._grace = next(self._graces)
        self._patience = config.patience
        self._renames = False             # the next socket has another name: the kubelet left this one alone
        self._refused = False             # and has not registered us since

    @property
    def problem(self) -> str | None:
        """Why the kubelet does not list its VFs; None: it does."""
        if self._session is not None and self._session.streams:
            return None
        return self._reported or "waiting for the kubelet"

    async def run(self) -> None:
        while True:
            self.wake.clear()
            try:
                await self._serve()
            except OSError as error:      # a kubelet that starts wipes its folder under our feet
                self._report(HostError(f"cannot serve {self._resource}: {error}"))
                await self._wait(next(self._delays))
            except SriovError as error:
                self._report(error)
                await self._wait(next(self._delays))

    async def _serve(self) -> None:
        """Serve one incarnation of the socket, until it has to be made anew; raise if it cannot be served."""
        kubelet, resource = self._config.kubelet, self._resource
        for path in kubelet.sockets(resource):
            make_room(path)
        way = kubelet.way()
        renames, self._renames = self._renames and way is Way.WATCHER, False
        path = kubelet.another_socket(resource) if renames else kubelet.socket(way, resource)
        session = self._session = Session(self.wake.set)
        server = make_server(resource, self._inventory, self._config.device_info, session)
        async with serving(server, path) as endpoint:
            log.info("%s: serving on %s", resource, endpoint.path)
            match way:
                case Way.WATCHER:
                    await self._keep_watched(endpoint, session)
                case Way.CALL:
                    await self._keep_called(endpoint, session)

    async def _keep_watched(self, endpoint: Endpoint, session: Session) -> None:
        """Until the socket is gone, or the kubelet refused it, let go of it or left it alone for too long."""
        own = self._config.kubelet.socket(Way.WATCHER, self._resource)
        began = time.monotonic()
        while endpoint.present():
            self.wake.clear()
            left = self._grace_left(session)
            if session.refusal is not None:
                self._report(Refused(f"the kubelet refuses {self._resource}: {session.refusal}"))
                self._refused = True
                # Whether it tries again by itself goes by its release and by what failed. No shortcut by
                # `wake`: making a socket wakes us.
                await asyncio.sleep(next(self._delays))
                if session.refusal is not None:
                    return
            elif session.registered:
                self._registered()
            elif session.untouched and time.monotonic() >= self._give_up_at(session, began):
                self._rename(session)
                return
            if left == 0.0:
                log.warning("%s: the kubelet has no stream open, making the socket anew", self._resource)
                self._renew_grace(session)
                return
            if endpoint.path != own:
                with suppress(HostError, InputError):      # what cannot be told ends no plugin that works
                    check_unserved(own)   # another device plugin for the resource puts its socket there
            await self._wait(self._give_up_at(session, began) - time.monotonic() if session.untouched else left)
        log.warning("%s: %s was deleted, making it anew", self._resource, endpoint.path)

    def _give_up_at(self, session: Session, began: float) -> float:
        """Monotonic. Once it has asked, the kubelet dials: were the socket gone by then, it would forget the client
        that it has for the resource, which may be that of the next socket (its clients are not kept by path).
        """
        patient = began + self._patience
        return patient if session.asked is None else max(patient, session.asked + CONNECTING)

    def _rename(self, session: Session) -> None:
        """A path that it failed with, such as that of a socket that a reboot left, the kubelet leaves alone for up
        to two minutes, though the socket be made anew (its pkg/util/goroutinemap). Another path it takes at once.
        """
        self._renames, self._patience = True, min(2 * self._patience, LONGEST_PATIENCE)
        if not self._refused:
            hint = "is it running?" if session.asked is None else "it gives an answer 1 s: is the node overloaded?"
            self._report(HostError(f"the kubelet does not register {self._resource}", hint=hint))

    async def _keep_called(self, endpoint: Endpoint, session: Session) -> None:
        """Until the socket is gone (a kubelet removes them all when it starts) or the way has changed."""
        kubelet = self._config.kubelet
        registrar = Registrar(kubelet.kubelet_socket, endpoint, self._resource, session)
        while endpoint.present():
            self.wake.clear()
            left = self._grace_left(session)
            if left == 0.0:
                log.warning("%s: the kubelet has no stream open, registering again", self._resource)
                self._renew_grace(session)
                registrar.forget()
            due = registrar.wait_seconds(self._config.stream_grace)
            if due == 0.0:
                if kubelet.way() is not Way.CALL:
                    return
                await self._attempt(registrar, endpoint)
                continue
            await self._wait(min((seconds for seconds in (left, due) if seconds is not None), default=None))
        log.warning("%s: %s was deleted, making it anew", self._resource, endpoint.path)

    async def _attempt(self, registrar: Registrar, endpoint: Endpoint) -> None:
        """Register, or give up as soon as the socket is gone: the kubelet dials a missing one for 10 s."""
        attempt = asyncio.create_task(registrar.attempt(), name=f"register {self._resource}")
        attempt.add_done_callback(lambda _: self.wake.set())
        try:
            while not attempt.done() and endpoint.present():
                self.wake.clear()
                await self._wait(None)
        finally:
            attempt.cancel()
            await asyncio.wait([attempt])
        try:
            attempt.result()
        except asyncio.CancelledError:
            return                    # by us: nothing else cancels it
        except HostError as error:
            self._report(error)
        else:
            self._registered()

    def _grace_left(self, session: Session) -> float | None:
        """Seconds that the kubelet still has to open a stream; None: it owes us none."""
        if session.owed is None:
            return None
        return max(0.0, session.owed + self._grace - time.monotonic())

    def _renew_grace(self, session: Session) -> None:
        """Twice as long after each time that the kubelet registered us but never opened a stream."""
        if session.watched:
            self._graces = backoff(self._config.stream_grace, 60)
        self._grace = next(self._graces)
        session.watched, session.owed = False, None

    async def _wait(self, seconds: float | None) -> None:
        """Until woken, at most `seconds` and at most until the next poll."""
        limit = self._config.poll if seconds is None else min(seconds, self._config.poll)
        try:
            async with asyncio.timeout(limit):
                await self.wake.wait()
        except TimeoutError:
            return

    def _registered(self) -> None:
        if self._reported != "":
            log.info("%s: registered with the kubelet", self._resource)
        self._reported = ""
        self._delays = backoff(0.5, 30)
        self._patience, self._refused = self._config.patience, False

    def _report(self, error: SriovError) -> None:
        if str(error) != self._reported:
            self._reported = str(error)
            log.error("%s: %s; trying again", self._resource, error)
