from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sriov.errors import InputError
from tests.lab.cache import check_cache
from tests.lab.image import CHECKOUT


def test_it_is_made_where_it_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("VFPOOL_CACHE", str(tmp_path / "a/b"))
    for _ in range(2):
        check_cache()
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize(("name", "problem"), [
    ("{tmp}/file", "{tmp}/file cannot be the cache: File exists"),
    ("{tmp}/file/below", "{tmp}/file/below cannot be the cache: Not a directory"),
    ("/proc/nope", "/proc/nope cannot be the cache: No such file or directory"),
    ("/proc", "/proc cannot be the cache: "),
    ("here", "VFPOOL_CACHE: expected an absolute path, got 'here'"), ("~/x", "VFPOOL_CACHE: expected an absolute")])
def test_what_cannot_be_one_is_told_in_one_line(monkeypatch, tmp_path, name, problem):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VFPOOL_CACHE", name.format(tmp=tmp_path))
    with pytest.raises(InputError) as caught:
        check_cache()
    assert str(caught.value).startswith(problem.format(tmp=tmp_path))
    assert "hint: VFPOOL_CACHE" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("module", "action", "name"), [
    ("tests.e2e", "up", "cluster"), ("tests.e2e", "build", "cluster"), ("tests.lab", "build", "lab")])
def test_the_command_ends_with_that_line_and_status_2(module, action, name):
    done = subprocess.run(
        [sys.executable, "-m", module, action], cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env={**os.environ, "VFPOOL_CACHE": "/proc/nope"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: /proc/nope cannot be the cache: ")
