"""The file in which an agent keeps what it knows of netdevs that pods have, over its own restarts."""

from __future__ import annotations

from pathlib import Path

from sriov.durable import write_file
from sriov.errors import InputError
from sriov.host.known import Known, format_known, parse_known, recall, remember
from sriov.model import Host


class KnownFile:
    """What is known at `path`, of the boot `boot_id`. One process writes it, one thread at a time.

    `trouble` says what is wrong with the file, None while nothing is: a file that cannot be used is as good as
    none, one that cannot be written will be tried again. Neither keeps the host from being looked at.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._known = Known(boot_id=boot_id)
        self._written: Known | None = None
        self.trouble: str | None = None
        self._load()

    def update(self, host: Host) -> Host:
        """Keep what this look at the host shows; give back the host with what is known of what is away."""
        self._known = remember(self._known, host)
        if self._known != self._written:
            self._write()
        return recall(host, self._known)

    def _load(self) -> None:
        try:
            known = parse_known(self._path.read_text())
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, InputError) as error:
            self.trouble = f"what was known of netdevs in pods is lost: {_say(self._path, error)}"
            return
        if known.boot_id == self._known.boot_id:
            self._known = self._written = known
        else:
            self.trouble = f"what was known of netdevs in pods is of another boot: {self._path}"

    def _write(self) -> None:
        try:
            write_file(self._path, format_known(self._known).encode())
        except OSError as error:
            self.trouble = f"cannot keep what is known of netdevs: {_say(self._path, error)}"
        else:
            self._written, self.trouble = self._known, None


def _say(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename2 or error.filename or path}: {error.strerror}"
    return f"{path}: {error}"
