"""Network namespaces: verify a descriptor, open sockets inside, tell whether one still lives."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TypeVar

from sriov.errors import Gone, HostError
from sriov.host.netlink import Links

log = logging.getLogger(__name__)
T = TypeVar("T")

# The same on every architecture (linux/mount.h, asm-generic/unistd.h).
_FSOPEN, _FSCONFIG, _FSMOUNT, _FSCONFIG_CMD_CREATE, _CLOEXEC = 430, 431, 432, 6, 1
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703            # linux/nsfs.h
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int) -> None:
    """Move the calling thread into the network namespace `fd` (os.setns came with Python 3.12)."""
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise HostError("cannot enter the network namespace", errno=ctypes.get_errno())


def is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


@contextmanager
def open_netns(path: str) -> Iterator[int]:
    """A descriptor of the namespace at `path`; Gone where there is none (any more).

    A path outlives its namespace as an ordinary file: after `umount` and before `unlink`, or after a crash.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        text = f"network namespace {path}: {os.strerror(error.errno or 0)}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):
            raise Gone(text) from None
        # Out of descriptors, say: a pod that could not be looked at is not a dead pod.
        raise HostError(text, errno=error.errno or 0) from None
    try:
        if not is_netns(fd):
            raise Gone(f"network namespace {path}: the path is not a network namespace")
        yield fd
    finally:
        os.close(fd)


def call_in(fd: int, work: Callable[[], T]) -> T:
    """What `work` returns, called in network namespace `fd`: sockets that it makes belong there for good.

    `work` starts no threads and no processes: they would be there, too.
    """
    home = _open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        try:
            setns(fd)
            return work()
        finally:
            _come_back(home)
    finally:
        os.close(home)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:      # out of descriptors, say
        raise HostError(f"cannot open {path}", errno=error.errno or 0) from None


def _come_back(home: int) -> None:
    """The calling thread to its own namespace, or the end of this process."""
    try:
        setns(home)
    except BaseException:
        # What this thread did next for the host it would do to a pod. Records say how far it was.
        log.critical("a thread cannot leave a pod's network namespace", exc_info=True)
        os.abort()


@contextmanager
def links_in(fd: int) -> Iterator[Links]:
    """The links of network namespace `fd`, for as long as the context lasts."""
    with call_in(fd, Links.open) as links:
        yield links


def set_up_interface(fd: int, ifname: str, *, ipv6: bool) -> None:
    """Let an interface of namespace `fd` tell its neighbours of its addresses when it comes up or gets another MAC.

    `ipv6`: it shall have such addresses, use them during DAD, and keep them when it goes down. Runtimes may make
    namespaces without (net.ipv6.conf.default.disable_ipv6). Raises HostError where it stays without.
    """
    def write() -> None:
        proc = _open_proc()
        try:
            if ipv6:
                for name in ("lo", ifname):
                    _write_sysctl(proc, f"ipv6/conf/{name}/disable_ipv6", "0")
            # Not IPv6's ndisc_notify: a NIC may hand the advertisement back to its VF, and DAD that is not over
            # takes that for another host that has the address.
            wanted = [f"ipv4/conf/{ifname}/arp_notify"]
            if ipv6:
                wanted += [f"ipv6/conf/{ifname}/{key}" for key in ("keep_addr_on_down", "optimistic_dad")]
            for sysctl in wanted:
                try:
                    _write_sysctl(proc, sysctl, "1")
                except HostError as error:       # a kernel without CONFIG_IPV6_OPTIMISTIC_DAD, say
                    log.warning("%s", error)
        finally:
            os.close(proc)

    call_in(fd, write)


def _open_proc() -> int:
    """A descriptor of a procfs: one that is mounted nowhere, since containers have /proc/sys read-only.

    Where that cannot be made, of /proc. Source: fsopen(2), fsmount(2).
    """
    made = _libc.syscall(_FSOPEN, b"proc", _CLOEXEC)
    if made < 0:
        return _open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syscall(_FSCONFIG, made, _FSCONFIG_CMD_CREATE, None, None, 0) == 0:
            mounted = int(_libc.syscall(_FSMOUNT, made, _CLOEXEC, 0))
            if mounted >= 0:
                return mounted
        return _open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(made)


def _write_sysctl(proc: int, path: str, value: str) -> None:
    """`path` below net, of the calling thread's network namespace, whichever procfs `proc` is."""
    try:
        sysctl = os.open(f"sys/net/{path}", os.O_RDWR | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.pwrite(sysctl, value.encode(), 0)
        finally:
            os.close(sysctl)
    except OSError as error:
        needed = "IPv6 needs a kernel that has it, and " if path.startswith("ipv6/") else ""
        raise HostError(f"cannot set net.{path.replace('/', '.')} to {value} in the pod", errno=error.errno or 0,
                        hint=f"{needed}/proc/sys has to be writable for this process") from None


def netns_cookie(path: str) -> int | None:
    """The cookie of the namespace at `path`; None where there is none."""
    try:
        with open_netns(path) as fd, links_in(fd) as links:
            return links.cookie
    except Gone:
        return None


def find_place(path: str) -> tuple[int, int] | None:
    """st_dev and st_ino of what `path` leads to; None where it leads nowhere.

    Another pair is another namespace. The same need not be the same: the kernel gives the number of a dead
    namespace to the next one.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Sight(Enum):
    """What a look at a namespace's path tells of the namespace."""

    ALIVE = "alive"
    DEAD = "dead"          # the runtime took the path away, or has another namespace there
    UNSEEN = "unseen"      # nothing: it does not lead where the host's own processes see that namespace


def look_at(path: str, cookie: int, file_system: int | None) -> Sight:
    """Whether namespace `cookie` lives; `file_system` is what `find_file_system` said when it did.

    Raises HostError where the path cannot be looked at.
    """
    seen = netns_cookie(path)
    if seen == cookie:
        return Sight.ALIVE
    if file_system is None or file_system != _file_system(path):
        return Sight.UNSEEN
    if seen is None and os.path.lexists(path):
        return Sight.UNSEEN       # a plain file: so looks a mount that did not propagate to this process
    return Sight.DEAD


def find_file_system(path: str, fd: int) -> int | None:
    """Where `path` leads to the namespace `fd` for this process too: the file system (st_dev) that has it."""
    try:
        # Both numbers belong to the same namespace for as long as its descriptor is open.
        return _file_system(path) if os.path.samestat(Path(path).stat(), os.fstat(fd)) else None
    except OSError:
        return None


def _file_system(path: str) -> int:
    """st_dev of the folder that has `path`, or of the next one above that is still there."""
    for folder in Path(path).absolute().parents:
        with suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return folder.stat().st_dev
    raise HostError(f"network namespace {path}: no folder of it can be read")
