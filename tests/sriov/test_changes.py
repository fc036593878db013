"""`vfpool apply` and `vfpool reset` as their caller sees them; what they do to a node, test_provision.py holds."""

import json
import signal

import pytest

from cni.store import Store
from sriov.__main__ import main
from sriov.host.sysfs import Sysfs
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver
from sriov.provision.apply import Failure, Report
from sriov.provision.guards import Override, Refusal
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState
from sriov.provision.steps import BindDriver, MakeVfs
from sriov.views.outcome import format_outcome, outcome_document
from tests.sriov.fakenode import make_pf, make_vf
from tests.support.tree import Pf, Tree

A = "0000:3b:00.0"
PF = make_pf(A, 1)
FILE = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - {match: {name: ens1f0}, numVfs: %d}
"""


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "sys").add(Pf(A, "ens1f0", num_vfs=2))


@pytest.fixture
def vfpool(tree, tmp_path, capsys):
    """Run a command; status, stdout, stderr."""
    def call(*argv):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        options = ["--sysfs", tree.root, "--state-dir", tmp_path / "state",
                   *(["--kubelet-dir", tmp_path / "kubelet", "--host-root", root, "--proc", root / "proc"]
                     if argv[0] not in ("discover", "check") else [])]
        status = main([*map(str, [*argv, *options])], discover=lambda sysfs: sysfs.scan(tree.links))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def file(tmp_path):
    def write(count):
        path = tmp_path / "pools.yaml"
        path.write_text(FILE % count)
        return path

    return write


def test_nothing_to_do(vfpool, file):
    assert vfpool("apply", file(2)) == (0, "nothing to do\n", "")
    assert vfpool("apply", "--last-good") == (0, "nothing to do\n", "")
    assert vfpool("reset") == (0, "nothing to do\n", "")


def test_a_refusal_names_the_override_that_the_command_takes(vfpool, file, tree):
    status, out, _ = vfpool("apply", file(3))
    assert status == 1
    assert out.startswith("refused: ")
    assert "override disturb-vfs" in " ".join(out.split())
    status, out, _ = vfpool("apply", file(3), "--force", "disturb-vfs", "-o", "json")
    assert status == 1
    assert [each["override"] for each in json.loads(out)["refused"]] == ["adopt"]
    assert tree.read(A, "sriov_numvfs") == "2\n"
    vfpool("apply", file(3), "--force", "disturb-vfs", "--force", "adopt")
    assert tree.read(A, "sriov_numvfs") != "2\n"


@pytest.mark.parametrize("argv", [["apply"], ["apply", "x", "--last-good"]])
def test_one_of_both_ways_to_say_what_is_wanted(vfpool, argv):
    assert vfpool(*argv) == (2, "", "expected either a pool file or --last-good\n")


def test_a_word_that_is_no_override(vfpool, file, capsys):
    with pytest.raises(SystemExit) as caught:
        vfpool("apply", file(2), "--force", "all")
    assert caught.value.code == 2
    assert "disturb-vfs" in capsys.readouterr().err


def test_reset_names_every_word_that_is_no_pf(vfpool):
    assert vfpool("reset", "xx", A, "yy", "3b:00.0", "ens1f0", "3b:02.0") == (
        2, "", ("expected the name or PCI address of a PF of this node, got 'xx' and 'yy' and '3b:02.0' "
                "(hint: vfpool discover lists them)\n"))


@pytest.mark.parametrize("argv", [["apply", "FILE"], ["apply", "--last-good"], ["reset"]])
def test_not_beside_an_agent(vfpool, file, tmp_path, argv):
    store = Store.open(tmp_path / "state")
    argv = [file(3) if word == "FILE" else word for word in argv]
    status, out, err = vfpool(*argv)
    store.close()
    assert (status, out) == (1, "")
    assert "another process has it open (hint: the agent makes the node fit" in err


def test_a_damaged_record_is_a_warning(vfpool, tmp_path):
    (tmp_path / "state/pfs").mkdir(parents=True)
    (tmp_path / "state/pfs" / f"{A}.json").write_text("{")
    status, out, err = vfpool("reset")
    assert (status, out) == (0, "nothing to do\n")
    assert err.startswith(f"warning: damaged record: {tmp_path}/state/pfs/{A}.json: ")


def test_a_damaged_record_is_a_state_that_did_not_come_back(vfpool, file, tmp_path):
    (tmp_path / "state/pfs").mkdir(parents=True)
    (tmp_path / "state/pfs" / f"{A}.json").write_text("{")
    status, out, err = vfpool("apply", "--last-good")
    assert (status, out) == (1, "nothing to do\n")
    assert err.startswith(f"warning: damaged record: {tmp_path}/state/pfs/{A}.json: ")
    assert vfpool("apply", file(2))[0] == 0


def test_reset_of_what_is_as_it_was_forgets_it(vfpool, tree, tmp_path):
    ledger = Ledger.open(tmp_path / "state")
    (pf,) = Sysfs(tree.root).scan(()).pfs
    ledger.begin(pf, PfState(num_vfs=2))
    assert vfpool("reset") == (0, "nothing to do\n", "")
    assert Ledger.open(tmp_path / "state").records == {}


# Commands, and what does their work.
DOING = [(["apply", "FILE"], "provision.worker.Worker.run"), (["reset"], "commands.reset.reset"),
         (["apply", "--last-good"], "commands.apply.apply_last_good")]


@pytest.mark.parametrize(("argv", "doing"), DOING)
def test_a_failure_comes_with_what_stands_in_its_way(vfpool, file, tree, monkeypatch, argv, doing):
    """Of each PF that failed, once for all of its VFs; nothing of others."""
    for number, netdev in enumerate(("ens3f0", "ens4f0")):
        tree.add(Pf(f"0000:{60 + number}:00.0", netdev, num_vfs=3, vf_driver="vfio-pci"))
    failed = "0000:60:00.0"
    report = Report(failed=(Failure(pf=PciAddress(failed), what="cannot bind VFs"),))
    monkeypatch.setattr(f"sriov.{doing}", lambda *_: report)
    status, out, err = vfpool(*[file(2) if word == "FILE" else word for word in argv], "-o", "json")
    causes = json.loads(out)["causes"]
    assert status == 1
    assert err == "".join(f"warning: {cause}\n" for cause in causes)
    assert [cause for cause in causes if "IOMMU" in cause] == [
        (f"VF 0000:60:02.0 of PF ens3f0 ({failed}): it has no IOMMU group: the node has no IOMMU (hint: turn on "
         "the IOMMU (VT-d, AMD-Vi) in the machine's firmware setup; on Intel machines boot with intel_iommu=on)")]
    assert not any("ens4f0" in cause for cause in causes)


def test_a_failure_names_why_vfs_could_not_be_made(vfpool, file, tree, monkeypatch):
    monkeypatch.setattr("sriov.provision.worker.Worker.run", lambda *_: Report(
        failed=(Failure(pf=PciAddress(A), what="cannot make 9 VFs"),)))
    err = vfpool("apply", file(9))[2]
    assert f"warning: PF ens1f0 ({A}): 9 VFs are wanted, it can have 7 at most (sriov_totalvfs) (hint: ask" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("argv", "doing"), DOING)
def test_a_signal_waits_until_all_is_done_or_taken_back(vfpool, file, monkeypatch, argv, doing, number):
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def work(*_):
        signal.raise_signal(number)
        signal.raise_signal(number)
        return REPORT

    monkeypatch.setattr(f"sriov.{doing}", work)
    status, out, err = vfpool(*[file(2) if word == "FILE" else word for word in argv])
    assert (status, out) == (1, format_outcome(REPORT))
    assert err == f"warning: {number.name}: what was begun is finished or taken back first\n"
    assert {each: signal.getsignal(each) for each in handlers} == handlers


def test_a_signal_before_anything_is_changed_ends_it(vfpool, file, monkeypatch):
    monkeypatch.setattr("sriov.commands.apply.terms_of", lambda *_: signal.raise_signal(signal.SIGINT))
    assert vfpool("apply", file(2)) == (1, "", "interrupted\n")


# ---- VFs that pods have -------------------------------------------------------------------------------------


ALL = [["plan", "FILE"], ["apply", "FILE"], ["apply", "--last-good"], ["reset"]]


@pytest.fixture
def on_vfio(tree):
    """A VF that is bound to vfio-pci, and that its pool wants to have a netdev."""
    tree.add(Pf("0000:5e:00.0", "ens2f0", num_vfs=1, iommu=True, vf_drivers={0: "vfio-pci"}))
    return "0000:5e:02.0"


@pytest.fixture
def wants_kernel(tmp_path):
    path = tmp_path / "kernel.yaml"
    path.write_text(FILE % 1 + "pools:\n  - {resource: sriov, select: [{pf: ens2f0}], driver: kernel}\n")
    path.write_text(path.read_text().replace("ens1f0", "ens2f0"))
    return path


def write_checkpoint(kubelet, text):
    (kubelet / "device-plugins").mkdir(parents=True)
    (kubelet / "device-plugins/kubelet_internal_checkpoint").write_text(text)


def given(*devices):
    entry = {"PodUID": "6c1f", "ContainerName": "app", "ResourceName": "x.com/vf", "DeviceIDs": {"-1": devices}}
    return json.dumps({"Data": {"PodDeviceEntries": [entry]}})


def test_a_vf_that_the_kubelet_gave_to_a_pod_is_not_bound_anew(vfpool, on_vfio, wants_kernel, tmp_path):
    """Such as a DPDK pod's that has not opened it yet: no CNI call, no record."""
    busy = f"VF {on_vfio} is bound to vfio-pci, its pool wants kernel: it is in use"
    adopting = ["--force", "adopt"]
    assert "bind VF" in vfpool("plan", wants_kernel, *adopting)[1]
    write_checkpoint(tmp_path / "kubelet", given("GPU-1", on_vfio))
    assert busy in " ".join(vfpool("plan", wants_kernel, *adopting)[1].split())
    assert busy in " ".join(vfpool("apply", wants_kernel)[1].split())


