"""The server over real TLS on loopback: pages, wrong input, certificates that change, and the way it stops."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from admission.certificate import Certificate
from admission.handler import Handler
from admission.server import format_address, serving
from sriov.errors import HostError
from tests.admission.pods import pod, review
from tests.admission.source import known_nads
from tests.deviceplugin.harness import run, until
from tests.e2e.pki import Authority, KeyPair


class Site:
    """A server and a client that trusts its authority."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self.client = client
        self.url = url
        self.unready: str | None = None

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.text()

    async def post(self, body: bytes, path: str = "/mutate?timeout=3s") -> tuple[int, str]:
        async with self.client.post(f"{self.url}{path}", data=io.BytesIO(body)) as answer:
            return answer.status, await answer.text()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def pair(authority):
    return authority.issue("server", common_name="webhook", hosts=("127.0.0.1",))


def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


@asynccontextmanager
async def site(authority: Authority, pair: KeyPair, mutate=None, host="127.0.0.1") -> AsyncIterator[Site]:
    certificate = Certificate(pair.certificate, pair.key)
    connector = aiohttp.TCPConnector(ssl=trust(authority))
    async with known_nads() as nads, aiohttp.ClientSession(connector=connector) as client:
        made = Site(client, "")
        async with serving((host, 0), certificate.context, mutate or Handler(nads).mutate,
                           lambda: made.unready) as address:
            made.url = f"https://{format_address(*address)}"
            yield made


def on_site(authority, pair, scenario, mutate=None):
    async def whole() -> None:
        async with site(authority, pair, mutate) as made:
            await scenario(made)

    run(whole)


def test_a_pod_is_admitted(authority, pair):
    async def scenario(made):
        for _ in range(2):        # over one connection
            status, text = await made.post(json.dumps(review(pod("fast"))).encode())
            assert status == 200
            response = json.loads(text)["response"]
            assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")

    on_site(authority, pair, scenario)


def test_pages(authority, pair):
    async def scenario(made):
        assert await made.get("/readyz") == (200, "ok\n")
        made.unready = "not yet"
        assert await made.get("/readyz") == (503, "not yet\n")
        assert await made.get("/mutate") == (405, "expected POST\n")
        assert (await made.get("/healthz"))[0] == 404
        assert (await made.post(b"{}", "/"))[0] == 404

    on_site(authority, pair, scenario)


def test_every_address_of_the_machine(authority, pair):
    async def whole() -> None:
        async with site(authority, pair, host="") as made:
            port = made.url.rpartition(":")[2]
            for host in ("127.0.0.1", "[::1]"):
                async with made.client.get(f"https://{host}:{port}/readyz", server_hostname="127.0.0.1") as answer:
                    assert answer.status == 200

    run(whole)


@pytest.mark.parametrize(("body", "text"), [
    (b"", "expected an AdmissionReview, got what is not JSON: "),
    (b"nonsense", "expected an AdmissionReview, got what is not JSON: "),
    (b'{"kind": "Pod", "apiVersion": "v1"}', "expected admission.k8s.io/v1 AdmissionReview, got v1 Pod"),
    (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "AdmissionReview: request is missing"),
    (b" " * (3 << 20) + b"{}", "expected at most 3145728 bytes"),
    (json.dumps(review(pod(), namespace="n" * 64)).encode(),
     "AdmissionReview: request.namespace has 64 characters, at most 63"),
])
def test_wrong_input_is_answered_with_400(authority, pair, body, text, caplog):
    async def scenario(made):
        status, got = await made.post(body)
        assert status == 400
        assert got.startswith(text)
        assert (await made.post(json.dumps(review(pod())).encode()))[0] == 200

    on_site(authority, pair, scenario)
    assert text in caplog.text


def test_a_large_pod_is_taken(authority, pair):
    async def scenario(made):
        document = review(pod("fast", annotations={"note": "x" * (3_000_000)}))
        status, text = await made.post(json.dumps(document).encode())
        assert status == 200
        assert json.loads(text)["response"]["allowed"]

    on_site(authority, pair, scenario)


LARGE = b" " * (1 << 19)


def test_large_bodies_take_turns_and_small_ones_do_not_wait_for_them(authority, pair):
    """A client that sends more waits in its connection, and costs no memory."""
    async def whole() -> None:
        inside, most, leave = 0, 0, asyncio.Event()

        async def slow(body: bytes) -> bytes:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            if body == LARGE:
                await leave.wait()
            inside -= 1
            return b"{}"

        async with site(authority, pair, slow) as made:
            asking = [asyncio.create_task(made.post(LARGE)) for _ in range(20)]
            await until(lambda: inside == 16)
            assert (await made.get("/readyz"))[0] == 200
            assert await made.post(b"{}") == (200, "{}")
            leave.set()
            assert await asyncio.gather(*asking) == [(200, "{}")] * 20
        assert most == 17

    run(whole)


