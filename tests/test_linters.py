"""Linters and the shape of the tree, as tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "sriov", "deviceplugin", "cni", "admission",
             "tests", "deploy"}


@pytest.mark.parametrize("linter", [
    ["ruff", "check", "--quiet", "--output-format=concise"],
    ["mypy", "--no-error-summary"],
], ids=lambda linter: linter[0])
def test_linter_has_nothing_to_say(linter):
    done = subprocess.run([sys.executable, "-m", *linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), "\n" + done.stdout + done.stderr


def test_top_level_holds_nothing_but_the_agreed_names():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\0")
    names = {name.partition("/")[0] for name in listed if name}
    assert {name for name in names - TOP_LEVEL if not name.startswith(".")} == set()
    assert {"sriov", "tests", "pyproject.toml"} <= names
