"""HTTPS for the API server and for probes. The one module that imports aiohttp."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from aiohttp import web

from sriov.errors import HostError, InputError

log = logging.getLogger(__name__)

# Anybody who reaches the port may send something: what is held at once has an end.
_MAX_BODY = 3 << 20           # bytes; etcd takes objects of 1.5 MiB, and a review may hold two
_SMALL = 256 << 10           # bytes; a pod's review has about ten thousand
_LARGE = 16                   # larger bodies at once
_BODY = 3.0                   # seconds until the body has to be there
_DRAIN = 10.0                 # seconds that requests have to end when the server stops

Mutate = Callable[[bytes], Awaitable[bytes]]
Unready = Callable[[], str | None]
Address = tuple[str, int]     # host and port; no host: every address of the machine


@asynccontextmanager
async def serving(address: Address, tls: ssl.SSLContext, mutate: Mutate,
                  unready: Unready) -> AsyncIterator[tuple[str, int]]:
    """Serve while the context lasts, then let the requests under way end. Gives the address, port 0 resolved.

    `mutate` raises InputError for a body that makes no sense; `unready` says why pods should not be sent here yet.
    """
    server = web.Server(_Pages(mutate, unready).answer, request_factory=_make_request, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=_DRAIN)
    await runner.setup()
    try:
        try:
            await web.SockSite(runner, _listen(*address), ssl_context=tls).start()
        except OSError as error:
            raise HostError(f"cannot listen on {format_address(*address)}", errno=error.errno or 0) from None
        host, port = runner.addresses[0][:2]
        log.info("serving on %s", format_address(host, port))
        yield host, port
    finally:
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    if not host:
        # One socket for both families; where the kernel's IPv6 is switched off, it cannot be bound.
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


class _Pages:
    def __init__(self, mutate: Mutate, unready: Unready) -> None:
        self._mutate = mutate
        self._unready = unready
        self._large = asyncio.Semaphore(_LARGE)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        # The API server appends its timeout as a query.
        match request.path:
            case "/mutate" if request.method == "POST":
                return await self._answer_review(request)
            case "/mutate":
                return web.Response(status=405, headers={"Allow": "POST"}, text="expected POST\n")
            case "/readyz":
                reason = self._unready()
                return web.Response(status=503, text=f"{reason}\n") if reason else web.Response(text="ok\n")
            case _:
                return web.Response(status=404, text="expected /mutate or /readyz\n")

    async def _answer_review(self, request: web.BaseRequest) -> web.Response:
        try:
            # Who sends a large body slowly must not keep others from sending theirs.
            small = request.content_length is not None and request.content_length <= _SMALL
            async with nullcontext() if small else self._large:
                async with asyncio.timeout(_BODY):
                    body = await request.read()
                answer = await self._mutate(body)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(f"expected at most {_MAX_BODY} bytes")
        except TimeoutError:
            return _refuse(f"the request's body did not arrive within {_BODY:g} s")
        except InputError as error:
            return _refuse(error.message)
        return web.Response(body=answer, content_type="application/json")


def _refuse(message: str) -> web.Response:
    log.warning("a request was refused: %s", message)
    response = web.Response(status=400, text=f"{message}\n")
    response.force_close()
    return response


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:  # noqa: ANN401
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(),
                           client_max_size=_MAX_BODY)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
