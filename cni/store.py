"""The state of a node: a JSON file for each VF that is away, and for each attachment that owes an IPAM DEL.

A record is written before the first kernel change that it describes, and goes after the last one is undone.
A reboot ends what it says of the kernel: only one that names an IPAM plugin, whose addresses outlast that, is made
to outlast it too. One process writes: the folder's lock says which.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from cni.record import Record, format_record, parse_record
from sriov.clock import boot_time
from sriov.durable import holding, list_records, write_file
from sriov.errors import HostError, InputError, Refused, SriovError
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

Attachment = tuple[str, str]     # container id, interface

_SET_ASIDE, _OUTDATED = ".damaged", ".outdated"
_CURE = ("set the VF's VLAN, MAC, trust and name as the node wants them, or make the PF's VFs anew; then delete "
         "that file")
_PROBE_BYTES = 4096      # more than a record without IPAM has


class Store:
    """The records of a node. Threads may share it; processes may not: see `open`.

    Iterating gives the records of VFs. `owed` are those of attachments whose VF is home, or on its way by a
    record of its own: of these only `ipam` still counts.
    """

    def __init__(self, state: Path, lock: ExitStack) -> None:
        self.folder = state
        self._lock = lock
        self._vfs = _Folder(state / "vfs", lambda record: record.vf)
        self._owed = _Folder(state / "ipam", _attachment_name)

    @classmethod
    def open(cls, state: Path) -> Store:
        """Load the records under `state`; raise Refused where another process has them open, HostError."""
        with ExitStack() as lock:
            lock.enter_context(holding(state, hint="one vfpool-agent runs on a node; stop the other one"))
            store = cls(state, lock)
            store._vfs.load()
            store._vfs.retire()
            store._owed.load()
            store._lock = lock.pop_all()
        return store

    def close(self) -> None:
        self._lock.close()

    @property
    def damaged(self) -> list[str]:
        """Records that were set aside, each with the reason, until somebody deletes that file."""
        return self._vfs.damaged + self._owed.damaged

    def find_spoiled(self) -> dict[PciAddress, str]:
        """VFs whose record was set aside, with the reason why no pod may have them.

        For as long as that file is there; the first agent after a reboot, which makes VFs anew, puts it away.
        Raises HostError.
        """
        return {vf: "how it was before its pod is not known any more, since its record was damaged: "
                    f"{reason}; {_CURE}"
                for name, reason in self._vfs.list_spoiled().items() if (vf := _parse_vf(name)) is not None}

    def check_sound(self, vf: PciAddress) -> None:
        """Raise Refused for a VF of `find_spoiled`: what its pod left would be the next one's. HostError."""
        reason = self.find_spoiled().get(vf)
        if reason is not None:
            raise Refused(f"VF {vf} is not given to a pod: {reason}")

    def __iter__(self) -> Iterator[Record]:
        return iter(self._vfs.all())

    def find(self, vf: PciAddress) -> Record | None:
        return self._vfs.find(vf)

    def find_attachment(self, attachment: Attachment) -> Record | None:
        return next((record for record in self if record.attachment == attachment), None)

    def write(self, record: Record) -> None:
        """Replace the VF's record; raise HostError, with the old one in force, where that cannot be done."""
        self._vfs.write(record)

    def mark_detaching(self, record: Record) -> Record:
        """The VF's record once its way home has begun. On a full or read-only disk only this process knows of it:
        a DEL is what makes room.
        """
        detaching = record.detaching()
        try:
            self._vfs.write(detaching)
        except HostError:
            self._vfs.keep(detaching)
        return detaching

    def delete(self, record: Record) -> None:
        """Remove this record; nothing to do where the VF has another one, or none."""
        self._vfs.delete(record)

    def check_writable(self) -> None:
        """Raise HostError where a record could not be written now: a full disk, one that is read-only."""
        self._vfs.check_writable()

    # -- IPAM ----------------------------------------------------------------------------------------------

    @property
    def owed(self) -> list[Record]:
        return self._owed.all()

    def find_owed(self, attachment: Attachment) -> Record | None:
        return next((record for record in self.owed if record.attachment == attachment), None)

    def owe(self, record: Record) -> Record:
        """Note apart from the VF that its IPAM DEL is still to be done; the VF's record without it."""
        if record.ipam is None:
            return record
        self._owed.write(record)
        rest = record.without_ipam()
        self._vfs.write(rest)
        return rest

    def forget_owed(self, attachment: Attachment) -> None:
        """Its IPAM DEL is done; nothing to do where none was owed."""
        record = self.find_owed(attachment)
        if record is not None:
            self._owed.delete(record)


