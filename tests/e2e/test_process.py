from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import PORTS, Process, find_free_ports
from tests.lab.errors import LabError
from tests.lab.image import CHECKOUT
from tests.support.node import wait_for

OUTLIVING = """
import os, sys
from pathlib import Path
from tests.e2e.process import Process

process = Process("child", ["sh", "-c", "echo up; exec sleep 1000"], Path(sys.argv[1]))
process.start()
if sys.argv[2] == "once it is up":
    process.wait_until(lambda: "up" in process.log.read_text(), "it is up")
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def shell(folder: Path, script: str, **options) -> Process:
    return Process("child", ["sh", "-c", script], folder, **options)


def exists(pid: int) -> bool:
    """Whether there is such a process; one that has ended but is not collected yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_start_waits_for_nothing_and_wait_until_for_its_condition(tmp_path):
    with shell(tmp_path, "touch ready; exec sleep 1000", cwd=tmp_path) as child:
        child.wait_until((tmp_path / "ready").exists, "the file")
        pid = child.pid
        assert exists(pid)
    assert not child.alive
    assert not exists(pid)


def test_end_before_the_condition_shows_status_and_last_words(tmp_path):
    with (
        shell(tmp_path, "echo first; seq 40; echo no such key >&2; exit 3") as child,
        pytest.raises(LabError) as caught,
    ):
        child.wait_until(lambda: False, "it serves")
    assert "child ended (exit status 3) before it serves: sh -c" in str(caught.value)
    assert str(caught.value).endswith("    39\n    40\n    no such key")
    assert "first\n" not in caught.value.message.partition("the end of")[2]


def test_an_end_of_its_own_is_told_with_its_last_words_and_no_other(tmp_path):
    child = shell(tmp_path, "echo no such key; exec sleep 1000")
    assert child.find_end() is None
    with child:
        child.wait_until(lambda: "no such key" in child.log_tail(), "its word")
        assert child.find_end() is None
        os.kill(child.pid, signal.SIGKILL)
        wait_for("its end", lambda: not child.alive)
        assert child.find_end() == f"child ended (exit status -9), the end of {child.log}:\n    no such key"
    assert child.find_end() is None
    with child:
        child.stop()
        assert child.find_end() is None


def test_condition_that_never_comes(tmp_path):
    with (
        shell(tmp_path, "echo busy; exec sleep 1000") as child,
        pytest.raises(LabError, match=r"child: not within 0\.2 s: it serves\n.*\n +busy$"),
    ):
        child.wait_until(lambda: False, "it serves", timeout=0.2)


def test_wait_without_start(tmp_path):
    with pytest.raises(LabError, match=r"child is not running before it serves(.|\n)*\(empty\)"):
        shell(tmp_path, "true").wait_until(lambda: False, "it serves")


def test_stop_is_polite_first(tmp_path):
    with shell(tmp_path, "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.01; done") as child:
        child.wait_until(lambda: "up" in child.log_tail(), "the trap is set")
        child.stop()
    assert child.log.read_text() == "up\nbye\n"


def test_one_that_ignores_sigterm_is_killed(tmp_path):
    with shell(tmp_path, "trap '' TERM; echo up; while :; do sleep 0.01; done") as child:
        child.wait_until(lambda: "up" in child.log_tail(), "the trap is set")
        pid = child.pid
        child.stop(timeout=0.1)
        assert not exists(pid)


def test_stop_after_its_end_and_twice(tmp_path):
    with shell(tmp_path, "true") as child:
        wait_for("its end", lambda: not child.alive)
        child.stop()
        child.stop()
        child.kill()


def test_second_start_is_refused_while_it_runs_and_appends_to_its_log_later(tmp_path):
    with shell(tmp_path, "echo up; exec sleep 1000") as child:
        with pytest.raises(LabError, match="child runs already"):
            child.start()
        child.wait_until(lambda: child.log.read_text() == "up\n", "it is up")
        child.kill()
        child.start()
        child.wait_until(lambda: child.log.read_text() == "up\nup\n", "it is up again")


def test_only_named_variables_reach_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    with Process("child", ["env"], tmp_path, environment={"GOMAXPROCS": "1"}) as child:
        wait_for("its end", lambda: not child.alive)
    assert dict(line.split("=", 1) for line in child.log.read_text().splitlines()) == {
        "PATH": os.environ["PATH"], "PWD": str(Path.cwd()), "GOMAXPROCS": "1"}


@pytest.mark.parametrize("moment", ["at once", "once it is up"])
def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path, moment):
    done = subprocess.run([sys.executable, "-c", OUTLIVING, str(tmp_path), moment], cwd=CHECKOUT, text=True,
                          stdout=subprocess.PIPE, check=False)
    assert done.returncode == -9
    pid = int(done.stdout)
    wait_for("the child's end", lambda: not exists(pid))


def test_free_ports_are_distinct_and_unbound():
    ports = find_free_ports(50)
    assert len(set(ports)) == 50
    for port in ports:
        assert port in PORTS
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_in_use_is_not_free(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", find_free_ports(1)[0]))
        port = taken.getsockname()[1]
        monkeypatch.setattr("tests.e2e.process.PORTS", range(port, port + 1))
        with pytest.raises(LabError, match=f"no 1 free ports on 127.0.0.1 from {port} to {port}"):
            find_free_ports(1)
