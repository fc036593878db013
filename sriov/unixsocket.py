"""Making room for a unix socket, and binding one that only root may use."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from sriov.errors import HostError, InputError, Refused


def check_unserved(path: Path, *, hint: str) -> bool:
    """Whether a socket is at `path` on which nobody listens, be it not any more or not yet.

    Raises Refused with `hint` where a process does, InputError where there is something else, HostError where it
    cannot be found out.
    """
    if path.exists() and not path.is_socket():
        raise InputError(f"cannot serve {path}: it is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return False
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            owner = "another process, too busy to answer,"      # its backlog is full
        except OSError as error:
            reason = error.strerror or str(error)               # a path above 107 bytes has no errno
            raise HostError(f"cannot connect to {path}: {reason}", errno=error.errno or 0) from error
        else:
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, _, _ = struct.unpack("3i", credentials)
            owner = f"process {pid}" if pid else "a process of another container"
    raise Refused(f"cannot serve {path}: {owner} serves it", hint=hint)


def make_room(path: Path, *, hint: str) -> None:
    """Remove the socket that a dead process left at `path`; raises as `check_unserved` does."""
    if check_unserved(path, hint=hint):
        path.unlink(missing_ok=True)


def bind_for_root(server: socket.socket, path: Path, *, hint: str) -> None:
    """Bind to `path`, in place of a dead process's socket, with mode 0600; its folder is made where it is missing.

    The socket does not listen yet: nobody can connect before the mode is right. Raises as `make_room` does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_room(path, hint=hint)
        server.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        raise HostError(f"cannot serve {path}", errno=error.errno or 0) from error
