"""What is built once per recipe and kept in the cache: folders whose final name means that they are complete."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.image import UNUSED_DAYS, cache_folder
from tests.lab.progress import Progress


class Store:
    """Folders `<kind>-<key>` in the cache. Builders of one kind take turns, whatever process they are in."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._cache = cache_folder()

    def get(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of that key; where there is none, what `build` puts into the empty folder that it is given.

        Not to be called by a `build`: it has the turn already.
        """
        final = self._cache / f"{self._kind}-{key}"
        if not final.is_dir():
            self._cache.mkdir(parents=True, exist_ok=True)
            with self._turn():
                if not final.is_dir():    # another builder may have had the turn before
                    self._build(final, build)
                    self._remove_unused(keep=final)
        os.utime(final)                   # last used: what _remove_unused goes by
        return final

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with (self._cache / f"{self._kind}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                Progress(self._kind).note("another process builds: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, final: Path, build: Callable[[Path], None]) -> None:
        for stale in self._cache.glob(f"{self._kind}-*.tmp-*"):    # of an interrupted build: we have the turn
            shutil.rmtree(stale)
        work = Path(tempfile.mkdtemp(prefix=f"{final.name}.tmp-", dir=self._cache))
        work.chmod(0o755)    # as any folder: containers and other users read from it
        try:
            build(work)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work)
            raise

    def _remove_unused(self, *, keep: Path) -> None:
        oldest = time.time() - UNUSED_DAYS * 86400
        for folder in self._cache.glob(f"{self._kind}-*"):
            if folder.is_dir() and folder != keep and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder)
