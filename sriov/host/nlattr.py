"""Netlink's attributes: type, length, value, in messages and in one another. Source: linux/netlink.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sriov.pci import MacAddress

HEADER = struct.Struct("=IHHII")      # struct nlmsghdr: length, type, flags, sequence, port

_NLA_F_NESTED = 0x8000
_unpack_header = struct.Struct("=HH").unpack_from      # of struct nlattr: length, type


class Attributes:
    """The attributes of a message or of a nested attribute, by type; the last of a repeated one counts.

    pyroute2's decoder takes twenty times as long, and a call of the CNI executable reads six messages.
    """

    def __init__(self, data: bytes) -> None:
        self._found: dict[int, bytes] = {}
        offset, last = 0, len(data) - 4
        while offset <= last:                    # as `attributes`, which takes half as long again
            size, kind = _unpack_header(data, offset)
            if size < 4:
                break
            self._found[kind & 0x3FFF] = data[offset + 4 : offset + size]
            offset += size + 3 & ~3

    def raw(self, kind: int) -> bytes | None:
        return self._found.get(kind)

    def text(self, kind: int) -> str | None:
        """A C string, as `decode_text` has it."""
        found = self._found.get(kind)
        return None if found is None else decode_text(found)

    def numbers(self, kind: int, form: str) -> tuple[int, ...] | None:
        """The first fields of a C structure; None where it is absent, or shorter than that."""
        try:
            return struct.unpack_from(form, self._found[kind])
        except (LookupError, struct.error):
            return None

    def number(self, kind: int, form: str = "=I") -> int | None:
        numbers = self.numbers(kind, form)
        return None if numbers is None else numbers[0]

    def mac(self, kind: int, offset: int = 0) -> MacAddress | None:
        found = self._found.get(kind)
        return None if found is None else MacAddress(found[offset : offset + 6].hex(":"))

    def nested(self, kind: int) -> Iterator[tuple[int, bytes]]:
        return attributes(self._found.get(kind, b""))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute, in order."""
    offset, last = 0, len(data) - 4
    while offset <= last:
        size, kind = _unpack_header(data, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    """An attribute, padded; `nested`: its value is attributes."""
    kind |= _NLA_F_NESTED if nested else 0
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def find_value(data: bytes, wanted: int) -> bytes:
    """What follows the header of the first attribute of type `wanted`: its value, and all behind it."""
    offset = 0
    while offset + 4 <= len(data):
        size, kind = _unpack_header(data, offset)
        if kind & 0x3FFF == wanted:
            return data[offset + 4 :]
        offset += max((size + 3) & ~3, 4)
    return b""


def text_attribute(kind: int, text: str) -> bytes:
    """An attribute that holds a C string, padded."""
    return attribute(kind, encode_text(text) + b"\0")


def decode_text(raw: bytes) -> str:
    """A C string. Names of netdevs may be any bytes: they become text as os.fsdecode makes it, which can be sent
    back as it came.
    """
    return raw.rstrip(b"\0").decode(errors="surrogateescape")


def encode_text(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
