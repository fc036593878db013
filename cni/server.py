"""The agent's unix socket: a thread for each call of the CNI executable.

Threads and not coroutines: a call is a sequence of blocking kernel changes. How many are at work at a time is
Kernel.calls' affair: one that waits for another one's VF must never keep its place from it.
"""

from __future__ import annotations

import logging
import socket
import socketserver
from pathlib import Path

from cni.attach import Attachments
from cni.protocol import describe_call
from cni.service import answer
from cni.wire import CallReader, encode_answer
from sriov.errors import InputError
from sriov.unixsocket import bind_for_root

log = logging.getLogger(__name__)

_READ_TIMEOUT = 10.0     # seconds: the executable sends its request at once


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves `attachments` at `path`, which only root may use.

    After `shutdown`, `server_close` takes no more calls and returns once those that run have their answers.
    """

    daemon_threads = False    # server_close joins no others
    request_queue_size = 128

    def __init__(self, path: Path, attachments: Attachments) -> None:
        self.attachments = attachments
        super().__init__(str(path), _Handler, bind_and_activate=False)
        try:
            bind_for_root(self.socket, path, hint="one vfpool-agent runs on a node; stop the other one")
            self.server_activate()
        except BaseException:
            self.socket.close()
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        log.exception("a CNI connection failed")


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket
    server: Server

    def handle(self) -> None:
        self.request.settimeout(_READ_TIMEOUT)
        with CallReader() as reader:
            try:
                call = None
                while call is None:
                    call = reader.receive(self.request)
            except (InputError, TimeoutError) as error:
                log.info("a connection on the CNI socket brought no call: %s", error)
                return
            # With a timeout Python would wait in `_gone`, MSG_DONTWAIT or not.
            self.request.settimeout(None)
            reply = answer(self.server.attachments, call.env, call.stdin, call.netns, self._gone)
            try:
                self.request.sendall(encode_answer(reply))
            except OSError as error:
                if reply.undo is not None:
                    log.warning("%s: the caller went away before its answer: undoing it, if nobody else was told: "
                                "%s", describe_call(call.env), error)
                    answer(self.server.attachments, {**call.env, "CNI_COMMAND": "DEL"}, call.stdin, call.netns,
                           undoes=reply.undo)

    def _gone(self) -> bool:
        """The executable sends nothing after its request: what can be read then is its end."""
        try:
            return self.request.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
