"""`vfpool status`: what an agent says as values, as JSON, and as an admin reads it; asking over real sockets."""

import json
import os
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.__main__ import main
from sriov.commands.status import ask_agent
from sriov.errors import HostError, InputError, SriovError
from sriov.pci import PciAddress
from sriov.status import (
    BroughtHome,
    Moment,
    NodeStatus,
    Owner,
    PfStatus,
    PoolFileStatus,
    Problem,
    Registration,
    Repairs,
    ResourceStatus,
    VfStatus,
    format_status,
    parse_status,
)
from sriov.views import statustext
from sriov.views.tables import WIDTH, tint

PF = PciAddress("0000:3b:00.0")
WELL = Registration(registered=True)
SINCE = Moment("2026-11-21T17:43:37Z")
OWNER = Owner(container_id="0123456789abcdef", ifname="net1", network="fast", phase="attached",
              netns="/run/netns/a", pod="default/a")


def vf(index, **more):
    return VfStatus(**{"address": PciAddress(f"0000:3b:02.{index}"), "pf": PF, "pf_name": "ens1f0", "index": index,
                       "driver": "iavf", "numa_node": 0, **more})


def node(**more) -> NodeStatus:
    return NodeStatus(**{
        "agent_version": "0.1.0", "started": SINCE, "snapshot": 7, "since": Moment("2026-11-21T18:00:01Z"),
        "pool_file": PoolFileStatus(path="/etc/vfpool/pools.yaml", since=SINCE),
        "resources": (
            ResourceStatus(resource="intel.com/sriov", vfs=(vf(0, owner=OWNER, away=True), vf(1)), kubelet=WELL),
            ResourceStatus(resource="intel.com/sriov_dpdk", vfs=(vf(2, driver="vfio-pci"),), kubelet=WELL)),
        "pfs": (PfStatus(address=PF, name="ens1f0", num_vfs=4, total_vfs=64, wanted=4),),
        **more})


def unwell():
    fault = "bound to iavf, the pool wants vfio-pci"
    refusal = Problem(message="pools.yaml:4:5: numVfs 8 on PF ens1f0 (0000:3b:00.0): it has 4 VFs",
                      hint="to do it all the same: override disturb-vfs")
    return node(
        pool_file=PoolFileStatus(path="/etc/vfpool/pools.yaml", since=SINCE,
                                 error="pools.yaml:4:5: unknown key 'numVFs'\npools.yaml:9:9: key 'pf' is missing"),
        resources=(
            ResourceStatus(resource="intel.com/sriov", vfs=(vf(0, owner=replace(OWNER, phase="detaching")),)),
            ResourceStatus(resource="intel.com/sriov_dpdk", vfs=(vf(1, fault=fault, numa_node=None),),
                           kubelet=Registration(registered=False, problem="the kubelet refuses it: no such API"))),
        pfs=(PfStatus(address=PF, name="ens1f0", num_vfs=4, total_vfs=64, wanted=8, problems=(refusal,)),),
        unpooled=(vf(3, away=True, driver=None),),
        problems=(Problem(message="cannot make the host fit the pool file: EIO"),),
        unreadable=("cannot read VF 5 of PF 0000:3b:00.0: EIO",))


# ---- JSON -------------------------------------------------------------------------------------------------


texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.integers(0, 1 << 40)
maybe = st.none() | texts
addresses = st.tuples(st.integers(0, 0xfffff), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7)).map(
    lambda parts: PciAddress("{:04x}:{:02x}:{:02x}.{}".format(*parts)))
moments = st.datetimes().map(lambda each: Moment(each.strftime("%Y").zfill(4) + each.strftime("-%m-%dT%H:%M:%SZ")))
problems = st.builds(Problem, message=texts, hint=maybe, since=st.none() | moments)
owners = st.builds(Owner, container_id=texts, ifname=texts, network=texts, phase=texts, netns=texts, pod=maybe)
vfs = st.builds(VfStatus, address=addresses, pf=addresses, pf_name=maybe, index=numbers, driver=maybe,
                numa_node=st.none() | numbers, fault=maybe, away=st.booleans(), owner=st.none() | owners)
registrations = st.builds(Registration, registered=st.booleans(), problem=maybe)


def some(values):
    return st.lists(values, max_size=3).map(tuple)


resources = st.builds(ResourceStatus, resource=texts, vfs=some(vfs), kubelet=st.none() | registrations)
pfs = st.builds(PfStatus, address=addresses, name=maybe, num_vfs=numbers, total_vfs=numbers,
                wanted=st.none() | numbers, problems=some(problems))
