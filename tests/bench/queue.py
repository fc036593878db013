"""How many routing-netlink changes an agent should make at a time: ADD and DEL of all VFs at once, by width.

`python -m tests.bench.queue [rounds]`, inside the lab; by hand, where QUEUE_WIDTH is in question. An agent for each
width runs all the while; they take turns on the same VFs in one run. The first line is the same work one call after
another.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cni.kernel import open_kernel
from deviceplugin.__main__ import main as run_agent
from tests.bench.turns import show
from tests.lab.topology import VFS_PER_PF
from tests.support import node
from tests.support.node import POOLS, Agent, Cni, config, netns

WIDTHS = (1, 2, 4, 14)
Calls = list[tuple[dict[str, Any], str, str]]


def measure(rounds: int = 5) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vfs = [vf for pf in node.pfs()[:2] for vf in node.make_vfs(pf, VFS_PER_PF)]
        callers = {}
        for width in WIDTHS:
            agent = Agent(folder / str(width), POOLS, ("-m", "tests.bench.queue", str(width)), log_level="info")
            agent.start()
            stack.callback(agent.stop)
            callers[width] = Cni(agent.socket)
        pods = [stack.enter_context(netns()) for _ in vfs]
        calls = [(config(vf.address, vlan=100, mac=f"02:00:00:00:01:{n:02x}"), f"c{n}", pod)
                 for n, (vf, pod) in enumerate(zip(vfs, pods, strict=True))]
        alone: list[float] = []
        walls: dict[tuple[int, str], list[float]] = {}
        halves: dict[tuple[int, str], list[float]] = {}
        for number in range(rounds + 1):       # the first is a warm-up
            serial = one_after_another(callers[1], calls)
            if number:
                alone.append(serial)
            for width, caller in callers.items():
                for command in ("ADD", "DEL"):
                    wall, half = at_once(caller, command, calls)
                    if number:
                        walls.setdefault((width, command), []).append(wall)
                        halves.setdefault((width, command), []).append(half)
    show(f"{len(calls)} ADD and DEL, VLAN + MAC, two PFs, {rounds} rounds; medians in milliseconds\n"
         f"one after another: {statistics.median(alone):.0f}")
    show(f"{'width':>6}{'ADD wall':>10}{'ADD p50':>10}{'DEL wall':>10}{'DEL p50':>10}{'both':>8}")
    for width in WIDTHS:
        add, delete = (statistics.median(walls[width, command]) for command in ("ADD", "DEL"))
        one, other = (statistics.median(halves[width, command]) for command in ("ADD", "DEL"))
        show(f"{width:>6}{add:10.0f}{one:10.0f}{delete:10.0f}{other:10.0f}{add + delete:8.0f}")


def one_after_another(caller: Cni, calls: Calls) -> float:
    """Milliseconds for an ADD and a DEL of each."""
    started = time.perf_counter()
    for command in ("ADD", "DEL"):
        for call in calls:
            caller.finish(caller.start(command, *call))
    return 1000 * (time.perf_counter() - started)


def at_once(caller: Cni, command: str, calls: Calls) -> tuple[float, float]:
    """Milliseconds until all are answered, and until half of them are."""
    started = time.perf_counter()
    processes = [caller.start(command, *call) for call in calls]
    with ThreadPoolExecutor(len(calls)) as waiting:
        def finish(process: subprocess.Popen[str]) -> float:
            caller.finish(process)
            return 1000 * (time.perf_counter() - started)

        times = list(waiting.map(finish, processes))
    return max(times), statistics.median(times)


if __name__ == "__main__":
    if "--state-dir" in sys.argv:        # as Agent calls it: an agent of the width that comes first
        width = int(sys.argv.pop(1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deviceplugin.__main__.open_kernel", partial(open_kernel, width=width))
            sys.exit(run_agent())
    measure(*(int(argument) for argument in sys.argv[1:]))
