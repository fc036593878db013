"""What a running agent says of its node, as values, and as JSON between the agent and the command line. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sriov.errors import InputError
from sriov.pci import PciAddress

SOCKET_PATH = "/run/vfpool/status.sock"
FORMAT = 2                            # changes whenever an older reader would not understand the document

T = TypeVar("T")


class Moment(str):
    """A point in time, RFC 3339 in UTC to the second: `2026-11-21T18:00:00Z`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Moment:
        """Raises InputError for any other form."""
        if _MOMENT.fullmatch(text) is None:
            raise InputError(f"expected a time like 2026-11-21T18:00:00Z, got {text!r}")
        return cls(text)


_MOMENT = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\dZ", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as wanted, and the next action where there is one."""

    message: str
    hint: str | None = None
    since: Moment | None = None       # None: not known

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The attachment that has a VF. The pod is known where the runtime said which it is."""

    container_id: str
    ifname: str
    network: str
    phase: str                        # attaching, attached, detaching: what its record says
    netns: str                        # path of the network namespace, as the runtime gave it
    pod: str | None = None            # namespace/name

    def __str__(self) -> str:
        who = f"pod {self.pod}" if self.pod else f"container {self.container_id[:13]}"
        return f"{who}, {self.ifname} of network {self.network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VfStatus:
    address: PciAddress
    pf: PciAddress
    pf_name: str | None               # netdev; None: it has none here
    index: int
    driver: str | None
    numa_node: int | None             # None: the platform does not say
    fault: str | None = None          # why it cannot be handed out; None: healthy
    away: bool = False                # its netdev is in another network namespace
    owner: Owner | None = None

    @property
    def in_pod(self) -> bool:
        return self.away or self.owner is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Whether the kubelet takes VFs from us; `problem`: what it, or the way to it, said last."""

    registered: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    resource: str                     # full name: intel.com/sriov
    vfs: tuple[VfStatus, ...] = ()
    kubelet: Registration | None = None    # None: nobody has told

    @property
    def healthy(self) -> int:
        return sum(vf.fault is None for vf in self.vfs)

    @property
    def in_pods(self) -> int:
        return sum(vf.in_pod for vf in self.vfs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PfStatus:
    """A PF that the pool file or a pool's VF is about, and what came of the last try to make it as wanted."""

    address: PciAddress
    name: str | None
    num_vfs: int
    total_vfs: int
    wanted: int | None = None         # numVfs of the entry that matches it; None: no entry does
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFileStatus:
    """`error`: why the file as it is now is not used, and the last good one stays in force."""

    path: str
    since: Moment                     # since when what is in force is
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtHome:
    reason: str
    vfs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairs:
    """What was mended since the agent's start where no DEL did it, and what stands unmended."""

    brought_home: tuple[BroughtHome, ...] = ()
    paid_late: int = 0                # attachments whose addresses their DEL did not give back
    set_aside: int = 0                # damaged records
    last: str | None = None           # what was done last
    last_at: Moment | None = None
    standing: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    agent_version: str
    started: Moment
    snapshot: int                     # version of what is told to the kubelet; 0: the node was not yet looked at
    since: Moment                     # since when that version is
    pool_file: PoolFileStatus
    resources: tuple[ResourceStatus, ...] = ()
    pfs: tuple[PfStatus, ...] = ()
    unpooled: tuple[VfStatus, ...] = ()    # VFs that pods have and no pool does
    problems: tuple[Problem, ...] = ()     # of the node as a whole: what provisioning or a scan could not do
    unreadable: tuple[str, ...] = ()       # what of the host could not be read, and why
    repairs: Repairs = Repairs()

    def find_problems(self) -> Iterator[Problem]:
        """All that is not as it should be; nothing: all is well."""
        if self.pool_file.error is not None:
            yield Problem(message="the pool file as it is now is not used, the last good one stays in force:\n"
                                  f"{self.pool_file.error}", hint=f"vfpool check {self.pool_file.path}")
        if not self.snapshot:
            yield Problem(message="the node has not been looked at yet")
        yield from self.problems
        yield from self.repairs.standing
        for pf in self.pfs:
            yield from pf.problems
        for resource in self.resources:
            if resource.kubelet is not None and not resource.kubelet.registered:
                reason = resource.kubelet.problem or "waiting for the kubelet"
                yield Problem(message=f"{resource.resource} is not registered with the kubelet: {reason}")
            yield from self._find_faults(resource)
        for sentence in self.unreadable:
            yield Problem(message=sentence)

    def _find_faults(self, resource: ResourceStatus) -> Iterator[Problem]:
        """One for each fault, however many VFs have it."""
        by_fault: dict[str, list[PciAddress]] = {}
        for vf in resource.vfs:
            if vf.fault is not None:
                by_fault.setdefault(vf.fault, []).append(vf.address)
        for fault, (first, *more) in by_fault.items():
            which = f"VF {first} and {len(more)} more are" if more else f"VF {first} is"
            yield Problem(message=f"{resource.resource}: {which} not healthy: {fault}",
                          hint=f"vfpool explain {self.pool_file.path} {first}")


# ---- JSON -------------------------------------------------------------------------------------------------


# Field names with their types, in order.
_TYPES: Mapping[type, Mapping[str, Any]] = {kind: get_type_hints(kind) for kind in (
    Problem, Owner, VfStatus, Registration, ResourceStatus, PfStatus, PoolFileStatus, BroughtHome, Repairs,
    NodeStatus)}


def status_fields(status: NodeStatus) -> dict[str, Any]:
    """What `format_status` writes: fields as keys in camelCase, in their order."""
    return {"format": FORMAT, **_fields(status)}


def format_status(status: NodeStatus) -> str:
    return json.dumps(status_fields(status), separators=(",", ":")) + "\n"


def parse_status(text: str) -> NodeStatus:
    """Read what `format_status` writes; raises InputError for all else, with the path of what is wrong."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not the status of a node: not JSON: {error}") from None
    if not isinstance(document, dict) or "format" not in document:
        raise InputError("not the status of a node: expected an object with a format")
    version = document.pop("format")
    if type(version) is not int or version != FORMAT:
        raise InputError(f"not the status of a node as this version knows it: format {version!r} and not {FORMAT}",
                         hint="vfpool and the agent are of different versions: use the agent's own vfpool")
    try:
        return _read_object(NodeStatus, document, "")
    except InputError as error:
        raise InputError(f"not the status of a node: {error.message}") from None


def _fields(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the dataclasses here
    return {_key(name): _write(getattr(value, name)) for name in _TYPES[type(value)]}


def _write(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    return _fields(value) if type(value) in _TYPES else value


def _read_object(kind: type[T], raw: object, path: str) -> T:
    if not isinstance(raw, dict):
        raise InputError(f"{path or 'the document'}: expected an object, got {_show(raw)}")
    prefix = f"{path}." if path else ""
    types = {_key(name): (name, annotation) for name, annotation in _TYPES[kind].items()}
    for key in (*(key for key in raw if key not in types), *(key for key in types if key not in raw)):
        raise InputError(f"{prefix}{key}: {'unknown key' if key in raw else 'missing'}")
    return kind(**{name: _read(annotation, raw[key], prefix + key) for key, (name, annotation) in types.items()})


def _read(kind: Any, raw: object, path: str) -> Any:  # noqa: ANN401 - a type annotation, and what is of that type
    if get_origin(kind) is UnionType:
        if raw is None:
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise InputError(f"{path}: expected a list, got {_show(raw)}")
        return tuple(_read(get_args(kind)[0], item, f"{path}[{n}]") for n, item in enumerate(raw))
    if kind in _TYPES:
        return _read_object(kind, raw, path)
    if kind in (PciAddress, Moment) and isinstance(raw, str):
        try:
            return kind.parse(raw)
        except InputError as error:
            raise InputError(f"{path}: {error.message}") from None
    if type(raw) is not (str if issubclass(kind, str) else kind) or (kind is int and raw < 0):    # type: ignore[operator]
        raise InputError(f"{path}: expected {_NAMES[kind]}, got {_show(raw)}")
    return raw


_NAMES = {str: "text", PciAddress: "text", Moment: "text", int: "a number from 0", bool: "true or false"}


@cache
def _key(name: str) -> str:
    """`numa_node` to `numaNode`."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _show(raw: object) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(raw)) or repr(raw)[:60]
