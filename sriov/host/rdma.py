"""RDMA devices by the PCI function that they belong to, with their character devices.

The RDMA core's classes in sysfs: drivers/infiniband/core/{device,uverbs_main,user_mad,ucm}.c.
"""
# Plain os calls: a scan of 1,024 VFs has 150 ms, and pathlib costs more than the read itself.
# ruff: noqa: PTH115

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from sriov.host.sysfile import list_folder, pci_path, read, say
from sriov.model import RdmaDevice
from sriov.pci import PciAddress

# Class, and what its devices are called; beside them is a file of the class itself, abi_version.
_NODES = (
    ("infiniband_cm", re.compile(r"ucm\d+")),
    ("infiniband_mad", re.compile(r"(issm|umad)\d+")),
    ("infiniband_verbs", re.compile(r"uverbs\d+")),
)


def read_rdma(root: str, unreadable: list[str]) -> dict[PciAddress, tuple[RdmaDevice, ...]]:
    """All RDMA devices that this network namespace may use, sorted by name; one look for all functions.

    What cannot be read is named in `unreadable`. A device of a sub-function belongs to none here: its parent
    is on the auxiliary bus.
    """
    functions = dict(_functions(f"{root}/class/infiniband", unreadable))
    if not functions:
        return {}
    nodes: dict[str, list[str]] = {}
    for name, node in _nodes(f"{root}/class", unreadable):
        nodes.setdefault(name, []).append(node)
    found: dict[PciAddress, list[RdmaDevice]] = {}
    for name in sorted(functions):
        device = RdmaDevice(name=name, nodes=tuple(sorted(nodes.get(name, ()))))
        found.setdefault(functions[name], []).append(device)
    return {address: tuple(devices) for address, devices in found.items()}


def _functions(folder: str, unreadable: list[str]) -> Iterator[tuple[str, PciAddress]]:
    try:
        names = list_folder(folder)
    except OSError as error:
        unreadable.append(f"cannot list the RDMA devices: {say(error)}")
        return
    for name in names:
        try:
            parent = os.readlink(f"{folder}/{name}").removesuffix(f"/infiniband/{name}")
        except OSError as error:
            unreadable.append(f"cannot read RDMA device {name}: {say(error)}")
            continue
        path = pci_path(parent)
        if path and parent.endswith(path[-1]):
            yield name, path[-1]


def _nodes(classes: str, unreadable: list[str]) -> Iterator[tuple[str, str]]:
    for folder, names in _NODES:
        try:
            listed = [name for name in list_folder(f"{classes}/{folder}") if names.fullmatch(name)]
        except OSError as error:
            unreadable.append(f"cannot list RDMA character devices: {say(error)}")
            continue
        for name in listed:
            try:
                yield read(f"{classes}/{folder}/{name}/ibdev"), f"/dev/infiniband/{name}"
            except OSError as error:
                unreadable.append(f"cannot read RDMA character device {name}: {say(error)}")
