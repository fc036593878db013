"""`vfpool status` as an admin calls it, of an agent as a process: serving, stopped, killed, gone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.deviceplugin.asking import ask, check_silence
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
    check_silence(agent)
