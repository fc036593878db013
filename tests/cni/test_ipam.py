"""IPAM delegation with real child processes: plugins are small scripts in a folder of CNI_PATH."""

import dataclasses
import errno
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cni import repair
from cni.attach import Attachments
from cni.custody import Custody, Loss
from cni.invocation import Invocation
from cni.ipam import Declined, NotRun, ipam_add, ipam_delete, ipam_forward, ipam_release, remember_ipam
from cni.kernel import Kernel
from cni.netconf import NetConf
from cni.protocol import CniError, Code, Command
from cni.queue import FairQueue
from cni.record import Phase
from cni.repair import IPAM_BUDGET, TRIES_DECLINED, VF_BUDGET, Repair
from cni.result import Ip
from cni.store import Store
from sriov.errors import Gone, HostError
from sriov.model import VfSettings
from tests.cni.test_record import record
from tests.cni.test_result import ADDRESSES, GOLDEN
from tests.support.node import wait_for


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
    (say([1], 1), "[1]"), (say({"msg": "x"}, 1), '{"msg": "x"}'),
    (say({"code": "x", "msg": "x"}, 1), '"code": "x"'),
    (say({"code": float("inf"), "msg": "x"}, 1), "Infinity"),
    *((say({"code": code, "msg": "x"}, 1), f'"code": {code}') for code in (0, -1, 2**32))])
def test_failure_without_an_error_document(plugin, request_of, body, words):
    plugin(body)
    code, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert code == 103
    assert message.startswith("IPAM plugin fake: ADD failed: ")
    assert words in message


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (36, "signal 36")])
def test_a_plugin_that_is_killed(plugin, request_of, number, name):
    plugin(f"import os; os.kill(os.getpid(), {number})")
    assert refusal(ipam_add, "fake", request_of(), 10)[:2] == (103, f"IPAM plugin fake: ADD was ended by {name}")


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


def test_a_result_that_is_too_large_only_as_it_is_answered(plugin, request_of):
    plugin("""print('{"dns": "' + "\u00e9" * 200_000 + '"}')""")
    _, message, _ = refusal(ipam_add, "fake", request_of(), 10)
    assert message == "IPAM plugin fake: its result has 1200011 bytes, at most 1048576 are allowed"


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


