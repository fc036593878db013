"""The kubelet's directory on the node: where its sockets are and ours go, and what changes there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from asyncinotify import Inotify, Mask

log = logging.getLogger(__name__)

KUBELET = Path("/var/lib/kubelet")

_CHANGES = Mask.CREATE | Mask.DELETE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.ONLYDIR


class Way(Enum):
    """How a plugin becomes known to the kubelet; the value is the folder that its socket goes to."""

    WATCHER = "plugins_registry"      # the kubelet's plugin watcher dials whatever appears there
    CALL = "device-plugins"           # the plugin calls Register on kubelet.sock


@dataclass(frozen=True, slots=True)
class KubeletDirectory:
    root: Path = KUBELET

    @property
    def kubelet_socket(self) -> Path:
        return self.root / Way.CALL.value / "kubelet.sock"

    def way(self) -> Way:
        """The watcher where there is one: kubelets make its folder when they start."""
        return Way.WATCHER if (self.root / Way.WATCHER.value).is_dir() else Way.CALL

    def socket(self, way: Way, resource: str) -> Path:
        """`plugins_registry/intel.com_sriov.sock`."""
        return self.root / way.value / f"{resource.replace('/', '_')}.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Tells a socket from another one that was made later under the same name.

    File systems reuse inode numbers at once; a socket's mtime is that of its bind, whatever is written to it.
    """

    device: int
    inode: int
    mtime_ns: int


def identify(path: Path) -> Identity | None:
    """None: there is nothing at `path`."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Identity(device=found.st_dev, inode=found.st_ino, mtime_ns=found.st_mtime_ns)


async def watch(directory: KubeletDirectory, changed: Callable[[], None]) -> None:
    """Call `changed` whenever something may have appeared in or gone from the three folders; never ends.

    Only a hint: without inotify (its instances and watches are limited per user) it says so and returns,
    and who depends on it polls.
    """
    folders = [directory.root, *(directory.root / way.value for way in Way)]
    try:
        with Inotify() as inotify:
            while True:
                for folder in folders:
                    try:
                        inotify.add_watch(folder, _CHANGES)    # again: a folder made anew is another inode
                    except (FileNotFoundError, NotADirectoryError):
                        log.debug("%s does not exist yet", folder)
                changed()
                await inotify.get()
    except OSError as error:
        log.warning("cannot watch %s, falling back to polling: %s", directory.root, error)
