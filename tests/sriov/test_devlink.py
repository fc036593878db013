"""devlink over a kernel that answers with encoded messages, and over this machine's own."""

import errno
import socket
import struct
from typing import cast

import pytest

from sriov.errors import HostError, InputError, Refused
from sriov.host.devlink import Devlink
from sriov.pci import PciAddress

PF = PciAddress("0000:3b:00.0")
HEADER = struct.Struct("=IHHII")
FAMILY = 0x17

# linux/genetlink.h and linux/devlink.h, by their names there.
GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, CTRL_CMD_GETFAMILY = 16, 1, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
DEVLINK_CMD_ESWITCH_GET, DEVLINK_CMD_ESWITCH_SET, DEVLINK_CMD_INFO_GET = 29, 30, 51
BUS_NAME, DEV_NAME, ESWITCH_MODE, ESWITCH_INLINE_MODE = 1, 2, 25, 26
INFO_DRIVER_NAME, INFO_VERSION_FIXED, INFO_VERSION_RUNNING, INFO_VERSION_STORED = 98, 100, 101, 102
INFO_VERSION_NAME, INFO_VERSION_VALUE = 103, 104
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200


def attribute(kind, value):
    if isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def version(kind, name, value):
    return attribute(0x8000 | kind, attribute(INFO_VERSION_NAME, name) + attribute(INFO_VERSION_VALUE, value))


def u16(value):
    return struct.pack("=H", value)


class Kernel:
    """A generic netlink socket. `answers`: attributes or an errno by command, for the PF above alone."""

    def __init__(self, answers, family=FAMILY):
        self._answers, self._family = answers, family
        self._queue: list[bytes] = []
        self.closed = False
        self.mode: bytes | None = None      # the attributes of the last request that set one

    def setsockopt(self, level, option, value):
        pass

    def close(self):
        self.closed = True

    def send(self, data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data)
        command, _, _ = struct.unpack_from("=BBH", data, 16)
        sets = kind == self._family and command == DEVLINK_CMD_ESWITCH_SET
        assert (length, flags) == (len(data), NLM_F_REQUEST | (NLM_F_ACK if sets else 0))
        if kind == GENL_ID_CTRL:
            assert command == CTRL_CMD_GETFAMILY
            assert data[20:] == attribute(CTRL_ATTR_FAMILY_NAME, "devlink")
            answer = errno.ENOENT if self._family is None else (
                attribute(CTRL_ATTR_FAMILY_NAME, "devlink") + attribute(CTRL_ATTR_FAMILY_ID, u16(self._family)))
            command = CTRL_CMD_NEWFAMILY
        else:
            assert kind == self._family
            handle = attribute(BUS_NAME, "pci") + attribute(DEV_NAME, PF)
            known = data[20:].startswith(handle) if sets else data[20:] == handle
            if sets:
                self.mode = data[20 + len(handle) :]
            answer = self._answers[command] if known else errno.ENODEV
        if isinstance(answer, int):
            words = attribute(1, "the kernel's words")
            self._reply(2, NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence,
                        struct.pack("=i", -answer) + data[:16] + words)
        else:
            self._reply(kind, 0, sequence, struct.pack("=BBH", command, 1, 0) + answer)

    def recv_into(self, buffer, size, flags):
        assert flags == socket.MSG_PEEK | socket.MSG_TRUNC
        return len(self._queue[0])

    def recv(self, size):
        assert size >= len(self._queue[0])
        return self._queue.pop(0)

    def _reply(self, kind, flags, sequence, body):
        self._queue.append(HEADER.pack(16 + len(body), kind, flags, sequence, 4711) + body)


def ask_kernel(kernel):
    return Devlink(cast("socket.socket", kernel))


HANDLE = attribute(BUS_NAME, "pci") + attribute(DEV_NAME, PF)


def eswitch(mode):
    return HANDLE + attribute(ESWITCH_MODE, u16(mode)) + attribute(ESWITCH_INLINE_MODE, b"\1")


@pytest.mark.parametrize(("mode", "name"), [
    (0, "legacy"), (1, "switchdev"), (2, "switchdev_inactive"), (9, "mode 9")])
def test_eswitch_mode(mode, name):
    with ask_kernel(Kernel({DEVLINK_CMD_ESWITCH_GET: eswitch(mode)})) as devlink:
        assert devlink.eswitch_mode(PF) == name
        assert devlink.eswitch_mode(PF) == name


def test_who_knows_the_family_need_not_ask_for_it(monkeypatch):
    kernel = Kernel({DEVLINK_CMD_ESWITCH_GET: eswitch(0)})
    with ask_kernel(kernel) as first:
        known = first.family
    sent, send = [], kernel.send

    def note(data):
        sent.append(data)
        send(data)

    monkeypatch.setattr(kernel, "send", note)
    with Devlink(cast("socket.socket", kernel), known) as devlink:
        assert devlink.eswitch_mode(PF) == "legacy"
    assert len(sent) == 1


