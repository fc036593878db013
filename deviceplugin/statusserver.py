"""The socket on which the agent says how its node is: who connects gets one JSON document, and is asked nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from deviceplugin.kubeletdir import identify
from sriov.status import NodeStatus, format_status
from sriov.unixsocket import bind_for_root

log = logging.getLogger(__name__)

WRITE_TIMEOUT = 5.0        # seconds that a reader has for the whole document
MOST_READERS = 16          # at a time; who comes when all of them read gets nothing and may try again


@asynccontextmanager
async def serving_status(path: Path, read: Callable[[], NodeStatus], *,
                         write_timeout: float = WRITE_TIMEOUT) -> AsyncIterator[None]:
    """Answer on `path`, for root only, as long as the context lasts; then the socket is gone.

    `read` is called on the event loop for each reader, and must not block. Raises Refused where another process
    serves the path, InputError where something else is there, HostError.
    """
    readers: set[asyncio.Task[None]] = set()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(readers) >= MOST_READERS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        readers.add(task)
        try:
            await _write(writer, read, write_timeout)
        finally:
            readers.discard(task)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        bind_for_root(listener, path, hint="one vfpool-agent runs on a node; stop the other one")
        identity = identify(path)
        try:
            server = await asyncio.start_unix_server(answer, sock=listener)
            try:
                yield
            finally:
                server.close()
                for task in readers:
                    task.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
        finally:
            if identify(path) == identity:
                path.unlink(missing_ok=True)


async def _write(writer: asyncio.StreamWriter, read: Callable[[], NodeStatus], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            writer.write(await _make_document(read))
            writer.close()
            await writer.wait_closed()
    except (TimeoutError, ConnectionError) as error:
        writer.transport.abort()
        log.debug("a reader of the status left, or is too slow: %s", error)
    except asyncio.CancelledError:
        writer.transport.abort()
        raise


async def _make_document(read: Callable[[], NodeStatus]) -> bytes:
    """Empty where the status cannot be told."""
    try:
        # Of thousands of VFs it takes a tenth of a second, in which the loop has others to serve.
        return (await asyncio.to_thread(format_status, read())).encode()
    except Exception:     # a bug of ours: the agent has more to do than to answer this
        log.exception("cannot say how the node is")
        return b""
