"""XDP and tcx programs, and BPF links, by bpf(2). Source: linux/bpf.h."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from cni.netns import call_in

_NUMBER = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH, _LINK_CREATE, _XDP = 5, 8, 28, 37
_TYPE_TCX, _TYPE_XDP = 3, 6         # BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP
_GENERIC = 1 << 1       # XDP_FLAGS_SKB_MODE


def load_program(verdict: int, kind: int = _TYPE_XDP) -> int:
    """A descriptor of the program `return verdict`, an XDP program."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    text, words = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    given = struct.pack("=IIQQ", kind, 2, ctypes.addressof(text), ctypes.addressof(words))     # of two instructions
    return _bpf(_PROG_LOAD, given + bytes(120))


@contextmanager
def make_xdp_link(netns_fd: int, index: int) -> Iterator[None]:
    """A program that passes everything, on link `index` by a BPF link that is open until the context ends."""
    with _link(netns_fd, index, load_program(verdict=2), _XDP, _GENERIC):
        yield


@contextmanager
def make_tcx_link(netns_fd: int, index: int, place: int) -> Iterator[None]:
    """The same of a tcx program that drops everything; `place` is BPF_TCX_INGRESS or BPF_TCX_EGRESS."""
    with _link(netns_fd, index, load_program(verdict=2, kind=_TYPE_TCX), place, 0):
        yield


def attach_tcx(netns_fd: int, index: int, place: int) -> None:
    """A tcx program that drops everything, on link `index` for good."""
    program = load_program(verdict=2, kind=_TYPE_TCX)
    try:
        call_in(netns_fd, lambda: _bpf(_PROG_ATTACH, struct.pack("=III", index, program, place) + bytes(52)))
    finally:
        os.close(program)


@contextmanager
def _link(netns_fd: int, index: int, program: int, place: int, flags: int) -> Iterator[None]:
    try:
        link = call_in(netns_fd, lambda: _bpf(_LINK_CREATE, struct.pack("=IIII", program, index, place, flags)
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