def test_timeout_ends_the_plugins_children_too(plugin, request_of, tmp_path):
    """A script around the plugin proper, say: that one would reserve an address after its DEL."""
    plugin(f"sleep 60 & echo $! > {tmp_path / 'pid'}\nwait", "/bin/sh")
    assert refusal(ipam_add, "fake", request_of(), 0.5)[0] == 11
    child = int((tmp_path / "pid").read_text())
    wait_for("the child's end", lambda: not Path(f"/proc/{child}").exists()
             or Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize(("body", "kind"), [
    ("import time\ntime.sleep(60)", CniError),                     # killed: it may have been about to answer
    ("print('{}')", CniError),
    ("print('no JSON')", CniError),
    ("import os\nos.kill(os.getpid(), 9)", CniError),              # by the kernel, say, that is out of memory
    ("import os\nos.kill(os.getpid(), 34)", CniError),
    ("import sys\nsys.exit(2)", CniError),                         # as a Go program that panics
    (say({"code": 11, "msg": "context deadline exceeded"}, 1), CniError),
    (say({"code": 999, "msg": "no such range"}, 1), Declined),
    (say({"code": 999, "msg": "no such range"}, 127), Declined),
    ("import sys\nsys.exit('libc.so.6: version `GLIBC_2.38 not found')", CniError),
    ("import sys\nsys.exit(127)", NotRun),                         # as a shell
    (None, NotRun),
])
def test_what_an_add_that_failed_may_have_reserved(plugin, request_of, body, kind):
    if body is None:
        plugin("", mode=0o644)
    else:
        plugin(body)
    with pytest.raises(CniError) as caught:
        ipam_add("fake", request_of(), 1.0)
    assert type(caught.value) is kind


def test_one_that_the_loader_cannot_load_has_reserved_nothing(request_of, tmp_path):
    """The agent runs the host's plugins with the libraries of its own container."""
    source, folder = tmp_path / "lib.c", Path(request_of().environment["CNI_PATH"].split(":")[-1])
    folder.mkdir(exist_ok=True)
    source.write_text("int f(void) { return 0; }\n")
    run = partial(subprocess.run, check=True)
    run(["gcc", "-shared", "-o", tmp_path / "libabsent.so", source])
    source.write_text("int f(void);\nint main(void) { return f(); }\n")
    run(["gcc", "-o", folder / "fake", source, tmp_path / "libabsent.so"])
    (tmp_path / "libabsent.so").unlink()
    with pytest.raises(NotRun, match=r"libabsent\.so"):
        ipam_add("fake", request_of(), 10)


@pytest.mark.parametrize(("error", "owed"), [
    (CniError(Code.TRY_AGAIN_LATER, "no answer"), 1), (OSError(28, "disk full"), 1),
    (CniError(Code.FAILED, "no address left"), 1), (NotRun(Code.FAILED, "there is no plugin"), 0)])
def test_an_undo_owes_what_it_could_not_give_back(tmp_path, counted, lost, request_of, error, owed):
    counted(status=1)
    with opened(tmp_path / "state") as store:
        store.write(lost())
        call = Invocation(request=request_of(), netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 9)
        Attachments(NOW, store)._undo(call, CONF, lost(), error)
        assert (list(store), len(store.owed)) == ([], owed)
        notes = "".join(getattr(error, "__notes__", ()))
        assert ("undo failed: IPAM plugin fake: DEL failed" in notes) is bool(owed)
    with opened(tmp_path / "state") as store:      # on disk, for an agent that starts anew
        assert [left.attachment for left in store.owed] == owed * [("c1", "net1")]


def test_a_network_whose_plugin_declines_all_keeps_no_pod_from_ending(tmp_path, plugin, lost, request_of, caplog,
                                                                        monkeypatch):
    monkeypatch.setattr(repair, "INTERVAL", 0.0)
    plugin(say({"code": 999, "msg": "no such range"}, 1))
    begun = dataclasses.replace(lost(), phase=Phase.ATTACHING)
    delete = call(request_of(Command.DEL), ipam={"type": "fake"})
    with opened(tmp_path / "state") as store:
        store.write(begun)
        attachments = Attachments(NOW, store)
        with pytest.raises(Declined) as caught:
            ipam_add("fake", request_of(), 10)
        attachments._undo(call(request_of(), ipam={"type": "fake"}), CONF, begun, caught.value)
        for _ in range(2):
            attachments.handle(delete)
        assert "its addresses, if there are any, are not given back: IPAM plugin fake: DEL failed" in caplog.text
        assert (list(store), store.owed) == ([], [begun])       # a server may be away, and no plugin says so
        for _ in range(TRIES_DECLINED):
            attachments.repair.reconcile()
        assert store.owed == [begun]
        attachments.repair.reconcile()
        assert (store.owed, attachments.repair.failures) == ([], [])
        assert "what addresses it may have got stay reserved: IPAM plugin fake: DEL failed" in caplog.text


def test_what_an_answered_add_got_is_owed_for_ever(tmp_path, plugin, lost, request_of, monkeypatch):
    monkeypatch.setattr(repair, "INTERVAL", 0.0)
    plugin(say({"code": 999, "msg": "no such range"}, 1))
    with opened(tmp_path / "state") as store:
        store.owe(lost())
        store.delete(lost().without_ipam())
        attachments = Attachments(NOW, store)
        for _ in range(TRIES_DECLINED + 2):
            attachments.repair.reconcile()
        for config in ({"ipam": {"type": "fake"}}, {}):
            with pytest.raises(Declined, match="no such range"):
                attachments.handle(call(request_of(Command.DEL), **config))
        assert store.owed == [lost()]


def test_a_mended_network_ends_the_pod_of_an_add_that_nobody_ended(tmp_path, plugin, lost, request_of):
    plugin("import json, sys\nif 'range' not in json.load(sys.stdin)['ipam']:\n"
           "    print(json.dumps({'code': 999, 'msg': 'no such range'}))\n    sys.exit(1)")
    with opened(tmp_path / "state") as store:
        store.write(dataclasses.replace(lost(), phase=Phase.ATTACHING))
        attachments = Attachments(NOW, store)
        attachments.repair.reconcile()
        attachments.handle(call(request_of(Command.DEL), ipam={"type": "fake", "range": "10.0.0.0/24"}))
        assert (list(store), len(store.owed)) == ([], 1)


RESERVES_AND_FAILS = """
import os, signal, sys
lease, works = {lease!r}, {works!r}
if os.environ["CNI_COMMAND"] == "DEL" and os.path.exists(works):
    os.unlink(lease)
    sys.exit()
if os.environ["CNI_COMMAND"] == "ADD":
    open(lease, "w").close()
{failure}
"""


@pytest.mark.parametrize("end", ["DEL", "DEL by a changed network", "repair"])
@pytest.mark.parametrize(("failure", "declined"), [
    ("sys.exit('panic: runtime error')", False), ("os.kill(os.getpid(), signal.SIGKILL)", False),
    (say({"code": 11, "msg": "context deadline exceeded"}, 1), False),
    (say({"code": 999, "msg": "connection refused"}, 1), True)], ids=["panic", "killed", "later", "error"])
def test_what_a_failed_add_reserved_is_given_back_in_the_end(tmp_path, plugin, lost, request_of, failure, declined,
                                                             end):
    lease, works = tmp_path / "lease", tmp_path / "works"
    plugin(RESERVES_AND_FAILS.format(lease=str(lease), works=str(works), failure=failure))
    config = {"ipam": {"type": "fake"}} if end == "DEL" else {}
    delete = call(request_of(Command.DEL), **config)
    begun = dataclasses.replace(lost(), phase=Phase.ATTACHING)
    with opened(tmp_path / "state") as store:
        store.write(begun)
        attachments = Attachments(NOW, store)
        with pytest.raises(CniError) as caught:
            ipam_add("fake", request_of(), 10)
        attachments._undo(call(request_of(), ipam={"type": "fake"}), CONF, begun, caught.value)
        assert (list(store), store.owed, lease.exists()) == ([], [begun], True)
        for _ in range(2):
            with nullcontext() if declined else pytest.raises(CniError, match="IPAM plugin fake: DEL"):
                attachments.handle(delete)
        works.touch()
        if end == "repair":
            attachments.repair.reconcile()
        else:
            attachments.handle(delete)
        assert (store.owed, lease.exists()) == ([], False)


@pytest.mark.parametrize(("path", "searched"), [
    ("", "empty"), (":", "empty"), ("/nowhere:/usr", "/nowhere, which is not here, /usr")])
def test_missing_plugin(request_of, path, searched):
    """Of the node's folders an agent in a container sees those that are mounted."""
    with pytest.raises(NotRun) as caught:
        ipam_add("fake", request_of(CNI_PATH=path), 10)
    assert (caught.value.code, caught.value.message) == (
        7, f"ipam.type: there is no plugin 'fake' in CNI_PATH ({searched})")
    assert caught.value.hint == (
        "install it on the node; where it is there already, this agent does not see it: mount that folder into its "
        "container under the same path")


def test_plugin_whose_name_no_file_has(request_of, tmp_path):
    assert refusal(ipam_add, "x" * 256, request_of(CNI_PATH=str(tmp_path)), 10)[0] == 7


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


# ---- what is owed: the VF is home, its addresses are not ------------------------------------------------------


def kernel(boot_id="b", driver=None):
    """Of a machine without any VF whose PF's netdev has just gone: none can be brought home."""
    def identify(address):
        raise Gone(f"{address} is not there")

    sysfs: Any = SimpleNamespace(read_driver=lambda vf: driver, probe=lambda vf: None, identify=identify,
                                 read_driver_override=lambda vf: None,
                                 locate_vf=lambda vf: (record().pf, 1), find_netdev=lambda pf: ("none", 2**31 - 1))
    return Kernel(sysfs=sysfs, changes=FairQueue(), netns_fd=-1, boot_id=boot_id, settle=lambda index: False,
                  trace=lambda step: None)


NOW = kernel("this boot")
VF = record().vf
CONF = NetConf(network="net", device=VF, settings=VfSettings(), mtu=None, ipam="fake")


@contextmanager
def opened(state):
    store = Store.open(state)
    try:
        yield store
    finally:
        store.close()


def errors(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]


def test_a_slow_plugin_is_waited_for_by_nobody_and_gets_its_time(tmp_path, counted, done, lost, monkeypatch):
    monkeypatch.setattr(repair, "VF_BUDGET", 0.1)
    monkeypatch.setattr(repair, "INTERVAL", 0.1)
    assert IPAM_BUDGET > 10 * VF_BUDGET
    counted(seconds=1.0)
    with opened(tmp_path / "state") as store:
        store.write(lost())
        made, started = Repair(Custody(NOW, store), store), time.monotonic()
        made.reconcile()
        assert time.monotonic() - started < 1
        assert (list(store), [owed.attachment for owed in store.owed], done()) == ([], [("c1", "net1")], [])
        with made.running():
            wait_for("the DEL", lambda: store.owed == [])
    assert done() == ["c1"]


def test_an_end_does_not_wait_for_a_plugin_that_hangs(tmp_path, plugin, lost, monkeypatch):
    monkeypatch.setattr(repair, "VF_BUDGET", 0.1)
    hanging, threads = tmp_path / "hanging", threading.active_count()
    plugin(f"import pathlib, time\npath = pathlib.Path({str(hanging)!r})\npath.touch()\n"
           "while path.exists(): time.sleep(0.02)")
    with opened(tmp_path / "state") as store:
        store.owe(lost())
        made = Repair(Custody(NOW, store), store)
        with made.running():
            wait_for("the plugin", hanging.exists)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert len(store.owed) == 1
        hanging.unlink()
        wait_for("the thread to end", lambda: threading.active_count() == threads)


def test_what_is_owed_outlives_the_next_add_of_the_vf_and_the_agent(tmp_path, counted, done, lost, caplog):
    counted(status=1)
    with opened(tmp_path / "state") as store, ExitStack() as stack:
        store.write(lost())
        Custody(NOW, store).claim(stack, VF, time.monotonic() + 10, lambda: None)
        store.write(record(container="c2", boot_id=NOW.boot_id))
    assert [path.name for path in (tmp_path / "state/ipam").iterdir() if "c1" in path.name] == []
    with opened(tmp_path / "state") as store:
        assert [kept.owner.container_id for kept in store] == ["c2"]
        assert store.owed == [lost()]
        store.delete(record(container="c2", boot_id=NOW.boot_id))
        made = Repair(Custody(NOW, store), store)
        made.reconcile()
        (message,) = errors(caplog)
        assert message == ("the addresses of container c1, net1 of network net are still reserved: IPAM plugin "
                           "fake: DEL failed: exit status 1")
        counted()
        made.reconcile()
        assert done() == []            # it rests
        Repair(Custody(NOW, store), store).reconcile()
        assert (done(), store.owed) == (["c1"], [])


def test_one_that_fails_does_not_keep_the_next_from_its_turn(tmp_path, counted, plugin, done, lost):
    counted()
    with opened(tmp_path / "state") as store:
        first = lost("c1")
        assert first.ipam is not None
        store.owe(dataclasses.replace(first, ipam=dataclasses.replace(first.ipam, plugin="absent")))
        store.owe(lost("c2"))
        Repair(Custody(NOW, store), store).reconcile()
        assert (done(), [owed.attachment[0] for owed in store.owed]) == (["c2"], ["c1"])


def test_a_vf_of_an_earlier_boot_is_not_in_use(tmp_path, lost):
    with opened(tmp_path / "state") as store:
        attachments = Attachments(NOW, store)
        assert not attachments.holds(VF)
        store.write(lost())
        assert not attachments.holds(VF)
        store.write(lost(boot_id=NOW.boot_id, identity=5))       # made anew
        assert not attachments.holds(VF)
        store.write(lost(boot_id=NOW.boot_id))
        assert attachments.holds(VF)


def call(request, **config):
    config = {"cniVersion": "1.0.0", "name": "net", **config}
    request = dataclasses.replace(request, config=config, stdin=json.dumps(config).encode())
    return Invocation(request=request, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10)


CHANGED = pytest.mark.parametrize("ipam", [
    {}, {"ipam": {"type": "other"}}, {"ipam": {"type": "absent"}}, {"ipam": {"type": "other", "dataDir": "/x"}}],
    ids=["none", "another", "absent", "range"])


@CHANGED
def test_a_del_by_a_changed_configuration_gives_back_what_the_add_got(tmp_path, counted, plugin, done, lost,
                                                                      request_of, ipam):
    plugin("", name="other")
    delete = call(request_of(Command.DEL), **ipam)
    with opened(tmp_path / "state") as store:
        store.write(lost())
        attachments = Attachments(NOW, store)
        counted(status=1)
        for _ in range(2):      # of the VF, and of what is still owed once that is home
            with pytest.raises(CniError, match="IPAM plugin fake: DEL failed"):
                attachments.handle(delete)
            assert (list(store), store.owed) == ([], [lost()])
        counted()
        attachments.handle(delete)
        assert (done(), store.owed) == (["c1"], [])


def test_nothing_is_given_back_twice(tmp_path, counted, done, lost, request_of):
    counted()
    delete = call(request_of(Command.DEL), ipam={"type": "fake"})
    with opened(tmp_path / "state") as store:
        attachments = Attachments(NOW, store)
        store.write(lost())
        attachments.handle(delete)
        assert done() == ["c1"]
        store.owe(lost())
        store.delete(lost().without_ipam())
        attachments.handle(delete)
        assert (done(), store.owed) == (["c1", "c1"], [])


def test_what_another_network_gives_back_is_not_what_is_owed(tmp_path, counted, done, lost, request_of):
    counted()
    with opened(tmp_path / "state") as store:
        store.owe(lost())
        delete = dataclasses.replace(request_of(Command.DEL), network="other")
        Attachments(NOW, store).handle(call(delete, name="other", ipam={"type": "fake"}))
        assert (done(), store.owed) == (["c1"], [lost()])


@pytest.mark.parametrize("config", [{}, {"ipam": {"type": "fake"}}], ids=["changed", "as it was"])
def test_on_a_full_disk_a_vf_comes_home_all_the_same(tmp_path, counted, lost, request_of, monkeypatch, config):
    counted(status=1)
    here, brought = lost(boot_id=NOW.boot_id).detaching(), []

    def no_space(*_):
        raise HostError("cannot write the record", errno=errno.ENOSPC)

    monkeypatch.setattr("cni.custody.bring_home", lambda kernel, record, *_, **__: brought.append(record.vf))
    with opened(tmp_path / "state") as store:
        store.write(here)
        monkeypatch.setattr(store, "owe", no_space)
        custody = Custody(NOW, store)
        with custody.hold(VF, time.monotonic()), pytest.raises(HostError, match="ENOSPC"):
            custody.settle(here, time.monotonic())
        with pytest.raises(HostError, match="ENOSPC"):
            Attachments(NOW, store).handle(call(request_of(Command.DEL), **config))
        assert (brought, list(store)) == ([VF, VF], [here])


def test_a_del_that_fails_owes_and_the_next_one_pays(tmp_path, counted, done, lost, request_of):
    delete = request_of(Command.DEL)
    with opened(tmp_path / "state") as store:
        store.write(lost())
        attachments = Attachments(NOW, store)
        counted(status=1)
        for _ in range(2):
            with pytest.raises(CniError, match="DEL failed"):
                attachments.handle(call(delete, ipam={"type": "fake"}))
            assert (list(store), store.owed) == ([], [lost().detaching()])
        counted()
        attachments.handle(call(delete, ipam={"type": "fake"}))
        assert (done(), store.owed) == (["c1"], [])


def test_a_vf_that_is_not_home_keeps_its_record_and_its_addresses_are_given_back(
        tmp_path, counted, done, lost, monkeypatch):
    """Out of descriptors: neither namespace nor host can be looked into."""
    counted()
    here = lost(boot_id=NOW.boot_id)
    with opened(tmp_path / "state") as store:
        store.write(here)
        custody = Custody(NOW, store)

        def no_socket(*args):
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", no_socket)
            store.owe(here)
            with pytest.raises(HostError, match="cannot open a netlink socket: EMFILE"):
                custody.release(here, None, time.monotonic(), lambda: custody.pay(here.attachment, 10))
        assert (done(), store.owed, [kept.vf for kept in store]) == (["c1"], [], [VF])


def test_a_lost_vf_that_does_not_come_home_owes_its_addresses_all_the_same(tmp_path, counted, done, lost, caplog):
    counted()
    here = lost(boot_id=NOW.boot_id).detaching()
    with opened(tmp_path / "state") as store:
        store.write(here)
        custody = Custody(NOW, store)
        assert custody.find_loss(here) is Loss.UNFINISHED
        made = Repair(custody, store)
        made.reconcile()
        assert (done(), store.owed, list(store)) == (["c1"], [], [here.without_ipam()])
        (message,) = errors(caplog)
        assert message.startswith(f"VF {VF} of container c1, net1 of network net is not home: ")


def test_who_waits_for_a_lock_keeps_nobody_from_a_place(tmp_path):
    """Eight DELs of ADDs that wait for their place, say."""
    calls, done = FairQueue(1), []
    with opened(tmp_path / "state") as store:
        custody = Custody(dataclasses.replace(NOW, calls=calls), store)
        later = time.monotonic() + 10

        def delete():
            with calls.place(), custody.hold_attachment(("c1", "net1"), later):
                done.append("DEL")

        waiting = threading.Thread(target=delete)
        with custody.hold_attachment(("c1", "net1"), later):
            waiting.start()
            wait_for("it to wait for the lock", lambda: custody._locks._locks[("c1", "net1")][1] == 2)
            with calls.place():
                done.append("ADD")
        waiting.join(10)
        assert done == ["ADD", "DEL"]


@pytest.mark.parametrize(("command", "message", "code"), [
    (Command.STATUS, "unknown CNI_COMMAND: STATUS", None), (Command.GC, "unknown CNI_COMMAND: GC", None),
    (Command.CHECK, "unknown CNI_COMMAND: CHECK", 4), (Command.STATUS, "no CNI_PATH", 4)])
def test_a_plugin_of_before_status_and_gc_has_nothing_to_say(plugin, request_of, command, message, code):
    plugin(say({"code": 4, "msg": message}, 1))
    if code is None:
        ipam_forward("fake", request_of(command), 10)
    else:
        assert refusal(ipam_forward, "fake", request_of(command), 10)[0] == code


@pytest.mark.parametrize("status", [0, 1])
def test_a_del_of_what_is_unknown_is_done_when_its_plugin_says_so(tmp_path, counted, request_of, status):
    counted(status=status)
    unknown = call(request_of(Command.DEL), ipam={"type": "fake"})
    with opened(tmp_path / "state") as store:
        if status == 0:
            assert Attachments(NOW, store).handle(unknown) is None
        else:
            with pytest.raises(CniError, match="IPAM plugin fake: DEL failed: exit status 1"):
                Attachments(NOW, store).handle(unknown)


@pytest.mark.parametrize("here", ["nothing", "record", "debt"])
@CHANGED
def test_a_pod_whose_plugin_was_uninstalled_ends_and_owes(tmp_path, plugin, lost, request_of, caplog, here, ipam):
    plugin("", name="other")
    asked = ipam if here != "nothing" else {"ipam": {"type": "fake"}}
    with opened(tmp_path / "state") as store:
        if here == "record":
            store.write(lost())
        elif here == "debt":
            store.owe(lost())
            store.delete(lost().without_ipam())
        Attachments(NOW, store).handle(call(request_of(Command.DEL), **asked))
        assert "not given back: ipam.type: there is no plugin 'fake'" in caplog.text
        assert (list(store), len(store.owed)) == ([], here != "nothing")
