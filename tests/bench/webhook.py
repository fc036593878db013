"""What the webhook does in a second, beside its floor and, where there is one, network-resources-injector.

`python -m tests.bench.webhook [seconds]`. TLS, 8 connections that are kept, 1,000 NADs, three networks asked for;
the server has one core and the client another. The floor is aiohttp's server with json.loads and a fixed answer.
All take turns in one run. The peer is the executable `webhook` in the folder that VFPOOL_PEERS names.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

from aiohttp import web

from tests.admission.apiserver import ApiServer, nad, tls_context
from tests.admission.pods import container, pod, review
from tests.bench.turns import show
from tests.deviceplugin.harness import until
from tests.e2e.pki import Authority, KeyPair

CONNECTIONS, NADS, ROUNDS = 8, 1000, 3
SIZES = (2, 20)                   # containers of a pod
CORES = sorted(os.sched_getaffinity(0))
FLOOR, OURS, PEER = "floor", "vfpool-webhook", "network-resources-injector"
CONFIG = json.dumps({"cniVersion": "1.0.0", "type": "vfpool", "vlan": 100,
                     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/24"}]]}})


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last one is complete."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._request, self._until, self._latencies = request, until, latencies
        self._transport: asyncio.Transport | None = None
        self._sent, self._answer = 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or not _complete(head, body):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._until:
            self._answer = b""
            self._send()
        elif not self.done.done():
            self.done.set_result(self._answer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def _complete(head: bytes, body: bytes) -> bool:
    headers = head.lower()
    if b" 200 " not in headers[:16]:
        raise AssertionError(f"answered {head + body!r}")
    _, found, rest = headers.partition(b"content-length:")
    # Go sends long answers in chunks.
    return len(body) >= int(rest.split(b"\r\n")[0]) if found else body.endswith(b"\r\n0\r\n\r\n")


def _joined(body: bytes) -> bytes:
    """A body without its chunks' lengths, if it has any."""
    if body.startswith(b"{"):
        return body
    parts = []
    while body:
        length, _, rest = body.partition(b"\r\n")
        parts.append(rest[: int(length, 16)])
        body = rest[int(length, 16) + 2 :]
    return b"".join(parts)


