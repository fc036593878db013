"""Single files, links and folders of sysfs, each read in one go: numbers, ids, names of what a link points to.

Every function raises OSError with the path in `filename`, and Malformed where a file holds something else
than the kernel's documentation says.
"""
# Plain os calls: a scan of 1,024 VFs has 150 ms, and pathlib costs more than the read itself.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import errno
import os
import re

from sriov.pci import PciAddress

_ID = re.compile(r"0x[0-9a-f]{4}")
_CLASS = re.compile(r"0x[0-9a-f]{6}")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_VIRTIO = re.compile(r"virtio\d+")


class Malformed(ValueError):
    """A file holds something else than the kernel's documentation says."""


def read(path: str) -> str:
    """The file's text, stripped."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("ascii", "replace").strip()
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def read_if_any(path: str) -> str | None:
    """The file's text; None where there is no such file."""
    try:
        return read(path)
    except FileNotFoundError:
        return None


def read_int(path: str) -> int:
    text = read(path)
    try:
        return int(text)
    except ValueError:
        raise Malformed(f"{path}: expected a number, got {text!r}") from None


def read_id(path: str) -> str:
    """A PCI vendor or device id, four hex digits."""
    text = read(path)
    if _ID.fullmatch(text) is None:
        raise Malformed(f"{path}: expected an id like 0x8086, got {text!r}")
    return text[2:]


def read_class(path: str) -> int:
    """A PCI class: base class, subclass and interface in 24 bits."""
    text = read(path)
    if _CLASS.fullmatch(text) is None:
        raise Malformed(f"{path}: expected a class like 0x020000, got {text!r}")
    return int(text, 16)


def read_link(path: str) -> str | None:
    """The last component of what a link points to; None where there is no link."""
    try:
        return os.readlink(path).rpartition("/")[2]
    except FileNotFoundError:
        return None


def pci_path(path: str) -> tuple[PciAddress, ...]:
    """The PCI functions among the folders of a path, from the outermost: bridges, the function itself."""
    return tuple(PciAddress(part) for part in path.split("/") if _ADDRESS.fullmatch(part))


def list_folder(path: str) -> list[str]:
    """The names in a folder, in no order; none where there is no folder."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def netdev_folder(device: str, driver: str | None) -> str:
    """Where the netdevs of a PCI function are listed; the folder need not exist."""
    if driver == "virtio-pci":        # the netdev belongs to a device of the virtio bus below the PCI function
        child = min((name for name in list_folder(device) if _VIRTIO.fullmatch(name)), default="")
        return f"{device}/{child}/net"
    return f"{device}/net"


def say(error: Exception) -> str:
    """What went wrong, for a sentence: `/sys/...: EISDIR`, or the exception's own words."""
    if isinstance(error, OSError):
        return f"{error.filename}: {errno.errorcode.get(error.errno or 0, error.strerror)}"
    return str(error)
