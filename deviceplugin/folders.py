"""Folders watched by inotify: a hint that a file in them appeared, changed or went."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from asyncinotify import Inotify, Mask

log = logging.getLogger(__name__)

_CHANGES = Mask.CREATE | Mask.DELETE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.ONLYDIR
_MAX_LINKS = 40      # as the kernel: MAXSYMLINKS of linux/namei.h


async def watch(what: object, find_folders: Callable[[], Iterable[Path]], changed: Callable[[], None]) -> None:
    """Call `changed` at once and whenever something may have happened in one of the folders; never ends.

    `find_folders` is asked again after each event. `what` names them all in a message: without inotify (its
    instances and watches are limited per user) this says so and returns, and who depends on it polls.
    """
    try:
        with Inotify() as inotify:
            while True:
                for folder in find_folders():
                    try:
                        inotify.add_watch(folder, _CHANGES)    # again: a folder made anew is another inode
                    except (FileNotFoundError, NotADirectoryError):
                        log.debug("%s does not exist yet", folder)
                changed()
                await inotify.get()
    except OSError as error:
        log.warning("cannot watch %s, falling back to polling: %s", what, error.strerror or error)


def folders_behind(path: Path) -> list[Path]:
    """The folders in which a change can make `path` lead to another file: its own, and each symbolic link's.

    The kubelet writes a ConfigMap into a new folder and renames a link to that, `..data`, over the old one: the
    file that was opened by its path never changes.
    """
    path = path.absolute()
    found = {path.parent: None}
    at, rest, links = Path("/"), deque(path.parts[1:]), 0
    while rest and links <= _MAX_LINKS:
        name = rest.popleft()
        if name == "..":
            at = at.parent
            continue
        try:
            target = (at / name).readlink()
        except OSError:               # no link, or there is nothing
            at /= name
            continue
        links += 1
        found[at] = None
        if target.is_absolute():
            at = Path("/")
        rest.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    found[at.parent] = None
    return [*found]
