"""What a pod's networks need and its containers do not ask for yet, as a JSON patch; or why the pod cannot work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from admission.pod import DEFAULT_CONTAINER, Container, Pod
from admission.review import Denial, PatchOp, Reason, Verdict
from cni.annotation import NETWORKS, AnnotationError, format_problems, parse_networks
from cni.fields import show
from cni.grammar import SUBDOMAIN
from cni.networkref import NetworkRef, Networks

RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"      # of a NAD; Multus goes by it, the specification has it not
KIND = "NetworkAttachmentDefinition"

# An extended resource as the API server validates it: "requests." before it still is a qualified name.
_RESOURCE = re.compile(rf"(?P<prefix>{SUBDOMAIN})/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_MAX_PREFIX = 253 - len("requests.")

# The pods of one workload come in bursts and say the same. What is long is parsed anew: memory has an end.
_SHORT = 1024
_parse_again = lru_cache(maxsize=512)(parse_networks)

NetworkKey = tuple[str, str]       # namespace and name


@dataclass(frozen=True, slots=True, kw_only=True)
class Nad:
    """A NetworkAttachmentDefinition: its resource annotation as it stands there. Nothing else matters here."""

    resource: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The API server says that there is no such NAD. `elsewhere`: namespaces that have one of that name."""

    nearest: str | None = None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Whether there is such a NAD could not be found out."""

    reason: str


Lookup = Nad | Absent | Unknown


def read_networks(pod: Pod, namespace: str) -> Networks | Verdict:
    """The networks to look up, or the verdict where none is needed: no annotation, a wrong one, no effect."""
    text = pod.annotations.get(NETWORKS)
    if not isinstance(text, str) or pod.mirror:
        return Verdict()
    if pod.host_network:
        warning = f"annotation {NETWORKS} has no effect: the pod is in the node's network (spec.hostNetwork)"
        return Verdict(warnings=(warning,))
    try:
        return _parse_again(text, namespace) if len(text) <= _SHORT else parse_networks(text, namespace)
    except AnnotationError as error:
        return Verdict(denial=Denial(reason=Reason.INVALID, message=error.message), warnings=error.warnings)


def plan(pod: Pod, networks: Networks, nads: Mapping[NetworkKey, Lookup]) -> Verdict:
    """Decide on the pod, given what every network of it was found to be.

    Applied to the patched pod again, the plan has no patch: what is missing is counted over all containers.
    """
    problems, warnings, needed = [], list(networks.warnings), dict[str, int]()
    for ref in networks.refs:
        match nads[ref.namespace, ref.name]:
            case Nad(resource=str(resource)) if is_extended_resource(resource):
                needed[resource] = needed.get(resource, 0) + 1
            case Nad(resource=str(resource)) if resource:
                problems.append(_describe_resource(ref, resource))
            case Absent() as absent:
                problems.append(_describe_absent(ref, absent))
            case Unknown(reason=reason):
                warnings.append(f"{ref.path}: {reason}; no resource is requested for {ref.namespace}/{ref.name}")
    if problems:
        denial = Denial(reason=Reason.INVALID, message=format_problems(problems))
        return Verdict(denial=denial, warnings=tuple(warnings))
    missing = dict(_missing(pod, needed))
    if not missing or not pod.containers:        # the API server refuses a pod without containers
        return Verdict(warnings=tuple(warnings))
    container = _choose_container(pod, warnings.append)
    return Verdict(patch=_inject(container, missing), warnings=tuple(warnings))


@lru_cache(maxsize=1024)      # a cluster has few, and each pod asks
def is_extended_resource(name: str) -> bool:
    match = _RESOURCE.fullmatch(name)
    return (match is not None and len(match["prefix"]) <= _MAX_PREFIX and "kubernetes.io/" not in name
            and not name.startswith("requests."))


def _missing(pod: Pod, needed: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """What is needed and not declared, sorted by resource. Multus hands out what all containers of the pod have."""
    containers = [one for one in (*pod.containers, *pod.sidecars) if one.limits or one.requests]
    for resource in sorted(needed):
        missing = needed[resource]
        for container in containers:
            declared = container.declares(resource)
            if declared is None:      # the API server refuses such quantities, and says so better than we could
                break
            missing -= declared
        else:
            if missing > 0:
                yield resource, missing


def _choose_container(pod: Pod, warn: Callable[[str], None]) -> Container:
    wanted = pod.default_container
    if wanted is None:
        return pod.containers[0]
    for container in pod.containers:
        if container.name == wanted:
            return container
    warn(f"annotation {DEFAULT_CONTAINER}: {show(wanted)} is no container of the pod, "
         f"{show(pod.containers[0].name)} gets the devices")
    return pod.containers[0]


def _inject(container: Container, missing: Mapping[str, int]) -> tuple[PatchOp, ...]:
    """Limits and requests, equal, as the API server demands of extended resources."""
    path = f"/spec/containers/{container.index}/resources"
    totals = {escape_pointer(resource): str((container.declares(resource) or 0) + count)
              for resource, count in missing.items()}
    added: list[tuple[str, object]] = [] if container.resources is not None else [(path, {})]
    for kind, amounts in (("limits", container.limits), ("requests", container.requests)):
        if amounts is None:
            added.append((f"{path}/{kind}", {}))
        added += [(f"{path}/{kind}/{part}", total) for part, total in totals.items()]
    return tuple([{"op": "add", "path": place, "value": value} for place, value in added])


def escape_pointer(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _describe_absent(ref: NetworkRef, found: Absent) -> str:
    hints = [f"nearest: {ref.namespace}/{found.nearest}"] if found.nearest else []
    if found.elsewhere:
        hints.append(f"there is {_several([f'{other}/{ref.name}' for other in found.elsewhere])}")
    return "; ".join([f"{ref.path}: no {KIND} {ref.namespace}/{ref.name}", *hints])


def _describe_resource(ref: NetworkRef, resource: str) -> str:
    return (f"{ref.path}: {KIND} {ref.namespace}/{ref.name}: annotation {RESOURCE_NAME}: {show(resource)} is not "
            "an extended resource like intel.com/sriov")


def _several(names: Sequence[str]) -> str:
    shown = 3
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
