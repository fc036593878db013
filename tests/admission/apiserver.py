"""A small API server that knows NADs only: list in pages, watch with bookmarks, get; and the ways it can fail.

Source: Kubernetes API concepts (resource versions, "410 Gone", chunked lists, metadata alone).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from admission.mutation import RESOURCE_NAME

PATH = "/apis/k8s.cni.cncf.io/v1"
PLURAL = "network-attachment-definitions"


def nad(namespace: str, name: str, resource: str | None = None, config: str = "{}") -> dict[str, Any]:
    annotations = {} if resource is None else {"annotations": {RESOURCE_NAME: resource}}
    return {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"namespace": namespace, "name": name, **annotations}, "spec": {"config": config}}


class ApiServer:
    """Change it, and its watches hear of it. `calls` counts by verb, `versions` has what watches started at."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.most = 0                                    # gets that were under way at once
        self.tokens: list[str] = []                      # what requests had for authorization, without repetitions
        self.sent_configs = 0                            # objects that went out with their spec
        self.versions: list[str] = []
        self.fail: dict[str, int] = {}                   # HTTP status by verb
        self.open = {verb: asyncio.Event() for verb in ("list", "get")}      # cleared: answers wait
        for gate in self.open.values():
            gate.set()
        self.gone_by_event = True                        # "410 Gone" as an event of the watch, else as HTTP status
        self.url = "http://127.0.0.1:9"                  # until it serves
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._version = 100
        self._oldest = 100
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self._watches: set[asyncio.Transport] = set()
        self._ended = 0
        self._getting = 0

    @classmethod
    @asynccontextmanager
    async def start(cls, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        server = cls()
        async with server.serve(port, tls):
            yield server

    @asynccontextmanager
    async def serve(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """Listen as long as the context lasts; again on the same port later, with the same objects."""
        app = web.Application(middlewares=[self._note_token])
        app.router.add_get(f"{PATH}/{PLURAL}", self._collection)
        app.router.add_get(f"{PATH}/namespaces/{{namespace}}/{PLURAL}/{{name}}", self._object)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            self.cut_watches()
            await runner.cleanup()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def watching(self) -> int:
        return len(self._watches)

    def kubeconfig(self, path: Path, authority: Path | None = None) -> Path:
        trust = {} if authority is None else {"certificate-authority": str(authority)}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, **trust}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}))
        return path

    # ---- what happens in the cluster ----

    async def put(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            key = document["metadata"]["namespace"], document["metadata"]["name"]
            await self._record("MODIFIED" if key in self._objects else "ADDED", key, document)

    async def delete(self, namespace: str, name: str) -> None:
        await self._record("DELETED", (namespace, name), self._objects[namespace, name])

    async def bookmark(self) -> None:
        """Tell the watches a version that no NAD has: that of changes to other things."""
        self._version += 10
        await self._append("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})

    def forget_history(self) -> None:
        self._history.clear()
        self._oldest = self._version

    def cut_watches(self) -> None:
        """As when a load balancer restarts: the connections end in the middle of the stream."""
        for transport in list(self._watches):
            transport.abort()

    async def end_watches(self) -> None:
        """As the API server does after some minutes."""
        self._ended += 1
        async with self._changed:
            self._changed.notify_all()

    async def _record(self, change: str, key: tuple[str, str], document: dict[str, Any]) -> None:
        self._version += 1
        stored = {**document, "metadata": {**document["metadata"], "resourceVersion": str(self._version)}}
        if change == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = stored
        await self._append(change, stored)

    async def _append(self, change: str, document: dict[str, Any]) -> None:
        self._history.append((self._version, change, document))
        async with self._changed:
            self._changed.notify_all()

    # ---- answers ----

    @web.middleware
    async def _note_token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        token = request.headers.get("Authorization", "")
        if self.tokens[-1:] != [token]:
            self.tokens.append(token)
        response: web.StreamResponse = await handler(request)
        return response

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        return await (self._watch(request) if request.query.get("watch") in ("true", "1") else self._list(request))

    async def _list(self, request: web.Request) -> web.Response:
        objects, version = sorted(self._objects.items()), self._version
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 0)
        end = start + limit if limit else len(objects)
        metadata = {"resourceVersion": str(version)}
        if end < len(objects):
            metadata["continue"] = str(end)
        items = [self._view(request, document, "PartialObjectMetadataList") for _, document in objects[start:end]]
        kind = "PartialObjectMetadataList" if wants(request, "PartialObjectMetadataList") \
            else "NetworkAttachmentDefinitionList"
        return await self._answer("list", {
            "apiVersion": "meta.k8s.io/v1" if kind.startswith("Partial") else "k8s.cni.cncf.io/v1", "kind": kind,
            "metadata": metadata, "items": items})

    async def _object(self, request: web.Request) -> web.Response:
        self._getting += 1
        self.most = max(self.most, self._getting)
        try:
            return await self._get(request)
        finally:
            self._getting -= 1

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self._objects.get((request.match_info["namespace"], name))
        if found is None and "get" not in self.fail:
            self.calls["get"] += 1
            await self.open["get"].wait()
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound",
                                      "message": f'"{name}" not found', "details": {"name": name}}, status=404)
        return await self._answer("get", found and self._view(request, found, "PartialObjectMetadata"))

    def _view(self, request: web.Request, document: dict[str, Any], kind: str) -> dict[str, Any]:
        """The object, or its metadata alone if that was asked for as `kind`."""
        if wants(request, kind):
            return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": document["metadata"]}
        self.sent_configs += "spec" in document
        return document

    async def _answer(self, verb: str, document: object) -> web.Response:
        self.calls[verb] += 1
        await self.open[verb].wait()
        if verb in self.fail:
            return web.json_response({"kind": "Status", "message": "as the test wants", "code": self.fail[verb]},
                                     status=self.fail[verb])
        return web.json_response(document)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:        # client-go's first try; then it lists
            return web.json_response({"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422},
                                     status=422)
        since = request.query["resourceVersion"]
        self.versions.append(since)
        if "watch" in self.fail or (int(since) < self._oldest and not self.gone_by_event):
            status = self.fail.get("watch", 410)
            return web.json_response({"kind": "Status", "message": "not now", "code": status}, status=status)
        self.calls["watch"] += 1
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if int(since) < self._oldest:
            await _send(response, "ERROR", {"kind": "Status", "message": "too old resource version", "code": 410})
            return response
        transport = request.transport
        if transport is None:
            return response
        self._watches.add(transport)
        try:
            last, ended = int(since), self._ended
            while ended == self._ended:
                for version, change, document in list(self._history):
                    if version > last:
                        await _send(response, change, self._view(request, document, "PartialObjectMetadata"))
                        last = version
                async with self._changed:
                    if ended == self._ended and not any(version > last for version, *_ in self._history):
                        await self._changed.wait()
        except ConnectionResetError:
            pass                    # the test cut it, or the client went away
        finally:
            self._watches.discard(transport)
        return response


def wants(request: web.Request, kind: str) -> bool:
    """Whether the client prefers its answer as this kind of meta.k8s.io."""
    return request.headers.get("Accept", "").split(",")[0] == f"application/json;as={kind};g=meta.k8s.io;v=v1"


async def _send(response: web.StreamResponse, change: str, document: dict[str, Any]) -> None:
    await response.write(json.dumps({"type": change, "object": document}).encode() + b"\n")


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
