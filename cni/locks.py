"""Locks by key: one for an attachment, one for a VF, each held for the whole of an ADD or DEL."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from cni.protocol import CniError, Code


class Busy(CniError):
    """Another call holds the lock, and did so until the deadline."""


class KeyedLocks:
    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}    # lock, holders and waiters

    @contextmanager
    def hold(self, key: Hashable, what: str, deadline: float) -> Iterator[None]:
        """Wait for the lock until `deadline` (time.monotonic); Busy (CNI code 11) after it."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, users + 1
        try:
            if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise Busy(Code.TRY_AGAIN_LATER, f"{what} is busy with another call")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = lock, users - 1
