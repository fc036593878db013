"""PCI and MAC addresses: strings from outside become these once, at the border."""

from __future__ import annotations

import re

from sriov.errors import InputError

_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


class PciAddress(str):
    """Domain, bus, device, function as sysfs names a device: `0000:3b:02.1` (lower case, domain present).

    The domain has four hex digits, or more behind a VMD controller.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Take `0000:3B:00.1` or `3b:00.1`; raise InputError for anything else."""
        match = _PCI.fullmatch(text.strip().lower())
        if match is None:
            raise InputError(f"expected a PCI address like 0000:3b:02.1, got {text!r}")
        domain, bus, device, function = match.groups()
        return cls(f"{domain or '0000'}:{bus}:{device}.{function}")

    @property
    def order(self) -> tuple[int, str]:
        """Sort key: by domain as a number, then as text."""
        domain, _, rest = self.partition(":")
        return int(domain, 16), rest


class MacAddress(str):
    """A 48-bit MAC address in lower-case colon form, as netlink prints it."""

    __slots__ = ()

    ZERO: MacAddress

    @classmethod
    def parse(cls, text: str) -> MacAddress:
        """Take `02:00:00:00:00:01`, dashes or Cisco dots, any case; raise InputError for anything else."""
        plain = text.strip().lower()
        digits = re.sub(r"[:.-]", "", plain)
        colons = ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))
        forms = {colons, colons.replace(":", "-"), ".".join(digits[i : i + 4] for i in range(0, 12, 4))}
        if _MAC.fullmatch(colons) is None or plain not in forms:
            raise InputError(f"expected a MAC address like 02:00:00:00:00:01, got {text!r}")
        return cls(colons)

    @classmethod
    def parse_unicast(cls, text: str) -> MacAddress:
        """As `parse`, but refuse what no interface may carry: zero, multicast, broadcast."""
        mac = cls.parse(text)
        if mac == cls.ZERO or int(mac[:2], 16) & 1:
            raise InputError(f"expected a unicast MAC address, got {text!r}")
        return mac


MacAddress.ZERO = MacAddress("00:00:00:00:00:00")
