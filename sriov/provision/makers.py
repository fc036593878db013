"""Reads the configuration of other programs that may make a PF's VFs: NetworkManager, udev, networkd, netplan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sriov.errors import InputError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.yamlnodes import parse_document
from sriov.provision.claims import Claim, find_keyfile_claim, find_netplan_claims, find_systemd_claim, sort_claims

# Of each program, the folder that hides files of the same name in the others comes first.
_KEYFILES = tuple(f"{each}/NetworkManager/system-connections" for each in ("etc", "run", "usr/lib"))
_SYSTEMD = "etc/systemd/network", "run/systemd/network", "usr/local/lib/systemd/network", "usr/lib/systemd/network"
_NETPLAN = "run/netplan", "etc/netplan", "lib/netplan"


def read_claims(pfs: Sequence[PhysicalFunction], root: Path = Path("/")) -> Mapping[PciAddress, tuple[str, ...]]:
    """By PF, a sentence for each program below `root` that is configured to make or shape its VFs.

    A file that cannot be read or understood may claim any PF, and the sentence says so.
    """
    claims = [
        *_find_each(root, _KEYFILES, ("*.nmconnection",), find_keyfile_claim),
        *_find_each(root, _SYSTEMD, ("*.link", "*.network"), find_systemd_claim),
        *_find_netplan(root),
    ]
    return sort_claims(claims, pfs)


def _find_each(root: Path, folders: Sequence[str], patterns: Sequence[str],
               find: Callable[[str, str], Claim | None]) -> Iterator[Claim]:
    try:
        files = _effective(root, folders, patterns)
    except OSError as error:
        yield _doubt(error.filename or folders[0], error)
        return
    for path in files:
        try:
            text = "\n".join(_read(each) for each in (path, *_drop_ins(root, folders, path.name)))
        except (OSError, InputError) as error:
            yield _doubt(path, error)
            continue
        claim = find(text, str(path))
        if claim is not None:
            yield claim


def _find_netplan(root: Path) -> Iterator[Claim]:
    documents: list[tuple[str, object]] = []
    try:
        files = _effective(root, _NETPLAN, ("*.yaml",))
    except OSError as error:
        yield _doubt(error.filename or _NETPLAN[0], error)
        return
    for path in files:
        try:
            if text := _read(path).strip():
                documents.append((str(path), parse_document(text, str(path)).plain()))
        except (OSError, InputError) as error:
            yield _doubt(path, error)
    yield from find_netplan_claims(documents)


def _effective(root: Path, folders: Sequence[str], patterns: Sequence[str]) -> list[Path]:
    """The files that count, by name: one hides those of its name in later folders."""
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in patterns:
            for path in (root / folder).glob(pattern):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _drop_ins(root: Path, folders: Sequence[str], name: str) -> list[Path]:
    return _effective(root, [f"{folder}/{name}.d" for folder in folders], ("*.conf",))


def _read(path: Path) -> str:
    """The text; that of /dev/null, which masks a file, is empty."""
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8") from None


def _doubt(path: object, error: Exception) -> Claim:
    reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
    return Claim(sentence=f"something may make its VFs: cannot tell from {path}: {reason}")
