"""Progress of a long build: a line per stage on stderr, and on a terminal the running command's last line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

from tests.lab.errors import LabError

TAIL = 25    # lines of a failed command's output that its error shows


class Progress:
    """Elapsed seconds count from its making."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = time.monotonic()

    def note(self, text: str) -> None:
        self._erase()
        sys.stderr.write(f"{self._name}: [{time.monotonic() - self._start:5.1f} s] {text}\n")

    def run(self, title: str, argv: Sequence[str]) -> None:
        """Run a command to its end; LabError with command, exit status and last lines where it fails."""
        self.note(title)
        tail: deque[str] = deque(maxlen=TAIL)
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        ) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    tail.append(line.rstrip())
                    self._show(line)
            except BaseException:
                child.kill()
                child.stdout.read()    # to its end: then its children are gone, too, and their folder can go
                raise
        self._erase()
        if child.returncode != 0:
            output = "\n".join(f"    {line}" for line in tail) or "    (no output)"
            raise LabError(
                f"{title}: exit status {child.returncode} of\n    {shlex.join(argv)}\nits last lines:\n{output}"
            )

    def _show(self, line: str) -> None:
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            text = f"{self._name}: [{time.monotonic() - self._start:5.1f} s]   {line.strip()}"[:width]
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def _erase(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
