"""The CNI protocol as values: requests and errors. Results are in `result`.

Source: CNI specification 1.1.0 and its predecessors; error order and version rules as the Go `skel` and
`types` packages have them, since runtimes are built on those.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from cni.grammar import IFNAME_BYTES, SUBDOMAIN, is_ifname
from cni.keys import fold_case
from sriov.errors import Gone, HostError, InputError, Refused, SriovError

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,31}")      # one that is echoed, by the executable too
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_SUBDOMAIN, _POD_NAME = re.compile(SUBDOMAIN), 253     # a pod's name; its namespace's is shorter
_DEPTH = 100           # of JSON: encoding it again must not need a deeper stack than Python has
_SHOWN_VALUE, _SHOWN_MESSAGE = 100, 16_000     # characters; an answer has to fit through the agent's socket


class Command(StrEnum):
    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_REQUIRED = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
}
_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}     # others: from the first


class Code(IntEnum):
    """0-99 belong to the specification; 100 and above are ours."""

    INCOMPATIBLE_VERSION = 1
    INVALID_ENVIRONMENT = 4
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    UNAVAILABLE = 50           # of STATUS: no ADD can be served
    LIMITED = 51               # of STATUS: and what is attached may not work either
    HOST_REFUSED = 100         # the kernel or the driver said no; msg has its errno
    REFUSED = 101              # it would take something away from another pod
    GONE = 102                 # device, link or namespace is not there
    FAILED = 103
    DIFFERS = 104              # CHECK: an attachment is not as its ADD made it


class CniError(SriovError):
    """An error with the code that the runtime will see."""

    def __init__(self, code: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def error_code(error: SriovError) -> int:
    """The one place where our errors become CNI codes."""
    match error:
        case CniError():
            return error.code
        case InputError():
            return Code.INVALID_CONFIG
        case Refused():
            return Code.REFUSED
        case HostError(errno=errno.EBUSY | errno.EAGAIN):
            return Code.TRY_AGAIN_LATER
        case HostError():
            return Code.HOST_REFUSED
        case Gone():
            return Code.GONE
        case _:
            return Code.FAILED


def format_error(error: SriovError, version: str) -> dict[str, Any]:
    """The error object that goes to stdout (libcni reads it there)."""
    details = "; ".join([*([f"hint: {error.hint}"] if error.hint else []), *getattr(error, "__notes__", ())])
    return {"cniVersion": version, "code": int(error_code(error)), "msg": _shorten(error.message, _SHOWN_MESSAGE),
            **({"details": _shorten(details, _SHOWN_MESSAGE)} if details else {})}


def show(value: object) -> str:
    """A JSON value for an error message: of any size and any depth, since people write these."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and len(value) > _SHOWN_VALUE:
        return f"{value[:_SHOWN_VALUE]!r}..."
    return _shorten(repr(value), _SHOWN_VALUE + 2)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the runtime. `config` is the decoded network configuration, its keys in the case that `fold_case`
    gives them, `stdin` its bytes as they came.

    GC, STATUS and VERSION are about no container.
    """

    command: Command
    container_id: str = ""
    netns: str = ""            # CNI_NETNS as given: a path, or empty on a DEL whose namespace is gone
    ifname: str = ""
    args: Mapping[str, str]
    environment: Mapping[str, str]
    version: str
    network: str = ""
    config: Mapping[str, Any]
    stdin: bytes

    @property
    def attachment(self) -> tuple[str, str]:
        """What names an attachment: container id and interface name."""
        return self.container_id, self.ifname


def parse_request(environment: Mapping[str, str], stdin: bytes) -> Request:
    """Check in the order environment, JSON, name, version; raise CniError with the specification's code.

    VERSION is how a runtime finds out what we speak: it is answered whatever its own version is, and even
    without a configuration.
    """
    raw = environment.get("CNI_COMMAND", "")
    if raw not in list(Command):
        raise CniError(Code.INVALID_ENVIRONMENT,
                       f"CNI_COMMAND: expected one of {', '.join(Command)}, got {show(raw)}")
    command = Command(raw)
    missing = [key for key in _REQUIRED.get(command, ()) if not environment.get(key)]
    if missing:
        raise CniError(Code.INVALID_ENVIRONMENT, f"{command} needs {', '.join(missing)}: not set")
    if command is Command.VERSION:
        return Request(command=command, args={}, environment=environment, version=_asked_version(stdin),
                       config={}, stdin=stdin)
    config = fold_case(parse_config(stdin))
    network = config.get("name", "")
    _check_names(command, environment, network)
    version = config.get("cniVersion")
    if version is None or version == "":
        version = "0.1.0"
    if version not in VERSIONS:
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion: {show(version)} is not supported "
                       f"(supported: {', '.join(VERSIONS)})")
    if VERSIONS.index(version) < VERSIONS.index(_SINCE.get(command, VERSIONS[0])):
        raise CniError(Code.INCOMPATIBLE_VERSION, f"cniVersion: {version} has no {command}, which came with "
                       f"{_SINCE[command]}")
    return Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        args=parse_args(environment.get("CNI_ARGS", "")) if command is Command.ADD else {},
        environment=environment,
        version=version,
        network=network,
        config=config,
        stdin=stdin,
    )


def parse_config(stdin: bytes) -> dict[str, Any]:
    try:
        config = parse_json(stdin)
    except ValueError as error:
        raise CniError(Code.DECODING_FAILURE, f"network configuration: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CniError(Code.DECODING_FAILURE,
                       f"network configuration: expected a JSON object, got {type(config).__name__}")
    return config


def parse_json(data: bytes) -> Any:  # noqa: ANN401 - JSON
    """Decode what can be encoded again for whoever reads strict JSON; raise ValueError for anything else."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_float)
    except RecursionError:
        value = None
    else:
        level = [value]
        for _ in range(_DEPTH):
            level = [inner for outer in level if isinstance(outer, dict | list)
                     for inner in (outer.values() if isinstance(outer, dict) else outer)]
            if not level:
                return value
    raise ValueError(f"nested more than {_DEPTH} deep")


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{show(text)} is too large a number")
    return number


