"""Sockets that are deleted, stale or taken; kubelets that let go of a plugin or refuse it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from deviceplugin.endpoint import check_unserved, make_room
from deviceplugin.inventory import Inventory
from deviceplugin.kubelet import deviceplugin_pb2 as api
from deviceplugin.kubelet import pluginregistration_pb2 as watcher
from deviceplugin.kubelet.deviceplugin_pb2_grpc import add_RegistrationServicer_to_server
from deviceplugin.kubelet.pluginregistration_pb2_grpc import RegistrationStub
from deviceplugin.kubelet.pluginregistration_pb2_grpc import (
    add_RegistrationServicer_to_server as add_watched,
)
from deviceplugin.kubeletdir import KubeletDirectory, identify
from sriov.errors import HostError, Refused
from tests.deviceplugin.harness import (
    RESOURCE,
    Stream,
    agent,
    assign_members,
    configure,
    connect,
    make_members,
    run,
    socket_of,
    until,
)
from tests.support.kubelet import Kubelet
from tests.support.kubelet_devices import UnexpectedAdmissionError
from tests.support.kubelet_plugins import dial


def two_devices(resource: str = RESOURCE) -> Inventory:
    inventory = Inventory()
    inventory.publish(assign_members(*make_members(2), resource=resource))
    return inventory


def test_a_deleted_socket_is_made_anew(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        path = socket_of(root, plugin_watcher)
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices()),
        ):
            await kubelet.wait_allocatable(RESOURCE, 2)
            for _ in range(3):
                path.unlink()
                await until(path.exists)
                while not await admitted(kubelet):  # noqa: ASYNC110 - a controller tries again, too
                    await asyncio.sleep(0.005)
                kubelet.remove("default/a")

    run(scenario)


async def admitted(kubelet: Kubelet) -> bool:
    """A kubelet that has not let go of the old socket yet refuses the pod."""
    try:
        await kubelet.admit("default/a", {"app": {RESOURCE: 1}})
    except UnexpectedAdmissionError:
        return False
    return True


class OddKubelet:
    """Takes the Register call, and then neither dials the plugin nor, if it `hangs`, answers."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs
        self.calls = 0

    async def Register(self, request: api.RegisterRequest, context: grpc.aio.ServicerContext) -> api.Empty:
        self.calls += 1
        if self._hangs:
            await asyncio.Event().wait()
        return api.Empty()

    @asynccontextmanager
    async def serving(self, root: Path) -> AsyncIterator[None]:
        folder = socket_of(root, False).parent
        folder.mkdir()
        server = grpc.aio.server()
        add_RegistrationServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{folder / 'kubelet.sock'}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


def test_a_socket_deleted_during_the_register_call_is_made_anew_at_once(root: Path) -> None:
    async def scenario() -> None:
        odd = OddKubelet(hangs=True)
        async with odd.serving(root), agent(configure(root), two_devices()):
            await until(lambda: odd.calls == 1)
            socket_of(root, False).unlink()
            await until(lambda: odd.calls == 2)
            assert socket_of(root, False).exists()

    run(scenario, 8.0)      # the call that hangs would last 15


def test_a_kubelet_that_registers_but_opens_no_stream_is_called_again_ever_more_slowly(root: Path) -> None:
    async def scenario() -> None:
        odd = OddKubelet(hangs=False)
        calls: list[float] = []
        async with odd.serving(root), agent(configure(root, stream_grace=0.05), two_devices()):
            while len(calls) < 4:
                await until(lambda: odd.calls > len(calls))
                calls.append(time.monotonic())
        gaps = [later - earlier for earlier, later in pairwise(calls)]
        assert gaps[0] > 0.04
        assert gaps[2] > 2 * gaps[0]

    run(scenario)


def test_a_closed_stream_makes_the_agent_register_again(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices()),
        ):
            await kubelet.wait_allocatable(RESOURCE, 2)
            for _ in range(3):
                kubelet.cancel_stream(RESOURCE)
                await kubelet.wait_allocatable(RESOURCE, 0)
                await kubelet.wait_allocatable(RESOURCE, 2)

    run(scenario)


def test_a_stream_of_somebody_else_does_not_count_as_lost(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        path = socket_of(root, plugin_watcher)
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices()),
        ):
            await kubelet.wait_allocatable(RESOURCE, 2)
            before, calls = identify(path), len(kubelet.register_calls)
            async with connect(path) as stub:
                stream = Stream(stub)
                await stream.read()
                stream.cancel()
            await asyncio.sleep(0.3)
            assert (identify(path), len(kubelet.register_calls)) == (before, calls)

    run(scenario)


