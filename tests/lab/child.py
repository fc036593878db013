"""Processes that never outlive the one that starts them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.lab.host import get_program

# A parent that ends before setpriv has asked for the signal never causes one: then there is another parent.
_IF_PARENT_LIVES = 'test "$PPID" = "$0" && exec "$@"'


def bound_to_parent(argv: Sequence[str]) -> list[str]:
    """The command that becomes `argv`, by exec, and is killed when this process ends.

    To be started by this process itself, and where a thread that ends starts it, it ends with the thread:
    the kernel's parent-death signal goes by thread.
    """
    return [get_program("setpriv"), "--pdeathsig", "KILL", "--",
            "/bin/sh", "-c", _IF_PARENT_LIVES, str(os.getpid()), *argv]
