"""`vfpool-webhook` as a process: flags, exit status, readiness, and a stop that drops nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from admission.__main__ import main
from tests.admission.apiserver import ApiServer, nad
from tests.admission.pods import pod, review
from tests.deviceplugin.harness import run, until
from tests.e2e.pki import Authority, KeyPair

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def pair(tmp_path):
    return Authority.make(tmp_path).issue("server", common_name="webhook", hosts=("127.0.0.1", "::1"))


def flags(pair: KeyPair, *more: str) -> list[str]:
    return [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}", *more]


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The webhook and its address, which it has logged."""
    made = await asyncio.create_subprocess_exec(sys.executable, "-m", "admission", *arguments, cwd=CHECKOUT,
                                                stderr=asyncio.subprocess.PIPE)
    assert made.stderr is not None
    try:
        line = ""
        while "serving on " not in line:
            line = (await made.stderr.readline()).decode()
            assert line, "it ended"
        yield made, line.rpartition(" ")[2].strip()
    finally:
        if made.returncode is None:
            made.kill()
        await made.stderr.read()
        await made.wait()


async def get(client: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with client.get(url) as answer:
        return answer.status, await answer.text()


async def readiness(client: aiohttp.ClientSession, url: str) -> None:
    """As a kubelet waits for it."""
    while (await get(client, f"{url}/readyz"))[0] != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_the_whole_process(pair, tmp_path, bind):
    async def whole() -> None:
        async with ApiServer.start() as api:
            await api.put(nad("default", "fast", "intel.com/sriov"))
            api.open["list"].clear()
            arguments = flags(pair, f"--bind={bind}", f"--kubeconfig={api.kubeconfig(tmp_path / 'kubeconfig')}")
            trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
            async with (process(*arguments) as (made, address),
                        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client):
                url = f"https://{address}"
                assert await get(client, f"{url}/readyz") == (503, "the NADs are not known yet\n")
                api.open["list"].set()
                await readiness(client, url)
                body = json.dumps(review(pod("fast"))).encode()
                async with client.post(f"{url}/mutate?timeout=3s", data=body) as answer:
                    assert "patch" in (await answer.json())["response"]
                assert api.calls["get"] == 0

                api.open["get"].clear()      # one request is under way when it is told to stop
                asking = asyncio.create_task(client.post(
                    f"{url}/mutate", data=json.dumps(review(pod("new"))).encode()))
                await until(lambda: api.calls["get"] == 1)
                made.send_signal(signal.SIGTERM)
                await asyncio.sleep(0)
                api.open["get"].set()
                async with await asking as answer:
                    response = (await answer.json())["response"]
                    assert response["status"]["message"].endswith("no NetworkAttachmentDefinition default/new")
                assert await made.wait() == 0

    run(whole, 60)


def test_what_was_known_is_served_while_the_api_server_is_away(pair, tmp_path):
    async def whole() -> None:
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        api = ApiServer()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)))
            async with api.serve():
                await api.put(nad("default", "fast", "intel.com/sriov"))
                arguments = flags(pair, "--bind=127.0.0.1:0", f"--kubeconfig={api.kubeconfig(tmp_path / 'config')}")
                _, address = await stack.enter_async_context(process(*arguments))
                await readiness(client, f"https://{address}")
            body = json.dumps(review(pod("fast,new"))).encode()
            async with client.post(f"https://{address}/mutate", data=body) as answer:
                response = (await answer.json())["response"]
            assert response["allowed"]
            assert response["patchType"] == "JSONPatch"
            (warning,) = response["warnings"]
            assert warning.startswith("networks[1]: cannot get NAD default/new: ")
            assert (await get(client, f"https://{address}/readyz"))[0] == 200

    run(whole, 60)


@pytest.mark.parametrize("bind", ["8443", "x:y", "127.0.0.1:65536", "::1:8443", "[::1]8443"])
def test_addresses_that_are_none(pair, bind, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags(pair, f"--bind={bind}"))
    assert caught.value.code == 2
    assert "expected ADDRESS:PORT like 127.0.0.1:8443 or [::1]:8443" in capsys.readouterr().err


def test_outside_of_a_cluster_a_kubeconfig_is_needed(pair, monkeypatch, caplog):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(flags(pair)) == 2
    assert "not in a cluster" in caplog.text
    assert "give --kubeconfig outside of one" in caplog.text


def test_a_kubeconfig_that_is_not_there(pair, caplog):
    assert main(flags(pair, "--kubeconfig=/no/such")) == 2
    assert caplog.messages[-1] == "kubeconfig /no/such: cannot read /no/such: No such file or directory"


def test_a_certificate_that_is_not_there(pair, tmp_path, caplog):
    pair.certificate.unlink()
    assert main(flags(pair, f"--kubeconfig={ApiServer().kubeconfig(tmp_path / 'kubeconfig')}")) == 2
    assert caplog.messages == [f"cannot read {pair.certificate}: No such file or directory"]


def test_an_address_that_is_taken(pair, tmp_path, caplog):
    kubeconfig = ApiServer().kubeconfig(tmp_path / "kubeconfig")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(flags(pair, f"--bind=127.0.0.1:{port}", f"--kubeconfig={kubeconfig}")) == 1
    assert f"cannot listen on 127.0.0.1:{port}: EADDRINUSE" in caplog.text
