"""How the CNI executable comes into the runtime's folder, and when the agent puts it there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cni.install import SHIM, install_executable
from cni.record import Delegation
from cni.store import Store
from sriov.errors import HostError
from tests.cni.test_record import record
from tests.support.node import wait_for

ROOT = Path(__file__).parents[2]
POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
pools:
  - resource: none
    select:
      - {address: "ffff:ff:1f.7"}
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "built"
    path.write_bytes(b"#!/bin/sh\necho new\n")
    return path


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder / "vfpool"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_new_executable(source, target):
    umask = os.umask(0o077)
    try:
        assert install_executable(source, target)
    finally:
        os.umask(umask)
    assert target.stat().st_mode & 0o7777 == 0o755
    assert subprocess.run([target], capture_output=True, check=True).stdout == b"new\n"
    assert names(target) == ["vfpool"]


def test_an_old_one_is_replaced_and_who_runs_it_keeps_it(source, target):
    target.write_bytes(b"old")
    with target.open("rb") as running:
        assert install_executable(source, target)
        assert running.read() == b"old"
    assert target.read_bytes() == source.read_bytes()
    assert names(target) == ["vfpool"]


def test_one_that_runs_is_replaced(target):
    """Where it would be written to instead, the kernel refuses that: ETXTBSY."""
    shutil.copy("/bin/cat", target)
    with subprocess.Popen([target], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        with pytest.raises(OSError, match="Text file busy"):
            target.open("r+b")
        assert install_executable(SHIM, target)
        assert running.communicate(b"still here", timeout=30)[0] == b"still here"
    version = subprocess.run([target], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
    assert b"supportedVersions" in version.stdout


INSTALLER = """
import sys
from pathlib import Path
from cni.install import install_executable
for number in range(200):
    assert install_executable(Path(sys.argv[1 + number % 2]), Path(sys.argv[3]))
"""


def test_whoever_starts_it_meanwhile_gets_a_whole_one(target, tmp_path):
    """Long scripts: of one that is half written the last line is missing."""
    for name in "ab":
        (tmp_path / name).write_text("#!/bin/sh\n" + "# filled\n" * 20_000 + f"echo {name}\n")
    install_executable(tmp_path / "b", target)
    arguments = [str(path) for path in (tmp_path / "a", tmp_path / "b", target)]
    seen = set()
    with subprocess.Popen([sys.executable, "-c", INSTALLER, *arguments], cwd=ROOT) as installer:
        while installer.poll() is None:
            seen.add(subprocess.run([target], capture_output=True, check=True).stdout)
    assert installer.returncode == 0
    assert seen == {b"a\n", b"b\n"}


def test_the_same_is_left_alone(source, target):
    install_executable(source, target)
    before = target.stat()
    assert not install_executable(source, target)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_with_another_mode_is_replaced(source, target):
    install_executable(source, target)
    target.chmod(0o644)
    assert install_executable(source, target)
    assert target.stat().st_mode & 0o7777 == 0o755


def test_a_symbolic_link_is_replaced_and_its_end_left_alone(source, target, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(source.read_bytes())
    other.chmod(0o755)
    target.symlink_to(other)
    assert install_executable(source, target)
    assert not target.is_symlink()
    assert other.exists()


@pytest.mark.parametrize("installed", [False, True])
def test_what_a_killed_install_left_is_removed(source, target, installed):
    if installed:
        install_executable(source, target)
    (target.parent / ".vfpool.new").write_bytes(b"half")
    assert install_executable(source, target) is not installed
    assert names(target) == ["vfpool"]
    assert target.read_bytes() == source.read_bytes()


def test_a_draft_that_leads_elsewhere_is_not_written_through(source, target, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (target.parent / ".vfpool.new").symlink_to(victim)
    assert install_executable(source, target)
    assert victim.read_bytes() == b"mine"


def test_a_folder_stands_in_the_way(source, target):
    target.mkdir()
    with pytest.raises(HostError, match=f"cannot install the CNI executable as {target}: EISDIR"):
        install_executable(source, target)
    assert names(target) == ["vfpool"]


def test_no_folder(source, tmp_path):
    with pytest.raises(HostError, match=r"as .*/absent/vfpool: ENOENT \(hint: its folder has to exist"):
        install_executable(source, tmp_path / "absent/vfpool")


def test_not_built(tmp_path, target):
    with pytest.raises(HostError, match=r"cannot read the CNI executable .*: ENOENT \(hint: `make shim`"):
        install_executable(tmp_path / "built", target)
    assert names(target) == []


def start_agent(tmp_path, *options):
    """An agent whose only pool selects nothing, so that it leaves this machine as it is."""
    (tmp_path / "pools.yaml").write_text(POOLS)
    return subprocess.Popen(
        [sys.executable, "-m", "deviceplugin", f"--pool-file={tmp_path}/pools.yaml",
         f"--state-dir={tmp_path}/state", f"--socket={tmp_path}/cni.sock", f"--kubelet-dir={tmp_path}/kubelet",
         f"--device-info-dir={tmp_path}/devinfo", *options],
        cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_the_agent_installs_it_once_calls_are_served(tmp_path, target):
    assert SHIM.exists(), f"there is no {SHIM}: run `make shim`"
    agent = start_agent(tmp_path, f"--install-cni={target}", f"--install-cni={target.parent}/sriov")

    def installed():
        assert agent.poll() is None, f"the agent ended: {agent.stderr.read()}"
        return (target.parent / "sriov").exists()

    try:
        wait_for("both executables", installed)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "cni.sock"))
    finally:
        agent.send_signal(signal.SIGTERM)
        _, log = agent.communicate(timeout=30)
    assert agent.returncode == 0, log
    assert names(target) == ["sriov", "vfpool"]
    assert target.read_bytes() == (target.parent / "sriov").read_bytes() == SHIM.read_bytes()
    assert log.index("CNI calls are served") < log.index(f"installed the CNI executable as {target}\n")


def test_an_agent_that_is_ended_while_it_repairs_undoes_what_it_began_and_ends(tmp_path, source):
    """As PID 1 of a container it would not even hear of a SIGTERM that it has no handler for."""
    asked = tmp_path / "asked"
    source.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 60\n")
    source.chmod(0o755)
    store = Store.open(tmp_path / "state")
    delegation = Delegation(plugin=source.name, environment={"CNI_PATH": str(source.parent)}, config={})
    store.owe(record(ipam=delegation))
    store.delete(record())
    store.close()
    agent = start_agent(tmp_path)
    wait_for("the IPAM plugin", asked.exists)
    agent.send_signal(signal.SIGTERM)
    _, log = agent.communicate(timeout=30)
    assert agent.returncode == 0, log
    assert "CNI calls are served" not in log
    assert len(list((tmp_path / "state/ipam").iterdir())) == 1


def test_an_agent_that_cannot_install_it_says_so_and_ends(tmp_path):
    agent = start_agent(tmp_path, f"--install-cni={tmp_path}/absent/vfpool")
    _, log = agent.communicate(timeout=30)
    assert agent.returncode == 1
    assert f"cannot install the CNI executable as {tmp_path}/absent/vfpool: ENOENT" in log
    assert not (tmp_path / "cni.sock").exists()
