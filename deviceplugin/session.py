"""What the kubelet did with one incarnation of a resource's socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Session:
    """Told by the servicers, read by the task that serves the resource; `changed` wakes that task."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.asked: float | None = None        # when it last asked what is served here, monotonic
        self.streams = 0                       # ListAndWatch streams open now
        self.watched = False                   # there has been one
        self.owed: float | None = None         # since when the kubelet should have one, monotonic
        self.registered = False                # the kubelet said so
        self.refusal: str | None = None        # or why not

    @property
    def untouched(self) -> bool:
        """The kubelet has neither registered it, nor refused it, nor opened a stream."""
        return not self.registered and self.refusal is None and not self.watched

    @contextmanager
    def stream(self) -> Iterator[None]:
        self.streams += 1
        self.watched = True
        self.owed = None
        self._changed()
        try:
            yield
        finally:
            self.streams -= 1
            if not self.streams:
                self.owed = time.monotonic()
            self._changed()

    def ask(self) -> None:
        self.asked = time.monotonic()

    def notify(self, refusal: str | None) -> None:
        self.registered, self.refusal = refusal is None, refusal
        if self.registered and not self.streams:
            self.owed = time.monotonic()
        self._changed()
