"""The agent's looks at its node: all that discovery finds, with what is known of netdevs in pods."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sriov.host.knownfile import KnownFile
from sriov.model import Host

log = logging.getLogger(__name__)


class Lookout:
    """Looks by `discover`, and completes what it sees by `known`. Any thread may look, one at a time."""

    def __init__(self, discover: Callable[[], Host], known: KnownFile) -> None:
        self._discover = discover
        self._known = known
        self._turn = threading.Lock()
        self._unreadable: tuple[str, ...] = ()
        self._trouble: str | None = None
        self._host = Host()
        self._note_trouble()          # of reading the file: the first look writes it anew

    @property
    def host(self) -> Host:
        """As it was last seen; nothing before the first look."""
        return self._host

    @property
    def trouble(self) -> str | None:
        """What is wrong with the file of what was known; None: nothing."""
        return self._trouble

    def look(self) -> Host:
        """The host now; what could not be read is logged once. Raises HostError, OSError."""
        with self._turn:
            self._host = host = self._known.update(self._discover())
            for sentence in host.unreadable if host.unreadable != self._unreadable else ():
                log.warning("%s", sentence)
            self._unreadable = host.unreadable
            self._note_trouble()
            return host

    def _note_trouble(self) -> None:
        if self._known.trouble not in (None, self._trouble):
            log.error("%s", self._known.trouble)
        self._trouble = self._known.trouble
