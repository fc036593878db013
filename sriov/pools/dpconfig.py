"""The configuration of sriov-network-device-plugin, `{"resourceList": [...]}`, as a pool file that means the same.

It makes no VFs. Of all that it can select, vfpool hands out VFs only, under the same names and in the same order:
the first selector of the first pool that matches a VF has it. A PF's altnames count as its name too.
"""

from __future__ import annotations

import re

from sriov.errors import InputError
from sriov.pools.assignment import Pool, PoolFile
from sriov.pools.documents import DocumentErrors, suggest
from sriov.pools.dpfields import Complain, Fields, Findings
from sriov.pools.dpselectors import ACCELERATOR_KEYS, NETDEVICE_KEYS, parse_dp_selector
from sriov.pools.jsonnodes import Node, Object, parse_json
from sriov.pools.scalars import parse_resource_name, parse_resource_prefix
from sriov.pools.selectors import FunctionClass, Selector

_RESOURCE_LIST = "resourceList"
_LIKELY = re.compile(r'"resourceList"\s*:', re.IGNORECASE)
_RESOURCE_KEYS = (
    "resourceName", "resourcePrefix", "deviceType", "excludeTopology", "selectors", "additionalInfo",
    # Fields of the existing operator's own data, which it writes along.
    "SelectorObj", "SelectorObjs", "SelectorObj(s)",
)
_SELECTOR_KEYS = {"netDevice": NETDEVICE_KEYS, "accelerator": ACCELERATOR_KEYS}
_CLASSES = {"netDevice": FunctionClass.NETWORK, "accelerator": FunctionClass.ACCELERATOR}
_AUXILIARY = "auxNetDevice"
_EVERYTHING = "to select all, write {}"


def is_dp_config(text: str) -> bool:
    """Whether a file is meant to be such a configuration, be it right or wrong."""
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return False
    try:
        root = parse_json(text, "")
    except DocumentErrors:
        return _LIKELY.search(text) is not None and '"apiVersion"' not in text
    keys = {str(key.value).lower() for key, _ in root.value.members} if isinstance(root.value, Object) else set()
    return _RESOURCE_LIST.lower() in keys and "apiversion" not in keys


def parse_dp_config(text: str, path: str, prefix: str) -> PoolFile:
    """Parse `text`; `path` is for messages, `prefix` for pools that have none.

    Raises DocumentErrors with every problem. What that project passes over or drops without an error is among
    the warnings.
    """
    findings = Findings(file=path)
    root = Fields(parse_json(text, path), "file", (_RESOURCE_LIST,), findings, findings.refuse)
    resources = root.find(_RESOURCE_LIST)
    pools: list[Pool] = []
    places: dict[str, str] = {}
    if resources is None or not isinstance(resources.value, list) or not resources.value:
        node = resources or root.node
        findings.refuse(node, f"{_RESOURCE_LIST}: expected a list of at least one resource")
    else:
        for number, item in enumerate(resources.value):
            pool = _parse_resource(item, f"{_RESOURCE_LIST}[{number}]", prefix, findings)
            earlier = places.setdefault(pool.resource, pool.place)
            if earlier != pool.place:
                findings.refuse(item, f"{_RESOURCE_LIST}[{number}].resourceName: {pool.resource} is already the "
                                      f"resource of the pool at {earlier}")
            if pool.selectors:
                pools.append(pool)
    if findings.problems:
        raise DocumentErrors(findings.problems)
    return PoolFile(resource_prefix=prefix, physical_functions=(), pools=tuple(pools),
                    warnings=tuple(str(doubt) for doubt in sorted(findings.doubts)))


