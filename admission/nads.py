"""All NADs of the cluster in memory, kept up to date by a watch; a NAD that is not there is asked for once."""

from __future__ import annotations

import asyncio
import difflib
import heapq
import logging
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, takewhile
from operator import eq
from typing import Any, Protocol

from admission.mutation import RESOURCE_NAME, Absent, Lookup, Nad, NetworkKey, Unknown
from sriov.errors import SriovError

log = logging.getLogger(__name__)

_GETS = 8                 # at once: anybody who may create pods can ask for names that are not there
_DESCRIBED = 5            # absent NADs of a review, for which a search is made
# The search runs on the event loop. Comparing names is quadratic in their length.
_LOOKED_AT, _COMPARED, _LONGEST = 1000, 10, 63      # names of the namespace; of those, by difflib; characters


_LONGEST_RESOURCE = 512   # characters; 253 + 1 + 63 at most are allowed


class ClusterError(SriovError):
    """The API server did not answer, or not what was asked."""


class ForbiddenError(ClusterError):
    """The API server knows who asks, and does not allow it (403): a matter of RBAC."""


class Expired(ClusterError):
    """The API server does not know the changes since that version any more (410 Gone): list again."""


class Change(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    change: Change
    object: Mapping[str, Any]


class Source(Protocol):
    """The NADs of a cluster, as JSON objects with their metadata at least. Every method raises ClusterError."""

    def pages(self) -> AsyncIterator[tuple[Iterable[Mapping[str, Any]], str]]:
        """All of them, each page with the resource version of the whole list."""

    def watch(self, version: str) -> AsyncIterator[Event]:
        """Changes since `version`, until the API server ends the stream; raises Expired, too."""

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds."""

    get: float = 1.0                        # a pod waits, and the API server waits for us
    retry: tuple[float, float] = (0.2, 30.0)      # first and longest, doubled in between


class NadCache:
    """Owner of what is known. `run` keeps it up to date; without it every `find` asks the API server."""

    def __init__(self, source: Source, patience: Patience | None = None) -> None:
        self.synced = asyncio.Event()       # set once, and for good: what was known is served when the API is away
        self._source = source
        self._patience = patience or Patience()
        self._nads: dict[str, dict[str, Nad]] = {}          # by namespace, then by name
        self._asked: dict[NetworkKey, asyncio.Task[Lookup]] = {}
        self._gets = asyncio.Semaphore(_GETS)
        self._forbidden = False
        self._reported: str | None = None

    # ---- answers ----

    def get(self, namespace: str, name: str) -> Nad | None:
        return self._nads.get(namespace, {}).get(name)

    async def find(self, keys: Iterable[NetworkKey]) -> dict[NetworkKey, Lookup]:
        """What is known of each; what is not here is asked for, some at a time."""
        found: dict[NetworkKey, Lookup] = {}
        unknown = []
        for key in keys:
            nad = self.get(*key)
            if nad is None:
                unknown.append(key)
            else:
                found[key] = nad
        if unknown:
            # A caller that is cancelled must not take the answer away from the others.
            answers = await asyncio.gather(*(asyncio.shield(self._ask(key)) for key in unknown))
            found |= zip(unknown, answers, strict=True)
            absent = [key for key in unknown if isinstance(found[key], Absent)]
            found |= {key: self._describe_absence(*key) for key in absent[:_DESCRIBED]}
        return found

    def _ask(self, key: NetworkKey) -> asyncio.Task[Lookup]:
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._fetch(*key), name=f"get {'/'.join(key)}")
            task.add_done_callback(lambda _: self._asked.pop(key))
        return task

    async def _fetch(self, namespace: str, name: str) -> Lookup:
        # What is found is not kept: the watch brings it, and might have brought something newer already.
        try:
            async with asyncio.timeout(self._patience.get), self._gets:
                found = await self._source.get(namespace, name)
        except TimeoutError:
            return Unknown(reason=f"the API server did not answer within {self._patience.get:g} s")
        except ForbiddenError as error:
            if not self._forbidden:
                log.error("%s", error.message)      # once: each pod would bring it again
            self._forbidden = True
            return Unknown(reason=error.message)
        except ClusterError as error:
            return Unknown(reason=error.message)
        self._forbidden = False
        return read_nad(found) if found is not None else Absent()

    def _describe_absence(self, namespace: str, name: str) -> Absent:
        nearest = find_nearest(name, self._nads.get(namespace, ()))
        elsewhere = sorted(other for other, nads in self._nads.items() if name in nads)
        return Absent(nearest=nearest, elsewhere=tuple(elsewhere))

    # ---- keeping up ----

    async def run(self) -> None:
        """List, then watch, until cancelled. Nothing that the API server does ends it."""
        first, longest = self._patience.retry
        version, delay = None, first
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                if version is None:
                    version = await self._list()
                async for event in self._source.watch(version):
                    self._report(None)
                    self._apply(event)
                    version = _version(event.object) or version
                if clock() - started > longest:
                    delay = first
                    continue               # the API server ends each watch after some minutes
            except Expired as error:
                log.info("%s; listing again", error.message)
                version = None
            except ClusterError as error:
                self._report(error.message)
            # Full jitter: after an API server's restart, not all come back at once.
            await asyncio.sleep(random.uniform(0, delay))
            delay = min(2 * delay, longest)

    async def _list(self) -> str:
        nads: dict[str, dict[str, Nad]] = {}
        version = ""
        async for page, current in self._source.pages():
            version = current
            for item in page:
                namespace, name = _key(item)
                nads.setdefault(namespace, {})[name] = read_nad(item)
        # As a whole: what was deleted while nobody watched is gone, too.
        self._nads = nads
        self._report(None)
        log.log(logging.DEBUG if self.synced.is_set() else logging.INFO, "%d NADs are known",
                sum(map(len, nads.values())))
        self.synced.set()
        return version

    def _apply(self, event: Event) -> None:
        if event.change is Change.BOOKMARK:
            return
        namespace, name = _key(event.object)
        nads = self._nads.setdefault(namespace, {})
        if event.change is Change.DELETED:
            nads.pop(name, None)
            if not nads:
                del self._nads[namespace]
        else:
            nads[name] = read_nad(event.object)

    def _report(self, problem: str | None) -> None:
        if problem != self._reported:
            if problem is None:
                log.info("the API server answers again")
            else:
                log.warning("%s; trying again", problem)
        self._reported = problem


def find_nearest(name: str, names: Iterable[str]) -> str | None:
    """Which of `names` a typing error may have turned into `name`. Takes some milliseconds, whatever there is."""
    if len(name) > _LONGEST:
        return None
    alike = [other for other in islice(names, _LOOKED_AT)
             if len(other) <= _LONGEST and abs(len(other) - len(name)) <= max(2, len(name) // 2)]
    best = heapq.nlargest(_COMPARED, alike, key=lambda other: _count_common_ends(name, other))
    return next(iter(difflib.get_close_matches(name, best, 1)), None)


def _count_common_ends(one: str, other: str) -> int:
    """How many characters both begin and end with."""
    return sum(sum(1 for _ in takewhile(bool, map(eq, *pair)))
               for pair in ((one, other), (reversed(one), reversed(other))))


def read_nad(document: Mapping[str, Any]) -> Nad:
    resource = _section(_section(document, "metadata"), "annotations").get(RESOURCE_NAME)
    # An annotation may have 256 KiB, and is kept; what is cut here was no resource's name before either.
    return Nad(resource=resource[:_LONGEST_RESOURCE] if isinstance(resource, str) else None)


def _key(document: Mapping[str, Any]) -> NetworkKey:
    metadata = _section(document, "metadata")
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _version(document: Mapping[str, Any]) -> str | None:
    version = _section(document, "metadata").get("resourceVersion")
    return version if isinstance(version, str) else None


def _section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = document.get(key)
    return section if isinstance(section, dict) else {}
