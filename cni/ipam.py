"""IPAM by delegation: run the plugin that the configuration names, as the specification says (section 4)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cni.protocol import Addresses, CniError, Code, Command, Request, parse_addresses

_RESULT_LIMIT = 1 << 20    # bytes: our own result, which repeats it, has to fit through the agent's socket


def ipam_add(plugin: str, request: Request, timeout: float) -> Addresses:
    """Addresses for the attachment; raise CniError with the plugin's own code and words."""
    output = _run(plugin, Command.ADD, request, timeout)
    if len(output) > _RESULT_LIMIT:
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: its result has {len(output)} bytes, at most "
                       f"{_RESULT_LIMIT} are allowed")
    try:
        document = json.loads(output)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: expected a JSON result, got {output[:200]!r}")
    addresses = parse_addresses(document, plugin)
    if not addresses.ips:
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: it gave no address")
    return addresses


def ipam_delete(plugin: str, request: Request, timeout: float) -> None:
    """Give the attachment's addresses back; plugins answer success where there are none."""
    _run(plugin, Command.DEL, request, timeout)


def _run(plugin: str, command: Command, request: Request, timeout: float) -> bytes:
    executable = _find(plugin, request.environment.get("CNI_PATH", ""))
    environment = {"PATH": os.defpath, **request.environment, "CNI_COMMAND": command.value}
    try:
        done = subprocess.run([executable], input=request.stdin, env=environment, capture_output=True,
                              timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise CniError(Code.TRY_AGAIN_LATER,
                       f"IPAM plugin {plugin}: no answer to {command} within {timeout:.0f} s") from None
    except OSError as error:
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: cannot run {executable}: {error.strerror}") from None
    if done.returncode != 0:
        raise _error(plugin, command, done.stdout, done.stderr, done.returncode)
    return done.stdout


def _find(plugin: str, path: str) -> Path:
    for folder in filter(None, path.split(os.pathsep)):
        candidate = Path(folder, plugin)
        if candidate.is_file():
            return candidate
    raise CniError(Code.INVALID_CONFIG, f"ipam.type: there is no plugin {plugin!r} in CNI_PATH ({path or 'empty'})")


def _error(plugin: str, command: Command, stdout: bytes, stderr: bytes, status: int) -> CniError:
    try:
        document = json.loads(stdout)
        code, message = int(document["code"]), str(document["msg"])
        details = document.get("details")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        code, details = Code.FAILED, None
        message = (stderr or stdout).decode(errors="replace").strip()[-500:] or f"exit status {status}"
    error = CniError(code, f"IPAM plugin {plugin}: {command} failed: {message}")
    if details:
        error.add_note(str(details))
    return error
