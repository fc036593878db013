"""AdmissionReview v1: the API server's question as a value, and our verdict as its answer.

Source: k8s.io/api/admission/v1 and the API server's webhook client, which counts an answer with another uid, kind
or version, or with a patch but no patchType, as a failed call.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sriov.errors import InputError

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"

# Once the warnings of all webhooks together pass 4,096 characters, the API server cuts each to 256; those that
# still do not fit are dropped.
_WARNING, _WARNINGS = 256, 4096
_NAMESPACE = 63               # characters, as the API server takes it; what a pod says is remembered with it

_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode

PatchOp = Mapping[str, Any]


class Reason(Enum):
    """Why a request is denied: the HTTP code, and the reason that kubectl prints in brackets."""

    # The pod is understood and allowed in principle, but what it says cannot work. Not 403: that sends people to
    # look for missing permissions. Clients retry neither.
    INVALID = 422, "Invalid"
    BAD_OBJECT = 400, "BadRequest"
    INTERNAL = 500, "InternalError"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the API server asks about. `resource` is `pods`, or `pods/status` where it is about a subresource."""

    uid: str
    operation: str
    resource: str
    namespace: str
    name: str                   # empty where the API server has yet to generate it
    object: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Allowed unless there is a denial. `patch` is RFC 6902, empty: the object stays as it is."""

    patch: tuple[PatchOp, ...] = ()
    warnings: tuple[str, ...] = ()
    denial: Denial | None = None


def parse_review(body: bytes) -> Review:
    """Read a request's body; raise InputError if it is not an AdmissionReview v1 that asks something."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected an {KIND}, got what is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"expected an {KIND}, got {type(document).__name__}")
    got = document.get("apiVersion"), document.get("kind")
    if got != (API_VERSION, KIND):
        raise InputError(f"expected {API_VERSION} {KIND}, got {_cut(str(got[0]))} {_cut(str(got[1]))}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise InputError(f"{KIND}: request is missing")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise InputError(f"{KIND}: request.uid is missing")
    namespace = _text(request.get("namespace"))
    if len(namespace) > _NAMESPACE:
        raise InputError(f"{KIND}: request.namespace has {len(namespace)} characters, at most {_NAMESPACE}")
    resource = request.get("resource")
    names = [resource.get("resource") if isinstance(resource, dict) else None, request.get("subResource")]
    return Review(
        uid=uid,
        operation=_text(request.get("operation")),
        resource="/".join(name for name in map(_text, names) if name),
        namespace=namespace,
        name=_text(request.get("name")),
        object=request.get("object"),
    )


def format_answer(uid: str, verdict: Verdict) -> bytes:
    """The AdmissionReview that answers the request `uid`."""
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.denial is None}
    if verdict.denial is not None:
        code, reason = verdict.denial.reason.value
        response["status"] = {"status": "Failure", "code": code, "reason": reason,
                              "message": verdict.denial.message}
    elif verdict.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_encode(verdict.patch).encode()).decode()
    if verdict.warnings:
        response["warnings"] = _trim(verdict.warnings)
    return _encode({"apiVersion": API_VERSION, "kind": KIND, "response": response}).encode()


def _trim(warnings: Sequence[str]) -> list[str]:
    """As many as the API server passes on, and how many were left out."""
    # One with a control character is dropped as a whole: it becomes an HTTP header.
    lines = [_cut("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in warning))
             for warning in dict.fromkeys(warnings)]
    kept: list[str] = []
    room = _WARNINGS - 64
    for line in lines:
        room -= len(line.encode())
        if room < 0:
            return [*kept, f"and {len(lines) - len(kept)} more warnings"]
        kept.append(line)
    return kept


def _cut(text: str) -> str:
    return text if len(text) <= _WARNING else f"{text[: _WARNING - 3]}..."


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
