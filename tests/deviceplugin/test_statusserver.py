"""The status socket: real connections, readers that are slow, many, or gone, and an agent that was killed."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deviceplugin.statusserver import MOST_READERS, serving_status
from sriov.commands.status import ask_agent
from sriov.errors import HostError, InputError, Refused
from sriov.status import NodeStatus, Owner, format_status
from tests.deviceplugin.harness import run, until
from tests.sriov.test_status import node, vf


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(prefix="status-") as folder:
        yield Path(folder) / "run/status.sock"


def large() -> NodeStatus:
    """More than a socket's buffers hold."""
    return node(unreadable=("x" * (4 << 20),))


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    return client


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_who_connects_gets_the_status_of_that_moment(path: Path) -> None:
    async def scenario() -> None:
        versions = iter(range(1, 100))
        async with serving_status(path, lambda: node(snapshot=next(versions))):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            answers = [await asyncio.to_thread(ask_agent, path) for _ in range(3)]
            assert answers == [node(snapshot=version) for version in (1, 2, 3)]
        assert not path.exists()

    run(scenario)


def test_a_large_status_arrives_whole(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, large):
            assert await asyncio.to_thread(ask_agent, path) == large()

    run(scenario)


def test_a_reader_that_is_at_its_own_end_already_is_answered(path: Path) -> None:
    """As `socat - UNIX-CONNECT:...` does where there is nothing on stdin."""
    async def scenario() -> None:
        async with serving_status(path, large):
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
            writer.write_eof()
            assert await reader.read() == format_status(large()).encode()
            writer.close()
            await writer.wait_closed()

    run(scenario)


def test_what_a_reader_sends_does_no_harm(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, large):
            before = descriptors()
            with connect(path) as client:
                client.setblocking(False)
                sent = asyncio.get_running_loop().sock_sendall(client, b"x" * (8 << 20))
                with pytest.raises(TimeoutError):      # it is not taken in without end
                    await asyncio.wait_for(sent, 0.2)
                assert await asyncio.to_thread(ask_agent, path) == large()
            await until(lambda: descriptors() == before)

    run(scenario)


def test_a_reader_that_does_not_read_is_cut_off(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, large, write_timeout=0.2):
            before = descriptors()
            with connect(path) as slow:
                await asyncio.sleep(0)
                assert await asyncio.to_thread(ask_agent, path) == large()    # others are served all the while
                slow.setblocking(False)
                await until(lambda: descriptors() == before + 1)      # the client's own
                await until(lambda: ends(slow))

    run(scenario)


def ends(client: socket.socket) -> bool:
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_more_readers_than_there_is_room_for_are_sent_away(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, large, write_timeout=60.0):
            with ExitStack() as stack:
                before = descriptors()
                slow = []
                for _ in range(3 * MOST_READERS):
                    slow.append(stack.enter_context(connect(path)))
                    await asyncio.sleep(0)
                # Each that is served holds one descriptor more than its client.
                await until(lambda: descriptors() == before + len(slow) + MOST_READERS)
                with pytest.raises(Exception, match=r"closed the connection without an answer"):
                    await asyncio.to_thread(ask_agent, path)
                for client in slow:
                    client.close()
                await until(lambda: descriptors() == before)
            assert await asyncio.to_thread(ask_agent, path) == large()

    run(scenario)


def test_readers_that_go_away_leave_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving_status(path, large):
            before = descriptors()
            for _ in range(100):
                connect(path).close()
                await asyncio.sleep(0)
            await until(lambda: descriptors() == before)
            assert await asyncio.to_thread(ask_agent, path) == large()

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_agent_that_stops_does_not_wait_for_readers(path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(5):
            async with serving_status(path, large, write_timeout=60.0):
                client = connect(path)
                assert await asyncio.to_thread(client.recv, 1) == b"{"
        assert not path.exists()
        client.setblocking(False)
        await until(lambda: ends(client))
        client.close()

    run(scenario)


def test_a_status_that_cannot_be_told_is_a_log_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        answers: list[Callable[[], NodeStatus]] = [lambda: replace(node(), snapshot=1 // 0), node]
        async with serving_status(path, lambda: answers.pop(0)()):
            with pytest.raises(Exception, match="without an answer"):
                await asyncio.to_thread(ask_agent, path)
            assert await asyncio.to_thread(ask_agent, path) == node()

    run(scenario)
    assert caplog.text.count("cannot say how the node is") == 1


# ---- the socket file --------------------------------------------------------------------------------------


def test_the_socket_of_a_dead_agent_is_replaced(path: Path) -> None:
    async def scenario() -> None:
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with serving_status(path, node):
            assert await asyncio.to_thread(ask_agent, path) == node()

    run(scenario)


def test_a_living_agent_is_not_pushed_aside(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, node):
            with pytest.raises(Refused, match=rf"cannot serve {path}: process {os.getpid()} serves it"):
                async with serving_status(path, node):
                    pass
            assert await asyncio.to_thread(ask_agent, path) == node()

    run(scenario)


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    async def scenario() -> None:
        path.parent.mkdir()
        path.write_text("somebody's")
        with pytest.raises(InputError, match="it is there and is no socket"):
            async with serving_status(path, node):
                pass
        assert path.read_text() == "somebody's"
        with pytest.raises(HostError, match="EEXIST"):
            async with serving_status(path / "below", node):
                pass
        with pytest.raises(HostError, match="path too long"):
            async with serving_status(path.with_name("x" * 120), node):
                pass

    run(scenario)


def test_somebody_elses_socket_stays_when_this_ends(path: Path) -> None:
    async def scenario() -> None:
        async with serving_status(path, node):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as theirs:
                theirs.bind(str(path))
        assert path.exists()

    run(scenario)


def test_owners_are_told(path: Path) -> None:
    owner = Owner(container_id="c", ifname="net1", network="fast", phase="attached", netns="/run/x", pod="d/p")

    async def scenario() -> None:
        async with serving_status(path, lambda: node(unpooled=(vf(3, owner=owner),))):
            (stray,) = (await asyncio.to_thread(ask_agent, path)).unpooled
            assert stray.owner == owner

    run(scenario)
