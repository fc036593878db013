"""Malformed calls of the agent, as documents handed to the verbs and as bytes on its socket.

Whatever comes, the answer is one that the specification has, nothing is a bug, and the agent goes on. A failure
names its seed and its number: the same comes of them again.
"""

import array
import logging
import os
import random
import socket
import struct
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest

from cni import ipam
from cni.server import Server
from cni.service import answer, answer_version
from cni.store import Store
from cni.wire import MAX_STDIN, Answer, encode_call, parse_answer
from tests.fuzz.mutate import ENVIRONMENT, Mutator
from tests.fuzz.node import Plugins, Reading, check_answer
from tests.support.node import wait_for

BATCH = 2_000            # calls of one seed
PATIENCE = 10.0          # seconds
SLOW = 2.0               # seconds of this process that no answer may take


@pytest.fixture
def attachments(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/fake").touch()
    with closing(Store.open(tmp_path / "state")) as store:
        yield Reading(store, tmp_path)


class Log(logging.Handler):
    """Keeps what should not have been logged."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def emit(self, record):
        record.getMessage().encode("utf-8", "backslashreplace")      # as on stderr
        if record.levelno >= logging.ERROR or record.exc_info:
            self.wrong.append(logging.Formatter().format(record))


@contextmanager
def watched_log():
    """In place of pytest's own capturing, which keeps all lines and finds a logger that a fixture has set up."""
    handler, logger = Log(), logging.getLogger("cni")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.propagate = True
        logger.setLevel(before)
        logger.removeHandler(handler)


@pytest.fixture
def replay(attachments, tmp_path, monkeypatch):
    """Makes the calls of a seed."""

    def make(seed):
        made = Mutator(seed)
        monkeypatch.setattr(ipam, "subprocess", Plugins(iter(made.result, None)))
        with watched_log() as log:
            for number in range(BATCH):
                env, stdin = {**made.environment(), "CNI_PATH": f"{tmp_path}/bin"}, made.config()
                begin = time.process_time()
                try:
                    check_answer(answer(attachments, env, stdin, None))
                    assert time.process_time() - begin < SLOW
                    assert log.wrong == []
                except Exception as error:
                    pytest.fail(f"seed {seed}, call {number}: {error!r}\n{env}\n{stdin[:3000]!r}")

    return make


@pytest.mark.parametrize("seed", range(5))
def test_documents(replay, seed):
    replay(seed)


@pytest.mark.long
def test_a_million_documents(replay):
    for seed in range(1_000, 1_000 + 1_000_000 // BATCH):
        replay(seed)


# ---- bytes on the socket ------------------------------------------------------------------------------------


@contextmanager
def serving(path, attachments):
    server = Server(path, attachments)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


class Caller:
    """Sends what is hardly a call, and reads what comes of it."""

    def __init__(self, seed, path, plugins, descriptors):
        self._random = random.Random(seed)
        self._made = Mutator(seed)
        self._path = path
        self._plugins = plugins
        self._descriptors = descriptors

    def call(self):
        """The answer; None where the agent has hung up without one."""
        frame = self._frame()
        chance = self._random
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(self._path)
            with suppress(BrokenPipeError, ConnectionResetError):      # the agent has seen enough
                while frame:
                    size = len(frame) if chance.random() < 0.7 else chance.choice((1, 2, 20, 100, 300_000))
                    client.sendmsg([frame[:size]], self._ancillary())
                    frame = frame[size:]
                if chance.random() < 0.1:
                    return None      # gone without a word
                client.shutdown(socket.SHUT_WR)
            data = bytearray()
            with suppress(ConnectionResetError):      # what it has not read makes its end a reset
                while piece := client.recv(1 << 20):
                    data += piece
        if not data:
            return None
        reply = parse_answer(data)
        assert reply is not None, bytes(data)
        return reply

    def _frame(self):
        """Mostly one that is well-formed around what is not, else its header or all of it otherwise."""
        chance, made = self._random, self._made
        env = {**made.environment(), "CNI_PATH": self._plugins}
        try:
            frame = encode_call(env, made.config())
        except UnicodeEncodeError:          # a surrogate that no byte of an environment becomes
            frame = encode_call(ENVIRONMENT, made.config())
        kind = chance.random()
        if kind < 0.6:
            return frame
        header, newline, rest = frame.partition(b"\n")
        if kind < 0.75:
            return made.damage(header) + newline + rest
        if kind < 0.85:
            numbers = (0, 1, len(rest), 65_536, 65_537, MAX_STDIN, MAX_STDIN + 1, 9_999_999, -1)
            return b"VFPOOL-CNI 1 %d %d\n%b" % (chance.choice(numbers), chance.choice(numbers), rest)
        return made.damage(frame)

    def _ancillary(self):
        """Mostly nothing or a namespace, else other descriptors, several, or something else."""
        chance = self._random
        count = chance.choices((0, 1, 2, 3, 250), (60, 30, 5, 4, 1))[0]
        if not count:
            return []
        if chance.random() < 0.03:
            who = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
            return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)]
        sent = array.array("i", chance.choices(self._descriptors, k=count))
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)]


@pytest.fixture
def shower(attachments, tmp_path, monkeypatch):
    """Makes so many connections of a seed to an agent; gives how many got an answer."""
    path = str(tmp_path / "cni.sock")

    def make(seed, count):
        monkeypatch.setattr(ipam, "subprocess", Plugins(iter(Mutator(seed).result, None)))
        answered = 0
        with watched_log() as log, serving(tmp_path / "cni.sock", attachments), \
                open("/proc/self/ns/net") as netns, open("/dev/null") as null, \
                socket.socket(socket.AF_UNIX) as some, closing(Pipe()) as pipe:
            threads, descriptors = threading.active_count(), count_descriptors()
            held = [netns.fileno(), null.fileno(), some.fileno(), *pipe.ends]
            caller = Caller(seed, path, f"{tmp_path}/bin", held)
            for number in range(count):
                try:
                    reply = caller.call()
                    if reply is not None:
                        answered += 1
                        check_answer(reply)
                    assert log.wrong == []
                except Exception as error:
                    pytest.fail(f"seed {seed}, connection {number}: {error!r}")
            wait_for("the end of all calls", lambda: threading.active_count() <= threads)
            assert count_descriptors() == descriptors
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(encode_call({"CNI_COMMAND": "VERSION"}, b""))
                assert parse_answer(client.recv(10_000)) == answer_version(b"")
        return answered

    return make


class Pipe:
    def __init__(self):
        self.ends = os.pipe()

    def close(self):
        for end in self.ends:
            os.close(end)


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_frames(shower):
    assert shower(1, 2_000) > 700


@pytest.mark.long
def test_a_hundred_thousand_frames(shower):
    assert shower(2, 100_000) > 40_000


@pytest.mark.parametrize(("status", "document"), [
    (1, b""), (1, b"{}"), (1, b"x"), (1, b'{"cniVersion":"1.0.0","code":7,"msg":""}'),
    (1, b'{"cniVersion":"1.0.0","code":"7","msg":"x"}'), (0, b'{"cniVersion":"1.0.0","dns":NaN}'),
    (1, b'{"cniVersion":"1.0.0","code":103,"msg":"internal error: x"}'),
])
def test_an_answer_that_none_may_get_is_found(status, document):
    with pytest.raises((AssertionError, ValueError)):
        check_answer(Answer(status=status, document=document))
