"""`python -m cni`: the CNI executable's work in one process, for libcni tools and tests.

Where an agent lives the call goes through its socket; otherwise this process opens the node's records itself.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cni.attach import Attachments
from cni.kernel import open_kernel
from cni.netns import open_netns
from cni.protocol import CniError, Code, Command
from cni.service import answer, answer_version, fail
from cni.store import Store
from cni.wire import SOCKET_PATH, Answer, call_agent
from sriov.errors import Gone, HostError, Refused, SriovError
from sriov.host.udev import Udev

_NO_AGENT = (errno.ENOENT, errno.ECONNREFUSED)


def main(env: Mapping[str, str], stdin: BinaryIO, stdout: BinaryIO) -> int:
    reply = _call(env, stdin.read())
    stdout.write(reply.document)
    stdout.flush()
    return reply.status


def _call(env: Mapping[str, str], config: bytes) -> Answer:
    if env.get("CNI_COMMAND") == Command.VERSION:
        return answer_version(config)
    try:
        return call_agent(env, config, path=env.get("VFPOOL_SOCKET") or SOCKET_PATH)
    except HostError as error:
        if error.errno not in _NO_AGENT:
            return fail(CniError(_later(env), error.message), config)
    except SriovError as error:
        return fail(error, config)
    return _call_in_process(env, config)


def _call_in_process(env: Mapping[str, str], config: bytes) -> Answer:
    try:
        store = Store.open(Path(env.get("VFPOOL_STATE") or "/var/lib/vfpool"))
    except Refused as error:
        return fail(CniError(_later(env), error.message, hint=error.hint), config)
    except HostError as error:
        unfit = env.get("CNI_COMMAND") == Command.STATUS
        return fail(CniError(Code.UNAVAILABLE, str(error), hint=error.hint) if unfit else error, config)
    cni_env = {key: value for key, value in env.items() if key.startswith("CNI_")}
    with open_kernel(settle=Udev().settle) as kernel:
        attachments = Attachments(kernel, store)
        attachments.repair.reconcile()
        try:
            with open_netns(env.get("CNI_NETNS", "")) as fd:
                return answer(attachments, cni_env, config, fd)
        except Gone:
            return answer(attachments, cni_env, config, None)
        except SriovError as error:
            return fail(error, config)


def _later(env: Mapping[str, str]) -> Code:
    """What says that this call may be served another time."""
    return Code.UNAVAILABLE if env.get("CNI_COMMAND") == Command.STATUS else Code.TRY_AGAIN_LATER


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="vfpool: %(message)s")
    sys.exit(main(os.environ, sys.stdin.buffer if sys.stdin else BytesIO(), sys.stdout.buffer))
