"""Selectors of sriov-network-device-plugin, as selectors of ours that mean the same.

There, texts are compared as they are, but names and addresses of PFs in any case; the keys of a selector must all
match, any value of a key is enough. A value that can match nothing is a warning, and so is a key that is not
supported yet: then nobody gets what its selector selects by its other keys, nor does a later pool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sriov.errors import InputError
from sriov.pci import PciAddress
from sriov.pools.documents import suggest
from sriov.pools.dpfields import Fields, Findings
from sriov.pools.jsonnodes import Node
from sriov.pools.patterns import exactly, is_literal
from sriov.pools.ranges import MAX_VFS, VfIndices
from sriov.pools.scalars import (
    LINK_TYPES,
    parse_acpi_index,
    parse_bound_driver,
    parse_firmware_package,
    parse_hex_id,
)
from sriov.pools.selectors import FunctionClass, PfMatch, Selector

ACCELERATOR_KEYS = ("vendors", "devices", "drivers", "pciAddresses")
NETDEVICE_KEYS = (
    *ACCELERATOR_KEYS, "acpiIndexes", "pfNames", "rootDevices", "linkTypes", "ddpProfiles", "pKeys", "isRdma",
    "needVhostNet", "vdpaType",
)

_MAX_SELECTORS = 256                  # that one of theirs may become
_KEPT = "not supported yet: no pod gets what this selector selects without that, nor does a later pool have it"
_NOT_YET = {
    "isRdma": "VFs with an RDMA device are selected, but pods are not given its device nodes yet",
    "needVhostNet": "not supported yet: pods are given neither /dev/vhost-net nor /dev/net/tun",
    "vdpaType": f"vDPA devices are {_KEPT}",
    "pKeys": f"InfiniBand partition keys are {_KEPT}",
}
_RESERVING = {"vdpaType": "vDPA devices", "pKeys": "InfiniBand partition keys"}
_ITEM = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_NAME = re.compile(r"[^\s/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pfs:
    """PFs that are named with the same VF indices; `names` () means any PF, `vfs` None any VF."""

    names: tuple[str, ...]
    vfs: VfIndices | None


def parse_dp_selector(fields: Fields, function_class: FunctionClass, findings: Findings) -> tuple[Selector, ...]:
    """One of their selectors as selectors that add up; () where it can select nothing, which is a warning."""
    checks = {"vendors": _check_hex_id, "devices": _check_hex_id, "drivers": _check_driver,
              "pciAddresses": _check_address, "acpiIndexes": _check_acpi_index, "linkTypes": _check_link_type,
              "ddpProfiles": _check_package}
    values = {key: _values(fields, key, check, findings) for key, check in checks.items()}
    named = _pfs(fields, "pfNames", _check_pf_name, findings)
    rooted = _pfs(fields, "rootDevices", _check_root_device, findings)
    rdma = fields.truth("isRdma")
    missing = _find_missing(fields, rdma, findings)
    found_by_key = {**values, "pfNames": named, "rootDevices": rooted}
    impossible = [key for key, found in found_by_key.items() if found is not None and not found]
    if impossible:
        findings.warn(fields.node, f"{fields.path}: selects nothing: no value of {', '.join(impossible)} can match")
        return ()
    if len(named) * len(rooted) > _MAX_SELECTORS:
        findings.refuse(fields.node, f"{fields.path}: more than {_MAX_SELECTORS} combinations of the VF ranges in "
                                     "pfNames and rootDevices are not supported; split the selector")
        return ()
    keys = {key: tuple(found or ()) for key, found in values.items()}
    selectors = tuple(
        Selector(
            on=PfMatch(name=by_name.names, address=by_root.names, link_type=keys["linkTypes"],
                       firmware_package=keys["ddpProfiles"]),
            vfs=vfs, vendor=keys["vendors"], device=keys["devices"], driver=keys["drivers"],
            address=keys["pciAddresses"], acpi_index=keys["acpiIndexes"], base_class=(function_class,),
            rdma=rdma or None, reserved=missing, place=findings.place(fields.node))
        for by_name in named for by_root in rooted for vfs in _common(by_name.vfs, by_root.vfs)
    )
    if not selectors:
        findings.warn(fields.node, f"{fields.path}: selects nothing: the VF ranges of pfNames and rootDevices have "
                                   "none in common")
    return selectors


def _find_missing(fields: Fields, rdma: bool, findings: Findings) -> str:
    """What would have to be supported for the selector to mean what it says; empty where it does. Warns of it."""
    asked = {
        "isRdma": rdma, "needVhostNet": fields.truth("needVhostNet"), "vdpaType": bool(fields.text("vdpaType")),
        "pKeys": bool(fields.texts("pKeys")),
    }
    if asked["vdpaType"] and rdma:
        findings.refuse(fields.find("vdpaType") or fields.node,
                        f"{fields.path}.vdpaType: a selector cannot have vdpaType and isRdma; split it in two")
    for key, answer in _NOT_YET.items():
        if asked[key]:
            findings.warn(fields.find(key) or fields.node, f"{fields.path}.{key}: {answer}")
    wanted = " and ".join(what for key, what in _RESERVING.items() if asked[key])
    return f"its pool wants {wanted}, not supported yet" if wanted else ""


def _values(fields: Fields, key: str, check: Callable[[str], str], findings: Findings) -> list[str] | None:
    """The values of a key that can match; None if it does not constrain."""
    items = fields.texts(key)
    values = []
    for number, (node, text) in enumerate(items):
        try:
            values.append(check(text))
        except InputError as error:
            findings.warn(node, f"{fields.path}.{key}[{number}]: {text!r} matches nothing: {error.message}")
    return values if items else None


# ---- PFs with ranges of VFs: "ens1f0#0-3,6" ---------------------------------------------------------------


def _pfs(fields: Fields, key: str, check: Callable[[str], str], findings: Findings) -> list[_Pfs]:
    """The PFs by their VF indices; empty if no value can match."""
    items = fields.texts(key)
    if not items:
        return [_Pfs(names=(), vfs=None)]
    by_range: dict[VfIndices | None, list[str]] = {}
    first: dict[str, Node] = {}
    for number, (node, text) in enumerate(items):
        path = f"{fields.path}.{key}[{number}]"
        name, mark, ranges = text.partition("#")
        if name.lower() in first:
            findings.warn(node, f"{path}: {text!r} has no effect: only the first entry of a PF counts, here the "
                                f"one at {findings.place(first[name.lower()])}; write all its ranges there: "
                                f"{name}#0-1,4-5")
            continue
        first[name.lower()] = node
        try:
            checked = check(name)
        except InputError as error:
            findings.warn(node, f"{path}: {text!r} matches nothing: {error.message}")
            continue
        spans = list(_spans(node, path, ranges, findings)) if mark else []
        if spans or not mark:
            by_range.setdefault(VfIndices.merge(spans) if mark else None, []).append(checked)
    return [_Pfs(names=tuple(names), vfs=vfs) for vfs, names in by_range.items()]


def _spans(node: Node, path: str, text: str, findings: Findings) -> Iterator[tuple[int, int]]:
    if "#" in text:
        findings.warn(node, f"{path}: matches nothing: expected one # only, got #{text}")
        return
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            findings.warn(node, f"{path}: {item!r} is not a VF index or a range like 0-3 (no blanks): from it on "
                                f"nothing of #{text} matches")
            return
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            findings.warn(node, f"{path}: {item!r} matches nothing: it counts down")
        elif first <= MAX_VFS:
            yield first, min(last, MAX_VFS)


def _common(one: VfIndices | None, other: VfIndices | None) -> Sequence[VfIndices | None]:
    """The indices of both as a list of one; an empty list where they have none in common."""
    if one is None or other is None:
        return [one or other]
    return [both] if (both := one & other).spans else []


# ---- values: what can match, as a pattern of ours; else InputError says why it cannot ----------------------


def _check_hex_id(text: str) -> str:
    try:
        wanted = parse_hex_id(text)
    except InputError:
        raise InputError("ids are four lower-case hex digits like 8086") from None
    if wanted != text:
        raise InputError(f"ids are four lower-case hex digits, write {wanted!r}")
    return text


def _check_driver(text: str) -> str:
    try:
        return parse_bound_driver(text)
    except InputError:
        raise InputError("no driver has such a name") from None


def _check_address(text: str) -> str:
    try:
        wanted = PciAddress.parse(text)
    except InputError:
        raise InputError("PCI addresses are like 0000:3b:02.1") from None
    if wanted != text:
        raise InputError(f"PCI addresses are lower case and have their domain, write {str(wanted)!r}")
    return wanted


def _check_root_device(text: str) -> str:
    return _check_address(text.lower())


def _check_pf_name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise InputError("expected the name of a PF's netdev like ens1f0")
    if not is_literal(text):
        raise InputError("there are no globs here; in a pool file of vfpool there are")
    return exactly(text, ignore_case=True)


def _check_link_type(text: str) -> str:
    if text not in LINK_TYPES:
        raise InputError(f"no such link type{suggest(text, LINK_TYPES)}")
    return text


def _check_acpi_index(text: str) -> str:
    return exactly(parse_acpi_index(text))


def _check_package(text: str) -> str:
    return exactly(parse_firmware_package(text))
