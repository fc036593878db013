"""What the running agent says of this node."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

from sriov.commands.invocation import DONE, FAILED, Node
from sriov.errors import HostError, InputError, SriovError
from sriov.status import NodeStatus, parse_status
from sriov.views.output import Output
from sriov.views.statustext import format_status, status_document

TIMEOUT = 5.0              # seconds for the whole answer
_MOST = 64 << 20           # bytes; 4,096 VFs are 2 MiB
_START = "start vfpool-agent; in a cluster see why it does not run: kubectl -n vfpool-system get pods -o wide"
_OTHER = "is this the agent's status socket?"


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    status = ask_agent(arguments.socket)
    output.show(status_document(status), lambda: format_status(status, output.paint))
    return FAILED if any(status.find_problems()) else DONE


def ask_agent(path: Path, timeout: float = TIMEOUT) -> NodeStatus:
    """What the agent that serves the socket says; raises SriovError that says why nobody does."""
    cannot = f"cannot ask the agent at {path}"
    try:
        answer = _read_all(path, time.monotonic() + timeout)
    except TimeoutError:
        raise SriovError(f"{cannot}: it has not answered within {timeout:g} s",
                         hint="it hangs, or this is not its status socket: see the agent's log") from None
    except BlockingIOError:
        raise SriovError(f"{cannot}: too many others wait for its answer", hint="it hangs: see its log") from None
    except OSError as error:
        raise _explain(path, cannot, error) from None
    if not answer:
        raise SriovError(f"{cannot}: it closed the connection without an answer",
                         hint="it stops, or many others ask: try again")
    try:
        return parse_status(answer.decode())
    except InputError as error:
        raise SriovError(f"{cannot}: its answer is {error.message}", hint=error.hint or _OTHER) from None
    except UnicodeDecodeError:
        raise SriovError(f"{cannot}: its answer is not UTF-8 text", hint=_OTHER) from None


def _explain(path: Path, cannot: str, error: OSError) -> SriovError:
    """Why there is nobody to ask, and what to do."""
    match error:
        case FileNotFoundError():
            return HostError(f"{cannot}: there is no such socket, so no agent runs, or it serves another path",
                             hint=f"{_START}; --socket PATH for another path")
        case ConnectionRefusedError() if path.is_socket():
            return HostError(f"{cannot}: nobody serves this socket, the agent that made it has ended", hint=_START)
        case ConnectionRefusedError():
            return InputError(f"{cannot}: it is no socket", hint="--socket PATH of the agent's status socket")
        case PermissionError():
            return HostError(f"{cannot}: only root may", errno=error.errno or 0, hint="run vfpool status as root")
        case _:      # a path above 107 bytes has no errno
            return HostError(cannot if error.errno else f"{cannot}: {error}", errno=error.errno or 0)


def _read_all(path: Path, deadline: float) -> bytes:
    """What is sent until the other side closes; raises TimeoutError, OSError."""
    data = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_left(deadline))
        connection.connect(str(path))
        while chunk := connection.recv(1 << 16):
            data += chunk
            if len(data) > _MOST:
                raise OSError(f"it sends more than {_MOST >> 20} MiB")
            connection.settimeout(_left(deadline))
    return bytes(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