def _asked_version(stdin: bytes) -> str:
    try:
        version = parse_config(stdin).get("cniVersion")
    except CniError:
        return VERSIONS[-1]
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else VERSIONS[-1]


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS: `KEY=VALUE` pairs between semicolons; the last of a repeated key counts."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    for key, equals, value in pairs:
        if not key or not equals or "=" in value:
            raise CniError(Code.INVALID_ENVIRONMENT, "CNI_ARGS: expected KEY=VALUE pairs between "
                           f"semicolons, got {show(key + equals + value)}")
    return {key: value for key, _, value in pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRef:
    """A pod as the runtime names it in CNI_ARGS. `uid`: empty where the runtime does not say."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def find_pod(environment: Mapping[str, str]) -> PodRef | None:
    """The pod by what the kubelet and Multus put into CNI_ARGS; None where they did not: a call by hand.

    Never an error: a call that is wrong is logged with its pod, too. What cannot be a name in Kubernetes is no pod.
    """
    pairs = dict(pair.partition("=")[::2] for pair in environment.get("CNI_ARGS", "").split(";"))
    namespace, name, uid = (pairs.get(f"K8S_POD_{key}", "") for key in ("NAMESPACE", "NAME", "UID"))
    if not all(len(part) <= _POD_NAME and _SUBDOMAIN.fullmatch(part) for part in (namespace, name)):
        return None
    return PodRef(namespace=namespace, name=name, uid=uid)


def describe_call(environment: Mapping[str, str]) -> str:
    """For the log: verb, container, interface, and the pod where the caller says which."""
    words = (environment.get(key) or "-" for key in ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"))
    shown = " ".join(word if len(word) <= _SHOWN_VALUE and word.isprintable() else show(word) for word in words)
    pod = find_pod(environment)
    return f"{shown} of pod {pod}" if pod else shown


def _check_names(command: Command, environment: Mapping[str, str], network: object) -> None:
    container_id, ifname = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    of_a_container = command in _REQUIRED
    if of_a_container and _NAME.fullmatch(container_id) is None:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_CONTAINERID: expected letters, digits, dots, "
                       f"dashes and underscores, got {show(container_id)}")
    if of_a_container and not is_ifname(ifname):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_IFNAME: expected 1 to {IFNAME_BYTES} bytes of UTF-8 "
                       f"without slash, colon, percent sign or white space, got {show(ifname)}")
    if not isinstance(network, str) or _NAME.fullmatch(network) is None:
        raise CniError(Code.INVALID_CONFIG, "network configuration: name: expected letters, digits, dots, "
                       f"dashes and underscores, got {show(network)}")
