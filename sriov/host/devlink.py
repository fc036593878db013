"""devlink: what a NIC's driver says of its embedded switch and its firmware. Source: linux/devlink.h.

One request for each PF and fact: the switch's mode has no dump, and a dump of all firmware versions would ask
the firmware of every VF that has a devlink instance of its own.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType

from sriov.errors import Gone, HostError, InputError, Refused
from sriov.host.nlattr import HEADER, Attributes, attributes, text_attribute
from sriov.host.nlsocket import NetlinkSocket
from sriov.pci import PciAddress

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_GENERIC_HEADER = struct.Struct("=BBH")     # command, version, reserved
_MODE_ATTRIBUTE = struct.Struct("=HHHxx")   # length, type, u16, padding
_VERSION = 1

_CMD_ESWITCH_GET, _CMD_ESWITCH_SET, _CMD_INFO_GET = 29, 30, 51
_ATTR_BUS_NAME, _ATTR_DEV_NAME, _ATTR_ESWITCH_MODE = 1, 2, 25
_ATTR_INFO_VERSION_RUNNING, _ATTR_INFO_VERSION_NAME, _ATTR_INFO_VERSION_VALUE = 101, 103, 104

_ESWITCH_MODES = {0: "legacy", 1: "switchdev", 2: "switchdev_inactive"}
_PACKAGE = "fw.app.name"                    # Documentation/networking/devlink/devlink-info.rst


class Devlink:
    """The devlink family of generic netlink on `sock` (AF_NETLINK, NETLINK_GENERIC).

    `family` is its number, the same for all of a boot: None where the kernel has no devlink; whoever makes one may
    know it from before. Every method raises HostError with the kernel's errno and words.
    """

    def __init__(self, sock: socket.socket, family: int | None = None) -> None:
        self._socket = NetlinkSocket(sock)
        self.family = self._find_family() if family is None else family

    @classmethod
    def open(cls, family: int | None = None) -> Devlink:
        """devlink of the calling thread's own network namespace; raises HostError."""
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        except OSError as error:
            raise HostError("cannot open a generic netlink socket", errno=error.errno or 0) from None
        try:
            return cls(sock, family)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Devlink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def eswitch_mode(self, address: PciAddress) -> str | None:
        """legacy or switchdev; None: no devlink, or the NIC has no such switch. Needs CAP_NET_ADMIN."""
        try:
            answer = self._ask(_CMD_ESWITCH_GET, address, f"read the eswitch mode of {address}")
        except HostError as error:
            if error.errno == errno.EPERM:      # before it looks for the device: the same for each
                raise HostError("cannot read eswitch modes", errno=errno.EPERM,
                                hint="run as root or with CAP_NET_ADMIN") from None
            raise
        mode = None if answer is None else Attributes(answer).number(_ATTR_ESWITCH_MODE, "=H")
        return None if mode is None else _ESWITCH_MODES.get(mode, f"mode {mode}")

    def set_eswitch_mode(self, address: PciAddress, mode: str) -> None:
        """Make the NIC's switch `legacy` or `switchdev`; Refused where there is no devlink or no such switch."""
        number = next((number for number, name in _ESWITCH_MODES.items() if name == mode), None)
        if number is None:
            raise InputError(f"expected an eswitch mode of {', '.join(_ESWITCH_MODES.values())}, got {mode!r}")
        what = f"set eswitch mode {mode} of {address}"
        if self.family is None:
            raise Refused(f"cannot {what}: this kernel has no devlink")
        body = _GENERIC_HEADER.pack(_CMD_ESWITCH_SET, _VERSION, 0)
        body += text_attribute(_ATTR_BUS_NAME, "pci") + text_attribute(_ATTR_DEV_NAME, address)
        body += _MODE_ATTRIBUTE.pack(6, _ATTR_ESWITCH_MODE, number)
        try:
            self._socket.change(self.family, body, what)
        except Gone:
            raise Refused(f"cannot {what}: its driver does not register with devlink") from None
        except HostError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise Refused(f"cannot {what}: its driver has no eswitch modes") from None
            raise

    def firmware_package(self, address: PciAddress) -> str | None:
        """Name of the protocol package that the firmware runs (Intel: DDP); None where the driver names none."""
        answer = self._ask(_CMD_INFO_GET, address, f"read the firmware versions of {address}")
        for kind, version in attributes(answer or b""):
            if kind == _ATTR_INFO_VERSION_RUNNING:
                found = Attributes(version)
                if found.text(_ATTR_INFO_VERSION_NAME) == _PACKAGE:
                    return found.text(_ATTR_INFO_VERSION_VALUE)
        return None

    def _ask(self, command: int, address: PciAddress, what: str) -> bytes | None:
        """The attributes that the kernel answers with; None where there is nobody to ask."""
        if self.family is None:
            return None
        body = _GENERIC_HEADER.pack(command, _VERSION, 0)
        body += text_attribute(_ATTR_BUS_NAME, "pci") + text_attribute(_ATTR_DEV_NAME, address)
        try:
            return self._socket.get(self.family, body, what)[HEADER.size + _GENERIC_HEADER.size :]
        except Gone:                        # the device has no devlink instance
            return None
        except HostError as error:
            if error.errno == errno.EOPNOTSUPP:    # its driver does not answer this
                return None
            raise

    def _find_family(self) -> int | None:
        """The number of this boot's devlink family; None on a kernel without devlink."""
        body = _GENERIC_HEADER.pack(_CTRL_CMD_GETFAMILY, _VERSION, 0)
        body += text_attribute(_CTRL_ATTR_FAMILY_NAME, "devlink")
        try:
            raw = self._socket.get(_GENL_ID_CTRL, body, "find devlink")
        except HostError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return Attributes(raw[HEADER.size + _GENERIC_HEADER.size :]).number(_CTRL_ATTR_FAMILY_ID, "=H")