def test_a_vf_that_uio_has_may_be_open(vfpool, tree, tmp_path, wants_kernel):
    tree.add(Pf("0000:5e:00.0", "ens2f0", num_vfs=1, vf_drivers={0: "uio_pci_generic"}))
    status, out, _ = vfpool("plan", wants_kernel, "--force", "adopt")
    assert status == 1
    busy = "VF 0000:5e:02.0 is bound to uio_pci_generic, its pool wants kernel: it is in use"
    assert busy in " ".join(out.split())


@pytest.mark.parametrize("argv", ALL)
def test_nothing_is_done_where_the_kubelet_s_pods_are_not_known(vfpool, file, tmp_path, argv):
    write_checkpoint(tmp_path / "kubelet", "{")
    status, out, err = vfpool(*[file(0) if word == "FILE" else word for word in argv])
    assert (status, out) == (1, "")
    assert err.startswith("cannot tell which VFs the kubelet gave to pods: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", ALL)
@pytest.mark.parametrize("what", ["a file", "not ours"])
def test_nothing_is_done_where_records_of_pods_cannot_be_read(vfpool, file, tmp_path, argv, what):
    """A record that cannot be read is not no record."""
    (tmp_path / "state").mkdir()
    folder = tmp_path / "state/vfs"
    if what == "a file":
        folder.touch()
    else:
        folder.mkdir()
        (folder / "backup.json").write_text("{")
    status, out, err = vfpool(*[file(0) if word == "FILE" else word for word in argv])
    assert (status, out) == (1, "")
    assert str(folder) in err


