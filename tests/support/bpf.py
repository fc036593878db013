"""XDP programs and BPF links, by bpf(2). Source: linux/bpf.h."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from cni.netns import call_in

_NUMBER = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _LINK_CREATE, _XDP = 5, 28, 37
_GENERIC = 1 << 1       # XDP_FLAGS_SKB_MODE


def load_program(verdict: int) -> int:
    """A descriptor of the XDP program `return verdict`."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    text, words = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    given = struct.pack("=IIQQ", 6, 2, ctypes.addressof(text), ctypes.addressof(words))     # XDP, two instructions
    return _bpf(_PROG_LOAD, given + bytes(120))


@contextmanager
def make_xdp_link(netns_fd: int, index: int) -> Iterator[None]:
    """A program that passes everything, on link `index` by a BPF link that is open until the context ends."""
    program = load_program(verdict=2)
    try:
        link = call_in(netns_fd, lambda: _bpf(_LINK_CREATE, struct.pack("=IIII", program, index, _XDP, _GENERIC)
                                              + bytes(48)))
    finally:
        os.close(program)
    try:
        yield
    finally:
        os.close(link)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_NUMBER[platform.machine()], command, ctypes.create_string_buffer(attributes),
                              len(attributes))
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return int(descriptor)
