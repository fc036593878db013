"""The NADs of a cluster over its API. The one module that imports the Kubernetes client."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from kubernetes.aio import config as client_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

from admission.kubeconfig import explain, find_fault
from admission.nads import Change, ClusterError, Event, Expired, ForbiddenError
from sriov.errors import InputError

_NADS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"
_NAD = "/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"

# Only metadata is asked for: a NAD's configuration may have a megabyte, and nothing here reads it.
_METADATA = "application/json;as={kind};g=meta.k8s.io;v=v1,application/json"
_ONE, _LIST_OF = _METADATA.format(kind="PartialObjectMetadata"), _METADATA.format(kind="PartialObjectMetadataList")

_PAGE = 100               # NADs; each may have annotations of 256 KiB
_LIST = 30.0              # seconds for a page
_WATCH = 300, 600         # seconds; the API server's own choice is 30 to 60 minutes
_SILENCE = 150.0          # seconds; bookmarks come each minute, so that is a connection whose other end is gone


async def load_configuration(kubeconfig: Path | None) -> Configuration:
    """How to reach the API server: `kubeconfig`, or what a pod finds in its environment; InputError if neither."""
    configuration = Configuration()
    configuration.host = ""             # the client's default would be a server that nobody named
    if kubeconfig is None:
        source = "the pod's service account"
        try:
            client_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except client_config.ConfigException as error:
            raise InputError(f"not in a cluster: {str(error).rstrip('.')}",
                             hint="give --kubeconfig outside of one") from None
    else:
        source = f"kubeconfig {kubeconfig}"
        try:
            with kubeconfig.open("rb"):     # the client takes one that is not there for an empty one
                pass
            await client_config.load_kube_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=configuration, persist_config=False)
        except Exception as error:     # what is no kubeconfig ends in any exception of the client
            raise InputError(f"{source}: {explain(error)}") from None
    fault = find_fault(configuration.host, configuration.ssl_ca_cert, configuration.cert_file,
                       configuration.key_file, verify=configuration.verify_ssl)
    if fault is not None:
        raise InputError(f"{source}: {fault}")
    return configuration


@asynccontextmanager
async def open_cluster(configuration: Configuration) -> AsyncIterator[Cluster]:
    async with ApiClient(configuration) as client:
        yield Cluster(client)


class Cluster:
    """A `nads.Source` over one API server."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def pages(self) -> AsyncIterator[tuple[Iterable[Mapping[str, Any]], str]]:
        more = ""
        while True:
            query = [("limit", str(_PAGE)), *([("continue", more)] if more else [])]
            with _translated("cannot list NADs"):
                async with asyncio.timeout(_LIST), self._request(_NADS, query, accept=_LIST_OF) as response:
                    page = _decode(await response.response.read())
                    _check_status(response, page)
            metadata = page.get("metadata") or {}
            yield page.get("items") or (), str(metadata.get("resourceVersion", ""))
            more = metadata.get("continue") or ""
            if not more:
                return

    async def watch(self, version: str) -> AsyncIterator[Event]:
        seconds = random.randint(*_WATCH)
        query = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", version),
                 ("timeoutSeconds", str(seconds))]
        with _translated("cannot watch NADs"):
            async with self._request(_NADS, query, seconds + _SILENCE) as response:
                if response.status != 200:
                    _check_status(response, _decode(await response.response.read()))
                lines = response.response.content
                while True:
                    async with asyncio.timeout(_SILENCE):
                        line = await lines.readline()
                    if not line:
                        return
                    yield _read_event(line)

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        path = _NAD.format(namespace=quote(namespace, safe=""), name=quote(name, safe=""))
        with _translated(f"cannot get NAD {namespace}/{name}"):
            async with self._request(path, []) as response:
                found = _decode(await response.response.read())
                # A 404 that is not about this NAD is the CRD's absence.
                if response.status == 404 and (found.get("details") or {}).get("name") == name:
                    return None
                _check_status(response, found)
                return found

    @asynccontextmanager
    async def _request(self, path: str, query: list[tuple[str, str]], seconds: float | None = None, *,
                       accept: str = _ONE) -> AsyncIterator[RESTResponse]:
        # Not through CustomObjectsApi: its methods read the whole answer and make models of it.
        method, url, headers, body, _ = await self._client.param_serialize(
            "GET", path, query_params=query, header_params={"Accept": accept},
            auth_settings=["BearerToken"])
        response = await self._client.call_api(method, url, headers, body, _request_timeout=seconds)
        try:
            yield response
        finally:
            response.response.close()


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except ClusterError as error:
        raise type(error)(f"{operation}: {error.message}") from error
    except TimeoutError:
        raise ClusterError(f"{operation}: the API server did not answer in time") from None
    except Exception as error:  # the client lets through those of aiohttp, ssl, sockets, files and its own
        raise ClusterError(f"{operation}: {str(error) or repr(error)}") from error


def _decode(body: bytes) -> dict[str, Any]:
    """The answer's object; a plain text is put in one as a Status would have it."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"message": body[:200].decode(errors="replace").strip()}


def _check_status(response: RESTResponse, answer: Mapping[str, Any]) -> None:
    if response.status != 200:
        _refuse(response.status, answer)


def _refuse(code: object, status: Mapping[str, Any]) -> NoReturn:
    message = f"{status.get('message') or 'no reason given'} ({code})"
    if code == 403:
        raise ForbiddenError("vfpool-webhook is not allowed to, see its ClusterRole and ClusterRoleBinding: "
                             f"{message}")
    raise Expired(message) if code == 410 else ClusterError(message)


def _read_event(line: bytes) -> Event:
    event = json.loads(line)
    document = event["object"]
    if event["type"] == "ERROR":
        _refuse(document.get("code"), document)
    return Event(change=Change(event["type"]), object=document)
