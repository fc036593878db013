from __future__ import annotations

import pytest

from tests.lab import image
from tests.lab.errors import LabError
from tests.lab.progress import Progress
from tests.support.tiers import TIERS, parse_required


def test_the_key_follows_the_requirements_and_where_one_ends():
    assert image.image_key(["a>=1", "b"]) == image.image_key(["a>=1", "b"])
    assert len({image.image_key(lines) for lines in (["a>=1", "b"], ["a>=2", "b"], ["a>=1b"], [])}) == 4


def test_the_guest_gets_all_that_the_project_and_its_tests_import():
    names = {line.partition(">")[0] for line in image.load_requirements()}
    assert {"grpcio", "pyroute2", "pyudev", "pytest", "hypothesis"} <= names
    assert not {"ruff", "mypy"} & names


def test_cache_folder_is_named_by_the_first_variable_that_is_set(monkeypatch, tmp_path):
    monkeypatch.setenv("VFPOOL_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("VFPOOL_CACHE")
    assert image.cache_folder() == tmp_path / "vfpool"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image.cache_folder() == tmp_path / ".cache/vfpool"


def test_a_failed_stage_shows_command_status_and_last_lines(capsys):
    with pytest.raises(LabError) as caught:
        Progress("lab").run("a stage", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    for part in ("a stage", "exit status 3", "sh -c", "    out", "    err"):
        assert part in str(caught.value)
    assert "a stage" in capsys.readouterr().err


def test_required_tiers():
    assert parse_required("") == frozenset()
    assert parse_required(" lab, e2e,") == {"lab", "e2e"}
    assert parse_required(",".join(TIERS)) == set(TIERS)
    with pytest.raises(ValueError, match="got moon"):
        parse_required("lab,moon")
