"""How often the kernel's events ask for a scan, with sources that the test feeds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest

from deviceplugin import watch
from deviceplugin.watch import KernelWatch
from tests.deviceplugin.harness import run, until

PAUSE, REST = 0.05, 0.2


class Source:
    """A source of events, readable once `happen` was called, until it is drained."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)

    def happen(self, *, concerns: bool = True) -> None:
        """The kernel's group wakes whoever listens to it: an event may not be of what is listened for."""
        self._there.send(b"x" if concerns else b".")

    def fileno(self) -> int:
        return self._here.fileno()

    def drain(self) -> bool:
        found = False
        try:
            while data := self._here.recv(4096):
                found = found or b"x" in data
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        self._here.close()
        self._there.close()


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Source]]:
    made = {name: Source() for name in ("pci", "net", "links")}
    monkeypatch.setattr(watch, "Uevents", made.__getitem__)
    monkeypatch.setattr(watch, "LinkEvents", lambda: made["links"])
    monkeypatch.setattr(watch, "NETDEV_PAUSE", PAUSE)
    monkeypatch.setattr(watch, "NETDEV_REST", REST)
    yield made
    for source in made.values():
        source.close()


def test_a_pci_function_matters_at_once_every_time(sources: dict[str, Source]) -> None:
    async def scenario() -> None:
        calls: list[float] = []
        loop = asyncio.get_running_loop()
        with KernelWatch(loop, lambda: calls.append(loop.time())):
            for count in (1, 2, 3):
                sources["pci"].happen()
                await until(lambda count=count: len(calls) == count)  # type: ignore[misc]
            assert calls[-1] - calls[0] < REST

    run(scenario)


@pytest.mark.parametrize("name", ["net", "links"])
def test_a_storm_of_netdevs_is_looked_at_now_and_then(sources: dict[str, Source], name: str) -> None:
    async def scenario() -> None:
        calls: list[float] = []
        loop = asyncio.get_running_loop()
        with KernelWatch(loop, lambda: calls.append(loop.time())):
            began = loop.time()
            sources[name].happen()
            await until(lambda: len(calls) == 1)
            assert calls[0] - began >= PAUSE                 # the call that made the event may end first
            end = loop.time() + 3.5 * REST
            while loop.time() < end:
                sources["net"].happen()
                sources["links"].happen()
                await asyncio.sleep(REST / 20)
            assert 2 <= len(calls) <= 5
            assert all(second - first >= 0.9 * REST for first, second in pairwise(calls))
            last = len(calls)
            await until(lambda: len(calls) > last)           # what came while it rested is looked at
            quiet = len(calls)
            await asyncio.sleep(2 * REST)
            assert len(calls) <= quiet + 1

    run(scenario)


def test_events_of_others_ask_for_nothing(sources: dict[str, Source]) -> None:
    async def scenario() -> None:
        calls: list[float] = []
        loop = asyncio.get_running_loop()
        with KernelWatch(loop, lambda: calls.append(loop.time())):
            for _ in range(3):
                sources["pci"].happen(concerns=False)
                sources["net"].happen(concerns=False)
                await asyncio.sleep(REST / 10)
            assert calls == []
            sources["net"].happen()
            await until(lambda: len(calls) == 1)

    run(scenario)


def test_the_loop_is_left_as_it_was(sources: dict[str, Source]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        calls: list[float] = []
        with KernelWatch(loop, lambda: calls.append(loop.time())):
            descriptors = [sources[name].fileno() for name in ("pci", "net", "links")]
        assert not any(loop.remove_reader(descriptor) for descriptor in descriptors)
        assert calls == []

    run(scenario)
