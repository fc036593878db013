"""The unix socket that one resource is served on."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from deviceplugin.kubeletdir import Identity, identify
from sriov import unixsocket
from sriov.errors import HostError

_TWO_PLUGINS = "stop the other device plugin for this resource, or rename the resource"

_serial = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    path: Path
    identity: Identity

    def present(self) -> bool:
        """False: it was deleted, or somebody put another socket in its place."""
        return identify(self.path) == self.identity


def check_unserved(path: Path) -> None:
    """Raise Refused if a live process listens on `path`, HostError or InputError if that cannot be told.

    The kubelet keeps one client per resource: of two plugins that overlap, it drops the newer one as soon
    as the older one goes.
    """
    unixsocket.check_unserved(path, hint=_TWO_PLUGINS)


def make_room(path: Path) -> None:
    """Remove the socket that a dead process left at `path`; raises as `check_unserved` does."""
    unixsocket.make_room(path, hint=_TWO_PLUGINS)


@asynccontextmanager
async def serving(server: grpc.aio.Server, path: Path) -> AsyncIterator[Endpoint]:
    """Run `server` on `path` and take the socket away at the end, if it is still ours.

    Raises HostError if the socket cannot be made. It is bound under a hidden name, which the kubelet's
    watcher skips, and renamed when it answers. gRPC unlinks the name that it bound when it stops: with the
    final name that could be the socket of whoever came after us.
    """
    hidden = path.with_name(f".{path.name}.{next(_serial)}")
    if not path.parent.is_dir():
        raise HostError(f"cannot serve {path}: its folder does not exist", hint="is the kubelet running?")
    try:
        server.add_insecure_port(f"unix:{hidden}")
    except RuntimeError as error:
        raise HostError(f"cannot serve {path}: {error}") from error
    await server.start()
    try:
        identity = identify(hidden)
        if identity is None:
            raise HostError(f"cannot serve {path}: somebody deleted the socket")
        hidden.rename(path)
        endpoint = Endpoint(path=path, identity=identity)
        try:
            yield endpoint
        finally:
            if endpoint.present():
                path.unlink(missing_ok=True)
    finally:
        await server.stop(None)