def test_only_one_way_is_used_at_a_time(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices()),
        ):
            await kubelet.wait_allocatable(RESOURCE, 2)
            await kubelet.restart()
            await kubelet.wait_allocatable(RESOURCE, 2)
            assert socket_of(root, plugin_watcher).exists()
            assert not socket_of(root, not plugin_watcher).exists()
            assert bool(kubelet.register_calls) is not plugin_watcher

    run(scenario)


def test_one_register_call_for_each_kubelet(root: Path) -> None:
    async def scenario() -> None:
        async with Kubelet(root, plugin_watcher=False) as kubelet, agent(configure(root), two_devices()):
            for count in (1, 2, 3):
                await kubelet.wait_allocatable(RESOURCE, 2)
                await asyncio.sleep(0.3)                    # longer than the grace: no second call comes
                assert len(kubelet.register_calls) == count
                await kubelet.restart()

    run(scenario)


def test_the_way_changes_with_the_kubelet(root: Path) -> None:
    async def scenario() -> None:
        async with agent(configure(root), two_devices()):
            for plugin_watcher in (False, True, False):
                async with Kubelet(root, plugin_watcher=plugin_watcher) as kubelet:
                    await kubelet.wait_allocatable(RESOURCE, 2)
                    assert socket_of(root, plugin_watcher).exists()
                if plugin_watcher:
                    shutil.rmtree(kubelet.plugins_registry)

    run(scenario)


def test_sockets_are_gone_after_a_clean_stop(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        path = socket_of(root, plugin_watcher)
        async with Kubelet(root, plugin_watcher=plugin_watcher) as kubelet:
            async with agent(configure(root), two_devices()):
                await kubelet.wait_allocatable(RESOURCE, 2)
            assert not path.exists()
            assert [left.name for left in path.parent.iterdir() if left.name.startswith(".")] == []

    run(scenario)


def listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def test_a_socket_of_a_dead_process_is_replaced(root: Path, plugin_watcher: bool) -> None:
    async def scenario() -> None:
        for way in (True, False):
            listen(socket_of(root, way)).close()
        shutil.rmtree(socket_of(root, not plugin_watcher).parent)
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices()),
        ):
            await kubelet.wait_allocatable(RESOURCE, 2)

    run(scenario)


