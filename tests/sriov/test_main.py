"""`vfpool` as its caller sees it: exit status, stdout, stderr."""

import json
import os
import subprocess
import sys

import pytest

from sriov.__main__ import main
from sriov.errors import HostError
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
def pools(tmp_path):
    path = tmp_path / "pools.yaml"
    path.write_text(POOLS)
    return path


@pytest.fixture
def run(tree, capsys):
    def run(*argv):
        status = main([*map(str, argv), "--sysfs", str(tree.root)], read_links=lambda: tree.links)
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
    def forbidden():
        raise AssertionError("the host was looked at")

    assert main(["check", str(pools)], read_links=forbidden) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines(), err) == ([
        f"{pools}:4:5: 4 VFs on each PF that matches",
        f"{pools}:7:5: intel.com/sriov, 1 selector, driver kernel",
        f"{pools}:10:5: intel.com/sriov_dpdk, 2 selectors, driver vfio-pci",
    ], "")
    assert main(["check", str(pools), "-o", "json"], read_links=forbidden) == 0
    assert json.loads(capsys.readouterr().out) == {
        "resources": {"intel.com/sriov": None, "intel.com/sriov_dpdk": None}, "warnings": []}


def test_check_with_the_host(run, pools):
    status, out, err = run("check", pools, "--host")
    assert (status, err) == (0, "")
    assert out == """\
RESOURCE              VFS  HEALTHY
intel.com/sriov       2    2
intel.com/sriov_dpdk  2    1

PCI ADDRESS   PF      VF  RESOURCE, OR WHY NOT
0000:3b:02.0  ens1f0  0   intel.com/sriov
0000:3b:02.1  ens1f0  1   intel.com/sriov (in a pod)
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
        f"warning: {pools}:7:5: intel.com/sriov gets no VF: pf eth0 is not ens1f0",
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
    def refuse():
        raise HostError("cannot list links", errno=1, hint="run as root")

    assert main(["discover"], read_links=refuse) == 1
    assert capsys.readouterr() == ("", "cannot list links: EPERM (hint: run as root)\n")


@pytest.mark.parametrize("argv", [[], ["wibble"], ["check"], ["discover", "-o", "yaml"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: vfpool")


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
