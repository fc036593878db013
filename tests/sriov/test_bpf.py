"""What the kernel's refusals to tell of tcx programs mean; the rest is tried on real netdevs."""

import ctypes
import errno
import platform

import pytest

from sriov.errors import Gone, HostError
from sriov.host import bpf


class Kernel:
    """bpf(2) that answers with this errno."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def syscall(self, number, command, attributes, size):
        self.asked.append((number.value, command.value, attributes.raw, size.value))
        ctypes.set_errno(self.number)
        return -1


@pytest.fixture
def kernel(monkeypatch):
    def make(number):
        made = Kernel(number)
        monkeypatch.setattr(bpf, "_libc", made)
        return made

    return make


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT, errno.ENOSYS])
def test_a_kernel_without_tcx_has_none(kernel, number, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    asked = kernel(number)
    assert bpf.read_tcx(7) == ()
    assert [(call, command, size) for call, command, _, size in asked.asked] == [(321, 16, 64)] * 2
    assert [attributes[:16] for *_, attributes, _ in asked.asked] == [
        b"".join(word.to_bytes(4, "little") for word in (7, place, 0, 0)) for place in (46, 47)]


def test_what_may_not_be_read_is_not_none(kernel):
    kernel(errno.EPERM)
    with pytest.raises(HostError, match=r"read the tcx ingress programs of link 7: EPERM \(hint: it takes CAP_"):
        bpf.read_tcx(7)
    kernel(errno.ENODEV)
    with pytest.raises(Gone):
        bpf.read_tcx(7)


def test_a_machine_whose_number_of_bpf_is_not_known(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    with pytest.raises(HostError, match=r"bpf\(2\) is not known on m68k"):
        bpf.read_tcx(7)