ICE = (HANDLE + attribute(INFO_DRIVER_NAME, "ice") + version(INFO_VERSION_FIXED, "board.id", "K65390-000")
       + version(INFO_VERSION_RUNNING, "fw.mgmt", "7.1.3")
       + version(INFO_VERSION_RUNNING, "fw.app.name", "ICE OS Default Package")
       + version(INFO_VERSION_RUNNING, "fw.app", "1.3.30.0")
       + version(INFO_VERSION_STORED, "fw.app.name", "not this one"))


@pytest.mark.parametrize(("answer", "package"), [
    (ICE, "ICE OS Default Package"),
    (HANDLE + version(INFO_VERSION_RUNNING, "fw.version", "22.35.1012"), None),
    (HANDLE + version(INFO_VERSION_STORED, "fw.app.name", "not this one"), None),
    (HANDLE, None),
])
def test_firmware_package(answer, package):
    with ask_kernel(Kernel({DEVLINK_CMD_INFO_GET: answer})) as devlink:
        assert devlink.firmware_package(PF) == package


@pytest.mark.parametrize("kernel", [
    pytest.param(Kernel({}, family=None), id="a kernel without devlink"),
    pytest.param(Kernel({}, family=0x20), id="a device without devlink"),
])
def test_no_devlink_is_none(kernel):
    with ask_kernel(kernel) as devlink:
        other = PciAddress("0000:99:00.0")
        assert (devlink.eswitch_mode(other), devlink.firmware_package(other)) == (None, None)
    assert kernel.closed


def test_a_driver_that_does_not_answer_is_none():
    answers = {DEVLINK_CMD_ESWITCH_GET: errno.EOPNOTSUPP, DEVLINK_CMD_INFO_GET: errno.EOPNOTSUPP}
    with ask_kernel(Kernel(answers)) as devlink:
        assert (devlink.eswitch_mode(PF), devlink.firmware_package(PF)) == (None, None)


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY])
def test_any_other_error_is_no_answer(number):
    with ask_kernel(Kernel({DEVLINK_CMD_ESWITCH_GET: number, DEVLINK_CMD_INFO_GET: number})) as devlink:
        for ask, what in ((devlink.eswitch_mode, f"read the eswitch mode of {PF}"),
                          (devlink.firmware_package, f"read the firmware versions of {PF}")):
            with pytest.raises(HostError, match=rf"^cannot {what}: .* \(the kernel's words\): ") as caught:
                ask(PF)
            assert caught.value.errno == number


def test_modes_are_for_admins():
    """One sentence for all PFs, since the kernel refuses before it looks for the device."""
    with ask_kernel(Kernel({DEVLINK_CMD_ESWITCH_GET: errno.EPERM})) as devlink:
        with pytest.raises(HostError) as caught:
            devlink.eswitch_mode(PF)
        assert str(caught.value) == "cannot read eswitch modes: EPERM (hint: run as root or with CAP_NET_ADMIN)"
        assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize(("mode", "number"), [("legacy", 0), ("switchdev", 1)])
def test_setting_the_eswitch_mode(mode, number):
    kernel = Kernel({DEVLINK_CMD_ESWITCH_SET: 0})
    with ask_kernel(kernel) as devlink:
        devlink.set_eswitch_mode(PF, mode)
    assert kernel.mode == attribute(ESWITCH_MODE, u16(number))


@pytest.mark.parametrize(("kernel", "address", "words"), [
    (Kernel({}, family=None), PF, "this kernel has no devlink"),
    (Kernel({}), PciAddress("0000:99:00.0"), "its driver does not register with devlink"),
    (Kernel({DEVLINK_CMD_ESWITCH_SET: errno.EOPNOTSUPP}), PF, "its driver has no eswitch modes"),
])
def test_nobody_to_set_an_eswitch_mode(kernel, address, words):
    with ask_kernel(kernel) as devlink, pytest.raises(Refused) as caught:
        devlink.set_eswitch_mode(address, "switchdev")
    assert str(caught.value) == f"cannot set eswitch mode switchdev of {address}: {words}"


def test_an_eswitch_mode_that_the_driver_refuses():
    with ask_kernel(Kernel({DEVLINK_CMD_ESWITCH_SET: errno.EBUSY})) as devlink, pytest.raises(HostError) as caught:
        devlink.set_eswitch_mode(PF, "switchdev")
    assert caught.value.errno == errno.EBUSY
    assert "the kernel's words" in str(caught.value)


def test_an_eswitch_mode_that_does_not_exist():
    with ask_kernel(Kernel({})) as devlink, pytest.raises(InputError, match="got 'router'"):
        devlink.set_eswitch_mode(PF, "router")


def test_this_machines_kernel():
    """Whether it has devlink or not: no device is at this address."""
    nowhere = PciAddress("ffff:ff:1f.7")
    with Devlink.open() as devlink:
        assert devlink.firmware_package(nowhere) is None
