"""Reads the configuration of other programs that may make a PF's VFs: NetworkManager, udev, networkd, netplan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from sriov.errors import InputError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.yamlnodes import parse_document
from sriov.provision.claims import (
    Claim,
    find_ifcfg_claim,
    find_keyfile_claim,
    find_netplan_claims,
    find_systemd_claim,
    sort_claims,
)

# Of each program, the folder that hides files of the same name in the others comes first.
_KEYFILES = tuple(f"{each}/NetworkManager/system-connections" for each in ("etc", "run", "usr/lib"))
_SYSTEMD = "etc/systemd/network", "run/systemd/network", "usr/local/lib/systemd/network", "usr/lib/systemd/network"
_NETPLAN = "run/netplan", "etc/netplan", "lib/netplan", "usr/lib/netplan"
_IFCFG = ("etc/sysconfig/network-scripts",)
_BACKUPS = ("~", ".bak", ".orig", ".rej", ".rpmnew", ".rpmsave")     # utils.c of NetworkManager's plugin

FOLDERS = (*_KEYFILES, *_SYSTEMD, *_NETPLAN, *_IFCFG)


def read_claims(pfs: Sequence[PhysicalFunction], root: Path = Path("/")) -> Mapping[PciAddress, tuple[str, ...]]:
    """By PF, a sentence for each program below `root` that is configured to make or shape its VFs.

    A file or a folder that cannot be read or understood may claim any PF, and the sentence says so. Sentences name
    files as the host does whose / is `root`.
    """
    claims = [
        *_find_each(root, _KEYFILES, ("*.nmconnection",), find_keyfile_claim),
        *_find_each(root, _IFCFG, ("ifcfg-*",), find_ifcfg_claim),
        *_find_each(root, _SYSTEMD, ("*.link", "*.network"), find_systemd_claim),
        *_find_netplan(root),
    ]
    return sort_claims(claims, pfs)


def _find_each(root: Path, folders: Sequence[str], patterns: Sequence[str],
               find: Callable[[str, str], Claim | None]) -> Iterator[Claim]:
    try:
        files = _effective(root, folders, patterns)
    except OSError as error:
        yield _doubt(root, error.filename, error)
        return
    for path in files:
        try:
            text = "\n".join(_read(each) for each in (path, *_drop_ins(root, folders, path.name)))
        except (OSError, InputError) as error:
            yield _doubt(root, path, error)
            continue
        claim = find(text, _name(root, path))
        if claim is not None:
            yield claim


def _find_netplan(root: Path) -> Iterator[Claim]:
    documents: list[tuple[str, object]] = []
    try:
        files = _effective(root, _NETPLAN, ("*.yaml",))
    except OSError as error:
        yield _doubt(root, error.filename, error)
        return
    for path in files:
        try:
            if text := _read(path).strip():
                documents.append((_name(root, path), parse_document(text, _name(root, path)).plain()))
        except (OSError, InputError) as error:
            yield _doubt(root, path, error)
    yield from find_netplan_claims(documents)


def _effective(root: Path, folders: Sequence[str], patterns: Sequence[str]) -> list[Path]:
    """The files that count, by name: one hides those of its name in later folders. Raises OSError."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _list(root / folder):
            if any(fnmatchcase(path.name, pattern) for pattern in patterns) and not path.name.endswith(_BACKUPS):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _list(folder: Path) -> list[Path]:
    """None where there is no such folder; not glob, which finds none either in one that may not be read."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        if folder.is_symlink():       # to what cannot be seen from here
            raise
        return []


def _drop_ins(root: Path, folders: Sequence[str], name: str) -> list[Path]:
    return _effective(root, [f"{folder}/{name}.d" for folder in folders], ("*.conf",))


def _read(path: Path) -> str:
    """The text; that of /dev/null, which masks a file, is empty."""
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is not UTF-8") from None


def _name(root: Path, path: str | Path) -> str:
    """The file as its host calls it."""
    return str(Path("/", Path(path).relative_to(root)))


def _doubt(root: Path, path: str | Path, error: Exception) -> Claim:
    reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
    return Claim(sentence=f"something may make its VFs: cannot tell from {_name(root, path)}: {reason}")
