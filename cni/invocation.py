"""A call under way: the request, what came beside it, and how long its caller waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cni.protocol import CniError, Code, Request

BUDGET = 50.0            # seconds for one call; the executable waits 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One request with what came beside it. `netns_fd`: None where CNI_NETNS does not open.

    `undoes`: of a DEL that nobody called: the result of the ADD whose caller did not hear of it.
    """

    request: Request
    netns_fd: int | None
    gone: Callable[[], bool]          # the caller has hung up
    deadline: float                   # time.monotonic()
    undoes: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Refuse to go on for nobody, or for longer than the caller waits."""
        if self.gone():
            raise CniError(Code.TRY_AGAIN_LATER, "the caller went away: undoing what was done")
        if self.remaining <= 0:
            raise CniError(Code.TRY_AGAIN_LATER, f"not done within {BUDGET:.0f} s: undoing what was done")

    @property
    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def timeout(self) -> float:
        """Seconds for a step that has to be tried, however late it is."""
        return max(self.remaining, 1.0)
