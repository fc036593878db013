"""The BPF programs of tcx on a netdev, by bpf(2): they see each packet that it receives or sends (Linux 6.6).

Unlike what tc attaches to a qdisc they stay on a netdev that moves to another network namespace: only its end takes
them off (tcx_uninstall). The kernel looks for the netdev in the namespace of the calling thread.
Source: linux/bpf.h, kernel/bpf/syscall.c, kernel/bpf/tcx.c, kernel/bpf/mprog.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Mapping

from sriov.errors import Gone, HostError

TCX: Mapping[int, str] = {46: "ingress", 47: "egress"}      # BPF_TCX_INGRESS, BPF_TCX_EGRESS

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}
_PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY, _LINK_GET_FD_BY_ID, _LINK_DETACH = 9, 13, 16, 30, 34
_MOST = 64             # more than bpf_mprog_max allows in one place
# In union bpf_attr: netdev, place, two flags, ids, how many, flags of each, ids of links, flags of each, revision.
_QUERY = struct.Struct("=IIIIQIxxxxQQQQ")
_COUNT_AT = 24
# Of a kernel without tcx; of the first with it where a netdev has none; of one without bpf(2).
_NONE = (errno.EINVAL, errno.ENOENT, errno.ENOSYS)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def read_tcx(index: int) -> tuple[tuple[int, int], ...]:
    """Place (a key of TCX) and program id of each on netdev `index`, in the order in which packets meet them.

    Raises Gone where there is no such netdev, HostError where the kernel does not tell.
    """
    return tuple((place, program) for place in TCX for program, _ in _query(index, place))


def detach_tcx(index: int, place: int, program: int) -> None:
    """Take program `program` off, whether it was attached itself or by a BPF link, which somebody may have open.

    Raises as `read_tcx`, HostError also where it is not there.
    """
    what = f"take the tcx {TCX[place]} program {program} off link {index}"
    link = dict(_query(index, place)).get(program)
    if link is None:
        raise HostError(f"cannot {what}", errno=errno.ENOENT)
    command, number = (_LINK_GET_FD_BY_ID, link) if link else (_PROG_GET_FD_BY_ID, program)
    holder, _ = _call(command, struct.pack("=I", number), what)
    try:
        if link:
            _call(_LINK_DETACH, struct.pack("=I", holder), what)
        else:
            _call(_PROG_DETACH, struct.pack("=III", index, holder, place), what)
    finally:
        os.close(holder)


def _query(index: int, place: int) -> Iterator[tuple[int, int]]:
    """Ids of the programs, each with that of the BPF link that holds it there, 0 for none."""
    programs, links = ((ctypes.c_uint32 * _MOST)() for _ in range(2))
    asked = _QUERY.pack(index, place, 0, 0, ctypes.addressof(programs), _MOST, 0, ctypes.addressof(links), 0, 0)
    try:
        answer = _call(_PROG_QUERY, asked, f"read the tcx {TCX[place]} programs of link {index}")[1]
    except HostError as error:
        if error.errno in _NONE:
            return
        raise
    (count,) = struct.unpack_from("=I", answer, _COUNT_AT)
    yield from zip(programs[:count], links[:count], strict=True)


def _call(command: int, given: bytes, what: str) -> tuple[int, bytes]:
    """What bpf(2) returns, and its attributes as they are then."""
    syscall = _NUMBERS.get(platform.machine())
    if syscall is None:
        raise HostError(f"cannot {what}: bpf(2) is not known on {platform.machine()}")
    attributes = ctypes.create_string_buffer(given, len(given))
    done = _libc.syscall(ctypes.c_long(syscall), ctypes.c_int(command), attributes, ctypes.c_uint(len(given)))
    if done >= 0:
        return int(done), attributes.raw
    failure = ctypes.get_errno()
    if failure == errno.ENODEV:
        raise Gone(f"cannot {what}: there is no such link")
    hint = "it takes CAP_SYS_ADMIN, and a seccomp profile that allows bpf(2)" if failure == errno.EPERM else None
    raise HostError(f"cannot {what}", errno=failure, hint=hint)