homes = st.builds(BroughtHome, reason=texts, vfs=numbers)
repairs = st.builds(Repairs, brought_home=some(homes), paid_late=numbers, set_aside=numbers,
                    last=maybe, last_at=st.none() | moments, standing=some(problems))
nodes = st.builds(
    NodeStatus, agent_version=texts, started=moments, snapshot=numbers, since=moments,
    pool_file=st.builds(PoolFileStatus, path=texts, since=moments, error=maybe),
    resources=some(resources), pfs=some(pfs), unpooled=some(vfs), problems=some(problems), unreadable=some(texts),
    repairs=repairs)


@given(nodes)
def test_what_is_written_is_read(status):
    assert parse_status(format_status(status)) == status


@settings(deadline=None)
@given(nodes)
def test_any_status_fits_the_columns_and_both_documents_agree(status):
    text = statustext.format_status(status)
    assert all(each.isprintable() or each == "\n" for each in text)
    wide = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not wide or max(len(word) for line in wide for word in line.split()) > 20
    document = json.loads(json.dumps(statustext.status_document(status)))
    assert document["well"] == (not document["wrong"]) == (not list(status.find_problems()))
    assert [each["counts"]["vfs"] for each in document["resources"]] == [len(each.vfs) for each in status.resources]


def harmed(path, value):
    """The JSON of `unwell` with another value at a path; None takes the key away."""
    document = json.loads(format_status(unwell()))
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(("path", "value", "says"), [
    (["format"], 1, "format 1 and not 2 (hint: vfpool and the agent are of different versions"),
    (["format"], True, "format True and not 2"),
    (["started"], None, "not the status of a node: started: missing"),
    (["started"], "yesterday", "started: expected a time like 2026-11-21T18:00:00Z, got 'yesterday'"),
    (["snapshot"], -1, "snapshot: expected a number from 0, got -1"),
    (["snapshot"], True, "snapshot: expected a number from 0, got True"),
    (["snapshot"], 1.5, "snapshot: expected a number from 0, got 1.5"),
    (["poolFile"], [], "poolFile: expected an object, got a list"),
    (["poolFile", "errors"], "x", "poolFile.errors: unknown key"),
    (["resources"], {}, "resources: expected a list, got an object"),
    (["resources", 1, "vfs", 0, "address"], "3b:00", "resources[1].vfs[0].address: expected a PCI address like"),
    (["resources", 1, "vfs", 0, "away"], 1, "resources[1].vfs[0].away: expected true or false, got 1"),
    (["resources", 0, "vfs", 0, "owner", "pod"], 7, "resources[0].vfs[0].owner.pod: expected text, got 7"),
    (["pfs", 0, "address"], 7, "pfs[0].address: expected text, got 7"),
])
def test_anything_else_is_an_error_with_its_path(path, value, says):
    with pytest.raises(InputError) as caught:
        parse_status(harmed(path, value))
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', "{}", '{"format": 2}', "[" * 100_000,
                                  '{"format": ' + "9" * 5000 + "}"])
def test_no_text_is_a_traceback(text):
    with pytest.raises(InputError, match=r"^not the status of a node"):
        parse_status(text)


# ---- what an admin reads ----------------------------------------------------------------------------------


def test_all_is_well():
    assert statustext.format_status(node()) == """\
vfpool-agent 0.1.0: all is well
  running since 2026-11-21T17:43:37Z
  version 7 of what the kubelet is told, since 2026-11-21T18:00:01Z
  pool file /etc/vfpool/pools.yaml, in force since 2026-11-21T17:43:37Z

RESOURCE              VFS  HEALTHY  IN PODS  KUBELET
intel.com/sriov       2    2        1        registered
intel.com/sriov_dpdk  1    1        0        registered

PF      PCI ADDRESS   VFS   WANTED  STATE
ens1f0  0000:3b:00.0  4/64  4       as wanted

PCI ADDRESS   PF      VF  DRIVER    NUMA  RESOURCE              STATE
0000:3b:02.0  ens1f0  0   iavf      0     intel.com/sriov       pod default/a, net1 of network fast
0000:3b:02.1  ens1f0  1   iavf      0     intel.com/sriov       free
0000:3b:02.2  ens1f0  2   vfio-pci  0     intel.com/sriov_dpdk  free
"""


