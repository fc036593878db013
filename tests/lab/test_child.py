from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.child import bound_to_parent
from tests.lab.image import CHECKOUT
from tests.support.node import wait_for

DYING = """
import os, subprocess, sys
from tests.lab.child import bound_to_parent

child = subprocess.Popen(bound_to_parent(["sleep", "1000"]))
if sys.argv[1] == "once it runs":
    while b"sleep" not in open(f"/proc/{child.pid}/cmdline", "rb").read().split(b"\\0")[0]:
        pass
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_child_is_the_program_itself():
    child = subprocess.Popen(bound_to_parent(["sh", "-c", "echo $$ $PPID"]), stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0].split() == [str(child.pid), str(os.getpid())]
    assert child.returncode == 0


def test_arguments_arrive_as_they_are():
    argv = ["printf", "%s\n", "a b", "$HOME", "", "--", "'"]
    done = subprocess.run(bound_to_parent(argv), stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == argv[2:]


def test_nothing_starts_for_a_parent_that_is_gone():
    """Another process is the command's parent, as after the end of the one that made it."""
    command = shlex.join(bound_to_parent(["echo", "it runs"]))
    done = subprocess.run(["sh", "-c", f"{command}; echo $?"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("moment", ["at once", "once it runs"])
def test_it_ends_with_its_parent(moment):
    done = subprocess.run([sys.executable, "-c", DYING, moment], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
                          check=False)
    assert done.returncode == -9
    child = Path(f"/proc/{int(done.stdout)}/cmdline")
    wait_for("the child's end", lambda: not child.exists() or not child.read_bytes())
