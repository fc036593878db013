"""The CNI executable against real sockets: the build that ships, and one with sanitizers."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import takeover, wire
from cni.record import Delegation, format_record
from cni.shim import build
from cni.store import Store
from sriov.errors import HostError, InputError
from tests.cni.test_record import record

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c0", "CNI_IFNAME": "net1", "CNI_PATH": "/opt/cni/bin"}
DEL = {**ADD, "CNI_COMMAND": "DEL", "VFPOOL_CONNECT_MS": "50"}
CONFIG = b'{"cniVersion": "1.0.0", "name": "n", "type": "vfpool"}'
RESULT = b'{"cniVersion":"1.0.0","interfaces":[]}\n'
FORERUNNER = takeover.FOLDER    # the executable's too
LIMIT = 30    # seconds that no run may take: a hang is a failure


def sanitized(directory):
    output = directory / "vfpool-sanitized"
    flags = [flag for flag in build.FLAGS if flag not in ("-static", "-s")]
    subprocess.run(["gcc", *SANITIZERS, "-o", output, *flags, build.SOURCE], check=True)
    return output


@pytest.fixture(scope="session", params=["static", "sanitized"])
def shim(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("shim")
    if request.param == "sanitized":
        return sanitized(directory)
    build.compile_shim(build.SOURCE, directory / "vfpool")
    return directory / "vfpool"


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="vf") as directory:  # short: a socket's path ends at 107 bytes
        yield f"{directory}/cni.sock"


def run(shim, path, stdin=CONFIG, **env):
    """The state folder, if there is one, is beside the socket."""
    env = {"VFPOOL_SOCKET": path, "VFPOOL_STATE": state_beside(path), **env}
    return subprocess.run([shim], env=env, input=stdin, capture_output=True, timeout=LIMIT, check=False)


def state_beside(path):
    return f"{os.path.dirname(path)}/state"


def check_error(done, code):
    """The message of the error object, when that is all that was said (a sanitizer speaks on stderr)."""
    assert (done.returncode, done.stderr) == (1, b"")
    document = json.loads(done.stdout)
    assert document.keys() == {"cniVersion", "code", "msg", "details"}
    assert document["code"] == code
    return document["msg"]


@contextmanager
def agent(path, handle):
    """Accept one connection on `path` and run handle(connection); its value is what `.result()` gives."""
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(LIMIT)
        listener.bind(path)
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            connection.settimeout(LIMIT)
            with connection:
                return handle(connection)

        yield pool.submit(serve)


def read_call(connection, use):
    with wire.CallReader() as reader:
        while (call := reader.receive(connection)) is None:
            pass
        return use(call)


def answering(status, document):
    """A handler that reads the call, answers, and gives the call with the inode of its namespace."""
    def handle(connection):
        def answer(call):
            connection.sendall(wire.encode_answer(wire.Answer(status=status, document=document)))
            return call, None if call.netns is None else os.fstat(call.netns).st_ino
        return read_call(connection, answer)
    return handle


def saying(*pieces):
    """A handler that reads the whole call and answers with these bytes."""
    def handle(connection):
        read_call(connection, lambda call: None)
        for piece in pieces:
            connection.sendall(piece)
    return handle


def reading_until_it_leaves(connection):
    read_call(connection, lambda call: None)
    return connection.recv(1)


def test_env_stdin_and_namespace_arrive_intact_and_the_answer_is_printed(shim, path):
    env = {**ADD, "CNI_NETNS": "/proc/self/ns/net", "CNI_ARGS": "K=v=w;é", "CNI_EMPTY": "", "PATH": "/bin"}
    with agent(path, answering(0, RESULT)) as served:
        done = run(shim, path, **env)
    call, inode = served.result()
    assert (done.returncode, done.stdout, done.stderr) == (0, RESULT, b"")
    assert call.env == {key: value for key, value in env.items() if key.startswith("CNI_")}
    assert call.stdin == CONFIG
    assert inode == os.stat("/proc/self/ns/net").st_ino


@pytest.mark.parametrize(("status", "document"), [(0, b""), (1, b'{"code": 7, "msg": "no"}'), (255, RESULT)])
def test_exit_status_and_document_pass_through(shim, path, status, document):
    with agent(path, answering(status, document)):
        done = run(shim, path, **ADD)
    assert (done.returncode, done.stdout, done.stderr) == (status, document, b"")


def test_largest_stdin_and_answer(shim, path):
    stdin = CONFIG.ljust(wire.MAX_STDIN)
    document = RESULT.ljust(wire.MAX_DOCUMENT)
    with agent(path, answering(0, document)) as served:
        done = run(shim, path, stdin, **ADD)
    assert served.result()[0].stdin == stdin
    assert (done.returncode, done.stdout) == (0, document)


def test_stdin_over_the_limit_is_refused(shim, path):
    assert "4 MiB" in check_error(run(shim, path, CONFIG.ljust(wire.MAX_STDIN + 1), **ADD), 6)


def test_environment_over_the_limit_is_refused(shim, path):
    done = run(shim, path, **ADD, CNI_ARGS="a" * wire.MAX_ENV)
    assert "64 KiB" in check_error(done, 4)


def test_no_command_is_refused_without_reading_stdin(shim, path):
    reading, writing = os.pipe()
    try:
        done = subprocess.run([shim], env={}, stdin=reading, capture_output=True, timeout=LIMIT, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert "CNI_COMMAND" in check_error(done, 4)


@pytest.mark.parametrize("netns", ["", "/run/netns/no-such-namespace"])
def test_namespace_that_does_not_open_sends_no_descriptor(shim, path, netns):
    with agent(path, answering(0, b"")) as served:
        done = run(shim, path, **{**ADD, "CNI_COMMAND": "DEL"}, CNI_NETNS=netns)
    call, inode = served.result()
    assert (done.returncode, done.stdout, inode) == (0, b"", None)
    assert call.env["CNI_NETNS"] == netns


def test_namespace_path_that_is_a_fifo_does_not_hang(shim, path, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with agent(path, answering(0, b"")):
        assert run(shim, path, **ADD, CNI_NETNS=str(tmp_path / "fifo")).returncode == 0


@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC", "A VERB THAT COMES LATER"])
def test_no_agent_is_try_again_after_as_long_as_a_restart_takes(shim, path, command):
    begin = time.monotonic()
    message = check_error(run(shim, path, **{**ADD, "CNI_COMMAND": command}, VFPOOL_CONNECT_MS="400"), 11)
    assert 0.4 <= time.monotonic() - begin < 2
    assert message == (f"the vfpool agent does not answer on {path}: the socket does not exist (ENOENT); "
                       "is the vfpool-agent pod running on this node?")


@pytest.mark.parametrize("shim", ["static"], indirect=True)
def test_usual_time_to_wait_for_an_agent(shim, path):
    begin = time.monotonic()
    check_error(run(shim, path, **ADD), 11)
    assert 5 <= time.monotonic() - begin < 8


def test_no_agent_is_unavailable_for_who_asks_for_the_status(shim, path):
    message = check_error(run(shim, path, CNI_COMMAND="STATUS", VFPOOL_CONNECT_MS="50"), 50)
    assert message.startswith(f"the vfpool agent does not answer on {path}: ")


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS", "A VERB THAT COMES LATER"])
def test_every_verb_is_the_agents_to_judge(shim, path, command):
    with agent(path, answering(0, b"")) as served:
        done = run(shim, path, CNI_COMMAND=command, CNI_PATH="/opt/cni/bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    call, netns = served.result()
    assert (call.env, call.stdin, netns) == ({"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}, CONFIG, None)


def test_stale_socket_is_try_again_and_never_reads_as_done(shim, path):
    keep(path, record(container="c0"))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        done = run(shim, path, **DEL)
    assert "ECONNREFUSED" in check_error(done, 11)
    # containerd takes a DEL for done whose error has one of these
    assert not re.search(rb"not found|no such file or directory", done.stdout, re.IGNORECASE)


@pytest.mark.parametrize("length", [108, 5000])
def test_socket_path_too_long(shim, length):
    assert "too long" in check_error(run(shim, "/".ljust(length, "s"), **ADD), 11)


def test_agent_that_appears_while_it_waits(shim, path):
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run, shim, path, **ADD)
        threading.Event().wait(0.5)    # the time is the behaviour: an agent that restarts
        with agent(path, answering(0, RESULT)):
            assert done.result().stdout == RESULT


def test_agent_whose_queue_is_full_is_tried_again(shim, path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        # A DEL as well: the agent lives, and what it is at is not on disk yet.
        for command in ("ADD", "DEL"):
            assert "EAGAIN" in check_error(run(shim, path, **{**DEL, "CNI_COMMAND": command}), 11)


# a DEL that finds no agent


def keep(path, kept, folder="vfs"):
    """Write the record down beside `path`, as the agent does."""
    with closing(Store.open(Path(state_beside(path)))) as store:
        if folder == "vfs":
            store.write(kept)
        else:
            delegation = Delegation(plugin="x", environment={}, config={})
            store.delete(store.owe(dataclasses.replace(kept, ipam=delegation)))
    assert len(os.listdir(f"{state_beside(path)}/{folder}")) == 1


def check_done(done):
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_del_without_a_record_is_done_without_waiting(shim, path):
    begin = time.monotonic()
    check_done(run(shim, path, **{**DEL, "VFPOOL_CONNECT_MS": "20000"}))
    os.mkdir(state_beside(path))
    check_done(run(shim, path, **{**DEL, "VFPOOL_CONNECT_MS": "20000"}))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        check_done(run(shim, path, **{**DEL, "VFPOOL_CONNECT_MS": "20000"}))
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("folder", ["vfs", "ipam"])
@pytest.mark.parametrize("ifname", ["net1", "net2"])
def test_del_with_a_record_of_its_container_is_to_be_tried_again(shim, path, folder, ifname):
    keep(path, record(container="c0"), folder)
    message = check_error(run(shim, path, **{**DEL, "CNI_IFNAME": ifname}), 11)
    assert message == (f"the vfpool agent does not answer on {path}: the socket does not exist (ENOENT), and by a "
                       "record this container has a VF or addresses; is the vfpool-agent pod running on this node?")


@pytest.mark.parametrize("folder", ["vfs", "ipam"])
@pytest.mark.parametrize("container", ["c", "c00", "C0", "net1", "0"])
def test_del_is_not_kept_by_the_records_of_others(shim, path, folder, container):
    keep(path, record(container="c0"), folder)
    check_done(run(shim, path, **{**DEL, "CNI_CONTAINERID": container}))


def test_del_with_a_record_waits_for_the_agent(shim, path):
    keep(path, record(container="c0"))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run, shim, path, **{**DEL, "VFPOOL_CONNECT_MS": "20000"})
        threading.Event().wait(0.3)    # the time is the behaviour: an agent that restarts
        with agent(path, answering(0, b"")) as served:
            check_done(done.result())
    assert served.result()[0].env["CNI_COMMAND"] == "DEL"


@pytest.mark.parametrize("name", ["x.json", "0000:3b:02.1.json", "0000:3b:02.1.damaged"])
@pytest.mark.parametrize("content", [
    b"", b"\0" * 20_000, b'{"format": 2, "owner": {"id": "c0"}}', b'{"container_id": "c0',
    b" " * 8180 + b'"container_id": "c1"', None,
])
def test_del_is_not_done_where_what_may_be_a_record_cannot_be_read(shim, path, name, content):
    at = Path(state_beside(path), "vfs", name)
    at.parent.mkdir(parents=True)
    at.mkdir() if content is None else at.write_bytes(content)
    assert "and what records there are cannot be read;" in check_error(run(shim, path, **DEL), 11)


@pytest.mark.parametrize("at", ["state", "state/vfs", "state/ipam"])
def test_del_is_not_done_where_a_folder_cannot_be_read(shim, path, at):
    file = Path(path).parent / at
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert "and what records there are cannot be read;" in check_error(run(shim, path, **DEL), 11)
    file.unlink()
    file.symlink_to(file)
    assert "and what records there are cannot be read;" in check_error(run(shim, path, **DEL), 11)
    check_error(run(shim, path, **DEL, VFPOOL_STATE="/".ljust(5000, "s")), 11)


def test_del_passes_over_what_is_no_record(shim, path):
    """What the agent passes over too."""
    folder = Path(state_beside(path), "vfs")
    folder.mkdir(parents=True)
    for name in (".x.json.new", "damaged", "x.jso", "json"):
        (folder / name).write_text(format_record(record(container="c0")))
    check_done(run(shim, path, **DEL))


@pytest.mark.parametrize("folder", ["vfs", "ipam"])
def test_del_counts_what_the_agent_has_set_aside(shim, path, folder):
    """No DEL is done by a damaged record; its begin may tell whose it is."""
    at = Path(state_beside(path), folder, "x.damaged")
    at.parent.mkdir(parents=True)
    at.write_text(format_record(record(container="c0"))[:-20])
    assert "by a record" in check_error(run(shim, path, **DEL), 11)
    check_done(run(shim, path, **{**DEL, "CNI_CONTAINERID": "another"}))


def test_del_finds_its_record_among_a_thousand(shim, path):
    folder = Path(state_beside(path), "ipam")
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / f"{number:0200}.json").write_text(format_record(record(container=f"other{number}")))
    check_done(run(shim, path, **DEL))
    for number in (0, 999):
        assert "by a record" in check_error(run(shim, path, **{**DEL, "CNI_CONTAINERID": f"other{number}"}), 11)


@pytest.mark.parametrize("wrong", [
    {"CNI_CONTAINERID": ""}, {"CNI_CONTAINERID": 'c0"'}, {"CNI_CONTAINERID": "../c0"}, {"CNI_IFNAME": ""},
    {"CNI_IFNAME": "../net1"},
])
def test_del_that_names_no_attachment_is_never_done(shim, path, wrong):
    assert "do not say whose VF it is" in check_error(run(shim, path, **{**DEL, **wrong}), 11)
    assert "do not say whose VF it is" in check_error(run(shim, path, CNI_COMMAND="DEL", VFPOOL_CONNECT_MS="0"), 11)


@pytest.mark.kernel
def test_del_of_what_sriov_cni_attached_is_to_be_tried_again(shim, path):
    def run_with(*names, **env):
        """In a mount namespace of its own, whose /var/lib/cni/sriov has these files."""
        script = 'mount -t tmpfs none /var/lib; mkdir -p "$1"; cd "$1"; shift 2; touch x "$@"; exec "$0"'
        command = ["unshare", "--mount", "sh", "-ec", script, shim, FORERUNNER, "--", *names]
        return subprocess.run(command, env={"VFPOOL_SOCKET": path, **DEL, **env, "PATH": os.environ["PATH"]},
                              capture_output=True, input=CONFIG, timeout=LIMIT, check=False)

    assert "by a record" in check_error(run_with("c0-net1"), 11)
    check_done(run_with("c0-net2", "c1-net1", "c0"))
    check_done(run_with(CNI_CONTAINERID="c" * 251))     # no file has so long a name


def test_agent_that_closes_at_once(shim, path):
    with agent(path, lambda connection: None):
        message = check_error(run(shim, path, CONFIG.ljust(wire.MAX_STDIN), **ADD), 11)
    assert "closed the connection without a complete answer" in message


def test_agent_that_answers_before_it_has_read_everything(shim, path):
    with agent(path, lambda connection: connection.sendall(b"1 2\n{}")):
        done = run(shim, path, CONFIG.ljust(wire.MAX_STDIN), **ADD)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"{}", b"")


def test_answer_that_does_not_come_in_time_closes_the_connection(shim, path):
    with agent(path, reading_until_it_leaves) as served:
        message = check_error(run(shim, path, **ADD, VFPOOL_ANSWER_MS="200"), 11)
    assert "did not answer in time" in message
    assert served.result() == b""


def test_agent_that_does_not_read(shim, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        done = run(shim, path, CONFIG.ljust(wire.MAX_STDIN), **ADD, VFPOOL_ANSWER_MS="200")
    assert "did not take the request" in check_error(done, 11)


@pytest.mark.parametrize("garbage", [
    b"", b"\n", b" \n", b"0\n", b"0 \n", b"0 2", b"-1 2\n{}", b"256 2\n{}", b"0 2 \n{}", b"0  2\n{}",
    b"0 0x2\n{}", b"0 2\r\n{}", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"0" * 64, b"\0" * 64, b"0 3\n{}",
    b"0000 2\n{}", b"0 00000000\n",
    b"0 4194305\n{}", b"0 18446744073709551618\n{}", b"99999999999999999999 2\n{}", b"\xff" * 100_000,
])
def test_garbage_from_the_agent_is_one_error_object(shim, path, garbage):
    with agent(path, saying(garbage)):
        check_error(run(shim, path, **ADD), 11)


def test_bytes_after_the_answer_are_not_printed(shim, path):
    with agent(path, saying(b"0 2\n{}{}")):
        assert run(shim, path, **ADD).stdout == b"{}"


def test_answer_in_single_bytes(shim, path):
    data = b"7 %d\n%b" % (len(RESULT), RESULT)
    with agent(path, saying(*(bytes([byte]) for byte in data))):
        done = run(shim, path, **ADD)
    assert (done.returncode, done.stdout) == (7, RESULT)


VERSIONS = [
    (b'{"cniVersion":"0.4.0"}', "0.4.0"),
    (b' {\n "name" : "cniVersion", "cniVersion"\t: "1.0.0" }', "1.0.0"),
    (b'{"a": {"cniVersion": "0.1.0"}, "b": [{"cniVersion": "0.2.0"}], "cniVersion": "0.3.1"}', "0.3.1"),
    (b'{"a": "}\\"{\\\\", "cniVersion": "0.3.0"}', "0.3.0"),
    (b'{"cniVersion": "0.1.0", "cniVersion": "0.2.0"}', "0.2.0"),
]
NO_VERSION = [
    b"", b"null", b"[", b'["cniVersion", {"cniVersion": "0.4.0"}]', b'x{"cniVersion": "0.4.0"}',
    b'{"cniVersion', b'{"cniVersion"', b'{"cniVersion":', b'{"cniVersion":"', b'{"cniVersion":"0.4.0',
    b'{"cniVersion":""}', b'{"cniVersion": 1.0}', b'{"cniVersion": "1\\u002e0"}', b'{"cniVersion": "\xff"}',
    b'{"cniVersion": "1.0\n"}', b'{"cniVersion": "' + b"1" * 32 + b'"}', b'{"\\', b'{"a\\"',
    b'{}{"cniVersion": "0.4.0"}', b'{"prevResult": {"cniVersion": "0.1.0"}}', b"}" * 1000, b"{" * 1000,
]


@pytest.mark.parametrize(("config", "version"), [*VERSIONS, *((config, "1.1.0") for config in NO_VERSION)])
def test_version_needs_no_agent(shim, path, config, version):
    done = run(shim, path, config, CNI_COMMAND="VERSION")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "cniVersion": version,
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


def test_error_object_quotes_whatever_the_caller_said(shim, path):
    ifname = 'a"\\\n\té' + "\x01" * 1000
    done = run(shim, path, **{**ADD, "CNI_IFNAME": ifname}, VFPOOL_CONNECT_MS="0")
    check_error(done, 11)
    document = json.loads(done.stdout)
    assert document["cniVersion"] == "1.0.0"
    assert ifname.encode().decode("latin-1")[:200] in document["details"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_never_become_the_socket(shim, path, closed):
    with agent(path, answering(0, RESULT)) as served:
        done = subprocess.run(["/bin/sh", "-c", f'exec "$0" {closed}', shim], stdin=subprocess.DEVNULL,
                              env={"VFPOOL_SOCKET": path, **ADD, "CNI_NETNS": "/proc/self/ns/net"},
                              capture_output=True, timeout=LIMIT, check=False)
    call, inode = served.result()
    assert inode == os.stat("/proc/self/ns/net").st_ino
    assert call.stdin == b""
    if ">&-" in closed.split():    # nobody can have read the result: the runtime must not take it for done
        assert (done.returncode, done.stdout) == (1, b"")
    else:
        assert (done.returncode, done.stdout) == (0, RESULT)


def test_runtime_that_reads_no_answer_makes_no_success(shim, path):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with agent(path, answering(0, RESULT)):
            done = subprocess.run([shim], env={"VFPOOL_SOCKET": path, **ADD}, stdin=subprocess.DEVNULL,
                                  stdout=writing, stderr=subprocess.PIPE, timeout=LIMIT, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_non_blocking_standard_descriptors(shim, path):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    document = RESULT.ljust(wire.MAX_DOCUMENT)
    with ours, agent(path, answering(0, document)) as served:
        with theirs:
            child = subprocess.Popen([shim], env={"VFPOOL_SOCKET": path, **ADD}, stdin=theirs.fileno(),
                                     stdout=theirs.fileno())
        ours.sendall(CONFIG)
        ours.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: ours.recv(1 << 20), b""))
        assert child.wait(LIMIT) == 0
    assert (served.result()[0].stdin, received) == (CONFIG, document)


@pytest.mark.kernel
def test_runs_in_an_empty_chroot(tmp_path):
    build.compile_shim(build.SOURCE, tmp_path / "vfpool")
    done = subprocess.run(["chroot", tmp_path, "/vfpool"], env={**os.environ, "CNI_COMMAND": "VERSION"},
                          input=CONFIG, capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, json.loads(done.stdout)["cniVersion"]) == (0, "1.0.0")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "musl-gcc"])
def test_every_compiler_accepts_the_source_without_a_warning(compiler, tmp_path, monkeypatch):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("CC", compiler)
    build.compile_shim(build.SOURCE, tmp_path / "vfpool")
    assert run(tmp_path / "vfpool", "", CNI_COMMAND="VERSION").returncode == 0


# the Python side of the same wire

ENV = st.dictionaries(
    st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"])).map("CNI_".__add__),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)


@given(env=ENV, stdin=st.binary())
def test_a_call_survives_the_wire_and_no_prefix_of_it_is_a_call(env, stdin):
    data = wire.encode_call({**env, "PATH": "/bin"}, stdin)
    assert wire.parse_call(data) == wire.Call(env=env, stdin=stdin)
    assert all(wire.parse_call(data[:end]) is None for end in range(len(data)))


@given(status=st.integers(0, 255), document=st.binary())
def test_an_answer_survives_the_wire_and_no_prefix_of_it_is_an_answer(status, document):
    answer = wire.Answer(status=status, document=document)
    data = wire.encode_answer(answer)
    assert wire.parse_answer(data) == answer
    assert all(wire.parse_answer(data[:end]) is None for end in range(len(data)))


@given(st.binary(min_size=wire.HEADER_LIMIT))
def test_arbitrary_bytes_are_no_call(data):
    with pytest.raises(InputError):
        wire.parse_call(data)


@pytest.mark.parametrize(("data", "complaint"), [
    (b"VFPOOL-CNI 2 0 0\n", "first line"),
    (b"VFPOOL-CNI 1 65537 0\n", "at most 65536"),
    (b"VFPOOL-CNI 1 0 4194305\n", "at most 4194304"),
    (b"VFPOOL-CNI 1 5 0\nA=B\0C", "zero byte"),
    (b"VFPOOL-CNI 1 2 0\nA\0", "KEY=VALUE"),
    (b"VFPOOL-CNI 1 0 1\n{}", "1 bytes follow"),
])
def test_what_is_wrong_with_a_call_is_named(data, complaint):
    with pytest.raises(InputError, match=complaint):
        wire.parse_call(data)


def test_the_first_of_two_values_counts_as_it_does_for_getenv():
    call = wire.parse_call(b"VFPOOL-CNI 1 8 0\nA=1\0A=2\0")
    assert call is not None
    assert call.env == {"A": "1"}


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_reader_closes_every_descriptor_that_came():
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null") as null:
        socket.send_fds(theirs, [b"VFPOOL-CNI"], [null.fileno(), null.fileno()])
        with wire.CallReader() as reader, pytest.raises(InputError, match="more than one descriptor"):
            reader.receive(ours)
        socket.send_fds(theirs, [b"VFPOOL-CNI"], [null.fileno()])
        socket.send_fds(theirs, [b" 1 0 0\n"], [null.fileno()])
        with wire.CallReader() as reader:
            assert reader.receive(ours) is None
            with pytest.raises(InputError, match="more than one descriptor"):
                reader.receive(ours)
    assert open_descriptors() == before


def test_reader_says_when_the_client_left_half_way():
    ours, theirs = socket.socketpair()
    with ours, theirs, wire.CallReader() as reader:
        theirs.sendall(b"VFPOOL-CNI 1 0 5\n{")
        theirs.shutdown(socket.SHUT_WR)
        assert reader.receive(ours) is None
        with pytest.raises(InputError, match="left after 18 bytes"):
            reader.receive(ours)


def test_reader_collects_a_call_in_pieces_and_closes_its_descriptor():
    ours, theirs = socket.socketpair()
    data = wire.encode_call(ADD, CONFIG)
    with ours, theirs, open("/proc/self/ns/net") as netns:
        with wire.CallReader() as reader:
            socket.send_fds(theirs, [data[:1]], [netns.fileno()])
            assert reader.receive(ours) is None
            for byte in data[1:-1]:
                theirs.sendall(bytes([byte]))
                assert reader.receive(ours) is None
            theirs.sendall(data[-1:])
            call = reader.receive(ours)
            assert call is not None
            assert (call.env, call.stdin) == (ADD, CONFIG)
            assert call.netns is not None
            assert os.path.sameopenfile(call.netns, netns.fileno())
            assert not os.get_inheritable(call.netns)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(call.netns)


def test_python_client_passes_call_and_namespace(path):
    with agent(path, answering(3, RESULT)) as served:
        answer = wire.call_agent({**ADD, "CNI_NETNS": "/proc/self/ns/net"}, CONFIG, path=path)
    call, inode = served.result()
    assert answer == wire.Answer(status=3, document=RESULT)
    assert (call.env["CNI_IFNAME"], call.stdin) == ("net1", CONFIG)
    assert inode == os.stat("/proc/self/ns/net").st_ino


def test_python_client_says_that_no_agent_lives(path):
    with pytest.raises(HostError, match="ENOENT"):
        wire.call_agent(ADD, CONFIG, path=path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        with pytest.raises(HostError, match="ECONNREFUSED"):
            wire.call_agent(ADD, CONFIG, path=path)


@pytest.mark.parametrize(("said", "complaint"), [
    (b"", "ECONNRESET"), (b"0 3\n{}", "ECONNRESET"), (b"no\n", "first line"),
])
def test_python_client_names_a_bad_answer(path, said, complaint):
    with agent(path, saying(said)), pytest.raises(HostError, match=complaint):
        wire.call_agent(ADD, CONFIG, path=path)


def test_python_client_takes_an_answer_that_comes_before_all_is_read(path):
    with agent(path, lambda connection: connection.sendall(b"1 2\n{}")):
        answer = wire.call_agent(ADD, CONFIG.ljust(wire.MAX_STDIN), path=path)
    assert answer == wire.Answer(status=1, document=b"{}")


def test_python_client_waits_no_longer_than_told(path):
    with agent(path, reading_until_it_leaves) as served:
        with pytest.raises(HostError, match="ETIMEDOUT"):
            wire.call_agent(ADD, CONFIG, path=path, timeout=0.1)
        assert served.result() == b""
