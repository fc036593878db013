"""Which VFs a container should get, and what it is told about the ones it got. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sriov.errors import InputError, Refused
from sriov.model import VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Member, variable_name

VFIO = "/dev/vfio/vfio"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node of the host that the runtime makes in the container."""

    host_path: str
    container_path: str
    permissions: str = "rw"           # no "m": a container has no use for mknod


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What one container is given: its environment, its device nodes, and the VFs in the kubelet's order."""

    env: Mapping[str, str]
    devices: tuple[DeviceNode, ...]
    vfs: tuple[VirtualFunction, ...]


def prefer(
    members: Iterable[Member], offer: Collection[str], must_include: Collection[str], size: int
) -> tuple[PciAddress, ...]:
    """Choose `size` ids of `offer`, all of `must_include` among them, on as few NUMA nodes as can be.

    The nodes of `must_include` come first, then the smallest node that holds the rest, which leaves the
    large ones to large requests. Only healthy members are chosen; equal choices go by address, and so does
    the answer. Raises InputError for an offer that cannot be met.
    """
    known = {member.vf.address: member for member in members}
    for device in must_include:
        if device not in offer or device not in known:
            raise InputError(f"cannot prefer {size} devices: {device!r} must be included, but is not offered")
    chosen = [known[PciAddress(device)] for device in must_include]
    free = [known[PciAddress(device)] for device in offer if device in known and device not in must_include]
    free = [member for member in free if member.fault is None]
    if not len(chosen) <= size <= len(chosen) + len(free):
        raise InputError(
            f"cannot prefer {size} devices: {len(chosen)} must be included, {len(free)} healthy ones are free"
        )

    by_node: dict[int | None, list[Member]] = {}
    for member in sorted(free, key=lambda member: member.vf.address.order):
        by_node.setdefault(member.vf.numa_node, []).append(member)
    near = {member.vf.numa_node for member in chosen}
    while (need := size - len(chosen)) > 0:
        node = min(by_node, key=lambda node: _rank(node, len(by_node[node]), need, near))
        chosen += by_node.pop(node)[:need]
    return tuple(sorted((member.vf.address for member in chosen), key=lambda address: address.order))


def _rank(node: int | None, free: int, need: int, near: set[int | None]) -> tuple[bool, bool, int, int]:
    """Sort key, best first: near, sufficient, then the smallest sufficient or the largest insufficient."""
    sufficient = free >= need
    return node not in near, not sufficient, free if sufficient else -free, -1 if node is None else node


def allocate(resource: str, members: Iterable[Member], ids: Sequence[str]) -> Allocation:
    """The answer to the kubelet's Allocate for one container.

    Raises InputError for an id that `resource` does not have, Refused for one that cannot be handed out now.
    """
    known = {member.vf.address: member for member in members}
    vfs = []
    for device in ids:
        member = known.get(PciAddress(device))
        if member is None:
            raise InputError(
                f"cannot allocate {device!r} of {resource}: no such device; there are {len(known)} others",
                hint="the kubelet asks for what an earlier ListAndWatch listed: delete the pod and try again",
            )
        if member.fault is not None:
            raise Refused(f"cannot allocate {device} of {resource}: {member.fault}")
        vfs.append(member.vf)
    nodes = {vf.address: device_nodes(vf) for vf in vfs}
    unique = {node.host_path: node for vf in vfs for node in nodes[vf.address]}
    key = variable_name(resource)
    info = {str(vf.address): describe(vf, nodes[vf.address]) for vf in vfs}
    env = {key: ",".join(vf.address for vf in vfs), f"{key}_INFO": format_go_json(info)}
    return Allocation(env=env, devices=tuple(unique.values()), vfs=tuple(vfs))


def device_nodes(vf: VirtualFunction) -> tuple[DeviceNode, ...]:
    """The vfio container node and the VF's IOMMU group for a vfio driver; a kernel driver needs none.

    Raises Refused for a VF driven from user space that the container could not open.
    """
    if not vf.userspace:
        return ()
    if vf.driver is None or "vfio" not in vf.driver:
        raise Refused(
            f"cannot allocate {vf.address}: of user-space drivers only vfio's nodes are handed out, "
            f"it is bound to {vf.driver}",
            hint="bind the VF to vfio-pci",
        )
    if vf.iommu_group is None:
        raise Refused(
            f"cannot allocate {vf.address}: it is bound to {vf.driver} but has no IOMMU group",
            hint="switch the IOMMU on in the firmware and on the kernel command line",
        )
    paths = VFIO, f"/dev/vfio/{vf.iommu_group}"
    return tuple(DeviceNode(host_path=path, container_path=path) for path in paths)


def describe(vf: VirtualFunction, nodes: Sequence[DeviceNode]) -> dict[str, dict[str, str]]:
    """The INFO of one VF: provider, key, value."""
    info = {"generic": {"deviceID": str(vf.address)}}
    if nodes:
        container, group = nodes
        info["vfio"] = {"mount": container.container_path, "dev-mount": group.container_path}
    return info


# Go's encoding/json escapes these so that JSON may stand in HTML and JavaScript.
_GO_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})


def format_go_json(value: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Compact JSON with sorted keys, byte for byte what Go's encoding/json writes for the same maps."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.translate(_GO_ESCAPES)