def test_what_is_wrong_comes_first():
    assert statustext.format_status(unwell()) == """\
vfpool-agent 0.1.0: 6 problems
  running since 2026-11-21T17:43:37Z
  version 7 of what the kubelet is told, since 2026-11-21T18:00:01Z
  pool file /etc/vfpool/pools.yaml, in force since 2026-11-21T17:43:37Z
  ! the pool file as it is now is not used, the last good one stays in force:
    pools.yaml:4:5: unknown key 'numVFs'
    pools.yaml:9:9: key 'pf' is missing
    hint: vfpool check /etc/vfpool/pools.yaml
  ! cannot make the host fit the pool file: EIO
  ! pools.yaml:4:5: numVfs 8 on PF ens1f0 (0000:3b:00.0): it has 4 VFs
    hint: to do it all the same: override disturb-vfs
  ! intel.com/sriov_dpdk is not registered with the kubelet: the kubelet refuses it: no such API
  ! intel.com/sriov_dpdk: VF 0000:3b:02.1 is not healthy: bound to iavf, the pool wants vfio-pci
    hint: vfpool explain /etc/vfpool/pools.yaml 0000:3b:02.1
  ! cannot read VF 5 of PF 0000:3b:00.0: EIO

RESOURCE              VFS  HEALTHY  IN PODS  KUBELET
intel.com/sriov       1    1        1        -
intel.com/sriov_dpdk  1    0        0        not registered

PF      PCI ADDRESS   VFS   WANTED  STATE
ens1f0  0000:3b:00.0  4/64  8       1 problem

PCI ADDRESS   PF      VF  DRIVER  NUMA  RESOURCE              STATE
0000:3b:02.0  ens1f0  0   iavf    0     intel.com/sriov       detaching: pod default/a, net1 of
                                                              network fast
0000:3b:02.1  ens1f0  1   iavf    -     intel.com/sriov_dpdk  not healthy: bound to iavf, the pool
                                                              wants vfio-pci
0000:3b:02.3  ens1f0  3   -       0     -                     netdev elsewhere
"""


def test_what_was_mended_and_what_stands():
    standing = Problem(message="VF 0000:3b:02.1 is not home: EBUSY", hint="look", since=SINCE)
    damaged = Problem(message="set aside a damaged record: /var/lib/vfpool/vfs/x.json: no JSON")
    status = node(repairs=Repairs(
        brought_home=(BroughtHome(reason="its network namespace is gone", vfs=2),
                      BroughtHome(reason="its ADD or DEL was never finished", vfs=1)),
        paid_late=1, set_aside=1, last="VF 0000:3b:02.0: brought home: container c1", last_at=SINCE,
        standing=(standing, damaged)))
    assert statustext.format_status(status).partition("\n\n")[0].splitlines()[4:] == [
        "  2 VFs brought home without a DEL: its network namespace is gone",
        "  1 VF brought home without a DEL: its ADD or DEL was never finished",
        "  addresses of 1 attachment given back late",
        "  last repair 2026-11-21T17:43:37Z: VF 0000:3b:02.0: brought home: container c1",
        "  ! VF 0000:3b:02.1 is not home: EBUSY, since 2026-11-21T17:43:37Z",
        "    hint: look",
        "  ! set aside a damaged record: /var/lib/vfpool/vfs/x.json: no JSON"]
    document = json.loads(json.dumps(statustext.status_document(status)))
    assert document["wrong"][0] == {"message": standing.message, "hint": "look", "since": SINCE}
    assert (document["well"], document["repairs"]["paidLate"]) == (False, 1)


def test_one_fault_of_many_vfs_is_one_problem():
    vfs = tuple(vf(n, fault="no driver is bound" if n < 3 else "is not on the host any more") for n in range(5))
    status = node(resources=(ResourceStatus(resource="intel.com/sriov", vfs=vfs, kubelet=WELL),))
    assert [str(each) for each in status.find_problems()] == [
        f"intel.com/sriov: VF {first} and {more} more are not healthy: {fault} "
        f"(hint: vfpool explain /etc/vfpool/pools.yaml {first})"
        for first, more, fault in (("0000:3b:02.0", 2, "no driver is bound"),
                                   ("0000:3b:02.3", 1, "is not on the host any more"))]


def test_an_agent_that_has_not_looked_yet_is_not_well():
    waiting = ResourceStatus(resource="intel.com/sriov", kubelet=Registration(registered=False))
    assert [each.message for each in node(snapshot=0, resources=(waiting,)).find_problems()] == [
        "the node has not been looked at yet",
        "intel.com/sriov is not registered with the kubelet: waiting for the kubelet"]


def test_tones():
    text = statustext.format_status(unwell(), tint)
    assert "\x1b[31mvfpool-agent 0.1.0: 6 problems\x1b[0m" in text
    assert "\x1b[32m" in statustext.format_status(node(), tint)


