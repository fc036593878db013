"""Signals that would end a command in the middle of what it changes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sriov.views.output import Output

_ENDING = signal.SIGINT, signal.SIGTERM


@contextmanager
def finishing(output: Output) -> Iterator[None]:
    """Go on to the end of the context whoever wants this process to end, and say so, once.

    A PF that is left between two writes keeps its VFs from ever getting a driver; only what comes after the last
    write, or takes them back, leaves it usable. For the main thread.
    """
    told = False

    def note(number: int, _: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            output.warn([f"{signal.Signals(number).name}: what was begun is finished or taken back first"])

    before = {number: signal.signal(number, note) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
