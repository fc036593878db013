"""The folder with a record for each PF that vfpool changed: `<state>/pfs/<PCI address>.json`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from sriov.durable import delete_file, holding, list_records, write_file
from sriov.errors import HostError, InputError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.override import LASTING, Override
from sriov.provision.ownership import Ownership, Unfinished, format_ownership, parse_ownership, take_over
from sriov.provision.state import PfState

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def hold_state(state: Path) -> AbstractContextManager[None]:
    """Be the only process that changes the node by this state folder; raises Refused where an agent is, HostError.

    The lock is the one that an agent has on the folder as long as it runs.
    """
    return holding(state, hint="the agent makes the node fit its pool file; stop it first")


class Ledger:
    """The records below `state`, of the boot `boot_id`. Threads may share it, each at another PF.

    Every method raises HostError where the disk does not do its part: then nothing must be changed.
    `damaged` names the files that cannot be used; one is set aside under another name when its PF is changed.
    """

    def __init__(self, state: Path, boot_id: str) -> None:
        self._folder = state / "pfs"
        self._boot_id = boot_id
        self._guard = threading.Lock()
        self._records: dict[PciAddress, Ownership] = {}
        self.damaged: list[str] = []
        self._load()

    @classmethod
    def open(cls, state: Path) -> Ledger:
        """The records of this node's running boot."""
        try:
            return cls(state, BOOT_ID.read_text().strip())
        except OSError as error:
            raise HostError(f"cannot read {BOOT_ID}", errno=error.errno or 0) from None

    @property
    def records(self) -> Mapping[PciAddress, Ownership]:
        with self._guard:
            return dict(self._records)

    def find(self, pf: PhysicalFunction) -> Ownership | None:
        """The record of this very card."""
        record = self.records.get(pf.address)
        return record if record is not None and record.is_of(pf) else None

    def find_changed(self, pf: PhysicalFunction) -> Ownership | None:
        """The record of a PF that vfpool changed since the node booted."""
        record = self.find(pf)
        return record if record is not None and self.is_current(record) else None

    def is_current(self, record: Ownership) -> bool:
        """Whether what the record says of changes is about this boot."""
        return record.boot_id == self._boot_id

    def owns(self, pf: PhysicalFunction, vfs: int | None) -> bool:
        """Whether the VFs that the PF has, which are told from others by `vfs`, are vfpool's."""
        record = self.find_changed(pf)
        return record is not None and record.has(pf.num_vfs, vfs)

    def find_unfinished(self, pf: PhysicalFunction) -> Unfinished | None:
        """What a run has under way that did not end: this one, or one whose process died."""
        record = self.find_changed(pf)
        return record.unfinished if record is not None else None

    def begin(self, pf: PhysicalFunction, before: PfState, *, vfs: int | None = None,
              counts: tuple[int, ...] = ()) -> None:
        """Note on disk that the PF is about to be changed, and that `before` is how it is.

        `vfs` tells the VFs that it has and that are vfpool's from others; None: it has no such VFs. `counts`: how
        many there may be that this run makes.
        """
        self._write(take_over(self.records.get(pf.address), pf, before, self._boot_id, vfs=vfs, counts=counts))

    def own(self, pf: PhysicalFunction, vfs: int | None) -> None:
        """Note which VFs are vfpool's now; None: it has no such VFs."""
        if (record := self.find_changed(pf)) is not None:
            unfinished = record.unfinished and replace(record.unfinished, counts=())
            self._write(replace(record, owns_vfs=vfs is not None, vfs=vfs, unfinished=unfinished))

    def end(self, pf: PhysicalFunction) -> None:
        """Note that the run which began is over, whatever came of it; of one that did well, `settle` does."""
        if (record := self.find_changed(pf)) is not None:
            self._write(replace(record, unfinished=None))

    def settle(self, pf: PhysicalFunction, reached: PfState, overrides: Iterable[Override] = ()) -> None:
        """Note that `reached` was wanted and is so. Nothing to do for a PF that vfpool never changed.

        What `overrides` a pool file may name is noted too: a boot wants the same again.
        """
        record = self.find(pf)
        if record is not None:
            lasting = tuple(each for each in LASTING if each in set(overrides))
            self._write(replace(record, last_good=reached, overrides=lasting, unfinished=None))

    def let_go(self, pf: PhysicalFunction) -> None:
        """Note that nothing is wanted of the PF any more; what was changed of it can still be undone."""
        if (record := self.find(pf)) is not None:
            self._write(replace(record, last_good=None, overrides=()))

    def forget(self, pf: PciAddress) -> None:
        """It is as it was before; nothing to do where there is no record."""
        try:
            delete_file(self._file(pf))
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"cannot delete the record {self._file(pf)}", errno=error.errno or 0) from None
        with self._guard:
            self._records.pop(pf, None)

    def _write(self, record: Ownership) -> None:
        with self._guard:
            if self._records.get(record.pf) == record:
                return
        path = self._file(record.pf)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if record.pf not in self.records and path.exists():
                path.replace(path.with_suffix(".damaged"))
            write_file(path, format_ownership(record).encode())
        except OSError as error:
            raise HostError(f"cannot write the record {path}", errno=error.errno or 0) from None
        with self._guard:
            self._records[record.pf] = record

    def _load(self) -> None:
        try:
            for path in list_records(self._folder):
                self._read(path)
        except OSError as error:
            raise HostError(f"cannot read the records in {self._folder}", errno=error.errno or 0) from None

    def _read(self, path: Path) -> None:
        try:
            record = parse_ownership(path.read_text())
            if path.stem != record.pf:
                raise InputError(f"it is about {record.pf}")
        except (InputError, UnicodeDecodeError) as error:
            self.damaged.append(f"{path}: {error}")
        else:
            self._records[record.pf] = record

    def _file(self, pf: PciAddress) -> Path:
        return self._folder / f"{pf}.json"
