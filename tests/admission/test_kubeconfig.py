"""What is wrong with a kubeconfig is said in one line that names the file."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from admission.cluster import load_configuration
from sriov.errors import InputError
from tests.e2e.controlplane import make_kubeconfig
from tests.e2e.pki import Authority

SERVER = "https://127.0.0.1:6443"
NO_AUTHORITY = ("the cluster has no certificate-authority, so nothing tells its API server from another "
                "(hint: for one with a public certificate, name the system's bundle of authorities)")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def good(authority):
    """A kubeconfig as the tests' cluster has it, with a client certificate."""
    pair = authority.issue("client", common_name="webhook")
    return make_kubeconfig(SERVER, authority.certificate, {
        "client-certificate": str(pair.certificate), "client-key": str(pair.key)})


def load(path, content: dict[str, Any] | str) -> Any:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return asyncio.run(load_configuration(path))


def refusal(path, content: dict[str, Any] | str) -> str:
    """Why it is refused, after the file's name."""
    with pytest.raises(InputError) as caught:
        load(path, content)
    said, named, reason = str(caught.value).partition(f"kubeconfig {path}: ")
    assert (said, bool(named)) == ("", True)
    assert "\n" not in reason
    return reason


def test_a_good_one(tmp_path, good, authority):
    configuration = load(tmp_path / "config", good)
    assert configuration.host == SERVER
    assert Path(configuration.ssl_ca_cert).read_text() == authority.certificate.read_text()


@pytest.mark.parametrize("trust", [{"insecure-skip-tls-verify": True}, None], ids=["not verified", "http"])
def test_where_nothing_is_verified_no_authority_is_needed(tmp_path, good, trust):
    good["clusters"][0]["cluster"] = {"server": SERVER, **trust} if trust else {"server": "http://127.0.0.1:8080"}
    assert load(tmp_path / "config", good)


def test_files_that_are_none(tmp_path):
    for path, reason in ((tmp_path / "no", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as caught:
            asyncio.run(load_configuration(path))
        assert str(caught.value) == f"kubeconfig {path}: cannot read {path}: {reason}"


@pytest.mark.parametrize(("text", "reason"), [
    ("{", "line 1, column 2: no YAML: "), ("a: b: c\n", "line 1, column 5: no YAML: "),
    *((text, "expected a document with clusters, users, contexts and current-context, ")
      for text in ("", "[]", "5", "hello", "clusters: 5\n", "contexts: [5]\ncurrent-context: x\n", "\0"))])
def test_texts_that_are_none(tmp_path, text, reason):
    assert refusal(tmp_path / "config", text).startswith(reason)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "config").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"config: no YAML: it is not UTF-8 at byte 3$"):
        asyncio.run(load_configuration(tmp_path / "config"))


@pytest.mark.parametrize("context", ["", None])
def test_without_a_current_context(tmp_path, good, context):
    good["current-context"] = context
    wanted = "current-context is empty" if context == "" else "key current-context is missing"
    assert refusal(tmp_path / "config", good) == f"{wanted} (hint: kubectl config use-context NAME)"
    del good["current-context"]
    assert refusal(tmp_path / "config", good).startswith("key current-context is missing")


def test_a_context_or_cluster_that_is_not_there(tmp_path, good):
    wrong = copy.deepcopy(good)
    wrong["current-context"] = "other"
    assert refusal(tmp_path / "config", wrong) == "no entry 'other' in contexts"
    good["contexts"][0]["context"]["cluster"] = "other"
    assert refusal(tmp_path / "config", good) == "no entry 'other' in clusters"


@pytest.mark.parametrize(("cluster", "reason"), [
    ({}, "server: expected a URL like https://10.0.0.1:6443, got ''"),
    ({"server": "127.0.0.1:6443"}, "server: expected a URL like https://10.0.0.1:6443, got '127.0.0.1:6443'"),
    ({"server": SERVER}, NO_AUTHORITY),
    ({"server": SERVER, "certificate-authority": "/no/such"}, "cannot read /no/such: No such file or directory"),
    ({"server": SERVER, "certificate-authority-data": "a"}, "one of its ...-data keys is not base64"),
    ({"server": SERVER, "certificate-authority-data": base64.b64encode(b"hello").decode()},
     "the cluster's certificate-authority is no certificate in PEM form")])
def test_how_the_server_is_known(tmp_path, good, cluster, reason):
    good["clusters"][0]["cluster"] = cluster
    assert refusal(tmp_path / "config", good) == reason


def test_a_client_certificate_with_another_key(tmp_path, good, authority):
    other = authority.issue("other", common_name="other")
    good["users"][0]["user"]["client-key"] = str(other.key)
    assert refusal(tmp_path / "config", good) == (
        "the user's client-certificate cannot be used with its client-key: key values mismatch")


def test_a_token_file_that_is_not_there(tmp_path, good):
    good["users"][0]["user"] = {"tokenFile": "/no/token"}
    assert refusal(tmp_path / "config", good) == "cannot read /no/token: No such file or directory"
