"""One call to an answer: whatever happens inside, the runtime reads a document and an exit status."""

import io
import json
import logging
import time

import pytest
from hypothesis import HealthCheck, given, settings

from cni.__main__ import main
from cni.attach import Attachments
from cni.invocation import BUDGET
from cni.protocol import VERSIONS, CniError, Command
from cni.service import answer, fail
from sriov.errors import Gone, HostError, Refused
from tests.cni.test_protocol import ENV, environments, stdins

CONFIG = {"cniVersion": "0.4.0", "name": "net", "type": "vfpool"}


class Handler(Attachments):
    """Stands where Attachments does: keeps the calls, and does what it was made for."""

    def __init__(self, outcome=None):
        self.calls = []
        self._outcome = outcome

    def handle(self, call):
        self.calls.append(call)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


def ask(handler, config=CONFIG, **env):
    stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
    reply = answer(handler, {**ENV, **env}, stdin, 7)
    return reply.status, json.loads(reply.document) if reply.document else None


def test_result_of_an_add():
    handler = Handler({"cniVersion": "0.4.0", "ips": []})
    before = time.monotonic()
    assert ask(handler) == (0, {"cniVersion": "0.4.0", "ips": []})
    (call,) = handler.calls
    assert (call.request.command, call.request.config) == (Command.ADD, CONFIG)
    assert (call.netns_fd, call.gone()) == (7, False)
    assert before + BUDGET <= call.deadline <= time.monotonic() + BUDGET


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_the_other_verbs_print_nothing(command):
    assert ask(Handler(None), {**CONFIG, "cniVersion": "1.1.0"}, CNI_COMMAND=command) == (0, None)


@pytest.mark.parametrize(("error", "document"), [
    (CniError(11, "busy"), {"code": 11, "msg": "busy"}),
    (Refused("in use", hint="wait"), {"code": 101, "msg": "in use", "details": "hint: wait"}),
    (HostError("cannot set it", errno=22), {"code": 100, "msg": "cannot set it: EINVAL"}),
    (Gone("it is not there"), {"code": 102, "msg": "it is not there"})])
def test_errors(error, document):
    assert ask(Handler(error)) == (1, {"cniVersion": "0.4.0", **document})


@pytest.mark.parametrize("bug", [KeyError("vf"), AssertionError(), RuntimeError("x\ny"), OSError(5, "io")])
def test_a_bug_is_an_error_document_and_a_traceback_in_the_log_only(bug, caplog, capfd):
    status, document = ask(Handler(bug))
    assert (status, document) == (1, {"cniVersion": "0.4.0", "code": 103, "msg": f"internal error: {bug!r}"})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.records[0].exc_info
    assert capfd.readouterr().out == ""


POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=c"


@pytest.mark.parametrize("outcome", [None, Gone("x"), KeyError("vf")])
@pytest.mark.parametrize(("args", "pod"), [(POD, " of pod shop/cart-0"), ("", ""), ("K8S_POD_NAME=a", "")])
def test_the_log_names_the_pod_where_the_caller_does(caplog, outcome, args, pod):
    caplog.set_level(logging.INFO)
    ask(Handler(outcome), CNI_ARGS=args)
    (line,) = caplog.messages
    assert line.startswith(f"ADD {ENV['CNI_CONTAINERID']} {ENV['CNI_IFNAME']}{pod}: ")


def test_a_call_that_is_refused_is_logged_with_its_pod(caplog):
    assert ask(Handler(), CNI_ARGS=f"{POD};wrong")[0] == 1
    assert " of pod shop/cart-0: failed " in caplog.text


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_is_echoed(version):
    config = {**CONFIG, "cniVersion": version}
    assert ask(Handler(Gone("x")), config)[1]["cniVersion"] == version
    assert ask(Handler(), config, CNI_COMMAND="VERSION") == (
        0, {"cniVersion": version, "supportedVersions": list(VERSIONS)})


@pytest.mark.parametrize(("config", "shown"), [
    ({"name": "net"}, "0.1.0"), ({"cniVersion": "9.9.9"}, "1.1.0"), ({"cniVersion": ["1.0.0"]}, "1.1.0"),
    (b"{", "1.1.0"), (b"[]", "1.1.0"), (b"", "1.1.0")])
def test_the_version_of_an_error_where_the_request_has_none_that_we_speak(config, shown):
    assert ask(Handler(Gone("x")), config)[1]["cniVersion"] == shown


def test_a_refused_request_reaches_no_handler():
    handler = Handler()
    assert ask(handler, CNI_IFNAME="")[0] == 1
    assert ask(handler, b"{")[1]["code"] == 6
    assert handler.calls == []


def test_fail_is_the_same_document():
    assert json.loads(fail(Gone("x"), json.dumps(CONFIG).encode()).document) == {
        "cniVersion": "0.4.0", "code": 102, "msg": "x"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(environments, stdins)
def test_any_call_is_answered_and_none_is_a_bug(env, stdin):
    reply = answer(Handler({"cniVersion": "1.0.0"}), ENV | env, stdin, None)
    document = json.loads(reply.document)
    assert reply.status == (1 if "code" in document else 0)
    assert "internal error" not in document.get("msg", "")


def test_version_needs_neither_agent_nor_state(tmp_path):
    """`python -m cni`."""
    env = {"CNI_COMMAND": "VERSION", "VFPOOL_SOCKET": f"{tmp_path}/sock", "VFPOOL_STATE": f"{tmp_path}/state"}
    out = io.BytesIO()
    assert main(env, io.BytesIO(b'{"cniVersion": "1.0.0"}'), out) == 0
    assert json.loads(out.getvalue()) == {"cniVersion": "1.0.0", "supportedVersions": list(VERSIONS)}
    assert list(tmp_path.iterdir()) == []
