"""vfpool-webhook as a process of the host, with the rights of its service account and nothing else."""

from __future__ import annotations

import base64
import ssl
import sys
import urllib.request
from pathlib import Path

from tests.e2e.controlplane import ControlPlane
from tests.e2e.process import Process, find_free_ports
from tests.lab.image import CHECKOUT

NAMESPACE, ACCOUNT = "vfpool-system", "vfpool-webhook"


class Webhook:
    """The API server reaches it at `url`; its port stays the same over stop and start."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._folder = folder
        self._process: Process | None = None
        self._pair = plane.authority.issue("webhook", common_name="vfpool-webhook", hosts=("127.0.0.1",))
        (self._port,) = find_free_ports(1)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}/mutate"

    @property
    def ca_bundle(self) -> str:
        return base64.b64encode(self._plane.authority.certificate.read_bytes()).decode()

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        kubeconfig = self._plane.token_kubeconfig("webhook", NAMESPACE, ACCOUNT)
        self._process = Process(
            "webhook",
            [sys.executable, "-m", "admission", f"--kubeconfig={kubeconfig}", f"--bind=127.0.0.1:{self._port}",
             f"--tls-cert-file={self._pair.certificate}", f"--tls-key-file={self._pair.key}"],
            self._folder, cwd=CHECKOUT,
        )
        self._process.start()
        self._process.wait_until(self._ready, "ready", timeout=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def find_end(self) -> str | None:
        """How it ended by itself, and its last words; None where it runs, or was stopped."""
        return None if self._process is None else self._process.find_end()

    def log_tail(self) -> str:
        return "" if self._process is None else self._process.log_tail()

    def _ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self._plane.authority.certificate))
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self._port}/readyz", context=context, timeout=2):
                return True
        except OSError:
            return False
