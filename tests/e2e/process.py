"""A supervised process on this host: what it says goes to a file, and it never outlives its parent."""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.child import bound_to_parent
from tests.lab.errors import LabError

TAIL = 25             # lines of the log that an error shows
STOP_SECONDS = 10     # from SIGTERM to SIGKILL
POLL_SECONDS = 0.05
# Below the kernel's ephemeral ports (by its default): no bind to port 0 and no outgoing connection takes one of
# these between look and use, or while its server is stopped for a while.
PORTS = range(20_000, 32_768)


class Process:
    """`with Process("etcd", argv, folder) as etcd: etcd.wait_until(serves, "it serves")`.

    Each start appends to NAME.log in `folder`. The child has the variables of `environment`, PATH and PWD, no
    others.
    Started by a thread that ends, it ends with it: the kernel's parent-death signal goes by thread.
    """

    def __init__(
        self, name: str, argv: Sequence[str | Path], folder: Path, *,
        cwd: Path | None = None, environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._argv = [str(argument) for argument in argv]
        self._cwd = cwd
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """The process's own: setpriv and sh become the program, they are not its parents."""
        if self._child is None:
            raise LabError(f"{self.name} is not running", hint="start it")
        return self._child.pid

    def start(self) -> None:
        """Start it, without waiting for anything; LabError where it runs already."""
        if self.alive:
            raise LabError(f"{self.name} runs already, as process {self.pid}", hint="stop it first")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                bound_to_parent(self._argv),
                cwd=self._cwd, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Return once `ready()` is true; LabError where the process ends or `timeout` seconds pass before."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self._child is None or (status := self._child.poll()) is not None:
                state = "is not running" if self._child is None else f"ended (exit status {status})"
                raise LabError(f"{self.name} {state} before {what}: {shlex.join(self._argv)}\n{self.log_tail()}")
            if time.monotonic() >= deadline:
                raise LabError(f"{self.name}: not within {timeout:g} s: {what}\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def find_end(self) -> str | None:
        """How it ended by itself, and its last words; None where it runs, was stopped or never started."""
        status = None if self._child is None else self._child.poll()
        return None if status is None else f"{self.name} ended (exit status {status}), {self.log_tail()}"

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End it: SIGTERM, and SIGKILL after `timeout` seconds; nothing where it has ended already."""
        if self._child is None:
            return
        try:
            if timeout > 0:
                self._child.terminate()
                self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            pass    # killed below
        finally:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL; nothing where it has ended already."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def log_tail(self, lines: int = TAIL) -> str:
        """The last lines of what it has said, this time and before."""
        said = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return f"the end of {self.log}:\n" + "\n".join(f"    {line}" for line in said or ["(empty)"])


def find_free_ports(count: int) -> list[int]:
    """Distinct ports that nobody is bound to on 127.0.0.1 now; LabError where there are not so many."""
    found: list[int] = []
    with ExitStack() as stack:    # all are held until the last is found
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        else:
            raise LabError(f"no {count} free ports on 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1}")
    return found
