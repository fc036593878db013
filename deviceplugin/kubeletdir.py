"""The kubelet's directory on the node: where its sockets are and ours go."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

KUBELET = Path("/var/lib/kubelet")


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

    @property
    def folders(self) -> list[Path]:
        """Where sockets, and the folders for them, appear and go."""
        return [self.root, *(self.root / way.value for way in Way)]

    def socket(self, way: Way, resource: str) -> Path:
        """`plugins_registry/intel.com_sriov.sock`."""
        return self.root / way.value / f"{resource.replace('/', '_')}.sock"

    def another_socket(self, resource: str) -> Path:
        """`plugins_registry/intel.com_sriov~5f3a91`: no resource's own, and most likely none that there has been.

        Short, since a socket's path has 107 bytes at most.
        """
        own = self.socket(Way.WATCHER, resource)
        return own.with_name(f"{own.stem}~{secrets.token_hex(3)}")

    def sockets(self, resource: str) -> list[Path]:
        """Where it is served, or was by processes that died: its own names, and the others that are there."""
        own = self.socket(Way.WATCHER, resource)
        return [*(self.socket(way, resource) for way in Way), *own.parent.glob(f"{own.stem}~*")]


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
