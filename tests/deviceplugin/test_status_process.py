"""`vfpool status` as an admin calls it, of an agent as a process: serving, stopped, killed, gone."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.node import Agent, wait_for

pytestmark = pytest.mark.kernel

# Nothing of the machine that this runs on.
POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
pools:
  - resource: sriov
    select: [{pf: nowhere}]
"""


def ask(agent: Agent) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "sriov", "status", "--socket", agent.root / "status.sock"],
                          capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def pid_of(agent: Agent) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.socket))
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def test_an_agent_that_does_not_answer() -> None:
    with tempfile.TemporaryDirectory() as root:      # short: a unix socket's path has 107 characters
        agent = Agent(Path(root), POOLS)
        try:
            check(agent)
        finally:
            agent.kill()


def check(agent: Agent) -> None:
    agent.start()
    wait_for("an answer", lambda: "version 1 of what" in ask(agent)[1])
    status, out, err = ask(agent)
    assert (status, err) == (1, "")
    assert "! intel.com/sriov is not registered with the kubelet: " in out
    pid = pid_of(agent)
    os.kill(pid, signal.SIGSTOP)
    try:
        status, out, err = ask(agent)
        assert (status, out) == (1, "")
        assert "it has not answered within 5 s (hint: it hangs" in err
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("an answer", lambda: ask(agent)[1] != "")
    agent.stop(signal.SIGKILL)
    assert "nobody serves this socket, the agent that made it has ended" in ask(agent)[2]
    agent.start()
    wait_for("an answer", lambda: ask(agent)[1] != "")
    assert agent.stop() == 0
    assert "there is no such socket" in ask(agent)[2]
