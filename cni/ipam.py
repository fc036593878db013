"""IPAM by delegation: run the plugin that the configuration names, as the specification says (section 4)."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cni.protocol import CniError, Code, Command, Request, parse_json
from cni.record import Delegation
from cni.result import Addresses, parse_addresses

log = logging.getLogger(__name__)

_KEPT = ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")
_NOT_EXECUTED = (126, 127)    # of a dynamic loader that misses a library; and of shells
_RESULT_LIMIT = 1 << 20    # bytes: our own result, which repeats it, has to fit through the agent's socket


class Declined(CniError):
    """The plugin itself says that it failed, and not that it may succeed another time.

    Of a network that is configured wrongly it says so for ever; but plugins say no other of a server that is away.
    """


class NotRun(CniError):
    """There is no such plugin, or it could not be executed: an ADD has reserved no address."""


def ipam_add(plugin: str, request: Request, timeout: float) -> Addresses:
    """Addresses for the attachment; raise CniError with the plugin's own code and words.

    After any but NotRun it may have reserved some: one that is killed at `timeout`, say.
    """
    output = _run(plugin, Command.ADD, request.environment, request.stdin, timeout)
    _check_size(plugin, len(output))
    try:
        document = parse_json(output)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: expected a JSON result, got {output[:200]!r}")
    _check_size(plugin, len(json.dumps(document)))      # in ASCII, as our own is
    addresses = parse_addresses(document, f"IPAM plugin {plugin}: its result")
    if not addresses.ips:
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: it gave no address")
    return addresses


def _check_size(plugin: str, size: int) -> None:
    if size > _RESULT_LIMIT:
        raise CniError(Code.FAILED, f"IPAM plugin {plugin}: its result has {size} bytes, at most {_RESULT_LIMIT} "
                       "are allowed")


def ipam_delete(plugin: str, request: Request, timeout: float) -> None:
    """Give the attachment's addresses back; plugins answer success where there are none."""
    _run(plugin, Command.DEL, request.environment, request.stdin, timeout)


def ipam_forward(plugin: str, request: Request, timeout: float) -> None:
    """Hand a CHECK, GC or STATUS on; raise CniError with the plugin's own code and words.

    A plugin of before CNI 1.1.0 knows no GC and no STATUS, and has nothing to say.
    """
    try:
        _run(plugin, request.command, request.environment, request.stdin, timeout)
    except CniError as error:
        unknown = error.code == Code.INVALID_ENVIRONMENT and "CNI_COMMAND" in error.message
        if not unknown or request.command is Command.CHECK:
            raise
        log.debug("IPAM plugin %s knows no %s", plugin, request.command)


def ipam_release(ipam: Delegation, timeout: float) -> None:
    """The same where no runtime called DEL: its namespace is gone, and CNI_NETNS may be empty then."""
    environment = {**ipam.environment, "CNI_NETNS": ""}
    _run(ipam.plugin, Command.DEL, environment, json.dumps(ipam.config).encode(), timeout)


def remember_ipam(plugin: str, request: Request) -> Delegation:
    """What `ipam_release` will need of an ADD."""
    kept = {key: request.environment[key] for key in _KEPT if key in request.environment}
    return Delegation(plugin=plugin, environment=kept, config=request.config)


def _run(plugin: str, command: Command, environment: Mapping[str, str], stdin: bytes, timeout: float) -> bytes:
    executable = _find(plugin, environment.get("CNI_PATH", ""))
    environment = {"PATH": os.defpath, **environment, "CNI_COMMAND": command.value}
    try:
        process = subprocess.Popen([executable], env=environment, process_group=0, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise NotRun(Code.FAILED, f"IPAM plugin {plugin}: cannot run {executable}: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException as error:      # this process may be told to end, too
            # With its children: one that goes on would give an address after the DEL that takes it back.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CniError(Code.TRY_AGAIN_LATER,
                               f"IPAM plugin {plugin}: no answer to {command} within {timeout:.0f} s") from None
            raise
    if process.returncode != 0:
        raise _error(plugin, command, stdout, stderr, process.returncode)
    return stdout


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:       # a real-time signal
        return f"signal {number}"


def _find(plugin: str, path: str) -> Path:
    folders = list(filter(None, path.split(os.pathsep)))
    for folder in folders:
        candidate = Path(folder, plugin)
        with suppress(OSError):      # a name that is longer than any file's
            if candidate.is_file():
                return candidate
    searched = ", ".join(folder if Path(folder).is_dir() else f"{folder}, which is not here" for folder in folders)
    raise NotRun(
        Code.INVALID_CONFIG, f"ipam.type: there is no plugin {plugin!r} in CNI_PATH ({searched or 'empty'})",
        hint="install it on the node; where it is there already, this agent does not see it: mount that folder "
             "into its container under the same path")


def _error(plugin: str, command: Command, stdout: bytes, stderr: bytes, status: int) -> CniError:
    if status < 0:
        return CniError(Code.FAILED, f"IPAM plugin {plugin}: {command} was ended by {_signal(-status)}")
    kind: type[CniError]
    try:
        document = parse_json(stdout)
        code, message = document["code"], str(document["msg"])
        details = document.get("details")
        if type(code) is not int or not 0 < code < 2**32:      # libcni reads no error with such a code
            raise ValueError(code)
        kind = CniError if code == Code.TRY_AGAIN_LATER else Declined
    except (ValueError, KeyError, TypeError):
        kind, code, details = NotRun if status in _NOT_EXECUTED else CniError, Code.FAILED, None
        message = (stderr or stdout).decode(errors="replace").strip()[-500:] or f"exit status {status}"
    error = kind(code, f"IPAM plugin {plugin}: {command} failed: {message}")
    if details:
        error.add_note(str(details))
    return error
