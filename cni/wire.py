"""The CNI executable's conversation with the agent: one request and one answer on a unix stream socket.

    request    VFPOOL-CNI 1 <bytes of env> <bytes of stdin>\\n
               env: the caller's CNI_* variables as KEY=VALUE\\0...
               stdin: the network configuration, as it came
    answer     <exit status> <bytes of document>\\n
               document: what the executable prints on stdout

The descriptor of the network namespace goes with the request's first bytes (SCM_RIGHTS) where CNI_NETNS
names something that opens. The client sends nothing after the request and closes after the answer: when the
socket turns readable in between, the client has given up and what was done is to be undone.
The other end is shim/vfpool.c.
"""

from __future__ import annotations

import array
import errno
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sriov.errors import HostError, InputError

SOCKET_PATH = "/run/vfpool/cni.sock"
MAX_ENV = 64 << 10
MAX_STDIN = 4 << 20
MAX_DOCUMENT = 4 << 20
HEADER_LIMIT = 32    # bytes of either first line

_REQUEST = re.compile(rb"VFPOOL-CNI 1 (\d{1,7}) (\d{1,7})")
_ANSWER = re.compile(rb"(\d{1,3}) (\d{1,7})")
_CHUNK = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the CNI executable. `netns` is an open descriptor, or None where none came."""

    env: Mapping[str, str]
    stdin: bytes
    netns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the executable prints on stdout (empty: nothing) and the status that it exits with.

    `undo`: the result of an ADD that was done for this call, and is to be undone where its caller hears nothing of
    it; not for the executable.
    """

    status: int
    document: bytes = b""
    undo: Mapping[str, Any] | None = None


def encode_call(env: Mapping[str, str], stdin: bytes) -> bytes:
    """Header, CNI_* variables of `env`, stdin; raise InputError over a limit."""
    pairs = (f"{key}={value}\0" for key, value in env.items() if key.startswith("CNI_"))
    block = "".join(pairs).encode("utf-8", "surrogateescape")
    _check_limit("the CNI_* environment", len(block), MAX_ENV)
    _check_limit("the network configuration", len(stdin), MAX_STDIN)
    return b"VFPOOL-CNI 1 %d %d\n%b%b" % (len(block), len(stdin), block, stdin)


def parse_call(data: bytes | bytearray) -> Call | None:
    """The call without its descriptor; None while more is to come; raise InputError for what is none."""
    header = _split_header(data, _REQUEST, "a CNI call")
    if header is None:
        return None
    start, env_size, stdin_size = header
    _check_limit("the CNI_* environment", env_size, MAX_ENV)
    _check_limit("the network configuration", stdin_size, MAX_STDIN)
    middle, end = start + env_size, start + env_size + stdin_size
    if len(data) > end:
        raise InputError(f"read a CNI call: {len(data) - end} bytes follow its {end} bytes, expected none")
    if len(data) < end:
        return None
    return Call(env=_parse_env(bytes(data[start:middle])), stdin=bytes(data[middle:end]))


def encode_answer(answer: Answer) -> bytes:
    _check_limit("the answer", len(answer.document), MAX_DOCUMENT)
    return b"%d %d\n%b" % (answer.status, len(answer.document), answer.document)


def parse_answer(data: bytes | bytearray) -> Answer | None:
    """The answer; None while more is to come; raise InputError for anything else."""
    header = _split_header(data, _ANSWER, "the agent's answer")
    if header is None:
        return None
    start, status, size = header
    _check_limit("the exit status", status, 255)
    _check_limit("the answer", size, MAX_DOCUMENT)
    if len(data) < start + size:
        return None
    return Answer(status=status, document=bytes(data[start : start + size]))


def _split_header(data: bytes | bytearray, form: re.Pattern[bytes], what: str) -> tuple[int, int, int] | None:
    end = data.find(b"\n", 0, HEADER_LIMIT)
    if end < 0 and len(data) < HEADER_LIMIT:
        return None
    match = form.fullmatch(data, 0, max(end, 0))
    if match is None:
        raise InputError(f"read {what}: the first line is {bytes(data[:HEADER_LIMIT])!r}")
    return end + 1, int(match[1]), int(match[2])


def _parse_env(block: bytes) -> dict[str, str]:
    env: dict[str, str] = {}
    if block and not block.endswith(b"\0"):
        raise InputError("read a CNI call: its environment does not end with a zero byte")
    for entry in block.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        key, equals, value = entry.partition("=")
        if not equals:
            raise InputError(f"read a CNI call: {entry!r} in its environment, expected KEY=VALUE")
        env.setdefault(key, value)    # as getenv: the first of two counts
    return env


def _check_limit(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputError(f"{what} is {size}, at most {limit} is allowed")


class CallReader:
    """Collects one call from a connected socket, in whatever pieces it comes.

    The reader owns the descriptor that comes along: close the reader when no thread uses that any more.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._netns: int | None = None

    def receive(self, sock: socket.socket) -> Call | None:
        """Wait for the next piece and take it; None: more is to come.

        Raises InputError for anything that is no request, a client that leaves before its end included.
        """
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        data, ancillary, flags, _ = sock.recvmsg(_CHUNK, room, socket.MSG_CMSG_CLOEXEC)
        received = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
        surplus = received[1 if self._netns is None else 0 :]
        if self._netns is None and received:
            self._netns = received[0]
        for descriptor in surplus:
            os.close(descriptor)
        if surplus or flags & socket.MSG_CTRUNC:
            raise InputError("read a CNI call: more than one descriptor came with it")
        if not data:
            raise InputError(f"read a CNI call: the client left after {len(self._data)} bytes of it")
        self._data += data
        call = parse_call(self._data)
        return call and Call(env=call.env, stdin=call.stdin, netns=self._netns)

    def close(self) -> None:
        if self._netns is not None:
            os.close(self._netns)
            self._netns = None

    def __enter__(self) -> CallReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_agent(
    env: Mapping[str, str], stdin: bytes, *, path: str = SOCKET_PATH, timeout: float = 60.0
) -> Answer:
    """Pass one CNI call to the agent and wait up to `timeout` seconds for its answer.

    Raises InputError over a limit, HostError where the agent cannot be reached (ENOENT, ECONNREFUSED: no
    agent lives), does not answer in time (ETIMEDOUT) or gives up its answer half way (ECONNRESET).
    """
    request = encode_call(env, stdin)
    deadline = time.monotonic() + timeout
    received = bytearray()
    with socket.socket(socket.AF_UNIX) as sock, _open_netns(env.get("CNI_NETNS")) as netns:
        try:
            sock.settimeout(timeout)
            sock.connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", netns))] if netns else []
            with suppress(BrokenPipeError, ConnectionResetError):    # it may have answered before it closed
                sent = sock.sendmsg([request], rights)
                sock.sendall(request[sent:])
            while (answer := parse_answer(received)) is None:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                data = sock.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "closed without a complete answer")
                received += data
        except TimeoutError as error:
            message = f"call the agent on {path}: no answer in {timeout:g} s"
            raise HostError(message, errno=errno.ETIMEDOUT) from error
        except InputError as error:
            raise HostError(f"call the agent on {path}: {error.message}") from error
        except OSError as error:
            raise HostError(f"call the agent on {path}", errno=error.errno or 0) from error
    return answer


@contextmanager
def _open_netns(path: str | None) -> Iterator[list[int]]:
    """The descriptor to send, or none: a namespace that is gone is nothing unusual for a DEL."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if path else None
    except OSError:
        descriptor = None
    try:
        yield [] if descriptor is None else [descriptor]
    finally:
        if descriptor is not None:
            os.close(descriptor)
