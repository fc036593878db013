"""What an admin reads of a node and its pools, as tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sriov.model import Host, Link, PciFunction, PhysicalFunction, VirtualFunction
from sriov.pools.assignment import Assignment, Member
from sriov.views.tables import Cell, Paint, Tone, format_paragraph, format_table, plain

_ACCELERATOR = 0x12                   # PCI's base class
_NO_PROSPECTS: Mapping[str, str] = MappingProxyType({})


def format_host(host: Host, paint: Paint = plain) -> str:
    """A line for each PF, its VFs indented below it, other NICs and accelerators; then what does not fit a line."""
    rows: list[tuple[str | Cell, ...]] = [
        ("PCI ADDRESS", "VF", "NETDEV", "IDS", "DRIVER", "NUMA", "IOMMU", "MAC", "MTU", "LINK"),
    ]
    for pf in host.pfs:
        rows.append((pf.address, f"{pf.num_vfs}/{pf.total_vfs}", *_function_cells(pf)))
        rows.extend((f"  {vf.address}", str(vf.index), *_function_cells(vf)) for vf in pf.vfs)
    rows.extend((other.address, "-", *_function_cells(other)) for other in host.others)
    text = "" if host.pfs else "no SR-IOV capable network PF found\n"
    if len(rows) > 1:
        text += ("\n" if text else "") + format_table(rows, paint)
    more = [(function.address, _name(function), "; ".join(facts))
            for function in (*host.pfs, *host.vfs, *host.others) if (facts := list(_more(function)))]
    if more:
        text += "\n" + format_table([("PCI ADDRESS", "NETDEV", "MORE"), *more], paint)
    return text + format_unreadable(host)


def format_assignment(host: Host, assignment: Assignment, paint: Paint = plain,
                      prospects: Mapping[str, str] = _NO_PROSPECTS) -> str:
    """A line for each pool, then each VF with its pool or the reason why it is left out.

    `prospects`: of pools that have no VF yet, which they will have.
    """
    rows: list[tuple[str | Cell, ...]] = [("RESOURCE", "VFS", "HEALTHY")]
    for resource, members in assignment.members.items():
        healthy = sum(member.fault is None for member in members)
        tone = Tone.GOOD if members and healthy == len(members) else Tone.DOUBTFUL
        rows.append((resource, str(len(members)), Cell(str(healthy), tone)))
    text = format_table(rows, paint)
    text += "".join(format_paragraph(f"{resource}: {told}", rest="  ") for resource, told in prospects.items())
    if any(pf.vfs for pf in host.pfs):
        outcome = dict(_outcomes(assignment))
        names = {pf.address: _name(pf) for pf in host.pfs}
        text += "\n" + format_table([
            ("PCI ADDRESS", "PF", "VF", "RESOURCE, OR WHY NOT"),
            *((vf.address, names[vf.pf], str(vf.index), outcome[vf.address]) for vf in host.vfs),
        ], paint)
    return text + format_unreadable(host)


def format_unreadable(host: Host) -> str:
    return "".join("\n" + format_paragraph(f"unreadable: {sentence}", rest="  ") for sentence in host.unreadable)


def _outcomes(assignment: Assignment) -> Iterator[tuple[str, Cell]]:
    for address, reason in assignment.left_out.items():
        yield address, Cell(reason, Tone.FAINT)
    for resource, members in assignment.members.items():
        for member in members:
            yield member.vf.address, Cell(f"{resource}{_note(member)}", Tone.BAD if member.fault else None)


def _note(member: Member) -> str:
    if member.fault is not None:
        return f", not healthy: {member.fault}"
    return " (netdev elsewhere)" if member.vf.away else ""


def _name(function: PciFunction) -> str:
    link = function.known_link
    return link.name if link else function.address if isinstance(function, PhysicalFunction) else "-"


def _more(function: PciFunction) -> Iterator[str]:
    """What the node needs it for; of a PF and of what is no VF also what their line has no room for."""
    if isinstance(function, PhysicalFunction):
        if function.speed is not None:
            yield say_speed(function.speed)
        if function.eswitch is not None:
            yield f"eswitch {function.eswitch}"
        if function.firmware_package is not None:
            yield f"firmware package {function.firmware_package}"
    if not isinstance(function, VirtualFunction):
        if function.pci_class >> 16 == _ACCELERATOR:
            yield "accelerator"
        if function.rdma:
            yield f"RDMA {', '.join(device.name for device in function.rdma)}"
    yield from function.ties


def say_speed(speed: int) -> str:
    """`25 Gbit/s` of Mbit/s."""
    return f"{speed / 1000:g} Gbit/s" if speed >= 1000 else f"{speed} Mbit/s"


def _function_cells(function: PciFunction) -> tuple[str | Cell, ...]:
    link = function.link
    away = isinstance(function, VirtualFunction) and function.away
    return (
        link.name if link else Cell("(not here)", Tone.FAINT) if away else "-",
        f"{function.vendor}:{function.device}",
        function.driver or "-",
        _or_dash(function.numa_node),
        _or_dash(function.iommu_group),
        link.mac if link else "-",
        str(link.mtu) if link else "-",
        _state(link) if link else "-",
    )


def _state(link: Link) -> Cell:
    """`off`: set down; `down`: set up, but the wire is not there."""
    if not link.up:
        return Cell("off", Tone.DOUBTFUL)
    return Cell("up", Tone.GOOD) if link.carrier else Cell("down", Tone.BAD)


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