class _Folder:
    """Records in files, and the same in memory; `name` gives a record's file, without the suffix."""

    def __init__(self, path: Path, name: Callable[[Record], str]) -> None:
        self._path = path
        self._name = name
        self._guard = threading.Lock()
        self._probing = threading.Lock()
        self._records: dict[str, Record] = {}
        self._reasons: dict[Path, str] = {}      # why a file was set aside
        self._no_files: list[str] = []           # what is in a record's place, and is left there

    @property
    def damaged(self) -> list[str]:
        aside = sorted(self._path.glob(f"*{_SET_ASIDE}"))
        return [*self._no_files, *(self._explain(path) for path in aside)]

    def list_spoiled(self) -> dict[str, str]:
        """Files that were set aside, by name, each with the reason; raises HostError."""
        try:
            return {path.stem: self._explain(path) for path in list_records(self._path, _SET_ASIDE)}
        except OSError as error:
            raise HostError(f"cannot look for damaged records in {self._path}", errno=error.errno or 0) from error

    def _explain(self, aside: Path) -> str:
        return f"{aside}: {self._reasons.get(aside, 'by an earlier agent')}"

    def all(self) -> list[Record]:
        with self._guard:
            return list(self._records.values())

    def find(self, name: str) -> Record | None:
        with self._guard:
            return self._records.get(name)

    def write(self, record: Record) -> None:
        path = self._file(record)
        try:
            write_file(path, format_record(record).encode(), lasting=record.ipam is not None)
        except OSError as error:
            raise HostError(f"cannot write the record {path}", errno=error.errno or 0) from error
        self.keep(record)

    def keep(self, record: Record) -> None:
        """In memory alone, in the place of what the file says."""
        with self._guard:
            self._records[self._name(record)] = record

    def check_writable(self) -> None:
        probe = self._path / "probe"
        try:
            with self._probing:
                write_file(probe, bytes(_PROBE_BYTES), lasting=False)
                probe.unlink()
        except OSError as error:
            raise HostError(f"cannot write records in {self._path}", errno=error.errno or 0) from error

    def delete(self, record: Record) -> None:
        if self.find(self._name(record)) != record:
            return
        path = self._file(record)
        try:
            path.unlink(missing_ok=True)      # if it comes back with a power cut its addresses are given back again
        except OSError as error:
            raise HostError(f"cannot delete the record {path}", errno=error.errno or 0) from error
        with self._guard:
            self._records.pop(self._name(record), None)

    def load(self) -> None:
        """Raise HostError where the folder cannot be read, Refused for a later version's records."""
        try:
            self._path.mkdir(exist_ok=True, mode=0o700)
            for path in list_records(self._path):
                self._read(path)
        except OSError as error:
            raise HostError(f"cannot read the records in {self._path}", errno=error.errno or 0) from error

    def retire(self) -> None:
        """Put away what was set aside of an earlier boot; raise HostError."""
        try:
            for path in list_records(self._path, _SET_ASIDE):
                if path.lstat().st_mtime < boot_time():
                    log.warning("put away as %s: %s", _OUTDATED, self._explain(path))
                    path.rename(path.with_suffix(_OUTDATED))
        except OSError as error:
            raise HostError(f"cannot put away damaged records in {self._path}", errno=error.errno or 0) from error

    def _read(self, path: Path) -> None:
        if not path.is_file():      # to read a FIFO is to wait for its writer
            self._no_files.append(f"{path}: it is no regular file")
            return
        try:
            content = path.read_text()
            if (not content or content.endswith("\0")) and path.stat().st_mtime < boot_time():
                # A power cut leaves that of one that was not to outlast it.
                log.info("deleted %s: it was never written to the end", path)
                path.unlink()
                return
            record = parse_record(content)
            if self._file(record) != path:
                raise SriovError(f"not the record of this file: {self._name(record)}")
        except Refused as error:
            raise Refused(f"cannot use the record {path}: {error.message}", hint=error.hint) from None
        except (SriovError, UnicodeDecodeError) as error:
            aside = path.replace(path.with_suffix(_SET_ASIDE))
            self._reasons[aside] = str(error)
        else:
            self._records[self._name(record)] = record

    def _file(self, record: Record) -> Path:
        return self._path / f"{self._name(record)}.json"


def _parse_vf(name: str) -> PciAddress | None:
    """None for a name that was never a record's: somebody put that file there."""
    try:
        return PciAddress.parse(name)
    except InputError:
        return None


def _attachment_name(record: Record) -> str:
    """Nothing that a caller says becomes part of a path."""
    return hashlib.sha256("\0".join(record.attachment).encode(errors="surrogatepass")).hexdigest()
