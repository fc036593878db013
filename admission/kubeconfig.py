"""What is wrong with a kubeconfig, in one line each: the client's own errors name neither file nor key."""

from __future__ import annotations

import binascii
import re
import ssl
from urllib.parse import urlsplit

_CLIENT_WORDS = "Invalid kube-config file. "
_MISSING_ENTRY = re.compile(r"Expected object with name (?P<name>.*) in .*/(?P<list>\w+) list", re.DOTALL)
_MISSING_KEY = re.compile(r"Expected key (?P<key>\S+) in ")
_MISSING_FILE = re.compile(r"File does not exists: (?P<file>.*)", re.DOTALL)
_NOT_ONE = ("expected a document with clusters, users, contexts and current-context, "
            "as `kubectl config view --raw` prints it")


def explain(error: Exception) -> str:
    """What made the client give up on a kubeconfig."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:                            # yaml.MarkedYAMLError, which is not ours to import
        return f"line {mark.line + 1}, column {mark.column + 1}: no YAML: {getattr(error, 'problem', None)}"
    if isinstance(error, UnicodeDecodeError):
        return f"no YAML: it is not UTF-8 at byte {error.start}"
    if isinstance(error, OSError):
        return f"cannot read {error.filename}: {error.strerror}"
    if isinstance(error, binascii.Error):
        return "one of its ...-data keys is not base64"
    words = str(error).removeprefix(_CLIENT_WORDS)
    if match := _MISSING_ENTRY.match(words):
        if not match["name"]:
            return "current-context is empty (hint: kubectl config use-context NAME)"
        return f"no entry {match['name']!r} in {match['list']}"
    if match := _MISSING_KEY.match(words):
        hint = " (hint: kubectl config use-context NAME)" if match["key"] == "current-context" else ""
        return f"key {match['key']} is missing{hint}"
    if match := _MISSING_FILE.match(words):
        return f"cannot read {match['file']}: No such file or directory"
    return words if words != str(error) else _NOT_ONE


def find_fault(server: str, authority: str | None, certificate: str | None, key: str | None, *,
               verify: bool) -> str | None:
    """Why nobody can connect like that, or would ever trust what answers; None where nothing is seen.

    `authority`, `certificate` and `key` are paths of PEM files, which may be temporary ones: they are not shown.
    """
    url = urlsplit(server)
    if url.scheme not in ("http", "https") or not url.hostname:
        return f"server: expected a URL like https://10.0.0.1:6443, got {server!r}"
    if url.scheme == "http":
        return None
    if verify and authority is None:
        return ("the cluster has no certificate-authority, so nothing tells its API server from another "
                "(hint: for one with a public certificate, name the system's bundle of authorities)")
    try:
        context = ssl.create_default_context(cafile=authority) if authority else ssl.create_default_context()
    except (ssl.SSLError, OSError):
        return "the cluster's certificate-authority is no certificate in PEM form"
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password="-")
        except (ssl.SSLError, OSError) as error:
            reason = (getattr(error, "reason", None) or "no PEM").replace("_", " ").lower()
            return f"the user's client-certificate cannot be used with its client-key: {reason}"
    return None
