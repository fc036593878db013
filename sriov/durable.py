"""Files that are there whole or not at all, and the lock on who writes them.

Functions raise OSError, for the caller to say what could not be done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sriov.errors import HostError, Refused


def write_file(path: Path, content: bytes, *, mode: int | None = None, lasting: bool = True) -> None:
    """Put `content` at `path`, on disk before this returns; whoever opens it meanwhile gets the old one or the new.

    `mode`: permissions, whatever the umask. Not `lasting` is quicker and stands this process's end, but not the
    machine's: then the file may be the old one, the new one, empty, or all zeros. The draft beside it has always
    the same name: that of a process that was killed is found again. One process at a time may write to a path.
    """
    draft = discard_draft(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if lasting:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if lasting:
        sync_folder(path.parent)


def discard_draft(path: Path) -> Path:
    """Delete what a process left that was killed while it wrote the file; where that is, or would be."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    return draft


def delete_file(path: Path) -> None:
    """Take the file away for good; nothing to do where there is none, but for a folder that is missing."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in the folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_records(folder: Path, suffix: str = ".json") -> list[Path]:
    """The folder's files of this suffix, sorted, without drafts; none where there is no such folder."""
    # Not glob: of a folder that may not be read it makes an empty one.
    try:
        names = os.listdir(folder)  # noqa: PTH208 - iterdir makes a Path of each
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if name.endswith(suffix))


@contextmanager
def holding(state: Path, hint: str) -> Iterator[None]:
    """Be the only process that works on the state folder, which is made where it is missing.

    Raises Refused, with `hint`, where another one is at it; HostError where the folder cannot be used.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"cannot use {state}", errno=error.errno or 0) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"cannot use {state}: another process has it open", hint=hint) from None
        except OSError as error:
            raise HostError(f"cannot lock {state}", errno=error.errno or 0) from error
        yield
    finally:
        os.close(lock)
