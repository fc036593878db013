"""How many requests an ADD and a DEL make of the kernel's networking, by strace of whoever makes them."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contest import OURS, Contestant

_SENT = re.compile(r"nlmsg_type=(\w+)[^,]*, nlmsg_flags=([\w|]+)")
_GET = 2               # of RTM_*: each object's four types are NEW, DEL, GET, SET, from a multiple of four


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """`reads` and `changes` are netlink messages. `ethtool`: ioctls, which take routing netlink's lock too."""

    reads: int
    changes: int
    ethtool: int

    def __str__(self) -> str:
        return f"{self.reads} + {self.changes} + {self.ethtool}"


def count_requests(contestant: Contestant, agent: int) -> tuple[Requests, Requests]:
    """Of its ADD and of its DEL; `agent` is our agent's process id. What that does beside is not counted."""
    ours = contestant.name == OURS
    processes = [os.getpid(), *([agent] if ours else [])]
    found = tuple(_count(_trace(work, processes), of_agent=ours) for work in (contestant.add, contestant.delete))
    contestant.tidy()
    contestant.forget()
    return found[0], found[1]


def _trace(work: Callable[[], None], processes: Iterable[int]) -> list[str]:
    """strace's lines about these processes, and about the children that they make, while `work` runs."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "strace")
        with _strace(output, processes):
            work()
        return output.read_text(errors="replace").splitlines()


@contextmanager
def _strace(output: Path, processes: Iterable[int]) -> Iterator[None]:
    attach = [argument for process in processes for argument in ("-p", str(process))]
    command = ["strace", "-f", "-yy", "-e", "trace=sendto,sendmsg,ioctl", "-o", str(output), *attach]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        for _ in attach[::2]:
            line = strace.stderr.readline()
            assert "attached" in line, f"strace: {line}"
        try:
            yield
        finally:
            strace.terminate()
            strace.communicate()


def _count(lines: list[str], *, of_agent: bool) -> Requests:
    """`of_agent`: only what the thread asked for that answered the call."""
    calls = [(line.split(maxsplit=1)[0], line) for line in lines]
    if of_agent:
        answering = {thread for thread, line in calls if "UNIX-STREAM" in line and "sendto(" in line}
        calls = [(thread, line) for thread, line in calls if thread in answering]
    changes = [_is_change(*sent) for _, line in calls if "<NETLINK" in line for sent in _SENT.findall(line)]
    return Requests(reads=changes.count(False), changes=changes.count(True),
                    ethtool=sum("SIOCETHTOOL" in line for _, line in calls))


def _is_change(kind: str, flags: str) -> bool:
    """`kind` is a number on a socket that nothing was sent by before: strace does not know its protocol then."""
    if not kind.startswith("0x"):
        return kind.startswith(("RTM_NEW", "RTM_DEL", "RTM_SET"))
    return int(kind, 16) % 4 != _GET and "NLM_F_ACK" in flags       # without: generic netlink's search for a family
