"""What a person or a script is shown of a node: tables of at most 100 columns, and JSON documents."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from sriov.advice import warn_of_entries, warn_of_pools
from sriov.model import Host, Link, PciFunction, VirtualFunction
from sriov.pools import Assignment, Member

__all__ = [
    "WIDTH", "assignment_document", "format_assignment", "format_host", "host_document", "warn_of_entries",
    "warn_of_pools",
]

WIDTH = 100

Json = Mapping[str, object]


def format_host(host: Host) -> str:
    """A line for each PF, its VFs indented below it, then what could not be read."""
    rows: list[tuple[str, ...]] = [
        ("PCI ADDRESS", "VF", "NETDEV", "IDS", "DRIVER", "NUMA", "IOMMU", "MAC", "MTU", "LINK"),
    ]
    for pf in host.pfs:
        rows.append((pf.address, f"{pf.num_vfs}/{pf.total_vfs}", *_function_cells(pf)))
        rows.extend((f"  {vf.address}", str(vf.index), *_function_cells(vf)) for vf in pf.vfs)
    table = _table(rows) if host.pfs else "no SR-IOV capable network PF found\n"
    return table + _format_unreadable(host)


def format_assignment(host: Host, assignment: Assignment) -> str:
    """A line for each pool, then each VF with its pool or the reason why it is left out."""
    rows = [("RESOURCE", "VFS", "HEALTHY")]
    for resource, members in assignment.members.items():
        rows.append((resource, str(len(members)), str(sum(member.fault is None for member in members))))
    text = _table(rows)
    if any(pf.vfs for pf in host.pfs):
        outcome = dict(_outcomes(assignment))
        names = {pf.address: pf.link.name if pf.link else pf.address for pf in host.pfs}
        text += "\n" + _table([
            ("PCI ADDRESS", "PF", "VF", "RESOURCE, OR WHY NOT"),
            *((vf.address, names[vf.pf], str(vf.index), outcome[vf.address]) for vf in host.vfs),
        ])
    return text + _format_unreadable(host)


def host_document(host: Host) -> Json:
    """JSON of `discover`; null where there is none, `unreadable` for what could not be looked at."""
    return {
        "physicalFunctions": [
            {
                **_function_document(pf), "numVfs": pf.num_vfs, "totalVfs": pf.total_vfs,
                "virtualFunctions": [
                    {"index": vf.index, **_function_document(vf), "inPod": vf.away} for vf in pf.vfs
                ],
            }
            for pf in host.pfs
        ],
        "unreadable": list(host.unreadable),
    }


def assignment_document(host: Host, assignment: Assignment) -> Json:
    """JSON of pools and their VFs; `fault` null means healthy."""
    return {
        "resources": {
            resource: [{"address": member.vf.address, "fault": member.fault} for member in members]
            for resource, members in assignment.members.items()
        },
        "leftOut": dict(assignment.left_out),
        "unreadable": list(host.unreadable),
    }


def _outcomes(assignment: Assignment) -> Iterator[tuple[str, str]]:
    yield from assignment.left_out.items()
    for resource, members in assignment.members.items():
        for member in members:
            yield member.vf.address, f"{resource}{_note(member)}"


def _note(member: Member) -> str:
    if member.fault is not None:
        return f", not healthy: {member.fault}"
    return " (in a pod)" if member.vf.away else ""


def _format_unreadable(host: Host) -> str:
    return "".join(f"\n{_wrap(f'unreadable: {sentence}')}" for sentence in host.unreadable)


def _wrap(text: str) -> str:
    return "\n  ".join(_split(text, WIDTH - 2)) + "\n"


def _split(text: str, width: int) -> list[str]:
    """Lines of this width; a path stays whole, to be pasted, even if it is longer."""
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def _function_cells(function: PciFunction) -> tuple[str, ...]:
    link = function.link
    away = isinstance(function, VirtualFunction) and function.away
    return (
        link.name if link else "(in a pod)" if away else "-",
        f"{function.vendor}:{function.device}",
        function.driver or "-",
        _or_dash(function.numa_node),
        _or_dash(function.iommu_group),
        link.mac if link else "-",
        str(link.mtu) if link else "-",
        _state(link) if link else "-",
    )


def _state(link: Link) -> str:
    """`off`: set down; `down`: set up, but the wire is not there."""
    return "off" if not link.up else "up" if link.carrier else "down"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _function_document(function: PciFunction) -> dict[str, object]:
    link = function.link
    return {
        "address": function.address, "vendor": function.vendor, "device": function.device,
        "driver": function.driver, "numaNode": function.numa_node, "iommuGroup": function.iommu_group,
        "netdev": link and {
            "name": link.name, "altnames": list(link.altnames), "index": link.index, "mac": link.mac,
            "mtu": link.mtu, "up": link.up, "carrier": link.carrier,
        },
    }


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two apart (one where they would not fit); the last one wraps."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    gap = "  " if sum(widths) + 2 * len(widths) + len(rows[0][-1]) <= WIDTH else " "
    indent = sum(widths) + len(gap) * len(widths)
    lines = []
    for *cells, last in rows:
        left = "".join(f"{cell:<{width}}{gap}" for cell, width in zip(cells, widths, strict=True))
        parts = _split(last, max(WIDTH - indent, 20))
        lines.append(left + parts[0])
        lines.extend(" " * indent + part for part in parts[1:])
    return "\n".join(line.rstrip() for line in lines) + "\n"
