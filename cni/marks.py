"""VFs whose MAC their PF had set before any pod, and set again when they came home.

igb's VFs may not change such a MAC. Once a pod's MAC has been on the netdev nothing in the kernel tells any more
that this one is not merely its netdev's own.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from threading import Lock

from sriov.durable import write_file
from sriov.pci import PciAddress

log = logging.getLogger(__name__)


class Marks:
    """Kept in the file `path`; those of an earlier boot, or of VFs made anew since, count no more.

    What of it cannot be read is logged, and is as if it had never been written.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._guard = Lock()
        self._identities = self._load()

    def holds(self, vf: PciAddress, identity: int | None) -> bool:
        """`identity` is the VF's now, as Kernel.identity says."""
        return vf in self._identities and self._identities[vf] == identity

    def add(self, vf: PciAddress, identity: int | None) -> None:
        """On disk before this returns; where it cannot be written, known for as long as this process lives."""
        with self._guard:
            if not self.holds(vf, identity):
                self._identities = {**self._identities, vf: identity}
                self._write()

    def _load(self) -> dict[PciAddress, int | None]:
        try:
            document = json.loads(self._path.read_text())
            if document["boot_id"] != self._boot_id:
                return {}
            return {PciAddress(vf): identity for vf, identity in document["vfs"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            log.error("cannot use %s, which says whose MAC a PF had set: %s", self._path, error)
            return {}

    def _write(self) -> None:
        document = {"boot_id": self._boot_id, "vfs": self._identities}
        try:
            write_file(self._path, json.dumps(document).encode())
        except OSError as error:
            log.error("cannot write %s, which says whose MAC a PF had set: %s", self._path, error)
