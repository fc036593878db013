"""The host's side of the lab tier: tests marked `lab` run in guests and are reported here by name.

The first of them boots a machine for each CPU of this one, up to the number of shares that there are, and starts
one pytest in each with the ids of its share; each test is then answered, in the host's order, with the reports that
came for it. So -x, -k, -v, --lf and JUnit files work as ever. A guest that cannot be booted, dies or hangs makes
failures, never skips.

`lab(topology=...)` asks for another machine than the default one. Such tests come after all others, so that each
machine boots once. Those of the default machine are in two shares where there are two CPUs, module by module.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from sriov.errors import SriovError
from tests.lab.machine import Machine
from tests.lab.topology import Topology

ITEMS = "/run/lab/items"      # in the guest: pytest's arguments, a test id per line
GUEST_ROOT = "/vfpool"        # the working tree there
MOST_GUESTS = 2               # of the default machine
SILENCE = 900                 # seconds without a report after which a guest counts as hung
SILENCE_LONG = 4 * 3600       # the same for tests marked long


class Share:
    """Tests that one guest runs, the guest's life, and why there is none any more."""

    def __init__(self, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        self.nodeids = [item.nodeid for item in items]
        self._config = config
        self._topology = topology_of(items[0])
        self._left = set(self.nodeids)
        self._stack = ExitStack()
        self._run: GuestRun | None = None
        self._broken: str | None = None

    @property
    def began(self) -> bool:
        return self._run is not None or self._broken is not None

    @property
    def runs(self) -> bool:
        return self._run is not None and self._broken is None and bool(self._left)

    def begin(self) -> None:
        """Boot the guest and start pytest in it; what fails is for `reports` to say."""
        try:
            machine = self._stack.enter_context(Machine(self._topology))
            self._run = GuestRun(self._config, machine, self.nodeids)
            self._stack.callback(self._run.stop)
        except (SriovError, OSError) as error:
            self._stack.close()
            self._broken = f"the lab did not start: {error}"

    def end(self) -> None:
        self._stack.close()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """What came for this test; after the share's last one the guest ends."""
        reason = self._broken
        if self._run is not None and reason is None:
            reason = yield from self._run.reports(
                item.nodeid, SILENCE_LONG if item.get_closest_marker("long") else SILENCE)
            if reason is not None:
                self._broken = f"there was no guest any more: {reason.splitlines()[0]}"    # for the tests after it
                self.end()
        if reason is not None:
            yield pytest.TestReport(
                nodeid=item.nodeid, location=item.location, keywords=dict.fromkeys(item.keywords, 1),
                outcome="failed", longrepr=reason, when="call",
            )
        self._left.discard(item.nodeid)
        if not self._left:
            self.end()


class LabSession:
    """A pytest plugin; owns the machines of this test session: at a time, one for each CPU of this machine."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shares: list[Share] = []       # none before the first lab test

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = list(dict.fromkeys([Topology(), *map(topology_of, items)]))
        items.sort(key=lambda item: order.index(topology_of(item)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item.get_closest_marker("lab") is None:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._share_of(item).reports(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # What an earlier test set up here for `item` (packages, modules) ends here, as after any test.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        with ExitStack() as stack:
            for share in self._shares:
                stack.callback(share.end)

    def _share_of(self, item: pytest.Item) -> Share:
        """The item's, with its guest and as many of the others' as there is room for."""
        room = len(os.sched_getaffinity(0))
        if not self._shares:
            lab = [each for each in item.session.items if each.get_closest_marker("lab") is not None]
            self._shares = [Share(self._config, items) for items in divide(lab, min(room, MOST_GUESTS))]
        own = next(share for share in self._shares if item.nodeid in share.nodeids)
        for share in (own, *self._shares):
            if not share.began and (share is own or sum(each.runs for each in self._shares) < room):
                with self._terminal():
                    share.begin()
        return own

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """A build or a boot takes a while: let its progress be seen."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            yield
            return
        with capture.global_and_fixture_disabled():
            yield


def divide(items: Sequence[pytest.Item], guests: int) -> list[list[pytest.Item]]:
    """By machine, in the items' order; those of the default one for so many guests, module by module."""
    shares: dict[tuple[Topology, int], list[pytest.Item]] = defaultdict(list)
    default = [item for item in items if topology_of(item) == Topology()]
    sizes = Counter(item.path for item in default)
    loads, guest_of = [0] * guests, {}
    for path, size in sizes.most_common():
        guest_of[path] = guest = loads.index(min(loads))
        loads[guest] += size
    for item in items:
        topology = topology_of(item)
        shares[topology, guest_of[item.path] if topology == Topology() else 0].append(item)
    return list(shares.values())


def topology_of(item: pytest.Item) -> Topology:
    """The machine that a test asks for; the default one for all that say nothing."""
    marker = item.get_closest_marker("lab")
    topology = marker.kwargs.get("topology", Topology()) if marker is not None else Topology()
    assert isinstance(topology, Topology)
    return topology


class GuestRun:
    """One pytest process in the guest, and the reports that it has sent so far."""

    def __init__(self, config: pytest.Config, machine: Machine, nodeids: list[str]) -> None:
        self._config = config
        self._machine = machine
        self._seen: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self._finished: set[str] = set()
        self._current: str | None = None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "items"
            path.write_text("\n".join(nodeids))
            machine.channel.copy_in(path, ITEMS)
        live = config.option.capture == "no"
        options = [
            "-p", "no:cacheprovider", "-p", "tests.lab.reporter", f"--tb={config.option.tbstyle}",
            f"--verbosity={config.option.verbose}", f"--capture={config.option.capture}",
            *(["--showlocals"] if config.option.showlocals else []),
        ]
        self._child = machine.channel.popen(
            ["sh", "-c", 'exec python3 -m pytest "$@" 3>&1 1>&2', "sh", *options, f"@{ITEMS}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._output = bytearray()    # what pytest in the guest says to its terminal
        self._threads = [
            threading.Thread(target=self._read_lines, args=(self._child.stdout,), daemon=True),
            threading.Thread(target=self._read_output, args=(self._child.stderr, live), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def reports(self, nodeid: str, silence: float) -> Generator[pytest.TestReport, None, str | None]:
        """A generator of the test's reports, as they come; returns why there are no more, None at its end."""
        yielded = 0
        while True:
            for report in self._seen[nodeid][yielded:]:
                yield report
                yielded += 1
            if nodeid in self._finished:
                return None
            try:
                line = self._lines.get(timeout=silence)
            except queue.Empty:
                return self._post_mortem(f"the guest sent nothing for {silence:g} s")
            if line is None:
                return self._post_mortem(f"pytest in the guest ended ({self._child.wait()}) without its report")
            self._take(json.loads(line))

    def stop(self) -> None:
        """End all of it, the guest's pytest running or not."""
        self._child.kill()
        self._child.wait()
        self._machine.stop()    # before the threads: the kept connection holds the ends that they read from
        for thread in self._threads:
            thread.join()

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"start": str(nodeid)}:
                self._current = nodeid
            case {"report": dict(data)}:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                if isinstance(report.longrepr, list):    # a skip: (path, line, reason), which JSON made a list
                    path, line, reason = report.longrepr
                    if (inside := Path(path)).is_relative_to(GUEST_ROOT):
                        path = str(self._config.rootpath / inside.relative_to(GUEST_ROOT))
                    report.longrepr = (path, line, reason)
                self._seen[report.nodeid].append(report)
            case {"finish": str(nodeid)}:
                self._finished.add(nodeid)
                self._current = None

    def _post_mortem(self, reason: str) -> str:
        running = f"; it was running {self._current}" if self._current else ""
        said = "\n".join(f"    {line}" for line in self._output.decode(errors="replace").splitlines()[-40:])
        return f"{reason}{running}\nthe end of its output:\n{said}\n{self._machine.console_tail()}"

    def _read_lines(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _read_output(self, stream: IO[bytes], live: bool) -> None:
        with stream:
            for line in stream:
                self._output += line
                if live:
                    sys.stderr.write(line.decode(errors="replace"))
