"""The queue for routing-netlink changes of this process."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# The routing-netlink lock is one for the whole host. Measured with 14 ADD and DEL at once (tests/bench/queue.py):
# all of them together take the same time at each width, and half of them are done soonest at this one.
QUEUE_WIDTH = 1


class ChangeQueue:
    """So many changes at a time, those of the call that came first before the others'.

    In the order of the changes themselves all calls that came together would end together, at the end of all of
    them. None waits for ever: later calls come later.
    """

    def __init__(self, width: int = QUEUE_WIDTH) -> None:
        self._guard = threading.Lock()
        self._free = width
        self._waiting: list[tuple[int, int, threading.Event]] = []     # a heap: turn, number, its go
        self._numbers = itertools.count()
        self._own = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """All changes of the calling thread within come before those of turns that begin later."""
        if self._turn is not None:
            yield
            return
        self._own.turn = next(self._numbers)
        try:
            yield
        finally:
            self._own.turn = None

    def run(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._enter()
        try:
            return change(*args, **kwargs)
        finally:
            self._leave()

    @property
    def _turn(self) -> int | None:
        return getattr(self._own, "turn", None)

    def _enter(self) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            number, go = next(self._numbers), threading.Event()
            turn = self._turn
            heapq.heappush(self._waiting, (number if turn is None else turn, number, go))
        go.wait()

    def _leave(self) -> None:
        """Hand the place on, so that none who comes now gets in between."""
        with self._guard:
            if self._waiting:
                heapq.heappop(self._waiting)[-1].set()
            else:
                self._free += 1
