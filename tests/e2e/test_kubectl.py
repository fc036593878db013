"""kubectl's command lines and errors, with a program in its place that shows what it was given."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.e2e.kubectl import Kubectl, KubectlError
from tests.lab.errors import LabError

ECHO = """
import json, os, sys
print(json.dumps({"argv": sys.argv[3:], "input": sys.stdin.read(), "environment": dict(os.environ),
                  "common": sys.argv[1:3]}))
"""


def make_program(folder: Path, script: str) -> Kubectl:
    program = folder / "kubectl"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return Kubectl(program, folder / "admin.kubeconfig")


@pytest.fixture
def echo(tmp_path):
    return make_program(tmp_path, ECHO)


def test_only_its_own_folder_is_used(echo, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/elsewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    shown = json.loads(echo.run("version").stdout)
    assert shown["common"] == [f"--kubeconfig={tmp_path}/admin.kubeconfig", f"--cache-dir={tmp_path}/kubectl-cache"]
    environment = {name: shown["environment"][name] for name in shown["environment"].keys() - {"LC_CTYPE"}}
    assert environment == {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBERC": "off"}


@pytest.mark.parametrize(("call", "argv"), [
    (lambda k: k.get("pods"), ["get", "pods", "--namespace=default", "--output=json"]),
    (lambda k: k.get("pod", "a", "b"), ["get", "pod", "a", "--namespace=b", "--output=json"]),
    (lambda k: k.get("pods", namespace=None, selector="app=x"),
     ["get", "pods", "--all-namespaces", "--selector=app=x", "--output=json"]),
    (lambda k: k.find("pod", "a"),
     ["get", "pod", "a", "--namespace=default", "--output=json", "--ignore-not-found"]),
])
def test_reading(echo, call, argv):
    assert call(echo)["argv"] == argv


@pytest.mark.parametrize(("call", "argv"), [
    (lambda k: k.exec("a", "ip", "-j", "link", container="c").stdout,
     ["exec", "a", "--namespace=default", "--container=c", "--", "ip", "-j", "link"]),
    (lambda k: k.kustomize(Path("deploy")), ["kustomize", "deploy"]),
    (lambda k: k.apply_manifest("", server_side=True, dry_run=True),
     ["apply", "--server-side", "--dry-run=server", "--filename=-"]),
])
def test_texts(echo, call, argv):
    assert json.loads(call(echo))["argv"] == argv


@pytest.mark.parametrize(("call", "argv"), [
    (lambda k: k.delete("pod", "a", "b", timeout=5),
     ["delete", "pod", "a", "b", "--namespace=default", "--now", "--timeout=5s"]),
    (lambda k: k.delete("pod", "a", now=False), ["delete", "pod", "a", "--namespace=default", "--timeout=60s"]),
    (lambda k: k.wait_until("condition=Ready", "pod", "a", "b", timeout=5),
     ["wait", "--for=condition=Ready", "pod", "a", "b", "--namespace=default", "--timeout=5s"]),
    (lambda k: k.apply({"kind": "Pod"}, {"kind": "Secret"}), ["apply", "--filename=-"]),
])
def test_writing_fails_with_the_command_line_and_what_was_said(tmp_path, call, argv):
    failing = make_program(tmp_path, "import sys; sys.exit(' '.join(sys.argv[3:]))")
    with pytest.raises(KubectlError) as caught:
        call(failing)
    assert caught.value.stderr == " ".join(argv) + "\n"


def test_objects_are_applied_in_order_as_one_list(tmp_path):
    refusing = make_program(tmp_path, "import sys; sys.exit(sys.stdin.read())")
    with pytest.raises(KubectlError) as caught:
        refusing.apply({"kind": "Namespace"}, {"kind": "Pod"})
    assert json.loads(caught.value.stderr) == {
        "apiVersion": "v1", "kind": "List", "items": [{"kind": "Namespace"}, {"kind": "Pod"}]}


def test_failure_has_kubectls_words_as_they_are(tmp_path):
    denied = 'Error from server (Forbidden): pods "a" is forbidden:\n  two lines'
    failing = make_program(tmp_path, f"import sys; print('half'); sys.exit({denied!r})")
    with pytest.raises(KubectlError) as caught:
        failing.run("get", "pods", "-l", "a b")
    assert str(caught.value) == f"kubectl get pods -l 'a b': exit status 1: {denied}"
    assert (caught.value.status, caught.value.stderr) == (1, denied + "\n")
    done = failing.run("get", "pods", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "half\n", denied + "\n")


def test_nothing_found_is_none(tmp_path):
    assert make_program(tmp_path, "").find("pod", "a") is None


def test_hanging_kubectl_is_ended(tmp_path):
    hanging = make_program(tmp_path, "import time; time.sleep(1000)")
    with pytest.raises(LabError, match=r"kubectl get nodes: did not end within 0\.2 s"):
        hanging.run("get", "nodes", timeout=0.2)
