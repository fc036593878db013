"""Stands between vfpool and what it changes: kernel, disk, IPAM. Counts the steps; at one of them fails or dies."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytest

import cni.attach
import cni.away
import cni.ipam
import cni.store
from sriov.errors import HostError
from sriov.host import bpf
from sriov.host.netlink import Links
from sriov.host.nlsocket import NetlinkSocket


class Killed(BaseException):
    """What SIGKILL does: nothing is undone, and nothing further is done, by nobody of this process."""


class Fault(Enum):
    """`BEFORE`, `AFTER`: with the step not done, or done. A read is never killed: that is the step after it."""

    KILL_BEFORE = "kill before"
    KILL_AFTER = "kill after"
    FAIL_BEFORE = "fail before"
    FAIL_AFTER = "fail after"

    @property
    def kills(self) -> bool:
        return self in (Fault.KILL_BEFORE, Fault.KILL_AFTER)

    @property
    def before(self) -> bool:
        return self in (Fault.KILL_BEFORE, Fault.FAIL_BEFORE)


class Faults:
    """`arm` it with the number of a step among `counted`, call something; `steps` are what that did until then."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.struck = False
        self._armed: tuple[int, Fault] | None = None
        self._dead = False
        self._depth = 0

    def arm(self, number: int, fault: Fault) -> None:
        self.reset()
        self._armed = number, fault

    def reset(self) -> None:
        """A new process: it lives, and no fault awaits it."""
        self.steps, self.struck, self._armed, self._dead, self._depth = [], False, None, False, 0

    def step(self, name: str, do: Callable[[], Any], *, read: bool = False) -> Any:
        if self._dead:
            raise Killed
        if self._depth:                  # within another step: part of it
            return do()
        name = f"read: {name}" if read else name
        self.steps.append(name)
        armed, fault = self._armed or (None, Fault.FAIL_BEFORE)
        if self.struck or len(counted(self.steps, fault)) - 1 != armed or name not in counted([name], fault):
            return self._do(do)
        self.struck = True
        if not fault.before:
            self._do(do)
        if fault.kills:
            self._dead = True
            raise Killed
        raise HostError(f"injected at {name}", errno=errno.EIO)

    def _do(self, do: Callable[[], Any]) -> Any:
        self._depth += 1
        try:
            return do()
        finally:
            self._depth -= 1


def counted(steps: list[str], fault: Fault) -> list[str]:
    """Those at which the fault can strike. A read changes nothing: to die before it is to die after the step that
    was before it.
    """
    return steps if fault is Fault.FAIL_BEFORE else changes(steps)


def changes(steps: list[str]) -> list[str]:
    """Those that are no reads."""
    return [step for step in steps if not step.startswith("read: ")]


@contextmanager
def injected() -> Iterator[Faults]:
    """Every change of the kernel, every write of a record, every call of an IPAM plugin is a step."""
    faults = Faults()

    def wrap(owner: Any, attribute: str, name: Callable[..., str], *, read: bool = False) -> None:
        original = getattr(owner, attribute)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return faults.step(name(*args), lambda: original(*args, **kwargs), read=read)

        patch.setattr(owner, attribute, stand_in)

    with pytest.MonkeyPatch.context() as patch:
        wrap(NetlinkSocket, "change", lambda _socket, _kind, _body, what, *_: what)
        wrap(NetlinkSocket, "get", lambda _socket, _kind, _body, what, *_: what, read=True)
        wrap(NetlinkSocket, "dump", lambda _socket, _kind, _body, what, *_: what, read=True)
        wrap(Links, "tune", lambda _links, name, _traits: f"tune {name}")
        wrap(bpf, "detach_tcx", lambda index, _place, program: f"take program {program} off {index}")
        wrap(cni.store._Folder, "write", lambda folder, record: f"write {folder._path.name}: {record.phase}")
        wrap(cni.store._Folder, "delete", lambda folder, _record: f"delete {folder._path.name}")
        wrap(cni.ipam, "_run", lambda plugin, command, *_: f"{plugin} {command}")
        wrap(cni.away, "set_up_interface", lambda *_: "set up the interface")
        # In a thread of its own, after all: its reads would be counted, and it holds the namespace.
        patch.setattr(cni.attach, "start_announcing", lambda *_: None)
        yield faults