async def load(port: int, body: bytes, seconds: float, tls: ssl.SSLContext) -> tuple[list[float], float, bytes]:
    """Latencies in seconds, requests/s, and the last answer."""
    request = (f"POST /mutate?timeout=3s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    latencies: list[float] = []
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    made = [await loop.create_connection(lambda: Client(request, start + seconds, latencies), "127.0.0.1", port,
                                         ssl=tls) for _ in range(CONNECTIONS)]
    answers = await asyncio.gather(*(client.done for _, client in made))
    took = time.perf_counter() - start
    for _, client in made:
        client.close()
    return latencies, len(latencies) / took, _joined(answers[0].partition(b"\r\n\r\n")[2])


def make_review(containers: int) -> bytes:
    """What an API server sends about a pod of a ReplicaSet: 1.9 KB and more."""
    token = {"name": "kube-api-access-x2x9z", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
             "readOnly": True}
    amounts = {"cpu": "100m", "memory": "64Mi"}
    members = [container(f"c{n}", amounts, amounts, volumeMounts=[token], terminationMessagePolicy="File",
                         terminationMessagePath="/dev/termination-log", imagePullPolicy="IfNotPresent",
                         env=[{"name": "LEVEL", "value": "info"}, {"name": "PORT", "value": str(8000 + n)}])
               for n in range(containers)]
    asked = pod("n1,n500,n999", *members, serviceAccountName="default", schedulerName="default-scheduler",
                securityContext={}, restartPolicy="Always", terminationGracePeriodSeconds=30, priority=0,
                enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", dnsPolicy="ClusterFirst")
    asked["metadata"] |= {"generateName": "app-5d5c7b8f6d-", "labels": {"pod-template-hash": "5d5c7b8f6d"}}
    return json.dumps(review(asked, dryRun=False, oldObject=None,
                             requestKind={"group": "", "version": "v1", "kind": "Pod"},
                             options={"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
                             userInfo={"username": "system:serviceaccount:kube-system:replicaset-controller",
                                       "groups": ["system:serviceaccounts", "system:authenticated"]})).encode()


# ---- servers --------------------------------------------------------------------------------------------


class Server:
    """A process on the first core, the client has the second."""

    def __init__(self, name: str, port: int, command: Sequence[str], environment: Mapping[str, str] | None = None,
                 *, ready: tuple[int, str]) -> None:
        pin = ["taskset", "-c", str(CORES[0])] if len(CORES) > 1 else []
        self.name, self.port, self._ready = name, port, ready
        self.latencies: dict[int, list[float]] = {size: [] for size in SIZES}
        self.rates: dict[int, list[float]] = {size: [] for size in SIZES}
        self.costs: dict[int, list[float]] = {size: [] for size in SIZES}     # CPU seconds of a request
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen([*pin, *command], env={**os.environ, **(environment or {})},
                                         stdout=self._log, stderr=self._log)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    async def wait(self, tls: ssl.SSLContext) -> None:
        """Until its probe answers 200."""
        port, path = self._ready
        for _ in range(300):
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"{self.name} ended: {self._log.read().decode()}")
            await asyncio.sleep(0.1)
            with suppress(OSError):
                answer = await get(port, path, tls if port == self.port else None)
                if answer.startswith(b"HTTP/1.1 200"):
                    return
        raise TimeoutError(f"{self.name} is not ready")

    def cpu(self) -> float:
        """Seconds so far, of all threads."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def rss(self) -> float:
        """MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000


async def get(port: int, path: str, tls: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def serve_floor(port: int, pair: KeyPair) -> None:
    """What no webhook on aiohttp can do without."""
    patch = base64.b64encode(json.dumps([{"op": "add", "path": "/x", "value": "1"}] * 4).encode()).decode()

    async def answer(request: web.BaseRequest) -> web.Response:
        uid = json.loads(await request.read())["request"]["uid"] if request.method == "POST" else ""
        response = {"uid": uid, "allowed": True, "patchType": "JSONPatch", "patch": patch}
        return web.Response(content_type="application/json", body=json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode())

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls_context(pair.certificate, pair.key)).start()
        await asyncio.Event().wait()

    asyncio.run(serve())


def peer_command(program: Path, ports: Sequence[int], pair: KeyPair, folder: Path) -> list[str]:
    """It finds the API server as a pod does, in a fixed folder: in its own mount namespace that is ours."""
    account = "/run/secrets/kubernetes.io/serviceaccount"
    mount = (f"mount -t tmpfs tmpfs /run && mkdir -p {account} && cp {folder}/ca.crt {account}/ && "
             f'echo secret > {account}/token && exec "$@"')
    return ["unshare", "--mount", "sh", "-c", mount, "sh", str(program), f"-port={ports[0]}",
            f"-health-check-port={ports[1]}", "-bind-address=127.0.0.1", "-insecure=true",
            f"-tls-cert-file={pair.certificate}", f"-tls-private-key-file={pair.key}", "-alsologtostderr=false"]


def find_peer() -> Path | str:
    """Its executable, or why it is not measured."""
    folder = os.environ.get("VFPOOL_PEERS")
    program = Path(folder, "webhook") if folder else None
    if program is None or not program.is_file():
        return "VFPOOL_PEERS names no folder that has it (webhook)"
    return program if os.geteuid() == 0 else "it needs root, for a mount namespace"


async def measure(seconds: float, folder: Path, note: Callable[[str], None]) -> list[Server]:
    authority = Authority.make(folder)
    pair = authority.issue("server", common_name="webhook", hosts=("127.0.0.1",))
    tls = ssl.create_default_context(cafile=str(authority.certificate))
    ports = free_ports(4)
    files = [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}"]
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer.start(tls=tls_context(pair.certificate, pair.key)))
        await api.put(*(nad("default", f"n{n}", f"intel.com/pool{n % 3}", CONFIG) for n in range(NADS)))
        kubeconfig = api.kubeconfig(folder / "kubeconfig", authority.certificate)
        here = [sys.executable, "-m"]
        servers = [
            Server(FLOOR, ports[0], [*here, "tests.bench.webhook", "floor", str(ports[0]), str(pair.certificate),
                                     str(pair.key)], ready=(ports[0], "/")),
            Server(OURS, ports[1], [*here, "admission", f"--kubeconfig={kubeconfig}", *files,
                                    f"--bind=127.0.0.1:{ports[1]}"], ready=(ports[1], "/readyz"))]
        peer = find_peer()
        if isinstance(peer, Path):
            where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
            servers.append(Server(PEER, ports[2], peer_command(peer, ports[2:], pair, folder), where,
                                  ready=(ports[3], "/healthz")))
        else:
            note(f"{PEER} was not measured: {peer}")
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            await server.wait(tls)
        async with asyncio.timeout(30):
            await until(lambda: api.watching == len(servers) - 1)      # every webhook has the NADs in its cache
        calls = dict(api.calls)
        bodies = {size: make_review(size) for size in SIZES}
        for turn in range(-1, ROUNDS):
            for size, body in bodies.items():
                for server in servers:
                    before = server.cpu()
                    latencies, rate, answer = await load(server.port, body, seconds if turn >= 0 else 0.5, tls)
                    check_answer(server.name, answer)
                    if turn >= 0:
                        server.latencies[size] += latencies
                        server.rates[size].append(rate)
                        server.costs[size].append((server.cpu() - before) / len(latencies))
        if dict(api.calls) != calls:
            raise AssertionError(f"the API server was called under load: {calls}, then {dict(api.calls)}")
        report(servers, {size: len(body) for size, body in bodies.items()}, note)
    return servers


def check_answer(name: str, answer: bytes) -> None:
    response = json.loads(answer)["response"]
    patch = json.loads(base64.b64decode(response["patch"]))
    if name != FLOOR and sum(operation["value"] == "1" for operation in patch) != 6:
        raise AssertionError(f"{name} answered {patch}")     # 3 resources, each as limit and as request


def report(servers: Sequence[Server], sizes: Mapping[int, int], note: Callable[[str], None]) -> None:
    for size, length in sizes.items():
        title = f"pod of {size} containers, {length / 1000:.1f} KB"
        note(f"{title:31}  requests/s  p50 ms  p99 ms  x floor   x peer  CPU us  RSS MB")
        rate = {server.name: statistics.median(server.rates[size]) for server in servers}
        for server in servers:
            ordered, mine = sorted(server.latencies[size]), rate[server.name]
            p50, p99 = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
            ratios = "".join(f"{mine / rate[name]:9.2f}" if name in rate else "        -" for name in (FLOOR, PEER))
            cost = statistics.median(server.costs[size]) * 1e6
            note(f"  {server.name:29}{mine:12.0f}{p50:8.2f}{p99:8.2f}{ratios}{cost:8.0f}{server.rss():8.1f}")


def main() -> None:
    if sys.argv[1:2] == ["floor"]:
        serve_floor(int(sys.argv[2]), KeyPair(certificate=Path(sys.argv[3]), key=Path(sys.argv[4])))
        return
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[1:])
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, Path(folder), show))


if __name__ == "__main__":
    main()
