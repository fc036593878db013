"""The records of a node: a JSON file per VF.

A record is on disk before the first kernel change that it describes, and goes after the last one is undone.
One process writes: the folder's lock says which.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from cni.record import Record, format_record, parse_record
from sriov.errors import HostError, Refused, SriovError
from sriov.pci import PciAddress


class Store:
    """The records of a node. Threads may share it; processes may not: see `open`."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._guard = threading.Lock()
        self._records: dict[PciAddress, Record] = {}
        self.damaged: list[str] = []             # files set aside at start, each with the reason

    @classmethod
    def open(cls, state: Path) -> Store:
        """Load the records under `state`; raise Refused where another process has them open, HostError."""
        folder = state / "vfs"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"cannot use {state}", errno=error.errno or 0) from error
        with ExitStack() as stack:
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                store = cls(folder, lock)
                store._load()
            except BlockingIOError:
                raise Refused(f"cannot use {state}: another process has it open",
                              hint="one vfpool-agent runs on a node; stop the other one") from None
            except OSError as error:
                raise HostError(f"cannot read the records in {folder}", errno=error.errno or 0) from error
            stack.pop_all()
        return store

    def close(self) -> None:
        os.close(self._lock)

    def __iter__(self) -> Iterator[Record]:
        with self._guard:
            return iter(list(self._records.values()))

    def find(self, vf: PciAddress) -> Record | None:
        with self._guard:
            return self._records.get(vf)

    def find_attachment(self, attachment: tuple[str, str]) -> Record | None:
        with self._guard:
            return next((r for r in self._records.values() if r.attachment == attachment), None)

    def write(self, record: Record) -> None:
        """Replace the VF's record, on disk before this returns."""
        path = self._path(record.vf)
        draft = path.with_suffix(".new")
        try:
            with draft.open("w") as file:
                file.write(format_record(record))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            self._sync_folder()
        except OSError as error:
            raise HostError(f"cannot write the record {path}", errno=error.errno or 0) from error
        with self._guard:
            self._records[record.vf] = record

    def delete(self, record: Record) -> None:
        """Remove this record; nothing to do where the VF has another one, or none."""
        if self.find(record.vf) != record:
            return
        path = self._path(record.vf)
        try:
            path.unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise HostError(f"cannot delete the record {path}", errno=error.errno or 0) from error
        with self._guard:
            self._records.pop(record.vf, None)

    def _path(self, vf: PciAddress) -> Path:
        return self._folder / f"{vf}.json"

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _load(self) -> None:
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = parse_record(path.read_text())
            except Refused as error:
                raise Refused(f"cannot use the record {path}: {error.message}", hint=error.hint) from None
            except (SriovError, UnicodeDecodeError) as error:
                path.replace(path.with_suffix(".damaged"))
                self.damaged.append(f"{path}: {error}")
            else:
                self._records[record.vf] = record
