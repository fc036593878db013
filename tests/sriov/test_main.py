"""`vfpool` as its caller sees it: exit status, stdout, stderr."""

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.record import Baseline, Owner, Phase, Record, format_record
from sriov.__main__ import main
from sriov.arguments import read_version
from sriov.errors import HostError
from sriov.model import VfSettings
from sriov.pci import PciAddress
from sriov.provision.ledger import BOOT_ID
from sriov.views.output import Output
from tests.support.nics import nic
from tests.support.tree import Pf, Tree

POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - match: {name: ens1f0}
    numVfs: 4
pools:
  - resource: sriov
    select: [{pf: ens1f0, vfs: 0-1}]
    driver: kernel
  - resource: sriov_dpdk
    select: [{pf: ens1f0, vfs: 2-3}, {pf: ens1f1}]
    driver: vfio-pci
"""


@pytest.fixture
def tree(tmp_path):
    pf = Pf("0000:3b:00.0", "ens1f0", num_vfs=4, iommu=True, vf_drivers={2: "vfio-pci"}, away={1})
    return Tree(tmp_path / "sys").add(pf)


@pytest.fixture
def pools(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)       # places in messages are as short as an admin's
    path = Path("pools.yaml")
    path.write_text(POOLS)
    return path


@pytest.fixture
def run(tree, tmp_path, capsys):
    """Run a command about the node; its state folder and its / hold nothing."""
    def run(command, *argv):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        options = ["--sysfs", tree.root]
        options += [] if command in ("discover", "check") else ["--host-root", root, "--proc", root / "proc"]
        options += ["--state-dir", tmp_path / "state"] if command != "explain" else []
        options += ["--kubelet-dir", tmp_path / "kubelet"] if command in ("plan", "apply", "reset") else []
        status = main([command, *map(str, [*argv, *options])], discover=lambda sysfs: sysfs.scan(tree.links))
        return status, *capsys.readouterr()

    return run


def test_discover(run, tree):
    status, out, err = run("discover")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "0000:3b:00.0", "0000:3b:02.0", "0000:3b:02.1", "0000:3b:02.2", "0000:3b:02.3"]


def test_discover_fails_but_shows_the_rest_when_something_is_unreadable(run, tree):
    tree.remove("0000:3b:02.0", "vendor")
    reason = f"cannot read VF 0 of PF 0000:3b:00.0: {tree.path('0000:3b:02.0', 'vendor')}: ENOENT"
    status, out, err = run("discover", "-o", "json")
    document = json.loads(out)
    assert (status, err, document["unreadable"]) == (1, "", [reason])
    assert [vf["index"] for vf in document["physicalFunctions"][0]["virtualFunctions"]] == [1, 2, 3]
    status, out, _ = run("discover")
    assert (status, " ".join(out.split("unreadable: ")[1].split())) == (1, reason)


def test_check_without_the_host(pools, capsys):
    def forbidden(sysfs):
        raise AssertionError("the host was looked at")

    assert main(["check", str(pools)], discover=forbidden) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines(), err) == ([
        f"{pools}:4:5: 4 VFs on each PF that matches",
        f"{pools}:7:5: intel.com/sriov, 1 selector, driver kernel",
        f"{pools}:10:5: intel.com/sriov_dpdk, 2 selectors, driver vfio-pci",
    ], "")
    assert main(["check", str(pools), "-o", "json"], discover=forbidden) == 0
    assert json.loads(capsys.readouterr().out) == {
        "resources": {"intel.com/sriov": None, "intel.com/sriov_dpdk": None}, "warnings": []}


def test_check_reads_stdin(pools, tmp_path):
    def check(data):
        done = subprocess.run([sys.executable, "-m", "sriov", "check", "-"], input=data, capture_output=True,
                              check=False, env={**os.environ, "LC_ALL": "C", "PYTHONPATH": str(ROOT)})
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    assert check(POOLS.encode()) == (0, textwrap.dedent("""\
        stdin:4:5: 4 VFs on each PF that matches
        stdin:7:5: intel.com/sriov, 1 selector, driver kernel
        stdin:10:5: intel.com/sriov_dpdk, 2 selectors, driver vfio-pci
        """), "")
    assert check(POOLS.replace("numVfs", "numVFs").encode())[2].startswith("stdin:5:5: physicalFunctions[0]: ")
    status, out, err = check(b"a: \xff")
    assert (status, out) == (2, "")
    assert err.startswith("stdin:1:4: ")
    assert check(b"#" * ((1 << 20) + 1)) == (
        2, "", "cannot read the pool file from stdin: it is larger than 1 MiB\n")


def test_a_file_of_nothing_is_said_to_be_one(pools, capsys):
    pools.write_text("apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n")
    assert main(["check", "pools.yaml"]) == 0
    assert capsys.readouterr() == ("no pool and no entry\n", "")
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens1f0, node: worker-1}").split("pools:")[0])
    assert main(["check", "pools.yaml", "--node", "worker-2"]) == 0
    assert capsys.readouterr().out == "no pool and no entry for node worker-2\n"
    assert main(["networks", "[]"]) == 0
    assert capsys.readouterr().out == "no networks\n"


def test_check_with_the_host(run, pools):
    status, out, err = run("check", pools, "--host")
    assert (status, err) == (0, "")
    assert out == """\
