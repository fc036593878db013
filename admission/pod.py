"""What of a pod's JSON matters here, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sriov.errors import InputError

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_MIRROR = "kubernetes.io/config.mirror"

_QUANTITY = re.compile(r"\+?(\d{1,19})(k|Ki|[MGTPE]i?)?", re.ASCII)
_POWER = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An app container, or a sidecar (an init container that stays). None: the pod's JSON has no such object."""

    index: int
    name: str
    resources: Mapping[str, Any] | None
    limits: Mapping[str, Any] | None
    requests: Mapping[str, Any] | None

    def declares(self, resource: str) -> int | None:
        """How many it asks for; None where limit and request differ or are no whole numbers."""
        limit = self.limits.get(resource) if self.limits else None
        request = self.requests.get(resource) if self.requests else None
        if limit is None and request is None:
            return 0
        counts = {parse_count(amount) for amount in (limit, request) if amount is not None}
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    annotations: Mapping[str, Any]
    host_network: bool
    containers: tuple[Container, ...]
    sidecars: tuple[Container, ...]

    @property
    def mirror(self) -> bool:
        """The API server's copy of a static pod: the kubelet does not look at what is changed in it."""
        return _MIRROR in self.annotations

    @property
    def default_container(self) -> str | None:
        name = self.annotations.get(DEFAULT_CONTAINER)
        return name if isinstance(name, str) else None


def parse_pod(document: object) -> Pod:
    """Read the object of a review; raise InputError where it does not have the shape of a pod."""
    pod = _object(document, "object") or {}
    spec = _object(pod.get("spec"), "spec") or {}
    metadata = _object(pod.get("metadata"), "metadata") or {}
    return Pod(
        annotations=_object(metadata.get("annotations"), "metadata.annotations") or {},
        host_network=spec.get("hostNetwork") is True,
        containers=_containers(spec, "containers"),
        # Ordinary init containers end before the others start, and hand their devices on to them.
        sidecars=_containers(spec, "initContainers", restart="Always"),
    )


def parse_count(amount: object) -> int | None:
    """A quantity that is a plain whole number: `2`, `"2"` or `"2k"`; None for any other."""
    if isinstance(amount, int) and not isinstance(amount, bool):
        return amount if 0 <= amount < 2**63 else None
    match = _QUANTITY.fullmatch(amount) if isinstance(amount, str) else None
    if match is None:
        return None
    suffix = match[2] or ""
    base = 1024 if suffix.endswith("i") else 1000
    count: int = int(match[1]) * base ** _POWER[suffix[:1]]
    return count if count < 2**63 else None


def _containers(spec: Mapping[str, Any], key: str, restart: str | None = None) -> tuple[Container, ...]:
    listed = spec.get(key)
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise InputError(f"spec.{key} is not a list")
    containers = []
    for index, raw in enumerate(listed):
        try:
            container = _object(raw, "") or {}
            if restart is not None and container.get("restartPolicy") != restart:
                continue
            name, resources = container.get("name"), _object(container.get("resources"), ".resources")
            limits = _object(resources.get("limits"), ".resources.limits") if resources else None
            requests = _object(resources.get("requests"), ".resources.requests") if resources else None
        except InputError as error:
            raise InputError(f"spec.{key}[{index}]{error.message}") from None
        containers.append(Container(index=index, name=name if isinstance(name, str) else "", resources=resources,
                                    limits=limits, requests=requests))
    return tuple(containers)


def _object(value: object, place: str) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    raise InputError(f"{place} is not an object")
