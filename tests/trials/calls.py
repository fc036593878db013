"""Calls of a CNI executable that something happens to while they run."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.support.node import Cni, CniFailed
from tests.trials.pods import Pod

_FIRST_GUESS = 0.2     # seconds: how long a call may take before one was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a call ended: `failure` is what it answered instead, `code` its CNI error code; `disturbed`: it still ran
    when that was due.
    """

    failure: str | None = None
    code: int | None = None
    disturbed: bool = False


class Caller:
    """Any number of threads may use it. A disturbance comes at a random moment of what such a call takes."""

    def __init__(self, cni: Cni) -> None:
        self._cni = cni
        self._guard = threading.Lock()
        self._took: dict[str, float] = {}      # seconds, by command: a moving average
        self.count: dict[str, int] = {}

    def call(self, command: str, pod: Pod, netns: str | None = None, *, typical: bool = True) -> End:
        """`netns`: as CNI_NETNS, where that is not the pod's. Not `typical`: there may be little to do."""
        started = time.monotonic()
        end = self._finish(self._start(command, pod, netns))
        if end.failure is None and typical:
            with self._guard:
                took = time.monotonic() - started
                self._took[command] = (3 * self._took.get(command, took) + took) / 4
        return end

    def disturb(self, command: str, pod: Pod, random: Random, disturbance: Callable[[], None]) -> End:
        """The call, and `disturbance` while it runs."""
        return self._disturb(command, pod, random, lambda _: disturbance())

    def kill(self, command: str, pod: Pod, random: Random) -> End:
        """The call, ended by SIGKILL to the executable: nobody hears how it would have ended."""
        return self._disturb(command, pod, random, lambda process: process.kill())

    def _disturb(self, command: str, pod: Pod, random: Random,
                 disturbance: Callable[[subprocess.Popen[str]], None]) -> End:
        process = self._start(command, pod)
        try:
            process.wait(random.uniform(0, self._took.get(command, _FIRST_GUESS)))
        except subprocess.TimeoutExpired:
            disturbance(process)
            return dataclasses.replace(self._finish(process), disturbed=True)
        return self._finish(process)

    def _start(self, command: str, pod: Pod, netns: str | None = None) -> subprocess.Popen[str]:
        with self._guard:
            self.count[command] = self.count.get(command, 0) + 1
        return self._cni.start(command, pod.config, pod.container, pod.netns if netns is None else netns)

    def _finish(self, process: subprocess.Popen[str]) -> End:
        try:
            self._cni.finish(process)
        except CniFailed as error:
            return End(failure=error.msg, code=error.code)
        except (AssertionError, ValueError) as error:      # no error document, or none that can be read
            return End(failure=str(error))
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            return End(failure=str(error))
        return End()