def test_slow_clients_keep_nobody_waiting(authority, pair):
    """A hundred connections that send a part of a small body, and no more."""
    async def whole() -> None:
        async with site(authority, pair) as made, AsyncExitStack() as stack:
            port = int(made.url.rpartition(":")[2])
            for _ in range(100):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust(authority))
                stack.callback(writer.close)
                writer.write(b"POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
                await writer.drain()
            async with asyncio.timeout(2):      # theirs last 3 seconds
                assert (await made.post(json.dumps(review(pod())).encode()))[0] == 200

    run(whole)


def test_requests_under_way_end_before_the_server_does(authority, pair):
    async def whole() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow(body: bytes) -> bytes:
            entered.set()
            await leave.wait()
            return b"{}"

        async with site(authority, pair) as outer:
            async with site(authority, pair, slow) as made:
                asking = asyncio.create_task(outer.client.post(f"{made.url}/mutate", data=b"{}"))
                await entered.wait()
                asyncio.get_running_loop().call_later(0.1, leave.set)
            async with await asking as answer:
                assert (answer.status, await answer.read()) == (200, b"{}")
            with pytest.raises(aiohttp.ClientConnectorError):
                await outer.client.post(f"{made.url}/mutate", data=b"{}")

    run(whole)


def test_a_port_that_is_taken(authority, pair):
    async def scenario(made):
        port = int(made.url.rpartition(":")[2])
        with pytest.raises(HostError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: EADDRINUSE$"):
            async with serving(("127.0.0.1", port), Certificate(pair.certificate, pair.key).context, made.post,
                               lambda: None):
                pass

    on_site(authority, pair, scenario)


# ---- certificates ---------------------------------------------------------------------------------------


async def shown_serial(url: str, authority: Authority, **limits) -> int:
    """The serial number of the certificate that a new connection sees."""
    context = trust(authority)
    for name, value in limits.items():
        setattr(context, name, value)
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).serial_number
    finally:
        writer.close()
        await writer.wait_closed()


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def test_tls_versions(authority, pair):
    async def scenario(made):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await shown_serial(made.url, authority, minimum_version=version,
                                      maximum_version=version) == serial(pair.certificate)

    on_site(authority, pair, scenario)
    assert Certificate(pair.certificate, pair.key).context.minimum_version == ssl.TLSVersion.TLSv1_2


def secret(folder: Path, pair: KeyPair, generation: str) -> KeyPair:
    """The files as a mounted Secret has them: links through `..data`, which one rename swaps."""
    store = folder / f"..{generation}"
    store.mkdir()
    shutil.copy(pair.certificate, store / "tls.crt")
    shutil.copy(pair.key, store / "tls.key")
    (folder / "..new").symlink_to(store.name)
    (folder / "..new").rename(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    return KeyPair(certificate=folder / "tls.crt", key=folder / "tls.key")


def test_a_renewed_secret_is_shown_to_new_connections_and_old_ones_go_on(authority, tmp_path):
    first, second = (authority.issue(name, common_name="webhook", hosts=("127.0.0.1",)) for name in ("one", "two"))

    async def whole() -> None:
        mounted = secret(tmp_path, first, "1")
        certificate = Certificate(mounted.certificate, mounted.key)
        fresh = asyncio.create_task(certificate.keep_fresh(0.01))
        connector = aiohttp.TCPConnector(ssl=trust(authority))
        async with (known_nads() as nads, aiohttp.ClientSession(connector=connector) as client,
                    serving(("127.0.0.1", 0), certificate.context, Handler(nads).mutate, lambda: None) as address):
            made = Site(client, f"https://{format_address(*address)}")
            assert (await made.get("/readyz"))[0] == 200
            assert await shown_serial(made.url, authority) == serial(first.certificate)
            secret(tmp_path, second, "2")
            while await shown_serial(made.url, authority) != serial(second.certificate):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            connections = len(connector._conns)
            assert (await made.get("/readyz"))[0] == 200
            assert len(connector._conns) == connections == 1
        fresh.cancel()
        await asyncio.wait([fresh])

    run(whole)


def test_a_probe_that_only_connects_is_welcome(authority, pair, caplog):
    """It is how a kubelet asks whether the process lives."""
    caplog.set_level(logging.INFO)

    async def whole() -> None:
        async with (known_nads() as nads,
                    serving(("127.0.0.1", 0), Certificate(pair.certificate, pair.key).context, Handler(nads).mutate,
                            lambda: None) as address):
            caplog.clear()
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            await writer.wait_closed()
        assert caplog.messages == []

    run(whole)
