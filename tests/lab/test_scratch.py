from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.lab.image import CHECKOUT
from tests.lab.scratch import remove_dead, scratch_folder

HOLDING = """
import sys, time
from pathlib import Path
from tests.lab.scratch import scratch_folder

with scratch_folder("trial-", Path(sys.argv[1])) as folder:
    (folder / "inner").mkdir()
    print(folder, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def other(tmp_path):
    """A process that has such a folder, and the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_goes_with_its_use_whatever_happens(tmp_path):
    def use() -> None:
        with scratch_folder("trial-", tmp_path) as folder:
            (folder / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_goes_with_the_next_start_and_a_living_one_s_never(tmp_path, other):
    process, left = other
    with scratch_folder("trial-", tmp_path) as mine:
        remove_dead("trial-", tmp_path)
        assert {left, mine} == set(tmp_path.iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "inner").is_dir()
    with scratch_folder("other-", tmp_path) as elsewhere:
        assert {left, elsewhere} == set(tmp_path.iterdir())
    with scratch_folder("trial-", tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_a_child_of_the_dead_does_not_hold_it(tmp_path):
    script = HOLDING.replace("time.sleep(1000)", "import os, subprocess; "
                             "child = subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL); "
                             "print(child.pid, flush=True); os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE,
                          text=True, check=False)
    left, child = done.stdout.split()
    try:
        assert Path(left).is_dir()
        remove_dead("trial-", tmp_path)
        assert not Path(left).exists()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_what_tells_of_no_owner_stays(tmp_path):
    (tmp_path / "trial-of-others").mkdir()
    (tmp_path / "trial-file").touch()
    with scratch_folder("trial-", tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"trial-of-others", "trial-file"}


def test_starts_at_once_leave_each_other_alone(tmp_path):
    def start() -> None:
        for _ in range(20):
            with scratch_folder("trial-", tmp_path) as folder:
                (folder / "file").touch()
                kept.append((folder / "file").exists())

    kept: list[bool] = []
    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept == [True] * 160
    assert list(tmp_path.iterdir()) == []
