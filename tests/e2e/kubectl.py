"""kubectl as a function: one cluster, one identity, errors in kubectl's own words."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError

TIMEOUT = 60.0
PATIENCE = 120.0       # seconds; emulation is slow, and these are deadlines, not measurements
HANGS = 10             # seconds after kubectl's own --timeout, in which it has to say so

Object = dict[str, Any]


class KubectlError(LabError):
    """kubectl ended with an exit status other than 0; `stderr` is what it said, as it said it."""

    def __init__(self, arguments: tuple[str, ...], status: int, stderr: str) -> None:
        super().__init__(f"kubectl {shlex.join(arguments)}: exit status {status}: {stderr.strip()}")
        self.status = status
        self.stderr = stderr


class Kubectl:
    """`program` with the cluster and the identity of `kubeconfig`.

    Objects are Kubernetes API objects as dicts. A namespace of None means every namespace. Each call costs
    about 0.1 s of CPU; nothing is written but a cache beside the kubeconfig.
    """

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self._command = [
            str(program), f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent / 'kubectl-cache'}"]
        # No home folder and no kuberc: the cluster is the same whoever runs it.
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "KUBERC": "off",
                             "HOME": str(kubeconfig.parent)}

    def run(
        self, *args: str, input: str | None = None, check: bool = True, timeout: float = TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """kubectl to its end. KubectlError where it fails and `check`; LabError after `timeout` seconds."""
        try:
            done = subprocess.run(
                [*self._command, *args], input=input or "", env=self._environment,
                capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"kubectl {shlex.join(args)}: did not end within {timeout:g} s") from None
        if check and done.returncode != 0:
            raise KubectlError(args, done.returncode, done.stderr)
        return done

    def get(
        self, kind: str, name: str | None = None, namespace: str | None = "default", selector: str | None = None
    ) -> Object:
        """The object, or without `name` a List of all of the kind (that match the label selector)."""
        return self._parsed(*self._get(kind, name, namespace, selector))

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """The object; None where there is none."""
        text = self.run(*self._get(kind, name, namespace, None), "--ignore-not-found").stdout
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def apply(self, *objects: Object) -> None:
        """Make or update the objects, in this order."""
        self.apply_manifest(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def apply_manifest(self, text: str, *, server_side: bool = False, dry_run: bool = False) -> str:
        """Make or update what a YAML or JSON text says; `dry_run` asks the server but keeps nothing."""
        options = [*(["--server-side"] if server_side else []), *(["--dry-run=server"] if dry_run else [])]
        return self.run("apply", *options, "--filename=-", input=text).stdout

    def kustomize(self, folder: Path) -> str:
        """The manifest that a kustomization folder builds."""
        return self.run("kustomize", str(folder)).stdout

    def delete(
        self, kind: str, *names: str, namespace: str = "default", now: bool = True, timeout: float = TIMEOUT
    ) -> None:
        """Delete by name and wait until the objects are gone; `now` leaves containers 1 s to end."""
        self.run("delete", kind, *names, f"--namespace={namespace}", *(["--now"] if now else []),
                 f"--timeout={timeout:g}s", timeout=timeout + HANGS)

    def exec(
        self, pod: str, *argv: str, container: str | None = None, namespace: str = "default",
        check: bool = True, timeout: float = TIMEOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container. kubectl's exit status is the command's, unless it is not reached: 1."""
        return self.run("exec", pod, f"--namespace={namespace}", *_container(container), "--", *argv,
                        check=check, timeout=timeout)

    def wait_until(
        self, state: str, kind: str, *names: str, namespace: str = "default", timeout: float = PATIENCE
    ) -> None:
        """`kubectl wait --for=state`: condition=Ready, create, delete, jsonpath={.status.phase}=Running.

        For objects of these names, or of a label: `--selector=app=a` in place of a name.
        One process for all the waiting, and the API server says when. KubectlError after `timeout` seconds.
        """
        self.run("wait", f"--for={state}", kind, *names, f"--namespace={namespace}", f"--timeout={timeout:g}s",
                 timeout=timeout + HANGS)

    def _parsed(self, *args: str) -> Object:
        parsed: Object = json.loads(self.run(*args).stdout)
        return parsed

    def _get(self, kind: str, name: str | None, namespace: str | None, selector: str | None) -> list[str]:
        return [
            "get", kind, *([name] if name is not None else []),
            "--all-namespaces" if namespace is None else f"--namespace={namespace}",
            *([f"--selector={selector}"] if selector is not None else []), "--output=json",
        ]


def _container(name: str | None) -> list[str]:
    return [] if name is None else [f"--container={name}"]
