"""A Kubernetes control plane of its own on this host's loopback: etcd, API server, controllers, scheduler."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import ssl
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.components import Components
from tests.e2e.kubectl import Kubectl
from tests.e2e.pki import Authority, KeyPair, make_key, write_key
from tests.e2e.process import TAIL, Process, find_free_ports

HOST_IN_GUEST = "10.0.2.2"      # QEMU's user network: this host's loopback, seen from the guest
SERVICE_RANGE = "10.96.0.0/24"
SERVER_NAMES = ("127.0.0.1", "localhost", HOST_IN_GUEST, "10.96.0.1", "kubernetes.default.svc")
ISSUER = "https://kubernetes.default.svc.cluster.local"
TOKEN_DURATION = "8h"
READY_SECONDS = 90


class ControlPlane:
    """`with ControlPlane(components, folder) as plane: Kubectl(kubectl, plane.admin).run("get", "nodes")`.

    RBAC and the node authorizer decide, as in any cluster. All files are in `folder`; logs, certificates and
    kubeconfigs stay there at the end, the data goes. Inside, `admin` may do everything.
    """

    def __init__(self, components: Components, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        self._components = components
        self._stack = ExitStack()
        self.authority = Authority.make(folder / "pki")
        self.port, *ports = find_free_ports(5)
        self._etcd_port, self._etcd_peer_port, self._controllers_port, self._scheduler_port = ports
        write_key(folder / "pki/service-accounts.key", make_key())
        serving = self.authority.issue("apiserver", common_name="kube-apiserver", hosts=SERVER_NAMES)
        to_kubelet = self.authority.issue(
            "apiserver-kubelet-client", common_name="kube-apiserver", organizations=["system:masters"])
        self.admin = self.kubeconfig("admin", common_name="admin", organizations=["system:masters"])
        self._context = ssl.create_default_context(cafile=str(self.authority.certificate))
        self._kubectl = Kubectl(components.program("kubectl"), self.admin)
        self._etcd = self._process("etcd", self._etcd_flags())
        self._apiserver = self._process("kube-apiserver", self._apiserver_flags(serving, to_kubelet))
        self._controllers = self._process("kube-controller-manager", self._controllers_flags(serving))
        self._scheduler = self._process("kube-scheduler", self._scheduler_flags(serving))
        self._processes = (self._etcd, self._apiserver, self._controllers, self._scheduler)

    @property
    def server(self) -> str:
        """The API server's URL on this host."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def guest_server(self) -> str:
        """The API server's URL in the lab's guest, and in what runs there in the host's network."""
        return f"https://{HOST_IN_GUEST}:{self.port}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder / "etcd", ignore_errors=True)
            # Killed, the last one first: nobody reads this data again, and nothing has to be told.
            for process in self._processes:
                stack.callback(process.kill)
            self._etcd.start()
            self._wait_ready(self._etcd, self._etcd_port, "/readyz", tls=False)
            self.start_apiserver()
            self._controllers.start()
            self._scheduler.start()
            self._wait_ready(self._controllers, self._controllers_port, "/healthz")
            self._wait_ready(self._scheduler, self._scheduler_port, "/readyz")
            # The controllers' first work. Without the account no pod is admitted; without the map none starts
            # that mounts a token.
            self._kubectl.wait_until("create", "serviceaccount", "default")
            self._kubectl.wait_until("create", "configmap", "kube-root-ca.crt")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def stop_apiserver(self) -> None:
        """End the API server at once (SIGKILL); everything else stays, and so does the data.

        Asked by SIGTERM it would wait for its watches, and serve them, for more than 10 s.
        """
        self._apiserver.kill()

    def start_apiserver(self) -> None:
        """Start it, on the same port as ever, and wait until it is ready."""
        self._apiserver.start()
        self._wait_ready(self._apiserver, self.port, "/readyz")

    def log_tail(self, name: str, lines: int = TAIL) -> str:
        """The last log lines of etcd, kube-apiserver, kube-controller-manager or kube-scheduler."""
        return {process.name: process for process in self._processes}[name].log_tail(lines)

    def find_end(self) -> str | None:
        """Of the first of them that ended by itself, how; None where all run, or were stopped."""
        return next(filter(None, (process.find_end() for process in self._processes)), None)

    def kubeconfig(
        self, name: str, *, common_name: str, organizations: Iterable[str] = (), server: str | None = None
    ) -> Path:
        """A kubeconfig with a new client certificate: user `common_name` in the groups `organizations`.

        It holds all that it needs, so it can be copied into the guest (with `server=plane.guest_server`).
        """
        pair = self.authority.issue(f"client-{name}", common_name=common_name, organizations=organizations)
        user = {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}
        return self._write_kubeconfig(name, user, server or self.server)

    def token_kubeconfig(
        self, name: str, namespace: str, service_account: str, *, server: str | None = None
    ) -> Path:
        """A kubeconfig with a token that the API server gave for the service account, good for 8 hours."""
        token = self._kubectl.run(
            "create", "token", service_account, f"--namespace={namespace}", f"--duration={TOKEN_DURATION}"
        ).stdout.strip()
        return self._write_kubeconfig(name, {"token": token}, server or self.server)

    def _wait_ready(self, process: Process, port: int, path: str, *, tls: bool = True) -> None:
        context = self._context if tls else None
        process.wait_until(lambda: _answers(port, path, context), "it is ready", READY_SECONDS)

    def _write_kubeconfig(self, name: str, user: dict[str, str], server: str) -> Path:
        path = self._folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(make_kubeconfig(server, self.authority.certificate, user), indent=1))
        return path

    def _process(self, name: str, flags: dict[str, str | int | Path]) -> Process:
        # One thread of Go code each: they start as soon as with two, and cost the VM beside them less.
        return Process(
            name, [self._components.program(name), *(f"--{flag}={value}" for flag, value in flags.items())],
            self._folder, cwd=self._folder, environment={"HOME": str(self._folder), "GOMAXPROCS": "1"})

    def _etcd_flags(self) -> dict[str, str | int | Path]:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._etcd_peer_port}"
        return {
            "data-dir": self._folder / "etcd",
            "unsafe-no-fsync": "true",    # the data goes when the plane ends
            "listen-client-urls": client, "advertise-client-urls": client,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}",
            "log-level": "warn",
        }

    def _apiserver_flags(self, serving: KeyPair, to_kubelet: KeyPair) -> dict[str, str | int | Path]:
        service_accounts = self._folder / "pki/service-accounts.key"
        return {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1", "secure-port": self.port, "advertise-address": HOST_IN_GUEST,
            "service-cluster-ip-range": SERVICE_RANGE,
            "tls-cert-file": serving.certificate, "tls-private-key-file": serving.key,
            "client-ca-file": self.authority.certificate,
            "authorization-mode": "Node,RBAC", "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-account-issuer": ISSUER,
            "service-account-signing-key-file": service_accounts, "service-account-key-file": service_accounts,
            "kubelet-certificate-authority": self.authority.certificate,
            "kubelet-client-certificate": to_kubelet.certificate, "kubelet-client-key": to_kubelet.key,
            "kubelet-preferred-address-types": "Hostname",    # the node is `localhost`, its port forwarded
            "profiling": "false",
        }

    def _controllers_flags(self, serving: KeyPair) -> dict[str, str | int | Path]:
        """Graces for nodes and pods are Kubernetes' defaults: a node that is silent is NotReady after 50 s."""
        user = "system:kube-controller-manager"
        return {
            "kubeconfig": self.kubeconfig("kube-controller-manager", common_name=user),
            "use-service-account-credentials": "true",    # each controller with its own rights, as in clusters
            "service-account-private-key-file": self._folder / "pki/service-accounts.key",
            "root-ca-file": self.authority.certificate,
            "kube-api-qps": 200, "kube-api-burst": 300,    # at the default of 20 its start takes 4 s more
            **_flags_of_a_single_one(self._controllers_port, serving),
        }

    def _scheduler_flags(self, serving: KeyPair) -> dict[str, str | int | Path]:
        return {
            "kubeconfig": self.kubeconfig("kube-scheduler", common_name="system:kube-scheduler"),
            **_flags_of_a_single_one(self._scheduler_port, serving),
        }


def make_kubeconfig(server: str, authority: Path, user: dict[str, str]) -> dict[str, Any]:
    """A kubeconfig (v1) with one context, all certificates inside; `user` is its user entry."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "vfpool",
        "clusters": [{"name": "vfpool", "cluster": {
            "server": server, "certificate-authority-data": _encoded(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "vfpool", "context": {"cluster": "vfpool", "user": "user"}}],
    }


def _flags_of_a_single_one(port: int, serving: KeyPair) -> dict[str, str | int | Path]:
    """Controller manager and scheduler: nobody to elect a leader against, and health checks on loopback."""
    return {
        "leader-elect": "false", "bind-address": "127.0.0.1", "secure-port": port,
        "tls-cert-file": serving.certificate, "tls-private-key-file": serving.key, "profiling": "false",
    }


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _answers(port: int, path: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200, over TLS where a context is given."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=5) if context is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
