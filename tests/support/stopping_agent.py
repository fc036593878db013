"""An agent that stops at a named step of an ADD or DEL, or only tells of them; the environment says which.

VFPOOL_KILL_AT: by SIGKILL, as a crash would. VFPOOL_KILL_FILE: so at the step that this file names; it goes first.
VFPOOL_HOLD_AT: until the file VFPOOL_HOLD_FILE, which it makes, is removed. VFPOOL_TRACE_FILE: a line for each.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from deviceplugin.__main__ import main


def trace(step: str) -> None:
    if traced := os.environ.get("VFPOOL_TRACE_FILE"):
        with Path(traced).open("a") as file:
            print(step, file=file)
    if killing := os.environ.get("VFPOOL_KILL_FILE"):
        named = Path(killing)
        if named.exists() and named.read_text() == step:
            named.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    if step == os.environ.get("VFPOOL_KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == os.environ.get("VFPOOL_HOLD_AT"):
        held = Path(os.environ["VFPOOL_HOLD_FILE"])
        held.touch()
        while held.exists():
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(trace=trace))