def test_a_resource_that_another_process_serves_is_left_to_it_until_it_ends(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path = socket_of(root, True)
        listener = listen(path)
        theirs = identify(path)
        async with agent(configure(root), two_devices()):
            await until(lambda: "serves it" in caplog.text)
            assert identify(path) == theirs
            listener.close()
            async with Kubelet(root) as kubelet:
                await kubelet.wait_allocatable(RESOURCE, 2)

    run(scenario)
    assert caplog.text.count("serves it (hint: stop the other device plugin for this resource") == 1


def test_a_socket_that_another_process_put_in_place_of_ours_stays(
    root: Path, plugin_watcher: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path = socket_of(root, plugin_watcher)
        async with Kubelet(root, plugin_watcher=plugin_watcher) as kubelet:
            async with agent(configure(root), two_devices()):
                await kubelet.wait_allocatable(RESOURCE, 2)
                path.unlink()
                listener = listen(path)
                theirs = identify(path)
                await until(lambda: "serves it" in caplog.text)
            assert identify(path) == theirs
            listener.close()

    run(scenario)


class Unready:
    """A plugin that does not say what it is."""

    def __init__(self, asked: asyncio.Event) -> None:
        self._asked = asked

    async def GetInfo(self, request: watcher.InfoRequest, context: grpc.aio.ServicerContext) -> watcher.PluginInfo:
        self._asked.set()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        raise AssertionError("abort raises")

    async def NotifyRegistrationStatus(
        self, request: watcher.RegistrationStatus, context: grpc.aio.ServicerContext
    ) -> watcher.RegistrationStatusResponse:
        return watcher.RegistrationStatusResponse()


@asynccontextmanager
async def backing_off(root: Path) -> AsyncIterator[Kubelet]:
    """A kubelet that has failed with the resource's socket, and leaves the name alone for a minute."""
    path = socket_of(root, True)
    server, asked = grpc.aio.server(), asyncio.Event()
    add_watched(Unready(asked), server)
    path.parent.mkdir()
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    async with Kubelet(root, first_retry=60.0) as kubelet:
        await asked.wait()
        await server.stop(None)
        yield kubelet


def test_a_kubelet_that_backs_off_from_a_name_is_offered_another_one(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that a reboot left, and that nobody served for a while, would cost up to two minutes."""
    async def scenario() -> None:
        async with backing_off(root) as kubelet:
            for _ in range(2):                    # the second agent finds no socket of the first one
                async with agent(configure(root, patience=0.3), two_devices()):
                    await kubelet.wait_allocatable(RESOURCE, 2)
                    (path,) = socket_of(root, True).parent.iterdir()
                    assert path.name.startswith("intel.com_sriov~")
                await kubelet.wait_allocatable(RESOURCE, 0)

    run(scenario)
    assert caplog.text.count("the kubelet does not register intel.com/sriov (hint: is it running?") == 2


def test_a_kubelet_that_has_asked_finds_the_socket_where_it_was(root: Path) -> None:
    """It dials again then: of two sockets in a row it may forget the second one's client with the first one."""
    async def scenario() -> None:
        path = socket_of(root, True)
        path.parent.mkdir()
        async with agent(configure(root, patience=1.0), two_devices()):
            await until(path.exists)
            served = identify(path)
            async with dial(path, authority="localhost") as channel:
                await RegistrationStub(channel).GetInfo(watcher.InfoRequest())
            await asyncio.sleep(2.5)
            assert identify(path) == served

    run(scenario)


def test_what_a_dead_agent_left_under_another_name_is_removed(root: Path) -> None:
    async def scenario() -> None:
        left = KubeletDirectory(root).another_socket(RESOURCE)
        other = KubeletDirectory(root).another_socket(f"{RESOURCE}_dpdk")
        for path in (left, other):
            listen(path).close()
        async with Kubelet(root) as kubelet, agent(configure(root), two_devices()):
            await kubelet.wait_allocatable(RESOURCE, 2)
            assert sorted(path.name for path in left.parent.iterdir()) == ["intel.com_sriov.sock", other.name]

    run(scenario)


def test_another_plugin_of_the_resource_ends_ours_under_its_other_name(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kubelet takes a resource from one plugin: of two it would drop now the one, now the other."""
    async def scenario() -> None:
        async with backing_off(root) as kubelet, agent(configure(root, patience=0.3), two_devices()):
            await kubelet.wait_allocatable(RESOURCE, 2)
            theirs = listen(socket_of(root, True))
            await kubelet.wait_allocatable(RESOURCE, 0)
            theirs.close()

    run(scenario)
    assert "serves it (hint: stop the other device plugin for this resource" in caplog.text


def test_check_unserved(root: Path) -> None:
    path = root / "x.sock"
    check_unserved(path)
    listener = listen(path)
    with pytest.raises(Refused, match=rf"cannot serve {path}: process \d+ serves it"):
        check_unserved(path)
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(str(path))
    with pytest.raises(Refused, match="another process, too busy to answer"):
        check_unserved(path)
    for each in [listener, *clients]:
        each.close()
    check_unserved(path)
    make_room(path)
    assert not path.exists()
    with pytest.raises(HostError, match="path too long"):
        check_unserved(root / ("x" * 120))


def test_a_kubelet_that_refuses_the_name_is_told_of_once_and_asked_again(
    root: Path, plugin_watcher: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    wrong = "kubernetes.io/sriov"

    async def scenario() -> None:
        path = socket_of(root, plugin_watcher, wrong)
        async with (
            Kubelet(root, plugin_watcher=plugin_watcher) as kubelet,
            agent(configure(root), two_devices(wrong)),
        ):
            await until(lambda: "extended resource" in caplog.text)
            first = identify(path)
            if plugin_watcher:
                await until(lambda: identify(path) not in (None, first))
            else:
                await until(lambda: len(kubelet.register_calls) > 3)

    run(scenario)
    assert caplog.text.count("is not that of an extended resource") == 1


def test_without_inotify_polling_finds_it(
    root: Path, plugin_watcher: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("deviceplugin.folders.Inotify", exhausted)
    config = replace(configure(root), poll=0.05)

    async def scenario() -> None:
        async with Kubelet(root, plugin_watcher=plugin_watcher) as kubelet, agent(config, two_devices()):
            await kubelet.wait_allocatable(RESOURCE, 2)
            socket_of(root, plugin_watcher).unlink()
            await until(socket_of(root, plugin_watcher).exists)
            await kubelet.restart()
            await kubelet.wait_allocatable(RESOURCE, 2)

    run(scenario)
    assert "falling back to polling" in caplog.text
