"""One CNI call from environment and stdin to exit status and stdout document: the same for both transports."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cni.attach import Attachments
from cni.invocation import BUDGET, Invocation
from cni.protocol import VERSIONS, Command, describe_call, format_error, parse_config, parse_request
from cni.result import RecordedResult
from cni.wire import Answer
from sriov.errors import SriovError

log = logging.getLogger(__name__)


def fail(error: SriovError, stdin: bytes) -> Answer:
    """The error as the runtime reads it: on stdout, in the request's version where that can be read."""
    return _answer(1, format_error(error, _version(stdin)))


def answer(attachments: Attachments, env: Mapping[str, str], stdin: bytes, netns_fd: int | None,
           gone: Callable[[], bool] = lambda: False, undoes: Mapping[str, Any] | None = None) -> Answer:
    """Carry out the call; every failure is an error document, never an exception. `undoes`: see Invocation."""
    started = time.monotonic()
    shown = describe_call(env)
    try:
        request = parse_request(env, stdin)
        if request.command is Command.VERSION:
            return answer_version(stdin)
        call = Invocation(request=request, netns_fd=netns_fd, gone=gone, deadline=started + BUDGET,
                          undoes=undoes)
        result = attachments.handle(call)
        new = request.command is Command.ADD and not isinstance(result, RecordedResult)
        reply = replace(_answer(0, result), undo=result if new else None)
    except SriovError as error:
        log.warning("%s: failed after %.0f ms: %s", shown, 1000 * (time.monotonic() - started), error)
        return fail(error, stdin)
    except Exception as error:      # a bug of ours must reach the runtime as an error document, not as silence
        log.exception("%s: failed", shown)
        return fail(SriovError(f"internal error: {error!r}"), stdin)
    # A runtime asks for the STATUS every few seconds.
    level = logging.DEBUG if request.command is Command.STATUS else logging.INFO
    log.log(level, "%s: done in %.0f ms", shown, 1000 * (time.monotonic() - started))
    return reply


def answer_version(stdin: bytes) -> Answer:
    """VERSION asks for nothing of the node: neither an agent nor its records."""
    request = parse_request({"CNI_COMMAND": Command.VERSION}, stdin)
    return _answer(0, {"cniVersion": request.version, "supportedVersions": VERSIONS})


def _answer(status: int, document: Mapping[str, Any] | None) -> Answer:
    return Answer(status=status, document=b"" if document is None else json.dumps(document).encode() + b"\n")


def _version(stdin: bytes) -> str:
    """The version to answer an error in: the request's own where it can be read."""
    try:
        version = parse_config(stdin).get("cniVersion") or "0.1.0"
    except SriovError:
        return VERSIONS[-1]
    return version if version in VERSIONS else VERSIONS[-1]
