"""`vfpool status` as an admin calls it, of an agent as a process."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys

from tests.support.node import Agent, wait_for


def ask(agent: Agent, *argv: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "sriov", "status", "--socket", agent.root / "status.sock", *argv],
                          capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def pid_of(agent: Agent) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.socket))
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def check_silence(agent: Agent) -> None:
    """What an agent that serves is said to be once it is stopped, killed, started anew, and gone."""
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
