"""The agent's unix socket: a thread for each call of the CNI executable.

Threads and not coroutines: a call is a sequence of blocking kernel changes, and a call that waits for
another one's VF must never keep a worker from it.
"""

from __future__ import annotations

import logging
import socket
import socketserver
from pathlib import Path

from cni.attach import Attachments
from cni.service import answer
from cni.wire import CallReader, encode_answer
from sriov.errors import InputError, Refused

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
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(path)
        super().__init__(str(path), _Handler, bind_and_activate=False)
        self.server_bind()
        # Nobody can connect between bind and listen, so nobody gets in before the mode is right.
        path.chmod(0o600)
        self.server_activate()

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
                if call.env.get("CNI_COMMAND") == "ADD" and reply.status == 0:
                    log.warning("the caller of an ADD went away before its answer: undoing it: %s", error)
                    answer(self.server.attachments, {**call.env, "CNI_COMMAND": "DEL"}, call.stdin, call.netns)

    def _gone(self) -> bool:
        """The executable sends nothing after its request: what can be read then is its end."""
        try:
            return self.request.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def _remove_stale(path: Path) -> None:
    """Remove the socket of an agent that died; refuse where one still answers, and what is no socket."""
    if path.exists() and not path.is_socket():
        raise InputError(f"cannot serve on {path}: it is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
            return
    raise Refused(f"cannot serve on {path}: another process answers there",
                  hint="one vfpool-agent runs on a node; stop the other one")
