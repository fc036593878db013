"""What the kernel says of PCI functions and netdevs: hints that something changed, which is then read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sriov.host.linkevents import LinkEvents
from sriov.host.udev import Uevents

NETDEV_PAUSE = 0.5         # seconds from a netdev's event to the look that it asks for
NETDEV_REST = 2.0          # seconds from such a look to the next


class KernelWatch:
    """Calls `changed` on kernel uevents and link messages, on the event loop, for as long as the context lasts.

    A PCI function that comes, goes, or changes its driver matters at once. A netdev that moves or is set up
    says nothing about a VF's health, and each ADD and DEL makes several such events: a look at the first one would
    compete with the very call that made it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._pci = Uevents("pci")
        self._netdevs = Uevents("net")
        self._links = LinkEvents()
        self._due: asyncio.TimerHandle | None = None
        self._rested = 0.0         # loop.time() from which on netdevs may be looked at

    def __enter__(self) -> None:
        self._loop.add_reader(self._pci.fileno(), self._on_pci)
        self._listen()

    def __exit__(self, *_: object) -> None:
        if self._due is not None:
            self._due.cancel()
        for source in (self._pci, self._netdevs, self._links):
            self._loop.remove_reader(source.fileno())
        self._links.close()

    def _on_pci(self) -> None:
        if self._pci.drain():
            self._changed()

    def _listen(self) -> None:
        for source in (self._netdevs, self._links):
            source.drain()
            self._loop.add_reader(source.fileno(), self._on_netdev)

    def _on_netdev(self) -> None:
        if not any(source.drain() for source in (self._netdevs, self._links)):
            return
        for source in (self._netdevs, self._links):
            self._loop.remove_reader(source.fileno())
        self._due = self._loop.call_at(max(self._loop.time() + NETDEV_PAUSE, self._rested), self._look)

    def _look(self) -> None:
        self._rested = self._loop.time() + NETDEV_REST
        self._listen()
        self._changed()
