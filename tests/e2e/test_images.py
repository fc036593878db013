from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.images import SOURCES, compile_static
from tests.lab.errors import LabError
from tests.support.node import wait_for


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    return {name: compile_static(SOURCES / f"{name}.c", folder) for name in ("pause", "vfio_probe")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pause_waits_and_ends_at_a_signal(programs, number):
    with subprocess.Popen([programs["pause"]]) as pause:
        with pytest.raises(subprocess.TimeoutExpired):
            pause.wait(0.1)
        pause.send_signal(number)
        assert pause.wait(10) == 0


@pytest.mark.kernel
def test_pause_as_process_1_reaps_what_is_left_to_it_and_ends_at_a_signal(programs):
    script = f"(sleep 0.3 &); exec {programs['pause']}"
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]) as unshare:
        try:
            wait_for("unshare's child", lambda: children(unshare.pid), 10)
            [process] = children(unshare.pid)
            wait_for("pause", lambda: Path(f"/proc/{process}/comm").read_text() == "pause\n", 10)
            assert len(children(process)) == 1
            wait_for("the orphan reaped", lambda: not children(process), 10)
            os.kill(process, signal.SIGTERM)
            assert unshare.wait(10) == 0
        finally:
            unshare.kill()


def children(process):
    """Zombies are among them."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_the_probe_names_the_failed_step(programs):
    done = subprocess.run(
        [programs["vfio_probe"], "ffff:ff:1f.7", "--hold"], capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stdout) == (1, "")
    step = "/sys/bus/pci/devices/ffff:ff:1f.7/iommu_group"
    assert done.stderr == f"vfio_probe: ffff:ff:1f.7: {step}: No such file or directory (errno 2)\n"


@pytest.mark.parametrize("arguments", [[], ["--hold"], ["--help"], ["0000:00:00.0", "-x"]])
def test_the_probe_refuses_wrong_usage(programs, arguments):
    done = subprocess.run([programs["vfio_probe"], *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: vfio_probe BDF... [--hold]\n")


def test_source_that_does_not_compile_is_told_with_the_compilers_words(tmp_path):
    (tmp_path / "bad.c").write_text("int main(void) { return unknown; }")
    with pytest.raises(LabError, match=r"(?s)bad\.c does not compile: .*unknown"):
        compile_static(tmp_path / "bad.c", tmp_path)
