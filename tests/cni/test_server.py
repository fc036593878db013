"""The agent's socket: real connections, real threads, a handler that does what each test wants."""

import array
import errno
import json
import logging
import os
import socket
import stat
import threading
from contextlib import contextmanager, suppress

import pytest

from cni.attach import Attachments
from cni.protocol import Command
from cni.server import Server
from cni.wire import Answer, call_agent, encode_answer, encode_call, parse_answer
from sriov.errors import HostError, InputError, Refused
from tests.cni.test_protocol import ENV
from tests.support.node import wait_for

PATIENCE = 10.0
CONFIG = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "vfpool"}).encode()


class Handler(Attachments):
    """Stands where Attachments does; `work` is what a call does."""

    def __init__(self, work=lambda call: None):
        self.calls = []
        self._work = work

    def handle(self, call):
        self.calls.append(call.request.command)
        return self._work(call)


@contextmanager
def serving(path, handler):
    server = Server(path, handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run/cni.sock"


def call(path, env=ENV, config=CONFIG, **kwargs):
    reply = call_agent(env, config, path=str(path), timeout=PATIENCE, **kwargs)
    return reply.status, json.loads(reply.document) if reply.document else None


# ---- the socket file ------------------------------------------------------------------------------------


def test_only_root_may_connect(path):
    with serving(path, Handler()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_socket_of_a_dead_agent_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(path, Handler(lambda call: {"x": 1})):
        assert call(path) == (0, {"x": 1})


def test_a_living_agent_is_not_pushed_aside(path):
    with serving(path, Handler(lambda call: {"x": 1})):
        with pytest.raises(Refused, match=rf"cannot serve {path}: process \d+ serves it"):
            Server(path, Handler())
        assert call(path) == (0, {"x": 1})


def test_a_file_that_is_no_socket_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("somebody's")
    with pytest.raises(InputError, match="it is there and is no socket"), serving(path, Handler()):
        pass
    assert path.read_text() == "somebody's"


# ---- calls ----------------------------------------------------------------------------------------------


def test_a_call_with_its_namespace(path, tmp_path):
    seen = []

    def work(call):
        inode = os.fstat(call.netns_fd).st_ino
        seen.append((call.request.command, call.request.container_id, inode, call.netns_fd))
        return {"cniVersion": "1.0.0"}

    netns = tmp_path / "netns"
    netns.write_text("")
    with serving(path, Handler(work)):
        assert call(path, {**ENV, "CNI_NETNS": str(netns)}) == (0, {"cniVersion": "1.0.0"})
    ((command, container, inode, descriptor),) = seen
    assert (command, container, inode) == (Command.ADD, "c1", netns.stat().st_ino)
    with pytest.raises(OSError, match="Bad file descriptor"):     # a held one would pin a dead namespace
        os.fstat(descriptor)


def test_no_namespace(path):
    seen: list[int | None] = []

    def work(call):
        seen.append(call.netns_fd)

    with serving(path, Handler(work)):
        assert call(path, {**ENV, "CNI_COMMAND": "DEL", "CNI_NETNS": "/nowhere"}) == (0, None)
    assert seen == [None]


def test_errors_reach_the_caller(path):
    with serving(path, Handler(lambda call: 1 / 0)):
        assert call(path)[1]["msg"] == "internal error: ZeroDivisionError('division by zero')"
        assert call(path, config=b"{")[1]["code"] == 6
        assert call(path, {})[1]["code"] == 4


def test_many_at_once(path):
    """Each of them waits until all are there: no call keeps a worker from another one."""
    count = 100
    everyone = threading.Barrier(count)

    def work(call):
        everyone.wait(PATIENCE)
        return {"container": call.request.container_id}

    replies = {}

    def ask(number):
        replies[number] = call(path, {**ENV, "CNI_CONTAINERID": f"c{number}"})

    with serving(path, Handler(work)):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert replies == {number: (0, {"container": f"c{number}"}) for number in range(count)}


def test_the_call_in_single_bytes(path):
    with serving(path, Handler(lambda call: {"x": 1})), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        for byte in encode_call(ENV, CONFIG):
            client.sendall(bytes([byte]))
        client.settimeout(PATIENCE)
        assert parse_answer(client.recv(1000)) == Answer(status=0, document=b'{"x": 1}\n')
        assert client.recv(1) == b""


# ---- what is no call ------------------------------------------------------------------------------------

GARBAGE = [b"\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"VFPOOL-CNI 2 0 0\n", b"VFPOOL-CNI 1 9999999 9999999\n",
           b"VFPOOL-CNI 1 4 0\nA=1\0surplus", b"VFPOOL-CNI 1 3 0\nA=1", b"VFPOOL-CNI 1 4 0\nA11\0"]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_hung_up_on_and_the_next_is_served(path, garbage):
    handler = Handler()
    with serving(path, handler):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.settimeout(PATIENCE)
            client.sendall(garbage)
            with suppress(ConnectionResetError):      # what it did not read makes its close a reset
                assert client.recv(100) == b""
        assert handler.calls == []
        assert call(path) == (0, None)


@pytest.mark.parametrize("sent", [0, 1, 20, -1])
def test_a_caller_that_leaves_in_the_middle_of_its_request(path, sent, caplog):
    caplog.set_level(logging.INFO)
    handler = Handler()
    with serving(path, handler), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(encode_call(ENV, CONFIG)[:sent])
        client.close()
        assert call(path) == (0, None)
    assert handler.calls == [Command.ADD]
    assert any("the client left after" in record.getMessage() for record in caplog.records)


def test_more_descriptors_than_one_are_refused_and_closed(path):
    before = len(os.listdir("/proc/self/fd"))
    with serving(path, Handler()):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.settimeout(PATIENCE)
            rights = array.array("i", [0] * 3)
            client.sendmsg([encode_call(ENV, CONFIG)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            with suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert call(path) == (0, None)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- callers that go away ---------------------------------------------------------------------------------


def test_a_call_learns_that_its_caller_is_gone(path):
    started, left, told = threading.Event(), threading.Event(), []

    def work(call):
        told.append(call.gone())
        started.set()
        assert left.wait(PATIENCE)
        told.append(call.gone())

    with serving(path, Handler(work)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(encode_call(ENV | {"CNI_COMMAND": "DEL"}, CONFIG))
            assert started.wait(PATIENCE)
        left.set()
    assert told == [False, True]


@pytest.mark.parametrize(("command", "then"), [("ADD", ["ADD", "DEL"]), ("DEL", ["DEL"])])
def test_an_add_that_nobody_waits_for_is_undone(path, command, then):
    """The answer could not be delivered: the runtime will never know that it has an interface."""
    started, left = threading.Event(), threading.Event()

    def work(call):
        started.set()
        assert left.wait(PATIENCE)
        return {"x": 1}

    handler = Handler(work)
    with serving(path, handler):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(encode_call(ENV | {"CNI_COMMAND": command}, CONFIG))
            assert started.wait(PATIENCE)
        left.set()
    assert handler.calls == then


def test_a_failed_add_is_not_undone_twice(path):
    started, left = threading.Event(), threading.Event()

    def work(call):
        started.set()
        assert left.wait(PATIENCE)
        raise Refused("x")

    handler = Handler(work)
    with serving(path, handler):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(encode_call(ENV, CONFIG))
            assert started.wait(PATIENCE)
        left.set()
    assert handler.calls == ["ADD"]


def test_a_call_that_runs_at_the_stop_is_answered_and_no_new_one_is_taken(path):
    """As the agent stops on SIGTERM: what comes after `server_close` finds no call running."""
    started, go_on, closed, replies = threading.Event(), threading.Event(), threading.Event(), []

    def work(call):
        started.set()
        assert go_on.wait(PATIENCE)
        return {"x": 1}

    def stop():
        server.shutdown()
        server.server_close()
        closed.set()

    handler = Handler(work)
    with serving(path, handler) as server:
        client = threading.Thread(target=lambda: replies.append(call(path)))
        client.start()
        assert started.wait(PATIENCE)
        stopping = threading.Thread(target=stop)
        stopping.start()
        wait_for("the end of listening", lambda: server.fileno() == -1)
        with pytest.raises(HostError) as refused:
            call(path)
        assert refused.value.errno == errno.ECONNREFUSED
        assert not closed.wait(0.2)      # nothing else may take so long
        go_on.set()
        client.join(PATIENCE)
        stopping.join(PATIENCE)
    assert closed.is_set()
    assert replies == [(0, {"x": 1})]
    assert handler.calls == ["ADD"]


def test_encode_answer_is_what_parse_answer_reads():
    answer = Answer(status=1, document=b"{}\n")
    assert parse_answer(encode_answer(answer)) == answer
