"""The words of a networks annotation: each parser takes a text, gives the value, or raises InputError.

The messages go on after the text as it stands there, like `"x" is not a namespace`.
Source: NPWG multi-network specification 1.3, Kubernetes' rules for names, and the kernel's for links.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

from sriov.errors import InputError
from sriov.pci import MacAddress

Address = IPv4Address | IPv6Address      # an interface address, one with a prefix length, is one of these too

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
IFNAME_BYTES = 15                                        # IFNAMSIZ of linux/if.h, without the zero

_LABEL, _SUBDOMAIN = re.compile(LABEL), re.compile(SUBDOMAIN)
_MAX_NAMESPACE, _MAX_NAME = 63, 253                      # what the API server takes as metadata.name
# dev_valid_name() of the kernel; a percent sign it takes for a place to put a number (__dev_alloc_name).
_IFNAME = re.compile(r"(?!\.{1,2}\Z)[^/:%\s\0\ud800-\udfff]+")
# containerd and CRI-O call the interface of the cluster's network eth0 in every pod.
_TAKEN = {"lo": "loopback interface", "eth0": "interface in the cluster's network"}
_GUID = re.compile(r"[0-9a-f]{2}(?:(:|-)[0-9a-f]{2}(?:\1[0-9a-f]{2}){6})|[0-9a-f]{4}(?:\.[0-9a-f]{4}){3}", re.I)
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def parse_namespace(text: str) -> str:
    if _LABEL.fullmatch(text) is None or len(text) > _MAX_NAMESPACE:
        raise InputError(f"is not a namespace (a-z, 0-9, - inside; at most {_MAX_NAMESPACE})")
    return text


def parse_short_name(text: str) -> str:
    if _LABEL.fullmatch(text) is None or len(text) > _MAX_NAME:
        hint = "; a name with dots needs the JSON form" if _SUBDOMAIN.fullmatch(text) else ""
        raise InputError(f"is not a name (a-z, 0-9, - inside; at most {_MAX_NAME}){hint}")
    return text


def parse_name(text: str) -> str:
    if len(text) > _MAX_NAME or _SUBDOMAIN.fullmatch(text) is None:
        namespace, _, name = text.partition("/")
        if len(namespace) <= _MAX_NAMESPACE and _LABEL.fullmatch(namespace) and (
                len(name) <= _MAX_NAME and _SUBDOMAIN.fullmatch(name)):
            raise InputError(f"is not a name, write \"namespace\": \"{namespace}\", \"name\": \"{name}\"")
        raise InputError(f"is not a name (a-z, 0-9, - and . inside; at most {_MAX_NAME})")
    return text


def parse_ifname(text: str) -> str:
    if text in _TAKEN:
        raise InputError(f"is every pod's {_TAKEN[text]}")
    if not is_ifname(text):
        raise InputError(f"is not an interface name: 1 to {IFNAME_BYTES} bytes, no slash, colon, percent sign or "
                         "white space")
    return text


def is_ifname(text: str) -> bool:
    """Whether the kernel takes it as the name of a link."""
    return _IFNAME.fullmatch(text) is not None and len(text.encode()) <= IFNAME_BYTES


def parse_mac(text: str) -> MacAddress:
    try:
        mac = MacAddress.parse(text)
    except InputError:
        mac = None
    if mac is None or text != text.strip():
        raise InputError("is not a 6-byte MAC address like 02:00:00:00:00:01")
    if mac == MacAddress.ZERO or int(mac[:2], 16) & 1:
        raise InputError("is not a unicast MAC address, no interface may have it")
    return mac


def parse_guid(text: str) -> str:
    if _GUID.fullmatch(text) is None:
        raise InputError("is not an 8-byte GUID like 02:00:00:00:00:00:00:01")
    return text


def parse_address(text: str) -> Address:
    # A zone (fe80::1%eth0) is Python's, no CNI plugin takes one.
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    raise InputError("is not an IP address like 10.0.0.1 or fd00::1")


def parse_interface_address(text: str) -> Address:
    try:
        if "%" not in text:
            _, slash, prefix = text.partition("/")
            # Python takes a netmask after the slash, too.
            if not slash:
                return ip_address(text)
            if prefix.isascii() and prefix.isdigit():
                return ip_interface(text)
    except ValueError:
        pass
    raise InputError("is not an IP address like 10.0.0.1, 10.0.0.1/24 or fd00::1/64")


def parse_protocol(text: str) -> str:
    if text.upper() not in _PROTOCOLS:
        raise InputError(f"is not one of {', '.join(_PROTOCOLS)}")
    return text.upper()