RESOURCE              VFS  HEALTHY
intel.com/sriov       2    2
intel.com/sriov_dpdk  2    1

PCI ADDRESS   PF      VF  RESOURCE, OR WHY NOT
0000:3b:02.0  ens1f0  0   intel.com/sriov
0000:3b:02.1  ens1f0  1   intel.com/sriov (netdev elsewhere)
0000:3b:02.2  ens1f0  2   intel.com/sriov_dpdk
0000:3b:02.3  ens1f0  3   intel.com/sriov_dpdk, not healthy: bound to igbvf, the pool wants vfio-pci
"""
    status, out, err = run("check", pools, "--host", "-o", "json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["resources", "leftOut", "unreadable", "warnings"]
    assert document["resources"]["intel.com/sriov"] == [
        {"address": "0000:3b:02.0", "fault": None}, {"address": "0000:3b:02.1", "fault": None}]


def test_check_warns_on_stderr(run, pools):
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: eth0}").replace("ens1f0, vfs: 0-1", "eth0"))
    status, out, err = run("check", pools, "--host")
    assert status == 0
    assert err.splitlines() == [
        f"warning: {pools}:4:5: no PF of this node matches: name eth0 is not ens1f0",
        f"warning: {pools}:8:14: intel.com/sriov gets no VF: no PF of this node is named eth0",
    ]
    assert "no pool selects it; nearest is intel.com/sriov at" in out


def test_check_fails_where_the_host_could_not_be_read(run, tree, pools):
    tree.make_unreadable("0000:3b:00.0", "class")
    status, out, _ = run("check", pools, "--host")
    assert status == 1
    assert "unreadable: cannot read PF 0000:3b:00.0" in out


def test_check_of_a_bad_file(run, pools):
    pools.write_text(POOLS.replace("vfs: 0-1", "vfs: 0-").replace("numVfs: 4", "numVfs: on"))
    status, out, err = run("check", pools)
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        f"{pools}:5:13: physicalFunctions[0].numVfs: expected a whole number from 0 to 65535, got 'on'",
        f"{pools}:8:32: pools[0].select[0].vfs: expected an index range like 0-3, got '0-'",
    ]


def test_missing_file(run, tmp_path):
    status, out, err = run("check", tmp_path / "none.yaml")
    assert (status, out) == (2, "")
    assert err == f"cannot read pool file {tmp_path}/none.yaml: No such file or directory\n"


def test_kernel_that_says_no(capsys):
    def refuse(sysfs):
        raise HostError("cannot list links", errno=1, hint="run as root")

    assert main(["discover"], discover=refuse) == 1
    assert capsys.readouterr() == ("", "cannot list links: EPERM (hint: run as root)\n")


@pytest.mark.parametrize("argv", [
    [], ["wibble"], ["check"], ["discover", "-o", "xml"], ["discover", "--outp=json"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: vfpool")


# ---- explain ----------------------------------------------------------------------------------------------


def test_explain_the_node(run, pools):
    status, out, err = run("explain", pools)
    assert (status, err) == (0, "")
    assert out == """\
