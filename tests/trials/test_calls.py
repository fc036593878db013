"""Calls that are broken off, of executables that are small scripts."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.support.node import Cni
from tests.trials.calls import Caller, End
from tests.trials.pods import Network, Pod
from tests.trials.test_vfs import VF

RANDOM = Random(1)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Network(tmp_path / "leases").make_pod(VF, RANDOM)


@pytest.fixture
def caller(tmp_path: Path):
    def make(body: str) -> Caller:
        path = tmp_path / "plugin"
        path.write_text(f"#!/bin/sh\ncat > /dev/null\n{body}\n")
        path.chmod(0o755)
        return Caller(Cni(tmp_path / "no.sock", (str(path),)))

    return make


def test_answers(caller, pod):
    assert caller("echo '{}'").call("ADD", pod) == End()
    assert caller("exit 0").call("DEL", pod) == End()
    refusal = """echo '{"code": 7, "msg": "no VLAN"}'; exit 1"""
    assert caller(refusal).call("ADD", pod) == End(failure="no VLAN", code=7)
    assert "without an error document: gone" in str(caller("echo gone >&2; exit 2").call("ADD", pod).failure)
    assert caller("echo '{'; exit 1").call("ADD", pod).failure is not None


def test_a_kill_leaves_what_was_done_until_then(caller, pod, tmp_path):
    calls = caller(f"touch {tmp_path}/begun; exec sleep 60")
    while not (tmp_path / "begun").exists():        # it may come before anything was done
        end = calls.kill("ADD", pod, RANDOM)
        assert end.disturbed
        assert end.failure is not None


def test_a_disturbance_comes_only_while_the_call_runs(caller, pod):
    disturbed: list[str] = []
    quick = caller("exit 0")
    for _ in range(3):
        quick.call("DEL", pod)
    slow = Random()
    slow.uniform = lambda *_: 5.0                   # type: ignore[method-assign]
    assert quick.disturb("DEL", pod, slow, lambda: disturbed.append("too late")) == End()
    assert disturbed == []
    waits = caller("sleep 0.2; echo '{}'")
    slow.uniform = lambda *_: 0.0                   # type: ignore[method-assign]
    assert waits.disturb("ADD", pod, slow, lambda: disturbed.append("in time")) == End(disturbed=True)
    assert disturbed == ["in time"]


def test_when_a_disturbance_comes_is_learned_from_calls_that_do_something(caller, pod):
    calls = caller("sleep 0.3")
    calls.call("DEL", pod)
    learned = calls._took["DEL"]
    assert learned >= 0.3
    quick = caller("exit 0")
    quick.call("DEL", pod, typical=False)
    assert quick._took == {}
    assert quick.count == {"DEL": 1}
