"""What the demo tells: parts, claims checked before they are written, and what it waits for."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

FRAMES = "|/-\\"
PLAIN_PERIOD = 5.0    # seconds between the lines of a long wait where there is no terminal


class ClaimFailed(Exception):
    """A claim that does not hold."""

    def __init__(self, claim: str, *, expected: object, seen: object) -> None:
        super().__init__(f"{claim}\n  expected: {expected}\n  seen:     {seen}")


class Story:
    """Lines on stdout; each with the seconds since the line before it."""

    def __init__(self) -> None:
        self.doing = "starting"
        self.claims = 0
        self._parts = 0
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def part(self, title: str) -> None:
        self._parts += 1
        self._write(f"\n{self._parts}. {title}")

    def claim(self, claim: str, *, expected: object, seen: object) -> None:
        """A line if `seen` equals `expected`; raise ClaimFailed if not."""
        if seen != expected:
            raise ClaimFailed(claim, expected=expected, seen=seen)
        self.claims += 1
        now = time.monotonic()
        self._write(f"   [{now - self._last:4.1f} s] {claim}")
        self._last = now

    async def wait(self, doing: str, work: Awaitable[T]) -> T:
        """The result of `work`; until it is there, a line says what is waited for, and how long already."""
        self.doing = doing
        showing = asyncio.create_task(self._show(doing))
        try:
            return await work
        finally:
            showing.cancel()
            await asyncio.wait([showing])

    async def _show(self, doing: str) -> None:
        start = time.monotonic()
        if not sys.stdout.isatty():
            while True:
                await asyncio.sleep(PLAIN_PERIOD)
                self._write(f"            ... {doing}: {time.monotonic() - start:.0f} s")
        width = shutil.get_terminal_size().columns - 1
        try:
            while True:
                for frame in FRAMES:
                    text = f"   {frame} {time.monotonic() - start:4.1f} s  {doing}"
                    sys.stdout.write(f"\r\x1b[K{text[:width]}")
                    sys.stdout.flush()
                    await asyncio.sleep(0.1)
        finally:
            sys.stdout.write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
