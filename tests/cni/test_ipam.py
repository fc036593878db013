"""IPAM delegation with real child processes: plugins are small scripts in a folder of CNI_PATH."""

import dataclasses
import json
import os
import re
import sys
import time

import pytest

from cni.ipam import ipam_add, ipam_delete, ipam_release, remember_ipam
from cni.protocol import CniError, Command, Ip, Request
from tests.cni.test_protocol import ADDRESSES, GOLDEN


@pytest.fixture
def plugin(tmp_path):
    """Writes the plugin `fake`, a script with this body; returns its path."""
    def write(body, interpreter=sys.executable, mode=0o755):
        path = tmp_path / "bin/fake"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def request_of(tmp_path):
    def make(command=Command.ADD, stdin=b'{"name": "net"}', **env):
        environment = {"CNI_COMMAND": command.value, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x",
                       "CNI_IFNAME": "net1", "CNI_PATH": f"{tmp_path}/none::{tmp_path}/bin", **env}
        return Request(command=command, container_id="c1", ifname="net1", netns="/x", args={}, version="1.0.0",
                       environment=environment, config={}, stdin=stdin)

    return make


def refusal(call, *args):
    with pytest.raises(CniError) as caught:
        call(*args)
    return int(caught.value.code), caught.value.message, getattr(caught.value, "__notes__", [])


def say(document, status=0):
    return f"import sys\nprint({json.dumps(document)!r})\nsys.exit({status})"


def test_addresses(plugin, request_of):
    plugin(say({"cniVersion": "1.0.0", **GOLDEN["1.0.0"]}))
    assert ipam_add("fake", request_of(), 10) == ADDRESSES


def test_the_plugin_gets_all_that_we_got(plugin, request_of, tmp_path, capfd):
    plugin(f"import json, os, sys\njson.dump([dict(os.environ), sys.stdin.buffer.read().decode('latin-1')], "
           f"open({str(tmp_path / 'got')!r}, 'w'))\nprint('noise', file=sys.stderr)\n" + say({}))
    stdin = b'{"name": "net", "ipam": {"type": "fake", "x": [1, "\xc3\xa9"]}}\n' + b" " * 200_000
    request = request_of(stdin=stdin, CNI_ARGS="IP=10.0.0.1")
    ipam_delete("fake", request, 10)
    env, got = json.loads((tmp_path / "got").read_text())
    assert got.encode("latin-1") == stdin
    assert {key: value for key, value in env.items() if key.startswith("CNI_")} == {
        **request.environment, "CNI_COMMAND": "DEL"}
    assert not [key for key in env if not key.startswith("CNI_") and key not in ("PATH", "LC_CTYPE")]
    with pytest.raises(CniError):
        ipam_add("fake", request, 10)
    assert json.loads((tmp_path / "got").read_text())[0]["CNI_COMMAND"] == "ADD"
    assert capfd.readouterr() == ("", "")       # our stdout is the runtime's document


def test_what_a_del_prints_does_not_matter(plugin, request_of):
    plugin("print('whatever')")
    ipam_delete("fake", request_of(Command.DEL), 10)


@pytest.mark.parametrize("status", [1, 3])
def test_error_document(plugin, request_of, status):
    plugin(say({"cniVersion": "1.0.0", "code": 11, "msg": "no free address", "details": "range 1"}, status))
    assert refusal(ipam_add, "fake", request_of(), 10) == (
        11, "IPAM plugin fake: ADD failed: no free address", ["range 1"])
    assert refusal(ipam_delete, "fake", request_of(), 10) == (
        11, "IPAM plugin fake: DEL failed: no free address", ["range 1"])


