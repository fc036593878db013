"""Puts the CNI executable into the folder where the container runtime looks for plugins."""

from __future__ import annotations

import stat
from pathlib import Path

from sriov.durable import discard_draft, write_file
from sriov.errors import HostError

SHIM = Path(__file__).parent / "shim" / "vfpool"


def install_executable(source: Path, target: Path) -> bool:
    """Make `target` an executable copy of `source`; false where it is one already. Raises HostError.

    A runtime that starts `target` meanwhile gets the old one or the new one, whole. One process at a time installs
    into a folder.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise HostError(f"cannot read the CNI executable {source}", errno=error.errno or 0,
                        hint="`make shim` and the package's build compile it") from error
    try:
        discard_draft(target)        # of an install that was killed
        if _is_current(target, content):
            return False
        write_file(target, content, mode=0o755)
    except OSError as error:
        raise HostError(f"cannot install the CNI executable as {target}", errno=error.errno or 0,
                        hint="its folder has to exist and be root's: the agent may write into no other") from error
    return True


def _is_current(target: Path, content: bytes) -> bool:
    """A symbolic link is not: what it leads to is somebody else's."""
    try:
        mode = target.lstat().st_mode
        return mode == stat.S_IFREG | 0o755 and target.read_bytes() == content
    except FileNotFoundError:
        return False
