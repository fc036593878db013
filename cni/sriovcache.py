"""sriov-cni's files, which it may be writing just now: it writes them in place.

Source: /var/lib/cni/sriov, the same since version 2.8: `<container id>-<interface>` says how the VF was and
`pci/<BDF>`, written right after it, by what path the namespace opens that has the VF. Beside: libcni's cache.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.leftover import Leftover, parse_leftover
from cni.locks import Busy
from cni.protocol import Code
from cni.store import Attachment
from sriov.errors import HostError, SriovError
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

_DAMAGED, _OUTDATED = ".damaged", ".outdated"      # files set aside: not of sriov-cni; of before the node's boot
_LOCKS = "pci/vf_lock"
_WRITING = 1.0           # seconds that a file may be half there
_POLL = 0.05             # seconds: neither who writes nor who has the lock says when that is over


class SriovCache:
    """Every method raises HostError: what cannot be read is not absent. `sleep`: how it waits for sriov-cni."""

    def __init__(self, folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._sleep = sleep

    def find(self, attachment: Attachment) -> Leftover | None:
        """None where there is no such file, or a damaged one, which is set aside."""
        self._make_searchable()
        return self._read("-".join(attachment), attachment)

    def reread(self, leftover: Leftover) -> Leftover | None:
        return self._read(leftover.name, leftover.attachment if leftover.certain else None)

    def all(self) -> Iterator[Leftover]:
        self._make_searchable()
        try:
            names = sorted(path.name for path in self._folder.iterdir()
                           if "-" in path.name and path.suffix not in (_DAMAGED, _OUTDATED) and path.is_file())
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"cannot read {self._folder}", errno=error.errno or 0) from None
        for name in names:
            leftover = self._read(name, None)
            if leftover is not None:
                yield leftover

    def read_netns(self, vf: PciAddress) -> tuple[str, float] | None:
        """Which namespace has the VF, and since when; None where the file does not say it."""
        self._make_searchable()
        found = _read_file(self._folder / "pci" / vf)
        if found is None:
            return None
        netns, since = found[0].strip(), found[1]
        return (netns, since) if netns.startswith("/") and "\0" not in netns else None

    def read_result(self, leftover: Leftover) -> Mapping[str, Any]:
        """What libcni noted of the attachment for its caller; empty where it noted nothing, or not on this node.

        Source: libcni's /var/lib/cni/results/<network>-<container id>-<interface>.
        """
        path = self._folder.parent / "results" / f"{leftover.network.replace('/', '')}-{leftover.name}"
        try:
            found = _read_file(path)
            result = None if found is None else json.loads(found[0])
        except (HostError, ValueError, RecursionError) as error:
            log.debug("%s does not help: %r", path, error)      # nobody depends on it
            return {}
        return result if isinstance(result, dict) else {}

    @contextmanager
    def hold(self, vf: PciAddress, deadline: float) -> Iterator[None]:
        """sriov-cni's own lock on the VF; Busy where it has that until `deadline` (time.monotonic).

        Versions since 2025 have it for the whole of an ADD or DEL, and leave its file. Others make none.
        """
        path = self._folder / _LOCKS / f"{vf}.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            raise HostError(f"cannot open sriov-cni's lock {path}", errno=error.errno or 0) from None
        try:
            while not _try_lock(lock, path):
                if time.monotonic() >= deadline:
                    raise Busy(Code.TRY_AGAIN_LATER, f"VF {vf} is busy with sriov-cni")
                self._sleep(_POLL)
            yield
        finally:
            os.close(lock)

    def set_outdated(self, leftover: Leftover) -> None:
        """Keep the file for an admin, where nothing reads it any more."""
        _set_aside(self._folder / leftover.name, _OUTDATED)

    def delete(self, leftover: Leftover) -> None:
        _delete(self._folder / leftover.name)

    def delete_netns(self, vf: PciAddress) -> None:
        _delete(self._folder / "pci" / vf)

    def _make_searchable(self) -> None:
        """sriov-cni makes its folders with mode 0600. That hinders no root with CAP_DAC_OVERRIDE; the agent in its
        container has none, but as their owner it may change the mode.
        """
        for folder in (self._folder, self._folder / "pci", self._folder / _LOCKS):
            try:
                if not folder.stat().st_mode & stat.S_IXUSR:
                    folder.chmod(0o700)
            except FileNotFoundError:
                return
            except OSError as error:
                raise HostError(f"cannot look into sriov-cni's folder {folder}", errno=error.errno or 0) from None

    def _read(self, name: str, attachment: Attachment | None) -> Leftover | None:
        path = self._folder / name
        while (found := _read_file(path)) is not None:
            text, since = found
            try:
                leftover = parse_leftover(text, name, since)
            except SriovError as error:
                if abs(time.time() - since) < _WRITING:
                    self._sleep(_POLL)
                    continue
                log.error("set aside sriov-cni's file %s, which cannot be read: %s", path, error)
                _set_aside(path, _DAMAGED)
                return None
            noted = self.read_netns(leftover.vf)
            leftover = dataclasses.replace(leftover, netns=None if noted is None else noted[0])
            if attachment is None and not leftover.certain:
                attachment = self._tell_attachment(leftover)
            return leftover if attachment is None else dataclasses.replace(
                leftover, attachment=attachment, certain=True)
        return None

    def _tell_attachment(self, leftover: Leftover) -> Attachment | None:
        """By libcni, where the file's name can be read in more than one way; None where that does not say it."""
        result = self.read_result(leftover)
        container, ifname = result.get("containerId"), result.get("ifName")
        if isinstance(container, str) and f"{container}-{ifname}" == leftover.name:
            return container, str(ifname)
        return None


def _try_lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise HostError(f"cannot take sriov-cni's lock {path}", errno=error.errno or 0) from None
    return True


def _read_file(path: Path) -> tuple[str, float] | None:
    """Text, and when it was written; None where there is no such file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):      # to read a FIFO is to wait for its writer
            raise HostError(f"cannot read sriov-cni's file {path}: it is no regular file")
        with path.open(errors="replace") as file:
            since = os.fstat(file.fileno()).st_mtime
            return file.read(), since
    except OSError as error:
        # A name that is too long for a file is none of sriov-cni's.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return None
        raise HostError(f"cannot read sriov-cni's file {path}", errno=error.errno or 0) from None


def _set_aside(path: Path, suffix: str) -> None:
    try:
        path.replace(path.with_name(f"{path.name}{suffix}"))
    except OSError as error:
        raise HostError(f"cannot rename sriov-cni's file {path}", errno=error.errno or 0) from None


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot delete sriov-cni's file {path}", errno=error.errno or 0) from None