@pytest.mark.parametrize(("body", "words"), [
    ("import sys; sys.exit(4)", "exit status 4"),
    ("import sys; print('oh no', file=sys.stderr); sys.exit(1)", "oh no"),
    ("import sys; print('on stdout'); sys.exit(1)", "on stdout"),
    ("import sys; sys.stdout.buffer.write(b'\\xff'); sys.exit(1)", "\ufffd"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit status -9"),
    (say([1], 1), "[1]"), (say({"msg": "x"}, 1), '{"msg": "x"}'),
    (say({"code": "x", "msg": "x"}, 1), '"code": "x"'),
    (say({"code": float("inf"), "msg": "x"}, 1), "Infinity")])
def test_failure_without_an_error_document(plugin, request_of, body, words):
    plugin(body)
    code, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert code == 103
    assert message.startswith("IPAM plugin fake: ADD failed: ")
    assert words in message


def test_only_the_end_of_much_noise_is_shown(plugin, request_of):
    plugin("import sys; print('x' * 1_000_000 + 'the end', file=sys.stderr); sys.exit(1)")
    _, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert len(message) < 1000
    assert message.endswith("the end")


@pytest.mark.parametrize(("output", "words"), [
    ("", "expected a JSON result, got b'\\n'"), ("garbage", "expected a JSON result, got b'garbage"),
    ("[]", "expected a JSON result, got b'[]"), ("[" * 100_000, "expected a JSON result, got b'[[["),
    ("x" * 2_000_000, "its result has 2000001 bytes, at most 1048576 are allowed"),
    ("{}", "it gave no address"), ('{"ips": 3}', "its result cannot be read: ")])
def test_success_without_addresses(plugin, request_of, output, words):
    plugin(f"print({output!r})" if len(output) < 1000 else f"print({output[0]!r} * {len(output)})")
    code, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert code == 103
    assert message.startswith(f"IPAM plugin fake: {words}")
    assert len(message) < 1000


def test_a_plugin_that_reads_nothing(plugin, request_of):
    plugin(say({"ips": [{"address": "10.0.0.5/24"}]}))
    made = ipam_add("fake", request_of(stdin=b" " * 1_000_000), 10)
    assert [type(ip) for ip in made.ips] == [Ip]


def test_timeout_ends_the_plugin(plugin, request_of, tmp_path):
    plugin(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    started = time.monotonic()
    assert refusal(ipam_add, "fake", request_of(), 0.5)[:2] == (
        11, "IPAM plugin fake: no answer to ADD within 0 s")
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("path", ["", ":", "/nowhere"])
def test_missing_plugin(request_of, path):
    assert refusal(ipam_add, "fake", request_of(CNI_PATH=path), 10)[:2] == (
        7, f"ipam.type: there is no plugin 'fake' in CNI_PATH ({path or 'empty'})")


def test_the_first_of_several_counts(plugin, request_of, tmp_path):
    plugin(say({"ips": [{"address": "10.0.0.5/24"}]}))
    (tmp_path / "none/fake").mkdir(parents=True)          # a folder is no plugin
    assert len(ipam_add("fake", request_of(), 10).ips) == 1


@pytest.mark.parametrize(("interpreter", "mode", "reason"), [
    (sys.executable, 0o644, "Permission denied"), ("/no/such/interpreter", 0o755, "No such file or directory"),
    ("", 0o755, "Exec format error")])
def test_what_cannot_be_run(plugin, request_of, interpreter, mode, reason):
    path = plugin("", interpreter, mode)
    if not interpreter:
        path.write_bytes(b"\x7fELF")
    code, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert code == 103
    assert re.fullmatch(f"IPAM plugin fake: cannot run {path}: {reason}", message)


def test_release_without_a_runtime_asks_as_the_add_did(plugin, request_of, tmp_path):
    plugin(f"import json, os, sys\njson.dump([dict(os.environ), json.load(sys.stdin)], "
           f"open({str(tmp_path / 'got')!r}, 'w'))\n" + say({}))
    add = request_of(CNI_ARGS="IP=10.0.0.1;K8S_POD_NAME=\udcff", CNI_OTHER="x")
    config = {"name": "net", "ipam": {"type": "fake", "x": [1, "\u00e9"]}}
    ipam_release(remember_ipam("fake", dataclasses.replace(add, config=config)), 10)
    environment, stdin = json.loads((tmp_path / "got").read_text())
    assert stdin == config
    assert {key: value for key, value in environment.items() if key.startswith("CNI_")} == {
        "CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": "",
        "CNI_ARGS": "IP=10.0.0.1;K8S_POD_NAME=\udcff", "CNI_PATH": add.environment["CNI_PATH"]}
