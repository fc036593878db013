"""The NADs of a cluster without an API server: a `nads.Source` in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from admission.nads import Event, NadCache
from tests.admission.apiserver import nad
from tests.admission.pods import NADS


class FixedSource:
    def __init__(self, *documents: Mapping[str, Any]) -> None:
        self._documents = documents

    async def pages(self) -> AsyncIterator[tuple[Iterable[Mapping[str, Any]], str]]:
        yield self._documents, "1"

    async def watch(self, version: str) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield Event.__new__(Event)      # never: it is what makes this a generator

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return None


@asynccontextmanager
async def known_nads() -> AsyncIterator[NadCache]:
    """A cache that knows tests.admission.pods.NADS, and to which the API server says of all others: no such NAD."""
    cache = NadCache(FixedSource(*(nad(*key, found.resource) for key, found in NADS.items())))
    task = asyncio.create_task(cache.run())
    await cache.synced.wait()
    try:
        yield cache
    finally:
        task.cancel()
        await asyncio.wait([task])
