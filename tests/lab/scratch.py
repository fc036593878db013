"""Folders below /tmp that go with their process: at its end, or, where it was killed, at the next one's start."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Not below TMPDIR: ssh's control socket in such a folder must fit into the 108 bytes of sun_path.
PARENT = Path("/tmp")
_OWNER = ".owner"      # locked (flock) as long as the folder's process lives


@contextmanager
def scratch_folder(prefix: str, parent: Path = PARENT) -> Iterator[Path]:
    """A new folder; before it is made, those of the prefix whose processes are dead are removed."""
    remove_dead(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # Python closes it in children: a lock that one of them held would outlive us.
    lock = os.open(folder / f"{_OWNER}.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under its name only when it is locked: nobody ever takes us for dead.
        (folder / f"{_OWNER}.new").rename(folder / _OWNER)
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def remove_dead(prefix: str, parent: Path = PARENT) -> None:
    """Remove the folders of dead processes. One without the owner's file is nobody's to judge: it stays."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):    # no folder of ours, or just being removed by its process or by another like us
            lock = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
