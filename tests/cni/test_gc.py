"""GC: the list that a runtime gives, what it ends, and failures that are one attachment's own."""

import dataclasses
import time

import pytest

from cni.attach import Attachments
from cni.custody import Custody
from cni.detach import Detacher
from cni.gc import parse_valid
from cni.invocation import BUDGET, Invocation
from cni.protocol import CniError, Command
from cni.record import Phase
from cni.takeover import Forerunner
from sriov.errors import Gone, HostError
from tests.cni.test_ipam import NOW, opened
from tests.cni.test_protocol import refusal, request
from tests.cni.test_record import record

LIST = "cni.dev/valid-attachments"


def entry(container, ifname="net1"):
    return {"containerID": container, "ifname": ifname}


# ---- the list -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "valid"), [
    ([], frozenset()), ([entry("c1"), entry("c1", "net2"), entry("c1")], {("c1", "net1"), ("c1", "net2")}),
    ([{**entry("c1"), "netns": "/x"}], {("c1", "net1")})])
def test_lists(raw, valid):
    assert parse_valid({LIST: raw}) == parse_valid({"cni.dev/attachments": raw}) == valid
    assert parse_valid({LIST: raw, "cni.dev/attachments": [entry("c9")]}) == valid


@pytest.mark.parametrize(("config", "problem"), [
    ({}, f"{LIST}: expected a list, it is not there"), ({LIST: None}, f"{LIST}: expected a list, got null"),
    ({LIST: {}}, f"{LIST}: expected a list, got an object"), ({LIST: "c1"}, f"{LIST}: expected a list, got 'c1'"),
    ({LIST: None, "cni.dev/attachments": []}, f"{LIST}: expected a list, got null"),
    ({LIST: ["c1"]}, f"{LIST}[0]: expected an object, got 'c1'"),
    ({LIST: [entry("c1"), {"containerID": "c2"}]}, f"{LIST}[1]: expected containerID and ifname as text"),
    ({LIST: [{"containerID": 5, "ifname": "net1"}]}, f"{LIST}[0]: expected containerID and ifname as text")])
def test_lists_that_are_none_end_nothing(config, problem, tmp_path, lost):
    assert refusal(parse_valid, config) == (7, problem)
    with opened(tmp_path) as store:
        store.write(lost())
        with pytest.raises(CniError):
            collect(store, config)
        assert len(list(store)) == 1


# ---- what is ended ------------------------------------------------------------------------------------------


def collect(store, config=None, seconds=10.0, **env):
    config = {"cniVersion": "1.1.0", "name": "net", **({LIST: []} if config is None else config)}
    return Attachments(NOW, store).handle(gc_call(config, seconds, **env))


def gc_call(config, seconds=10.0, **env):
    asked = request(config, CNI_COMMAND=Command.GC, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, **env)
    return Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + seconds)


def of(network, made):
    return dataclasses.replace(made, owner=dataclasses.replace(made.owner, network=network))


def test_only_this_network_and_only_what_is_not_in_the_list(tmp_path, counted, done, lost):
    counted()
    kept, ended, foreign = lost("c1"), lost("c2", vf=record("0000:3b:02.2").vf), of("x", lost(
        "c3", vf=record("0000:3b:02.3").vf))
    with opened(tmp_path / "state") as store:
        for made in (kept, ended, foreign):
            store.write(made)
        store.owe(lost("c4", vf=record("0000:3b:02.4").vf))
        store.delete(lost("c4", vf=record("0000:3b:02.4").vf).without_ipam())
        collect(store, {LIST: [entry("c1")]})
        assert sorted(left.owner.container_id for left in store) == ["c1", "c3"]
        assert (sorted(done()), store.owed) == (["c2", "c4"], [])
        collect(store, {LIST: [entry("c1", "net2")]})
        assert [left.owner.container_id for left in store] == ["c3"]


def test_one_failure_does_not_keep_the_others_from_their_end(tmp_path, plugin, lost):
    """c1 fails at its VF, c2 at its IPAM plugin, c3 does not, and GC itself is forwarded all the same."""
    calls = tmp_path / "calls"
    plugin(f"import os, sys\nprint(os.environ['CNI_COMMAND'], file=open({str(calls)!r}, 'a'))\n"
           "sys.exit(os.environ.get('CNI_CONTAINERID') == 'c2')")
    one, two, three = (lost(f"c{n}", vf=record(f"0000:3b:02.{n}").vf) for n in (1, 2, 3))
    with opened(tmp_path / "state") as store:
        for made in (dataclasses.replace(one, boot_id=NOW.boot_id, ipam=None), two, three):
            store.write(made)
        with pytest.raises(Gone, match="there is no link") as failure:
            collect(store, {LIST: [], "ipam": {"type": "fake"}}, CNI_PATH=f"{tmp_path}/bin")
        assert failure.value.__notes__ == [
            "while ending container c1, net1 of network net",
            "IPAM plugin fake: DEL failed: exit status 1; while ending container c2, net1 of network net"]
        assert [(left.owner.container_id, left.phase) for left in store] == [("c1", Phase.DETACHING)]
        assert [owed.owner.container_id for owed in store.owed] == ["c2"]
        assert calls.read_text().split() == ["DEL", "DEL", "GC"]


def test_leftovers_that_cannot_be_read_do_not_keep_the_others_from_their_end(tmp_path, plugin, lost):
    calls, unreadable = tmp_path / "calls", tmp_path / "sriov"
    plugin(f"import os\nprint(os.environ['CNI_COMMAND'], file=open({str(calls)!r}, 'a'))")
    unreadable.write_text("no folder")
    config = {"cniVersion": "1.1.0", "name": "net", LIST: [], "ipam": {"type": "fake"}}
    with opened(tmp_path / "state") as store:
        store.write(lost())
        with pytest.raises(HostError, match=f"cannot look into .* {unreadable}/pci: ENOTDIR"):
            Attachments(NOW, store, forerunner=Forerunner(NOW, unreadable)).handle(gc_call(config, CNI_PATH=(
                f"{tmp_path}/bin")))
        assert (list(store), calls.read_text().split()) == ([], ["DEL", "GC"])


def test_no_time_left(tmp_path, lost):
    with opened(tmp_path) as store:
        store.write(lost())
        assert refusal(collect, store, seconds=0.0) == (11, f"not all was ended within {BUDGET:.0f} s")
        assert len(list(store)) == 1


def test_an_attachment_that_changes_meanwhile_is_let_be(tmp_path, lost):
    """Its ADD was under way when the runtime made the list."""
    with opened(tmp_path) as store:
        before = dataclasses.replace(lost(), ipam=None, phase=Phase.ATTACHING)
        store.write(before)
        store.write(before.attached({}))
        call = Invocation(request=request(CNI_COMMAND="DEL"), netns_fd=None, gone=lambda: False,
                          deadline=time.monotonic() + 10)
        Detacher(Custody(NOW, store), store, Forerunner(NOW, tmp_path / "none")).drop(before, call)
        assert [left.phase for left in store] == [Phase.ATTACHED]


def test_the_result_is_nothing(tmp_path):
    with opened(tmp_path) as store:
        assert collect(store) is None
