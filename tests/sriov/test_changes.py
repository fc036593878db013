"""`vfpool apply` and `vfpool reset` as their caller sees them; what they do to a node, test_provision.py holds."""

import json

import pytest

from cni.store import Store
from sriov.__main__ import main
from sriov.host.sysfs import Sysfs
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
        options = ["--sysfs", tree.root, "--root", tmp_path / "root", "--state-dir", tmp_path / "state"]
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


def test_reset_of_what_is_as_it_was_forgets_it(vfpool, tree, tmp_path):
    ledger = Ledger.open(tmp_path / "state")
    (pf,) = Sysfs(tree.root).scan(()).pfs
    ledger.begin(pf, PfState(num_vfs=2), owns_vfs=False)
    assert vfpool("reset") == (0, "nothing to do\n", "")
    assert Ledger.open(tmp_path / "state").records == {}


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
        "refused": [{"pf": A, "message": "x: it is in use", "hint": "end it", "override": "in-use"}],
        "failed": [{"pf": A, "message": "cannot bind VF y", "leftBehind": ["VF 1: driver none, was igbvf"]}],
    }