# ---- asking -----------------------------------------------------------------------------------------------


@pytest.fixture
def path():
    """Not tmp_path: the path of a unix socket has 107 bytes at most."""
    with TemporaryDirectory(prefix="status-") as folder:
        yield Path(folder) / "status.sock"


@contextmanager
def answering(path, *parts, hold=None):
    """Something that listens: it sends the parts to who connects, and closes; `hold`: only when that is set."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                for part in parts:
                    connection.sendall(part)
                if hold is not None:
                    hold.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            if hold is not None:
                hold.set()
            thread.join(10)


def ask(path, capsys, *argv):
    status = main(["status", "--socket", str(path), *argv])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(("said", "status", "begins"), [
    (node(), 0, "vfpool-agent 0.1.0: all is well\n"), (unwell(), 1, "vfpool-agent 0.1.0: 6 problems\n")])
def test_the_answer(path, capsys, said, status, begins):
    text = format_status(said).encode()
    with answering(path, text[:10], text[10:]):
        found, out, err = ask(path, capsys)
    assert (found, err) == (status, "")
    assert out.startswith(begins)
    with answering(path.with_name("json"), text):
        in_json = ask(path.with_name("json"), capsys, "-o", "json")
    with answering(path.with_name("yaml"), text):
        in_yaml = ask(path.with_name("yaml"), capsys, "-o", "yaml")
    assert in_json[0] == in_yaml[0] == status
    assert json.loads(in_json[1]) == yaml.safe_load(in_yaml[1])
    assert json.loads(in_json[1])["well"] == (status == 0)


def test_no_agent(path, capsys):
    status, out, err = ask(path, capsys)
    assert (status, out) == (1, "")
    assert err.startswith(f"cannot ask the agent at {path}: there is no such socket, so no agent runs, or ")
    assert "--socket PATH" in err


def test_an_agent_that_has_died(path, capsys):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    status, _, err = ask(path, capsys)
    assert status == 1
    assert "nobody serves this socket, the agent that made it has ended (hint: start vfpool-agent" in err


def test_what_is_no_socket(path, capsys):
    path.write_text("x")
    status, _, err = ask(path, capsys)
    assert (status, "it is no socket (hint: --socket PATH" in err) == (2, True)
    status, _, err = ask(path / "below", capsys)
    assert (status, err) == (1, f"cannot ask the agent at {path}/below: ENOTDIR\n")


@pytest.mark.parametrize(("given", "says"), [
    ("", "expected a path, got ''"),
    ("/" + "x" * 119, "expected a path of at most 107 bytes, a unix socket has no longer one; got 120")])
def test_a_path_that_no_socket_can_have(given, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["status", "--socket", given])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"vfpool status: error: argument --socket: {says}\n")


def test_only_root_may_ask(path):
    with answering(path, b""):
        path.chmod(0o600)
        path.parent.chmod(0o755)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                ask_agent(path)
            except HostError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            assert pipe.read() == (
                f"cannot ask the agent at {path}: only root may: EACCES (hint: run vfpool status as root)")
        ask_agent_fails(path, "closed the connection without an answer")


def ask_agent_fails(path, says, timeout=5.0):
    with pytest.raises(SriovError) as caught:
        ask_agent(path, timeout)
    assert not isinstance(caught.value, InputError)
    assert says in str(caught.value)


def test_an_agent_that_hangs(path):
    hold = threading.Event()
    with answering(path, b'{"format"', hold=hold):
        ask_agent_fails(path, "it has not answered within 0.1 s (hint: it hangs", timeout=0.1)


def test_an_agent_that_accepts_nobody(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            ask_agent_fails(path, "too many others wait for its answer (hint: it hangs")


@pytest.mark.parametrize(("answer", "says"), [
    (b"", "closed the connection without an answer (hint: it stops, or many others ask: try again)"),
    (b"{", "its answer is not the status of a node: not JSON"),
    (b"\xff", "its answer is not UTF-8 text (hint: is this the agent's status socket?)"),
    (b'{"format": 1}', "format 1 and not 2 (hint: vfpool and the agent are of different versions"),
])
def test_an_answer_that_is_none(path, answer, says):
    with answering(path, answer):
        ask_agent_fails(path, says)


def test_an_answer_without_end(path, monkeypatch):
    monkeypatch.setattr("sriov.commands.status._MOST", 1 << 10)
    with answering(path, b" " * (1 << 11)):
        ask_agent_fails(path, "it sends more than")
