"""The server's TLS certificate: from two files, and anew whenever they change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from pathlib import Path

log = logging.getLogger(__name__)


class Certificate:
    """Owner of what the server shows. A pair that is no good is logged once, and the last good one stays."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.problem: str | None = "not read yet"
        self._files = certificate, key
        self._seen = ""
        self._current: ssl.SSLContext | None = None
        self._context = _make_context()
        # A running server keeps its context; at each handshake OpenSSL asks this which one to go on with.
        self._context.sni_callback = self._choose

    @property
    def context(self) -> ssl.SSLContext:
        """For the server. Handshakes fail until there is a certificate."""
        return self._context

    @property
    def loaded(self) -> bool:
        return self._current is not None

    def refresh(self) -> None:
        """Load the pair if the files' contents changed since the last look."""
        try:
            # By content: a mounted Secret changes by a swap of symlinks, and times may stay the same.
            seen = " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in self._files)
        except OSError as error:
            self._report(f"cannot read {error.filename}: {error.strerror}")
            return
        if seen == self._seen:
            return
        self._seen = seen
        context = _make_context()
        try:
            # Without a password, an encrypted key would be asked for on the terminal.
            context.load_cert_chain(*self._files, password="-")
        except (OSError, ValueError) as error:
            self._report(f"cannot use {self._files[0]} with {self._files[1]}: {error}")
            return
        log.info("serving the certificate of %s", self._files[0])
        self._current, self.problem = context, None

    async def keep_fresh(self, seconds: float = 3.0) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(seconds)

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.error("%s; %s", problem, "the last good one stays" if self.loaded else "waiting for another")
        self.problem = problem

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
