"""What a QEMU process writes: the guest's serial console and QEMU's own complaints."""

from __future__ import annotations

import os
import subprocess
import threading


class Console:
    """What a QEMU process writes, read to its end by a thread of its own so that it never blocks."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def follow(self, qemu: subprocess.Popen[bytes]) -> None:
        self._thread = threading.Thread(target=self._read, args=(qemu,), name="lab console", daemon=True)
        self._thread.start()

    def _read(self, qemu: subprocess.Popen[bytes]) -> None:
        assert qemu.stdout is not None
        with qemu.stdout as stream:
            while chunk := os.read(stream.fileno(), 65536):
                with self._changed:
                    self._bytes += chunk
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: bytes, timeout: float) -> bool:
        """Whether the text came before the end and within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: text in self._bytes or self._ended, timeout)
            return text in self._bytes

    def content(self) -> bytes:
        with self._changed:
            return bytes(self._bytes)

    def tail(self, lines: int) -> str:
        shown = self.content().decode(errors="replace").splitlines()[-lines:]
        return "the end of its serial console:\n" + "\n".join(f"    {line.rstrip()}" for line in shown)

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()