PF ens1f0 (0000:3b:00.0): 4 of 7 VFs
  numVfs 4 by the entry at pools.yaml:4:5
  VF 0: in intel.com/sriov by the selector at pools.yaml:8:14
  VF 1: in intel.com/sriov by the selector at pools.yaml:8:14, netdev elsewhere
  VF 2: in intel.com/sriov_dpdk by the selector at pools.yaml:11:14
  VF 3: in intel.com/sriov_dpdk by the selector at pools.yaml:11:14, not healthy: bound to igbvf,
    the pool wants vfio-pci
"""


def test_explain_one_vf(run, pools):
    status, out, err = run("explain", pools, "3B:02.3")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "VF ens1f0v3 (0000:3b:02.3): VF 3 of PF ens1f0 (0000:3b:00.0)"
    assert f"    not intel.com/sriov at {pools}:8:14: vfs 0-1 has no 3\n" in out
    status, out, _ = run("explain", pools, "3b:02.3", "-o", "json")
    document = json.loads(out)
    assert (status, document["resource"], document["selector"]) == (0, "intel.com/sriov_dpdk", f"{pools}:11:14")
    assert document["attempts"] == [
        {"resource": "intel.com/sriov", "place": f"{pools}:8:14", "whyNot": ["vfs 0-1 has no 3"]}]


@pytest.mark.parametrize("address", ["3b:00.0", "3b:02.3", "17:00.0"])
def test_explain_by_name(run, tree, pools, address):
    tree.add_other("0000:17:00.0", "020000", netdev="eth9", driver="tg3")
    link = next(each for each in tree.links if each.pci == f"0000:{address}")
    tree.links = (*(each for each in tree.links if each is not link), replace(link, altnames=("alias7",)))
    due = run("explain", pools, address)
    assert due[1] != ""
    assert run("explain", pools, link.name) == run("explain", pools, "alias7") == due


def test_explain_says_what_could_not_be_read(run, tree, pools):
    tree.remove("0000:3b:02.0", "vendor")
    status, out, _ = run("explain", pools, "3b:02.3")
    assert status == 1
    assert "\nunreadable: cannot read VF 0 of PF 0000:3b:00.0:" in out
    (reason,) = json.loads(run("explain", pools, "3b:00.0", "-o", "json")[1])["unreadable"]
    assert reason.startswith("cannot read VF 0 of PF 0000:3b:00.0: ")


def test_explain_a_nic_that_should_be_a_pf(run, tree, pools):
    tree.add_other("0000:17:00.0", "020000", netdev="ens9f0", driver="i40e")
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens9f0}"))
    status, out, _ = run("explain", pools, "17:00.0")
    assert status == 0
    assert "ens9f0 (0000:17:00.0): neither PF nor VF\n" in out
    assert f"the entry at {pools}:4:5 would match it" in out
    assert "shows no SR-IOV capability" in out
    _, out, _ = run("explain", pools, "-o", "yaml")
    assert [other["entries"] for other in yaml.safe_load(out)["others"]] == [[f"{pools}:4:5"]]


@pytest.mark.parametrize(("address", "status", "says"), [
    ("3b:00.x", 2, "expected a netdev's name or a PCI address like 0000:3b:02.1, got '3b:00.x'"),
    ("0000:3b:02.4", 2, "0000:3b:02.4 does not exist: it would be VF 4 of PF ens1f0 (0000:3b:00.0), which has 4 "),
    ("0000:3c:02.1", 2, "0000:3c:02.1 is no NIC and no accelerator of this node (hint: did you mean 0000:3b:02.1?"),
    ("ffff:ff:1f.7", 2, "ffff:ff:1f.7 is no NIC and no accelerator of this node (hint: vfpool discover lists"),
    ("0000:3b:02.0", 1, "cannot read VF 0 of PF 0000:3b:00.0: "),
])
def test_explain_what_is_not_there(run, tree, pools, address, status, says):
    tree.remove("0000:3b:02.0", "vendor")
    found, out, err = run("explain", pools, address)
    assert (found, out) == (status, "")
    assert err.startswith(says)


def test_explain_reads_a_configuration_of_the_device_plugin(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Path("config.json")
    config.write_text(json.dumps({"resourceList": [
        {"resourceName": "old", "selectors": {"pfNames": ["ens1f0#2-3"], "drivers": ["vfio-pci"]}}]}))
    status, out, _ = run("explain", config, "3b:02.3")
    assert status == 0
    assert "in no pool" in out
    assert "driver vfio-pci is not igbvf" in out
    assert "in intel.com/old" in run("explain", config, "3b:02.2")[1]


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
(README_FILE,) = [block.split("```")[0] for block in README.split("```yaml\n")[1:] if "kind: PoolFile" in block]


def test_the_readme_shows_what_check_says_of_mistakes(tmp_path, monkeypatch, capsys):
    shown = README.split("named twice in the file above:\n\n")[1].split("\n\nWith `--host`")[0]
    monkeypatch.chdir(tmp_path)
    Path("pools.yaml").write_text(
        README_FILE.replace("numVfs:", "numVFs:").replace("0-3", "0-").replace("sriov_dpdk", "sriov"))
    assert main(["check", "pools.yaml"]) == 2
    assert textwrap.indent(capsys.readouterr().err, "    ") == shown + "\n"


def test_the_readme_shows_what_check_says_of_a_node(tmp_path, monkeypatch, capsys):
    shown = README.split("here on a node with two VFs:\n\n")[1].split("\n\n`deploy/examples")[0]
    monkeypatch.chdir(ROOT)
    tree = Tree(tmp_path / "sys").add(Pf("0000:21:00.0", "enp33s0", num_vfs=2, numa_node=0, offset=128, stride=2))
    argv = ["check", "deploy/examples/pools.yaml", "--host", "--sysfs", str(tree.root)]
    assert main(argv, discover=lambda sysfs: sysfs.scan(tree.links)) == 0
    out, err = capsys.readouterr()
    assert textwrap.indent(err + out, "    ") == shown + "\n"


def test_the_readme_shows_what_explain_says(tmp_path, monkeypatch, capsys):
    shown = README.split("`vfpool explain pools.yaml` says:\n\n")[1].split("\n\n## ")[0]
    pf = nic("i40e", "0000:3b:00.0", "ens1f0", num_vfs=8, away={1}, vf_drivers=dict.fromkeys((4, 5, 6), "vfio-pci"))
    tree = Tree(tmp_path / "sys").add(pf)
    links = [replace(link, carrier=link.name != "ens1f0") for link in tree.links]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("iommu=off\n")
    (tmp_path / "pools.yaml").write_text(README_FILE.replace("vfs: 4-7", "vfs: 4-6"))
    monkeypatch.chdir(tmp_path)
    argv = ["explain", "pools.yaml", "--sysfs", str(tree.root), "--host-root", str(tmp_path),
            "--proc", str(tmp_path / "proc")]
    assert main(argv, discover=lambda sysfs: sysfs.scan(links)) == 0
    assert textwrap.indent(capsys.readouterr().out, "    ") == shown + "\n"


# ---- plan -------------------------------------------------------------------------------------------------


def test_plan_of_new_vfs(run, tree, pools):
    tree.add(Pf("0000:5e:00.0", "ens2f0"))
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens2f0}"))
    status, out, err = run("plan", pools)
    assert (status, err) == (0, "")
    assert out.startswith("PF ens2f0 (0000:5e:00.0)\n")
    assert "  + make 4 VFs on PF ens2f0 (0000:5e:00.0)\n" in out
    assert "PF ens1f0" not in out
    assert tree.read("0000:5e:00.0", "sriov_numvfs") == "0\n"
    _, out, _ = run("plan", pools, "-o", "json")
    (pf,) = json.loads(out)["physicalFunctions"]
    assert (pf["address"], pf["refused"]) == ("0000:5e:00.0", [])
    assert "makeVfs" in [step["kind"] for step in pf["steps"]]


def test_plan_that_is_refused_fails(run, pools):
    pools.write_text(POOLS.replace("numVfs: 4", "numVfs: 6"))
    status, out, _ = run("plan", pools)
    assert status == 1
    assert f"  ! {pools}:4:5: numVfs 6 on PF ens1f0 (0000:3b:00.0): " in out


def test_plan_asks_who_else_makes_vfs(run, tree, pools, tmp_path):
    tree.add(Pf("0000:5e:00.0", "ens2f0"))
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens2f0}"))
    profile = tmp_path / "root/etc/NetworkManager/system-connections/nic.nmconnection"
    profile.parent.mkdir(parents=True)
    profile.write_text("[connection]\nid=nic\ntype=ethernet\ninterface-name=ens2f0\n[sriov]\ntotal-vfs=2\n")
    status, out, _ = run("plan", pools, "-o", "json")
    (pf,) = json.loads(out)["physicalFunctions"]
    assert (status, pf["steps"]) == (1, [])
    assert [refusal["override"] for refusal in pf["refused"]] == ["claimed"]


def test_claims_are_read_where_the_environment_says(tree, pools, tmp_path, monkeypatch, capsys):
    """As in the agent's pod, where the host's files are below a folder, and no command is told so."""
    tree.add(Pf("0000:5e:00.0", "ens2f0"))
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens2f0}"))
    netplan = tmp_path / "host/etc/netplan/90.yaml"
    netplan.parent.mkdir(parents=True)
    netplan.write_text("network: {ethernets: {ens2f0: {virtual-function-count: 2}}}\n")
    monkeypatch.setenv("VFPOOL_HOST_ROOT", str(tmp_path / "host"))
    argv = ["plan", "pools.yaml", "--sysfs", str(tree.root), "--proc", str(tmp_path / "proc"),
            "--state-dir", str(tmp_path / "state"), "--kubelet-dir", str(tmp_path / "kubelet")]
    assert main(argv, discover=lambda sysfs: sysfs.scan(tree.links)) == 1
    assert "/etc/netplan/90.yaml" in " ".join(capsys.readouterr().out.split())
    assert main([*argv, "--host-root", str(tmp_path)], discover=lambda sysfs: sysfs.scan(tree.links)) == 0
    assert "make 4 VFs" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "apply", "explain", "reset"])
def test_a_host_that_is_not_there_has_no_claims_to_be_read(command, tmp_path, capsys, monkeypatch):
    missing = str(tmp_path / "none")
    monkeypatch.setenv("VFPOOL_HOST_ROOT", missing)
    for argv, says in (([], f"cannot use {missing!r}: there is no such folder"),
                       (["--host-root", ""], "expected a path, got ''")):
        with pytest.raises(SystemExit) as caught:
            main([command, "pools.yaml", *argv])
        assert caught.value.code == 2
        assert f"argument --host-root: {says}" in capsys.readouterr().err


def test_plan_warns_of_what_the_kernel_would_refuse(run, tree, pools):
    tree.add_other("0000:5d:00.0", "060400", subordinate_bus_number=0x5e)
    tree.add(Pf("0000:5e:00.0", "ens2f0", total_vfs=64, offset=200, behind=("0000:5d:00.0",)))
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens2f0}").replace("numVfs: 4", "numVfs: 57"))
    status, out, err = run("plan", pools)
    assert status == 0
    assert "+ make 57 VFs" in out
    assert "PF ens2f0 (0000:5e:00.0): VF 56 would be on PCI bus 5f, the bridge above it has none after 5e" in err
    assert "(hint: ask for 56 VFs, or " in err


def test_plan_with_nothing_to_do(run, pools):
    pools.write_text(POOLS.replace("ens1f0", "ens9f0"))
    assert run("plan", pools)[:2] == (0, "nothing to do: no entry of the file matches a PF of this node\n")
    pools.write_text(POOLS[:POOLS.index("pools:")])
    assert run("plan", pools)[:2] == (0, "nothing to do: the node fits the file\n")


def test_node_settles_what_is_for_some_nodes(run, pools):
    pools.write_text(POOLS.replace("{name: ens1f0}", "{name: ens1f0, node: worker-1}"))
    assert f"not the entry at {pools}:4:5: node worker-1 is not known to be this one" in run("explain", pools)[1]
    assert f"numVfs 4 by the entry at {pools}:4:5" in run("explain", pools, "--node", "worker-1")[1]
    assert "no entry matches it" in run("explain", pools, "--node", "worker-2")[1]


# ---- how it is shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [
    ["discover"], ["check", "FILE"], ["check", "FILE", "--host"], ["explain", "FILE"],
    ["explain", "FILE", "3b:00.0"], ["explain", "FILE", "3b:02.1"], ["plan", "FILE"],
])
def test_yaml_and_json_say_the_same(run, pools, argv):
    words = [pools if word == "FILE" else word for word in argv]
    in_json, in_yaml = (run(*words, "-o", form)[1] for form in ("json", "yaml"))
    assert yaml.safe_load(in_yaml) == json.loads(in_json)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: (
    st.lists(inner) | st.dictionaries(st.text(), inner))))
def test_any_document_is_the_same_in_yaml(value):
    class Written(list[str]):
        write = list.append

    out = Written()
    Output(out, out, "yaml").show({"value": value}, lambda: "")    # type: ignore[arg-type]
    assert yaml.safe_load("".join(out)) == {"value": value}


@pytest.mark.parametrize(("terminal", "environment", "coloured"), [
    (True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"NO_COLOR": ""}, True),
    (True, {"TERM": "dumb"}, False),
])
def test_colour_only_on_a_terminal(run, monkeypatch, terminal, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert ("\x1b[" in run("discover")[1]) == coloured
    assert "\x1b[" not in run("discover", "-o", "json")[1]


@pytest.mark.parametrize("words", [["discover"], ["check", "FILE"]])
def test_svg(run, pools, tmp_path, words):
    words = [pools if word == "FILE" else word for word in words]
    path = tmp_path / "node.svg"
    status, out, _ = run(*words, "--svg", path)
    assert status == 0
    assert "0000:3b:02.3" in out
    drawn = path.read_text()
    assert drawn.startswith("<svg")
    assert ("intel.com/sriov_dpdk" in drawn) == ("check" in words)
    status, out, err = run(*words, "--svg", tmp_path / "none/node.svg")
    assert (status, out, err.splitlines()[-1]) == (1, "", f"cannot write {tmp_path}/none/node.svg: ENOENT")


def write_record(state, vf, container, boot_id=None):
    """What the agent keeps of a VF that is in a pod."""
    record = Record(
        vf=PciAddress(vf), pf=PciAddress("0000:3b:00.0"), index=1, phase=Phase.ATTACHED, sets_mac=False,
        boot_id=boot_id or BOOT_ID.read_text().strip(),
        owner=Owner(container_id=container, ifname="net1", network="fast", netns="/run/netns/x", cookie=1),
        baseline=Baseline(link=None, settings=VfSettings(), admin_mac=False))
    (state / "vfs").mkdir(parents=True, exist_ok=True)
    (state / "vfs" / f"{vf}.json").write_text(format_record(record))


def test_plan_leaves_a_pod_its_vf(run, pools, tmp_path):
    pools.write_text(POOLS.replace("driver: vfio-pci", "driver: kernel"))
    of_vf = [line for line in run("plan", pools)[1].splitlines() if "0000:3b:02.2" in line]
    assert not any("in use" in line for line in of_vf)
    write_record(tmp_path / "state", "0000:3b:02.2", "abcdef")
    assert "VF 0000:3b:02.2 is bound to vfio-pci, its pool wants kernel: it is in use" in run("plan", pools)[1]


def test_the_drawing_names_who_has_a_vf(run, tmp_path):
    state = tmp_path / "state"
    write_record(state, "0000:3b:02.1", "abcdef")
    write_record(state, "0000:3b:02.3", "gone", boot_id="earlier")
    (state / "vfs/0000:3b:02.2.json").write_text("{")
    assert run("discover", "--svg", tmp_path / "node.svg")[0] == 0
    drawn = (tmp_path / "node.svg").read_text()
    assert "container abcdef, net1 of network fast" in drawn
    assert "gone" not in drawn


@pytest.mark.parametrize(("word", "says"), [
    ("plann", "unknown command 'plann', did you mean plan?"),
    ("zzz", "unknown command 'zzz', expected one of discover, check, "),
])
def test_a_mistyped_command(word, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main([word, "--force"])
    assert caught.value.code == 2
    assert f"vfpool: error: {says}" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["sriov", "deviceplugin", "admission"])
def test_version(program):
    name = {"sriov": "vfpool", "deviceplugin": "vfpool-agent", "admission": "vfpool-webhook"}[program]
    done = subprocess.run([sys.executable, "-m", program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {read_version()}\n", "")


def test_version_of_what_is_not_installed(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, "vfpool unknown\n")


def test_completion_knows_every_command(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "compgen -W 'discover check explain plan apply reset status networks completion'" in script
    assert "sysfs" not in script      # what help does not show is not offered
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- whatever the node is like ----------------------------------------------------------------------------


harm = st.lists(st.tuples(
    st.sampled_from(["0000:3b:00.0", "0000:3b:02.0", "0000:3b:02.2", "0000:17:00.0"]),
    st.sampled_from(["class", "vendor", "device", "numa_node", "driver", "iommu_group", "sriov_totalvfs", "virtfn1",
                     "sriov_numvfs", "sriov_offset", "sriov_vf_device", "enable", "resource", "physfn", "net"]),
    st.sampled_from(["remove", "garbage", "folder"])), max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harm)
def test_no_tree_makes_a_traceback(capsys, tmp_path_factory, harm):
    folder = tmp_path_factory.mktemp("harmed")
    tree = Tree(folder / "sys").add(Pf("0000:3b:00.0", "ens1f0", num_vfs=4, iommu=True, vf_drivers={2: "vfio-pci"}))
    tree.add_other("0000:17:00.0", "020000", netdev="eno1", driver="i40e")
    (folder / "pools.yaml").write_text(POOLS)
    for address, file, how in harm:
        if os.path.lexists(tree.path(address, file)):
            tree.remove(address, file) if how == "remove" else tree.make_unreadable(address, file)
            if how == "garbage" and tree.path(address, file).is_dir():
                tree.remove(address, file)
                tree.write(address, file, "\x1b[2J-garbage")
    options = ["--sysfs", str(tree.root)]
    for argv in (["discover"], ["check", "FILE", "--host"], ["explain", "FILE"], ["explain", "FILE", "3b:02.2"],
                 ["plan", "FILE", "--state-dir", str(folder / "state")]):
        words = [str(folder / "pools.yaml") if word == "FILE" else word for word in argv]
        assert main([*words, *options], discover=lambda sysfs: sysfs.scan(tree.links)) in (0, 1, 2)
        out, err = capsys.readouterr()
        assert out or err
        assert "\x1b" not in out


def command(*argv):
    return [sys.executable, "-m", "sriov", *map(str, argv)]


def test_as_a_process_on_this_machine(tree):
    """Real netlink, synthetic sysfs: the process's own links belong to none of its PFs."""
    done = subprocess.run(command("discover", "--sysfs", tree.root), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0000:3b:02.3" in done.stdout


def test_reader_that_goes_away_is_no_traceback(tree):
    """More output than a pipe holds, and nobody reads it."""
    for bus in range(0x60, 0x64):
        tree.add(Pf(f"0000:{bus:x}:00.0", None, num_vfs=128, total_vfs=128))
    # Unbuffered, Python takes a write that the reader cut short for a whole one.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    child = subprocess.Popen(command("discover", "-o", "json", "--sysfs", tree.root), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    assert child.stdout.readline() == "{\n"
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(timeout=30) == 1


FULL = "cannot write the answer: No space left on device\n"
CLOSED = "cannot write the answer: Bad file descriptor\n"


@pytest.mark.parametrize(("argv", "answered", "unbuffered"), [
    (["discover"], True, False), (["discover"], True, True), (["networks", "-"], True, False),
    (["--help"], True, True), (["check", "--help"], True, False),
    (["status", "--socket", "/nowhere"], False, True), (["check"], False, False),
])
def test_streams_that_do_not_work(tree, pools, argv, answered, unbuffered):
    """Closed or full: one line at most where it can be read, the status that was due, never a traceback."""
    words = [str(pools) if word == "FILE" else word for word in argv]
    if argv[0] in ("discover", "explain"):
        words += ["--sysfs", str(tree.root)]
    env = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else "", "PYTHONPATH": str(ROOT)}

    def run_with(redirection):
        script = f'exec "$@" {redirection}'
        done = subprocess.run(["bash", "-c", script, "-", *command(*words)], env=env, input="fast", text=True,
                              capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    due, out, err = run_with("")
    assert run_with("2>/dev/full") == run_with("2>&-") == (due, out, "")
    lost = (FULL, CLOSED) if answered else ("", "")
    failed = 1 if answered else due
    assert run_with(">/dev/full") == (failed, "", err + lost[0])
    assert run_with(">&-") == (failed, "", err + lost[1])
    assert run_with(">&- 2>&-") == run_with(">/dev/full 2>/dev/full") == (failed, "", "")
    if argv == ["networks", "-"]:
        assert run_with("<&-") == (2, "", "cannot read the annotation from stdin: Bad file descriptor\n")
    else:
        assert run_with("<&-") == (due, out, err)
    assert run_with("<&- >&- 2>&-")[1:] == ("", "")


def test_locale_that_lacks_a_character(tmp_path):
    pools = tmp_path / "pools\N{SNOWMAN}.yaml"
    pools.write_text(POOLS)
    done = subprocess.run(command("check", pools), capture_output=True, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pools\\u2603.yaml:7:5: intel.com/sriov" in done.stdout


def test_interrupt_is_no_traceback(capsys):
    def interrupt(sysfs):
        raise KeyboardInterrupt

    assert main(["discover"], discover=interrupt) == 1
    assert capsys.readouterr() == ("", "interrupted\n")


def test_networks_of_an_annotation(capsys):
    asked = [{"name": "fast", "mac": "02:00:00:00:00:01"},
             {"name": "slow", "namespace": "other", "interface": "data0"}]
    assert main(["networks", json.dumps(asked), "--namespace", "apps"]) == 0
    assert capsys.readouterr().out == "apps/fast as net1 02:00:00:00:00:01\nother/slow as data0\n"
    assert main(["networks", "fast@net7", "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["networks"]
    assert found == {"namespace": "default", "name": "fast", "interface": "net7", "mac": None, "ips": []}


def test_networks_names_every_problem(capsys):
    assert main(["networks", "fast,,Fast"]) == 2
    refused = capsys.readouterr().err
    assert "networks[1]" in refused
    assert "networks[2]" in refused


def test_networks_says_what_a_missing_key_may_have_been(capsys):
    asked = [{"nmae": "fast"}, {"name": "slow", "intreface": "data0"}]
    assert main(["networks", json.dumps(asked)]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert warnings == ["warning: networks[0].nmae: unknown key, did you mean name?",
                        "warning: networks[1].intreface: unknown key, did you mean interface?"]
    assert "networks[0].name: missing, expected the name of a NetworkAttachmentDefinition" in error


@pytest.mark.parametrize("namespace", ["Apps", "", "a.b", "a" * 64, "apps/fast"])
def test_networks_of_a_namespace_that_cannot_be(capsys, namespace):
    with pytest.raises(SystemExit) as caught:
        main(["networks", "fast", "--namespace", namespace])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "argument --namespace: " in err
    assert "is not a namespace (a-z, 0-9, - inside; at most 63)" in err


@pytest.mark.parametrize("text", [
    "N" * 300, json.dumps([{"name": "N" * 300}]), json.dumps([{"name": "b/" + "a" * 300}]),
])
def test_networks_shows_the_beginning_of_what_is_too_long(capsys, text):
    assert main(["networks", text]) == 2
    err = capsys.readouterr().err
    assert '"... is not a name' in err
    assert len(err) < 250
