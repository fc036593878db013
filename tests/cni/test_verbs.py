"""Every verb with whatever a caller can say: answered in its own words or with an error, and never by a bug."""

import dataclasses
import json
import time
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.attach import Attachments
from cni.invocation import BUDGET, Invocation
from cni.netns import call_in, open_netns
from cni.protocol import VERSIONS, Command
from cni.record import Phase
from cni.service import answer
from cni.takeover import Forerunner
from sriov.host.sysfs import Sysfs
from tests.cni.test_ipam import NOW, opened
from tests.cni.test_protocol import ENV, json_values, refusal, request
from tests.cni.test_record import record
from tests.support.node import netns
from tests.support.tree import Pf, Tree

CODES = {1, 4, 6, 7, 11, 50, 51, 100, 101, 102, 103, 104}


@contextmanager
def node(folder, boot_id):
    """With a VF that container c1 has since that boot; its namespace cannot be seen from here."""
    tree = Tree(folder / "sys").add(Pf("0000:3b:00.0", "ens1f0", num_vfs=2, away={0}))
    kernel = dataclasses.replace(NOW, sysfs=Sysfs(tree.root))
    with opened(folder / "state") as store:
        store.write(record("0000:3b:02.0", phase=Phase.ATTACHED, boot_id=boot_id, result={"cniVersion": "1.0.0"}))
        yield Attachments(kernel, store, forerunner=Forerunner(kernel, folder / "sriov"))


@pytest.fixture(scope="module")
def attachments(tmp_path_factory):
    with node(tmp_path_factory.mktemp("node"), "earlier") as attachments:
        yield attachments


@pytest.fixture(scope="module")
def attached(tmp_path_factory):
    with node(tmp_path_factory.mktemp("node"), NOW.boot_id) as attachments:
        yield attachments


interfaces = st.fixed_dictionaries({}, optional={
    "name": st.just("net1") | json_values, "sandbox": st.just(ENV["CNI_NETNS"]) | json_values, "mac": json_values})
results = st.fixed_dictionaries({}, optional={
    "cniVersion": st.sampled_from(VERSIONS) | json_values,
    "interfaces": st.lists(interfaces, max_size=2) | json_values,
    "ips": st.lists(st.fixed_dictionaries({}, optional={
        "address": st.just("10.0.0.1/24") | json_values, "interface": json_values}), max_size=2) | json_values,
    "routes": json_values, "dns": json_values})
capabilities = st.dictionaries(st.sampled_from(["mac", "ips", "bandwidth", "deviceID"]), json_values)
configs = st.fixed_dictionaries({}, optional={
    "cniVersion": st.sampled_from(VERSIONS[4:]) | json_values, "name": st.just("net") | json_values,
    "type": st.sampled_from(["vfpool", "sriov"]), "deviceID": st.sampled_from([record().vf, "0000:3b:02.0"]),
    "ipam": st.just({"type": "fake"}) | json_values, "prevResult": results | json_values,
    "cni.dev/valid-attachments": st.just([]) | st.lists(st.fixed_dictionaries({}, optional={
        "containerID": json_values, "ifname": json_values}), max_size=2) | json_values,
    "runtimeConfig": capabilities | json_values,
    "args": st.fixed_dictionaries({}, optional={"cni": json_values}) | json_values})


@pytest.fixture(scope="module")
def namespaces():
    """Descriptors of two that stand for the host's and a pod's: the first has no link with a VF's index."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_netns(stack.enter_context(netns()))) for _ in range(2)]


def ask(attachments, namespaces, command, config, *, with_netns):
    host, pod = namespaces
    env, stdin = {**ENV, "CNI_COMMAND": command}, json.dumps(config).encode()
    return call_in(host, lambda: answer(attachments, env, stdin, pod if with_netns else None))


def test_an_add_gets_as_far_as_the_vf(attachments, namespaces):
    config = {"cniVersion": "1.0.0", "name": "net", "type": "vfpool", "deviceID": record().vf}
    for with_netns, words in ((False, "is not a network namespace"), (True, "is not on the host")):
        reply = ask(attachments, namespaces, Command.ADD, config, with_netns=with_netns)
        assert words in json.loads(reply.document)["msg"]


@settings(deadline=None)
@given(st.sampled_from(Command), configs, st.booleans())
def test_any_call_of_any_verb(attachments, namespaces, command, config, with_netns):
    reply = ask(attachments, namespaces, command, config, with_netns=with_netns)
    if reply.status == 0:
        assert command is not Command.ADD
        assert (reply.document == b"") is (command is not Command.VERSION)
    else:
        document = json.loads(reply.document)
        assert "internal error" not in document["msg"]
        assert document["code"] in CODES


@settings(deadline=None)
@given(configs)
def test_any_check_of_what_is_attached(attached, config):
    """Nobody handed its namespace in."""
    reply = answer(attached, {**ENV, "CNI_COMMAND": "CHECK"}, json.dumps(config).encode(), None)
    document = json.loads(reply.document)
    assert "internal error" not in document["msg"]
    assert document["code"] in (1, 4, 7, 102)


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_a_call_whose_time_is_up(attachments, command):
    """Another call holds the attachment for as long as this one may wait."""
    asked = request({"cniVersion": "1.0.0", "name": "net", "deviceID": record().vf}, CNI_COMMAND=command,
                    CNI_CONTAINERID="busy")
    call = Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic())
    with attachments._custody.hold_attachment(("busy", "net1"), time.monotonic() + 1):
        assert refusal(attachments.handle, call) == (11, "attachment busy/net1 is busy with another call")


def test_what_a_step_is_told_when_time_is_up_or_nobody_waits():
    def call(seconds, gone):
        return Invocation(request=request(), netns_fd=None, gone=lambda: gone, deadline=time.monotonic() + seconds)

    call(10, False).check()
    assert refusal(call(-1, False).check) == (11, f"not done within {BUDGET:.0f} s: undoing what was done")
    assert refusal(call(10, True).check) == (11, "the caller went away: undoing what was done")
    assert call(-5, False).timeout == 1.0