@pytest.mark.parametrize("text", ["", "{", '{"version": 1000000}', "\udcff"])
def test_a_vf_whose_record_cannot_be_read_counts_as_in_use(vfpool, on_vfio, wants_kernel, tmp_path, text):
    (tmp_path / "state/vfs").mkdir(parents=True)
    (tmp_path / "state/vfs" / f"{on_vfio}.json").write_text(text, errors="surrogateescape")
    status, out, _ = vfpool("plan", wants_kernel, "--force", "adopt")
    assert status == 1
    assert f"VF {on_vfio} is bound to vfio-pci, its pool wants kernel: it is in use" in " ".join(out.split())


@pytest.mark.parametrize("argv", [["discover"], ["check", "FILE"]])
def test_a_drawing_leaves_out_an_owner_that_cannot_be_read_and_says_so(vfpool, file, tmp_path, argv):
    (tmp_path / "state/vfs").mkdir(parents=True)
    damaged = tmp_path / "state/vfs/0000:3b:02.0.json"
    damaged.write_text("{")
    argv = [file(2) if word == "FILE" else word for word in argv]
    err = vfpool(*argv, "--svg", tmp_path / "node.svg")[2]
    assert f"warning: a pod may have the VF of the record {damaged}, which cannot be read: " in err
    damaged.rename(damaged.with_name("x.json"))
    assert "warning: a pod may have the VF of the record" in vfpool(*argv, "--svg", tmp_path / "node.svg")[2]
    assert (tmp_path / "node.svg").read_text().startswith("<svg")


REPORT = Report(
    done=(MakeVfs(pf=PF, count=2), BindDriver.to(make_vf(PF, 0), Driver("vfio-pci"))),
    refused=(Refusal(pf=PF.address, message="x: it is in use", hint="end it", override=Override.IN_USE),),
    failed=(Failure(pf=PF.address, what="cannot bind VF y", left=("VF 1: driver none, was igbvf",)),),
)


def test_what_came_of_it():
    assert format_outcome(REPORT) == f"""\
done: make 2 VFs on PF ens1 ({A})
done: bind VF 0000:3b:10.0 to vfio-pci (now none)
refused: x: it is in use (hint: end it; to do it all the same: override in-use)
failed: cannot bind VF y; left behind: VF 1: driver none, was igbvf
"""
    assert outcome_document(REPORT) == {
        "done": [{"pf": A, "text": f"make 2 VFs on PF ens1 ({A})"},
                 {"pf": A, "text": "bind VF 0000:3b:10.0 to vfio-pci (now none)"}],
        "refused": [{"pf": A, "message": "x: it is in use", "hint": "end it", "override": "in-use",
                     "disturbs": None}],
        "failed": [{"pf": A, "message": "cannot bind VF y", "leftBehind": ["VF 1: driver none, was igbvf"]}],
    }
