"""Queues of this process: for changes by routing netlink, and for the calls that make them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from cni.locks import Busy
from cni.protocol import Code

P = ParamSpec("P")
T = TypeVar("T")

# The routing-netlink lock is one for the whole host. Measured with 14 ADD and DEL at once (tests/bench/queue.py):
# all of them together take the same time at each width, and half of them are done soonest at this one.
QUEUE_WIDTH = 1
# While one has the kernel others parse, read, write records. But each thread that wants to run wakes the others
# 2,000 times a second (sys.setswitchinterval of the agent): 64 of them left an emulated CPU time for nothing else.
# Who waits for a lock, IPAM, udev or a namespace's end has no place meanwhile.
CALLS_WIDTH = 8


class FairQueue:
    """So many at a time, those of the turn that began first before the others'.

    In the order of the changes themselves all calls that came together would end together, at the end of all of
    them. None waits for ever: later calls come later.
    """

    def __init__(self, width: int = QUEUE_WIDTH, *, busy: str = "the kernel is at work for other calls, or one "
                 "of them hangs in it") -> None:
        self._busy = busy
        self._guard = threading.Lock()
        self._free = width
        self._waiting: list[tuple[int, int, threading.Event]] = []     # a heap: turn, number, its go
        self._numbers = itertools.count()
        self._own = threading.local()

    @contextmanager
    def turn(self, until: float | None = None) -> Iterator[None]:
        """All that the calling thread does within comes before that of turns that begin later.

        None of it waits for its place beyond `until` (time.monotonic()): a driver may keep the kernel for ever.
        """
        if self._turn is not None:
            yield
            return
        self._own.turn, self._own.until = next(self._numbers), until
        try:
            yield
        finally:
            self._own.turn, self._own.until = None, None

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for as long as the context lasts; Busy (CNI code 11) where the turn's time is over before."""
        self._enter()
        try:
            yield
        finally:
            if self._placed:       # else it stepped aside, and found none any more
                self._leave()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within a place: let others have it for as long as the context lasts; raises Busy as `place` does.

        For those who wait for what another, who may be in the queue, has to do first.
        """
        if not self._placed:
            yield
            return
        self._leave()
        try:
            yield
        finally:
            self._enter()

    def run(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`change` at its place; raises Busy as `place` does."""
        with self.place():
            return change(*args, **kwargs)

    @property
    def _turn(self) -> int | None:
        return getattr(self._own, "turn", None)

    @property
    def _placed(self) -> bool:
        return getattr(self._own, "placed", False)

    def _enter(self) -> None:
        self._wait()
        self._own.placed = True

    def _wait(self) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            number, go = next(self._numbers), threading.Event()
            turn = self._turn
            entry = number if turn is None else turn, number, go
            heapq.heappush(self._waiting, entry)
        until = getattr(self._own, "until", None)
        if not go.wait(None if until is None else max(0.0, until - time.monotonic())):
            with self._guard:
                if go.is_set():       # handed on just now
                    return
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            raise Busy(Code.TRY_AGAIN_LATER, self._busy)

    def _leave(self) -> None:
        """Hand the place on, so that none who comes now gets in between."""
        self._own.placed = False
        with self._guard:
            if self._waiting:
                heapq.heappop(self._waiting)[-1].set()
            else:
                self._free += 1
