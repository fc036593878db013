"""The demo's claims hold; and where they do not, by faults that are real, it fails and says what it saw."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sriov.host.sysfs import Sysfs
from tests.support import node

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def bare_node() -> Iterator[None]:
    """PFs without VFs, which the demo starts from; afterwards they are so again."""
    remove_vfs()
    yield
    remove_vfs()


def remove_vfs() -> None:
    for pf in node.pfs():
        Sysfs().write_num_vfs(pf.address, 0)
        node.run("ip", "link", "set", node.netdev_name(pf), "down")
    node.run("udevadm", "settle")


def run_demo(after: str = "", fault: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Exit status and output; `fault` gets the demo's process id once a line with `after` is written."""
    lines = []
    with subprocess.Popen([sys.executable, "-m", "tests.lab.demo"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            lines.append(line)
            if fault is not None and after in line:
                fault(demo.pid)
                fault = None
    return demo.returncode, "".join(lines)


def kill_agent(demo: int) -> None:
    """SIGKILL to the agent, a child of the demo."""
    threads = Path(f"/proc/{demo}/task").iterdir()
    children = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    [agent] = [pid for pid in children if b"deviceplugin" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(agent, signal.SIGKILL)


def set_vlan(demo: int) -> None:
    """A VLAN on a VF that no pod of the demo gets."""
    name = next(node.netdev_name(pf) for pf in node.pfs() if pf.numa_node == 1)
    node.run("ip", "link", "set", name, "vf", "6", "vlan", "9")


def test_every_claim_holds() -> None:
    status, output = run_demo()
    assert status == 0, output
    assert output.count(" VFs compared: identical") == 3
    assert "Every claim held" in output


def test_an_agent_that_dies_ends_it_with_the_agents_log() -> None:
    status, output = run_demo("default/a has net1", kill_agent)
    assert status == 1, output
    assert "expected: exit status 0" in output
    assert "The agent's log ends:" in output
    assert "Every claim held" not in output


def test_a_vlan_that_someone_leaves_on_a_vf_is_seen() -> None:
    status, output = run_demo("snapshot of the host", set_vlan)
    assert status == 1, output
    assert "vfinfo_list[6].vlan_list[0].vlan: was None, is 9" in output
