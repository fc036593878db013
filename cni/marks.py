"""VFs whose MAC their PF had set before any pod, and set again when they came home.

igb's VFs may not change such a MAC. Once a pod's MAC has been on the netdev nothing in the kernel tells any more
that this one is not merely its netdev's own.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from sriov.durable import write_file
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

_Mark: TypeAlias = tuple[int | None, MacAddress | None]      # identity, and the MAC that the PF had set


class Marks:
    """Kept in the file `path`; those of an earlier boot, or of VFs made anew since, count no more.

    What of it cannot be read is logged, and is as if it had never been written.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._guard = Lock()
        self._marks = self._load()

    def check(self, vf: PciAddress, identity: int | None, mac: MacAddress | None) -> bool:
        """Whether the VF is marked. `identity` is its own now, as Kernel.identity says, `mac` what its PF shows.

        A mark of another MAC goes: the administrator has set it anew, or cleared it.
        """
        with self._guard:
            if vf in self._marks and self._marks[vf] != (identity, mac):
                self._marks = {other: mark for other, mark in self._marks.items() if other != vf}
                self._write()
            return vf in self._marks

    def add(self, vf: PciAddress, identity: int | None, mac: MacAddress | None) -> None:
        """Where it cannot be written, known for as long as this process lives."""
        with self._guard:
            if self._marks.get(vf) != (identity, mac):
                self._marks = {**self._marks, vf: (identity, mac)}
                self._write()

    def _load(self) -> dict[PciAddress, _Mark]:
        try:
            document = json.loads(self._path.read_text())
            if document["boot_id"] != self._boot_id:
                return {}
            return {PciAddress(vf): (identity, None if mac is None else MacAddress(mac))
                    for vf, (identity, mac) in document["vfs"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            log.error("cannot use %s, which says whose MAC a PF had set: %s", self._path, error)
            return {}

    def _write(self) -> None:
        document = {"boot_id": self._boot_id, "vfs": self._marks}
        try:
            write_file(self._path, json.dumps(document).encode(), lasting=False)
        except OSError as error:
            log.error("cannot write %s, which says whose MAC a PF had set: %s", self._path, error)
