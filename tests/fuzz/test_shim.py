"""The CNI executable, malformed from all sides: in a world of made-up system calls, and as processes."""

import json
import random
import re
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cni.shim import build
from cni.wire import parse_answer
from sriov.errors import InputError
from tests.cni.test_shim import SANITIZERS, sanitized
from tests.fuzz.mutate import Mutator

HARNESS = Path(__file__).with_name("shim.c")
LIMIT = 30                # seconds that one process may take


def compile_harness(directory, source=build.SOURCE):
    output = directory / "harness"
    warnings = [flag for flag in build.WARNINGS if flag not in ("-Wpedantic", "-Wformat=2", "-Wcast-align")]
    subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-g", *warnings, *SANITIZERS, "-I", source.parent,
                    "-o", output, HARNESS], check=True)
    return output


def run_cases(harness, first, count):
    """How many cases ended in which way."""
    done = subprocess.run([harness, str(first), str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return {ending: int(count) for ending, count in re.findall(r"([a-z ]+) (\d+)", done.stdout)}


def test_cases(tmp_path):
    endings = run_cases(compile_harness(tmp_path), 0, 20_000)
    assert (len(endings), sum(endings.values())) == (5, 20_000)
    assert min(endings.values()) > 100


@pytest.mark.long
def test_a_million_cases(tmp_path):
    harness = compile_harness(tmp_path)
    for first in range(1_000_000, 2_000_000, 100_000):
        run_cases(harness, first, 100_000)


@pytest.mark.long
@pytest.mark.parametrize(("right", "wrong"), [
    ("while (at < end && (*at == ' '", "while (at <= end && (*at == ' '"),
    ("if (length > sizeof env_block - size)", "if (length > sizeof env_block)"),
    ("|| size == 0 || size >= sizeof cni_version)", "|| size == 0)"),
    ("(size_t)(quote - owner) == length && memcmp", "memcmp"),
    ("if (strlen(socket_path) >= sizeof address.sun_path)", "if (strlen(socket_path) > sizeof address)"),
    ("message.msg_control = NULL;", ""),
    ("document == NULL || (size_t)(answer + size - document) < length", "document == NULL"),
    ("*value > max", "*value > 2 * max"),
    ("dead && *duty == '\\0' && is_command", "*duty == '\\0' && is_command"),
    ("found = search_folder(state, \"ipam\", container);", "found = NONE;"),
])
def test_a_planted_fault_is_found(tmp_path, right, wrong):
    text = build.SOURCE.read_text()
    assert text.count(right) == 1
    (tmp_path / "vfpool.c").write_text(text.replace(right, wrong))
    harness = compile_harness(tmp_path, tmp_path / "vfpool.c")
    with pytest.raises(AssertionError):
        run_cases(harness, 0, 100_000)


# ---- processes --------------------------------------------------------------------------------------------------


class Agent:
    """Says what it likes to who connects."""

    def __init__(self, path, seed):
        self._random = random.Random(seed)
        self._made = Mutator(seed)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self.said = b""

    def serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(BrokenPipeError, ConnectionResetError):
                self._answer(connection)

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _answer(self, connection):
        chance = self._random
        document = b'{"cniVersion":"1.0.0"}' * chance.choice((0, 1, 1, 1, 1000))
        self.said = b"%d %d\n%b" % (chance.choice((0, 0, 1, 255)), len(document), document)
        if chance.random() < 0.6:
            self.said = self._made.damage(self.said)
        if chance.random() < 0.9:
            connection.recv(chance.choice((1, 100, 100_000)))
        left = self.said
        while left:
            size = len(left) if chance.random() < 0.8 else chance.choice((1, 5, 30, 1000))
            connection.sendall(left[:size])
            left = left[size:]


@contextmanager
def lying_agent(path, seed):
    agent = Agent(path, seed)
    thread = threading.Thread(target=agent.serve)
    thread.start()
    try:
        yield agent
    finally:
        agent.stop()
        thread.join(LIMIT)


def run_processes(shim, directory, seed, count):
    """Run it so many times; how often it printed what the agent had said."""
    made, relayed = Mutator(seed), 0
    with lying_agent(f"{directory}/s", seed) as agent:
        for number in range(count):
            env = {key: value.encode("utf-8", "surrogatepass") for key, value in made.environment().items() if key}
            env |= {"VFPOOL_SOCKET": f"{directory}/s".encode(), "VFPOOL_STATE": f"{directory}/state".encode()}
            agent.said = b""
            done = subprocess.run([shim], env=env, input=made.config(), capture_output=True, timeout=LIMIT,
                                  check=False)
            try:
                relayed += check_process(done, agent.said)
            except Exception as error:
                pytest.fail(f"seed {seed}, process {number}: {error!r}: {env} {agent.said!r}: {done}")
    return relayed


def check_process(done, said):
    """Whether it printed the agent's answer; what else it may print is an error object, or its versions."""
    assert done.stderr == b""
    with suppress(InputError):
        answer = parse_answer(said)
        if answer is not None and (answer.status, answer.document) == (done.returncode, done.stdout):
            return True
    document = json.loads(done.stdout.decode("ascii"))
    if "supportedVersions" in document:
        assert done.returncode == 0
        return False
    assert done.returncode == 1
    assert document.keys() == {"cniVersion", "code", "msg", "details"}
    assert document["code"] in (4, 6, 11, 50)
    assert document["msg"]
    return False


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return sanitized(tmp_path_factory.mktemp("shim"))


def test_processes(shim, tmp_path):
    assert run_processes(shim, tmp_path, 1, 300) > 50


@pytest.mark.long
def test_thousands_of_processes(shim, tmp_path):
    assert run_processes(shim, tmp_path, 2, 20_000) > 4_000
