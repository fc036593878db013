"""Scalars of a pool file: text as written to a value, or InputError with what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from sriov.errors import InputError
from sriov.model import LinkState
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver
from sriov.pools.documents import suggest
from sriov.pools.override import LASTING, Override
from sriov.pools.patterns import check_pattern, is_expression, is_literal
from sriov.pools.selectors import FunctionClass

# The kubelet wants "requests.<prefix>/<name>" to be a qualified name: prefix a DNS subdomain of at most 253
# characters, name at most 63. sriov-network-device-plugin allows no dots in the name.
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MAX_PREFIX = 253 - len("requests.")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_INDEXED = re.compile(r"([^#]+)#(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", re.ASCII)
_HEX_ID = re.compile(r"(?:0x)?([0-9a-f]{4})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_DRIVER = re.compile(r"[A-Za-z0-9_-]+")
_MAX_NODE_NAME = 253                  # a DNS subdomain
_RATE = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_RATE = 2**32 - 1
LINK_TYPES = ("ether", "infiniband")
DERIVED = "derived"                   # in place of VFs' MACs

T = TypeVar("T")


def parse_resource_prefix(text: str) -> str:
    """`intel.com`: a DNS subdomain that the kubelet accepts before the slash of an extended resource."""
    if _PREFIX.fullmatch(text) is None or len(text) > _MAX_PREFIX:
        raise InputError("expected a resource prefix like intel.com (a lower-case DNS name of at most "
                         f"{_MAX_PREFIX} characters), got {text!r}")
    if text.endswith("kubernetes.io") or text.startswith("requests."):
        raise InputError("expected a resource prefix of your own, kubernetes.io and requests. belong to "
                         f"Kubernetes, got {text!r}")
    return text


def parse_resource_name(text: str) -> str:
    """`sriov`: what follows the slash of an extended resource."""
    prefix, slash, name = text.partition("/")
    if slash and _PREFIX.fullmatch(prefix) is not None and _NAME.fullmatch(name) is not None and "." in prefix:
        raise InputError(f"expected a resource name without its prefix, got {text!r}: write resource: {name} and "
                         f"resourcePrefix: {prefix}")
    if _NAME.fullmatch(text) is None:
        raise InputError("expected a resource name (1 to 63 of A-Z, a-z, 0-9, - and _, a letter or digit at "
                         f"both ends), got {text!r}")
    return text


def parse_hex_id(text: str) -> str:
    """A PCI vendor or device id: `8086`, `10CA` or `0x8086` to four lower-case hex digits."""
    match = _HEX_ID.fullmatch(text.lower())
    if match is None:
        raise InputError(f"expected a PCI id of four hex digits like 8086, got {text!r}")
    return match[1]


def expect(value: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text != value:
            mind = ": mind the capital letters" if text.lower() == value.lower() else ""
            raise InputError(f"expected {value}, got {text!r}{mind}")
        return text

    return parse


def number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
            raise InputError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def parse_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise InputError(f"expected true or false, got {text!r}")
    return text == "true"


def parse_numa_node(text: str) -> int:
    if text != "-1" and _NUMBER.fullmatch(text) is None:
        raise InputError(f"expected a NUMA node like 0, or -1 where the platform does not say, got {text!r}")
    return int(text)


def parse_driver(text: str) -> Driver:
    if _DRIVER.fullmatch(text) is None:
        raise InputError(f"expected kernel or the name of a driver like vfio-pci, got {text!r}")
    return Driver(text)


def parse_bound_driver(text: str) -> str:
    if _DRIVER.fullmatch(text) is None or text == Driver.KERNEL:
        raise InputError(f"expected the name of a driver like igbvf, got {text!r}")
    return text


def parse_netdev(text: str) -> str:
    if not _is_word(text):
        raise InputError("expected a netdev name like ens1f0, a glob like ens1f* or a regular expression like "
                         f"/ens[12]f0/, got {text!r}")
    return text


def parse_pf(text: str) -> str:
    """A PCI address in its full form, or a netdev name."""
    try:
        return PciAddress.parse(text)
    except InputError:
        return parse_netdev(text)


def parse_node_name(text: str) -> str:
    if _PREFIX.fullmatch(text) is None or len(text) > _MAX_NODE_NAME:
        raise InputError("expected the name of a Kubernetes node like worker-1, or a glob like worker-*, got "
                         f"{text!r}")
    return text


def parse_switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise InputError(f"expected on or off, got {text!r}")
    return text == "on"


def parse_link_state(text: str) -> LinkState:
    return _choose(text, {each.name.lower(): each for each in LinkState}, "link state")


def parse_eswitch(text: str) -> str:
    return _choose(text, {each: each for each in ("legacy", "switchdev")}, "eswitch mode")


def parse_override(text: str) -> Override:
    if text == Override.IN_USE:
        raise InputError("in-use is not for a file: what is in use would be taken away again and again")
    return _choose(text, {str(each): each for each in LASTING}, "override")


def parse_rate(text: str) -> int:
    """Mbit/s; struct ifla_vf_rate holds 32 bits."""
    if _RATE.fullmatch(text) is None or int(text) > _MAX_RATE:
        raise InputError(f"expected a rate in Mbit/s from 0, which is no limit, to {_MAX_RATE}, got {text!r}")
    return int(text)


def parse_vf_mac(text: str) -> MacAddress | None:
    """A VF's MAC; None: derived from the PF's."""
    return None if text == DERIVED else MacAddress.parse_unicast(text)


def _choose(text: str, choices: Mapping[str, T], what: str) -> T:
    if text not in choices:
        raise InputError(f"unknown {what} {text!r}{suggest(text, tuple(choices))}")
    return choices[text]


def parse_link_type(text: str) -> str:
    if text not in LINK_TYPES:
        raise InputError(f"unknown link type {text!r}{suggest(text, LINK_TYPES)}")
    return text


def parse_function_class(text: str) -> FunctionClass:
    names = {str(each): each for each in FunctionClass}
    if text not in names:
        raise InputError(f"unknown class {text!r}{suggest(text, tuple(names))}")
    return names[text]


def parse_acpi_index(text: str) -> str:
    if not _is_word(text):
        raise InputError(f"expected an ACPI index like 101, got {text!r}")
    return text


def parse_firmware_package(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise InputError(f"expected the name of a firmware package like ICE OS Default Package, got {text!r}")
    return text


def pattern(parse: Callable[[str], str]) -> Callable[[str], str]:
    """What `parse` takes, or a glob, or a regular expression in slashes."""
    def parse_pattern(text: str) -> str:
        if is_expression(text):
            return check_pattern(text)
        return parse(text) if is_literal(text) or not text.isprintable() else check_pattern(text)

    return parse_pattern


def pf_pattern(parse: Callable[[str], str]) -> Callable[[str], str]:
    """As `pattern`, for what names PFs: sriov-network-device-plugin has VF indices in it, `ens1f0#0-3`."""
    def parse_name(text: str) -> str:
        if not is_expression(text) and (match := _INDEXED.fullmatch(text)) is not None:
            vfs = f'"{match[2]}"' if "," in match[2] else match[2]
            raise InputError(f"expected a PF without VF indices, got {text!r}: in a pool's select write "
                             f"{{pf: {match[1]}, vfs: {vfs}}}")
        return pattern(parse)(text)

    return parse_name


parse_address = pattern(PciAddress.parse)
parse_mac = pattern(MacAddress.parse)


def _is_word(text: str) -> bool:
    return bool(text) and "/" not in text and not any(character.isspace() for character in text)