def _parse_resource(item: Node, path: str, prefix: str, findings: Findings) -> Pool:
    """The pool; without selectors if it is to be left out, which is a warning."""
    fields = Fields(item, path, _RESOURCE_KEYS, findings, findings.refuse)
    if not isinstance(item.value, Object):
        return Pool(resource=path, selectors=(), place=findings.place(item))
    for key in ("SelectorObj", "SelectorObjs", "SelectorObj(s)"):
        if (node := fields.find(key)) is not None:
            findings.warn(node, f"{path}.{key}: has no effect, did you mean 'selectors'?")
    _check_additional_info(fields, findings)
    name, own_prefix = fields.text("resourceName"), fields.text("resourcePrefix") or prefix
    for key, text, check in (("resourceName", name, parse_resource_name),
                             ("resourcePrefix", own_prefix, parse_resource_prefix)):
        node = fields.find(key) or item
        try:
            check(text)
        except InputError as error:
            if node is item or isinstance(node.value, str):    # of another type it is a problem already
                findings.refuse(node, f"{path}.{key}: {error.message}")
    return Pool(
        resource=f"{own_prefix}/{name or path}", exclude_topology=fields.truth("excludeTopology"),
        selectors=_parse_selectors(fields, fields.text("deviceType") or "netDevice", findings),
        place=findings.place(item),
    )


def _parse_selectors(fields: Fields, device_type: str, findings: Findings) -> tuple[Selector, ...]:
    path, node = f"{fields.path}.selectors", fields.find("selectors")
    if device_type == _AUXILIARY:
        findings.warn(fields.find("deviceType") or fields.node,
                      f"{fields.path}.deviceType: sub-functions are not supported yet: this pool is left out")
        return ()
    if device_type not in _CLASSES:
        findings.refuse(fields.find("deviceType") or fields.node, f"{fields.path}.deviceType: unknown type "
                        f"{device_type!r}{suggest(device_type, (*_CLASSES, _AUXILIARY))}")
        return ()
    if node is None:
        findings.refuse(fields.node, f"{path}: expected an object or a list of them; {_EVERYTHING}")
        return ()
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        findings.warn(node, f"{path}: expected at least one selector: this pool is left out; {_EVERYTHING}")
    wrong: list[tuple[Node, str]] = []

    def complain(where: Node, message: str) -> None:
        wrong.append((where, message))

    selectors: list[Selector] = []
    for number, item in enumerate(items):
        if item.value is None:
            findings.refuse(item, f"{path}[{number}]: expected an object, got null; {_EVERYTHING}")
            continue
        where = path if item is node else f"{path}[{number}]"
        selectors += _parse_selector(item, where, device_type, findings, complain)
    # There, a selector that cannot be read takes its pool along, and the other pools stay.
    for where_wrong, message in wrong:
        findings.warn(where_wrong, f"{message}: this pool is left out")
    if items and not selectors and not wrong:
        findings.warn(fields.node, f"{fields.path}: this pool is left out: none of its selectors can select a VF")
    return () if wrong else tuple(selectors)


def _parse_selector(item: Node, path: str, device_type: str, findings: Findings,
                    complain: Complain) -> tuple[Selector, ...]:
    if not isinstance(item.value, Object):
        complain(item, f"{path}: expected an object, got {item.describe()}")
        return ()
    fields = Fields(item, path, _SELECTOR_KEYS[device_type], findings, complain)
    return parse_dp_selector(fields, _CLASSES[device_type], findings)


def _check_additional_info(fields: Fields, findings: Findings) -> None:
    path, node = f"{fields.path}.additionalInfo", fields.find("additionalInfo")
    if node is None:
        return
    if not isinstance(node.value, Object):
        findings.refuse(node, f"{path}: expected an object, got {node.describe()}")
        return
    for key, info in node.value.members:
        entries = info.value.members if isinstance(info.value, Object) else ()
        if info.value is not None and not isinstance(info.value, Object):
            findings.refuse(info, f"{path}[{key.describe()}]: expected an object, got {info.describe()}")
        for name, value in entries:
            if value.value is not None and not isinstance(value.value, str):
                findings.refuse(value, f"{path}[{key.describe()}][{name.describe()}]: expected a text, got "
                                       f"{value.describe()}")
    if node.value.members:
        findings.warn(node, f"{path}: not supported yet: pods are not told")
