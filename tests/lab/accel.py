"""KVM or emulation: KVM only where the lab's kernel really runs under it."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from functools import cache

from tests.lab.image import Image

KVM = ("-accel", "kvm", "-cpu", "host")
EMULATION = ("-accel", "tcg,thread=multi", "-cpu", "max")
PROBE_SECONDS = 8    # the kernel panics for want of a root after 1 s of KVM or 3 s of emulation


@cache
def accelerator(image: Image) -> tuple[str, ...]:
    """QEMU's arguments; the verdict holds for the process."""
    return KVM if os.access("/dev/kvm", os.R_OK | os.W_OK) and _kernel_runs(image) else EMULATION


def _kernel_runs(image: Image) -> bool:
    """Boot the kernel without a root under KVM: it works when the kernel gets as far as missing it.

    /dev/kvm may open, run a few instructions of firmware, and hang or give up at the first that a nested
    host does not emulate: nothing less than the kernel tells.
    """
    argv = [
        "setpriv", "--pdeathsig", "KILL", *image.qemu(), *KVM, "-machine", "q35", "-m", "256M",
        "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(image.kernel), "-append", "console=ttyS0 panic=-1",
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu, selectors.DefaultSelector() as selector:
        assert qemu.stdout is not None
        selector.register(qemu.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + PROBE_SECONDS
        seen = b""
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            chunk = os.read(qemu.stdout.fileno(), 65536)
            seen += chunk
            if not chunk or b"Unable to mount root fs" in seen or b"KVM internal error" in seen:
                break
        qemu.kill()
    return b"Unable to mount root fs" in seen
