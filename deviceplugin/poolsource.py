"""The pool file on disk, followed while the agent runs: what it last said that was right, and what is wrong now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deviceplugin.folders import folders_behind, watch
from sriov.errors import InputError
from sriov.pools.assignment import PoolFile, for_node
from sriov.pools.poolfile import parse_pool_file, read_pool_file

log = logging.getLogger(__name__)

POLL = 10.0        # seconds; the backstop for an event that never came
REST = 0.2         # seconds without a change after which a writer is done: many truncate first


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the pool file wants of this node. `generation` counts the files that wanted something else, from 1.

    `file` is the last one that was right. `problem`: what is wrong with the one that is there now, a line for
    each mistake; None: it is the same one.
    """

    file: PoolFile
    since: float                      # seconds since the epoch
    generation: int = 1
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is at the path: a text, or why there is none."""

    text: str = ""
    error: str | None = None


class PoolSource:
    """The pool file at `path`, as the node named `node` reads it."""

    def __init__(self, path: Path, node: str) -> None:
        """Raises InputError where the file cannot be used: at a start there is no last good one."""
        self._path = path
        self._node = node
        self._seen = self._read()
        self._wish = Wish(file=self._parse(self._seen), since=time.time())
        self._warn()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def wish(self) -> Wish:
        return self._wish

    async def follow(self, changed: Callable[[], None], *, poll: float = POLL, rest: float = REST) -> None:
        """Read the file anew whenever it may have changed, and each `poll` seconds; never ends.

        `changed` is called when there is another one that is right, be only places in it new. What is written
        without a rename counts once it has been the same for `rest` seconds: half a file may look like a whole one.
        """
        hint = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(self._path, lambda: folders_behind(self._path), hint.set),
                              name="watch the pool file")
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(poll):
                        await hint.wait()
                hint.clear()
                before = self._wish.file
                await self._catch_up(rest)
                if self._wish.file is not before:
                    changed()

    async def _catch_up(self, rest: float) -> None:
        found = await asyncio.to_thread(self._read)
        while found != self._seen:
            await asyncio.sleep(rest)
            again = await asyncio.to_thread(self._read)
            if again == found:
                await asyncio.to_thread(self._take, found)      # a long one takes a second
            found = again

    def _take(self, found: _Reading) -> None:
        self._seen, before = found, self._wish
        try:
            file = self._parse(found)
        except InputError as error:
            self._wish = replace(before, problem=str(error))
            log.error("the pool file has changed and cannot be used, what it last said stays:\n%s", error)
            return
        if file != before.file:
            self._wish = Wish(file=file, since=time.time(), generation=before.generation + 1)
            log.info("the pool file has changed: %s", self._path)
        else:
            self._wish = replace(before, file=file, problem=None)      # with its new places
            log.info("the pool file wants what it wanted before: %s", self._path)
        self._warn()

    def _warn(self) -> None:
        for warning in self._wish.file.warnings:
            log.warning("%s", warning)

    def _read(self) -> _Reading:
        try:
            return _Reading(text=read_pool_file(self._path))
        except InputError as error:
            return _Reading(error=str(error))

    def _parse(self, found: _Reading) -> PoolFile:
        if found.error is not None:
            raise InputError(found.error)
        return for_node(parse_pool_file(found.text, str(self._path)), self._node)
