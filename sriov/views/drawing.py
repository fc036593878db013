"""A drawing of the node as SVG: NUMA nodes, in them PFs, in these VFs, coloured by pool, with who has them.

Plain SVG 1.1 that stands alone; the same node always gives the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sriov.model import Host, PciFunction, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, Member
from sriov.views.report import say_speed

# Told apart also by those who see few colours (Okabe and Ito); beyond these they repeat, and titles name the pool.
_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2", "#d55e00", "#bbbbbb")
_NO_POOL, _INK, _FAINT, _ALARM = "#ffffff", "#222222", "#777777", "#c00000"

_CELL, _GAP, _COLUMNS = 30, 4, 16     # VFs, in pixels
_MARGIN, _PAD, _LINE = 16, 12, 18
_HEAD = 3 * _LINE                     # the lines above a PF's VFs
_OWNER_COLUMNS = 2                    # of the list of owners below them
_PF_WIDTH = _COLUMNS * (_CELL + _GAP) - _GAP + 2 * _PAD
_PFS_IN_ROW = 2
_CHARACTER = 6.7                      # about the width of one at 12 px, to keep text in its box


Owners: TypeAlias = Mapping[PciAddress, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pools:
    """What a VF is coloured by; nothing where no pool file was given."""

    members: Mapping[PciAddress, tuple[str, Member]] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[PciAddress, str] = field(default_factory=dict)

    @classmethod
    def of(cls, assignment: Assignment | None) -> _Pools:
        if assignment is None:
            return cls()
        return cls(
            members={member.vf.address: (resource, member)
                     for resource, members in assignment.members.items() for member in members},
            colours={resource: _COLOURS[n % len(_COLOURS)] for n, resource in enumerate(assignment.members)},
            left_out=assignment.left_out,
        )


def draw(host: Host, assignment: Assignment | None = None, owners: Owners | None = None) -> str:
    """SVG text. `assignment` None: no pools are shown. `owners` says who has a VF, where that is known."""
    pools, width = _Pools.of(assignment), _PFS_IN_ROW * (_PF_WIDTH + _PAD) + _PAD + 2 * _MARGIN
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": "sans-serif", "font-size": "12"})
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    y = _draw_legend(svg, pools, width)
    for numa, pfs, others in _nodes(host):
        y = _draw_node(svg, numa, pfs, others, y, width - 2 * _MARGIN, pools, owners or {})
    for sentence in host.unreadable:
        _text(svg, _MARGIN, y + _LINE, f"unreadable: {sentence}", room=width - 2 * _MARGIN, fill=_ALARM)
        y += _LINE
    svg.set("viewBox", f"0 0 {width} {y + _MARGIN}")
    svg.set("width", str(width))
    svg.set("height", str(y + _MARGIN))
    indent(svg, " ")
    return tostring(svg, encoding="unicode") + "\n"


def _nodes(host: Host) -> Iterator[tuple[int | None, list[PhysicalFunction], list[PciFunction]]]:
    """NUMA nodes by number, at last what is on none that is known."""
    functions: tuple[PciFunction, ...] = (*host.pfs, *host.others)
    numbers = sorted({each.numa_node for each in functions}, key=lambda node: (node is None, node or 0))
    for node in numbers:
        yield (node, [pf for pf in host.pfs if pf.numa_node == node],
               [other for other in host.others if other.numa_node == node])


def _draw_legend(svg: Element, pools: _Pools, width: int) -> int:
    """A swatch for each pool; gives back where the next thing may begin."""
    x, y = _MARGIN, _MARGIN
    entries = [*((colour, resource) for resource, colour in pools.colours.items()), (_NO_POOL, "in no pool")]
    for colour, label in entries if pools.colours else ():
        needed = round(24 + len(label) * _CHARACTER + _PAD)
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = _MARGIN, y + _LINE
        _box(svg, x, y, 14, 14, colour)
        _text(svg, x + 20, y + 11, label)
        x += needed
    _text(svg, _MARGIN, y + 2 * _LINE if pools.colours else y + 11,
          "number: VF index; dot: in use, or its netdev is elsewhere; dashed: no driver; red: not healthy, or "
          "needed by the node itself",
          fill=_FAINT)
    return y + (3 if pools.colours else 1) * _LINE


def _draw_node(svg: Element, numa: int | None, pfs: Sequence[PhysicalFunction], others: Sequence[PciFunction],
               top: int, width: int, pools: _Pools, owners: Owners) -> int:
    box = _box(svg, _MARGIN, top, width, 0, "#f4f4f4")
    y = top + _LINE
    _text(svg, _MARGIN + _PAD, y, "NUMA node not known" if numa is None else f"NUMA node {numa}", weight="bold")
    y += _PAD
    for first in range(0, len(pfs), _PFS_IN_ROW):
        row = pfs[first : first + _PFS_IN_ROW]
        height = max(_pf_height(pf, owners) for pf in row)
        for column, pf in enumerate(row):
            _draw_pf(svg, pf, _MARGIN + _PAD + column * (_PF_WIDTH + _PAD), y, height, pools, owners)
        y += height + _PAD
    for other in others:
        _text(svg, _MARGIN + _PAD, y + _LINE - 4, _describe(other), room=width - 2 * _PAD)
        y += _LINE
    if others:
        y += _PAD
    box.set("height", str(y - top))
    return y + _PAD


def _pf_height(pf: PhysicalFunction, owners: Owners) -> int:
    owned = sum(vf.address in owners for vf in pf.vfs)
    return (_HEAD + (_LINE if pf.ties else 0) + _rows(len(pf.vfs), _COLUMNS) * (_CELL + _GAP)
            + _rows(owned, _OWNER_COLUMNS) * _LINE + _PAD)


def _rows(count: int, columns: int) -> int:
    return -(-count // columns)


def _draw_pf(svg: Element, pf: PhysicalFunction, x: int, y: int, height: int, pools: _Pools,
             owners: Owners) -> None:
    _box(svg, x, y, _PF_WIDTH, height, "#ffffff", _ALARM if pf.ties else _INK)
    link, room = pf.known_link, _PF_WIDTH - 2 * _PAD
    state = "no netdev" if link is None else "off" if not link.up else "up" if link.carrier else "no carrier"
    facts = [pf.driver or "no driver", state, *([say_speed(pf.speed)] if pf.speed else []),
             *([pf.eswitch] if pf.eswitch else []), f"{pf.num_vfs} of {pf.total_vfs} VFs"]
    _text(svg, x + _PAD, y + _LINE, f"{link.name if link else 'PF'}  {pf.address}", room=room, weight="bold")
    _text(svg, x + _PAD, y + 2 * _LINE, ", ".join(facts), room=room)
    top = y + _HEAD
    if pf.ties:
        _text(svg, x + _PAD, y + 3 * _LINE, "; ".join(pf.ties), room=room, fill=_ALARM)
        top += _LINE
    for number, vf in enumerate(pf.vfs):
        row, column = divmod(number, _COLUMNS)
        _draw_vf(svg, vf, x + _PAD + column * (_CELL + _GAP), top - _PAD // 2 + row * (_CELL + _GAP), pools,
                 owners.get(vf.address))
    _draw_owners(svg, pf, x + _PAD, top + _rows(len(pf.vfs), _COLUMNS) * (_CELL + _GAP) + _PAD, room, owners)


def _draw_owners(svg: Element, pf: PhysicalFunction, x: int, y: int, room: int, owners: Owners) -> None:
    owned = [(vf.index, owners[vf.address]) for vf in pf.vfs if vf.address in owners]
    width = room // _OWNER_COLUMNS
    for number, (index, owner) in enumerate(owned):
        row, column = divmod(number, _OWNER_COLUMNS)
        _text(svg, x + column * width, y + row * _LINE, f"{index}: {owner}", room=width - _PAD)


def _draw_vf(svg: Element, vf: VirtualFunction, x: int, y: int, pools: _Pools, owner: str | None) -> None:
    resource, member = pools.members.get(vf.address, (None, None))
    fault = member.fault if member else None
    group = SubElement(svg, "g")
    says = [f"VF {vf.index}, {vf.address}", f"driver {vf.driver or 'none'}",
            resource or pools.left_out.get(vf.address), fault and f"not healthy: {fault}",
            owner or ("netdev in another network namespace" if vf.away else None), *vf.ties]
    SubElement(group, "title").text = _clean("\n".join(each for each in says if each))
    box = _box(group, x, y, _CELL, _CELL, pools.colours[resource] if resource else _NO_POOL,
               _ALARM if fault or vf.ties else _INK)
    if vf.driver is None:
        box.set("stroke-dasharray", "3 2")
    if fault or vf.ties:
        box.set("stroke-width", "2")
    index = SubElement(group, "text", {"x": str(x + _CELL // 2), "y": str(y + 19), "text-anchor": "middle",
                                       "font-size": "11" if vf.index < 1000 else "9", "fill": _INK})
    index.text = str(vf.index)
    if owner or vf.away:
        SubElement(group, "circle", {"cx": str(x + _CELL - 5), "cy": str(y + 5), "r": "3", "fill": _INK})


def _describe(function: PciFunction) -> str:
    link = function.known_link
    name = f"{link.name}  {function.address}" if link else function.address
    return ", ".join([name, f"{function.vendor}:{function.device}", function.driver or "no driver", *function.ties])


def _box(parent: Element, x: int, y: int, width: int, height: int, fill: str, stroke: str = _INK) -> Element:
    return SubElement(parent, "rect", {"x": str(x), "y": str(y), "width": str(width), "height": str(height),
                                       "rx": "3", "fill": fill, "stroke": stroke})


def _text(parent: Element, x: int, y: int, text: str, *, room: int | None = None, fill: str = _INK,
          weight: str = "normal") -> None:
    """A line of text, cut to `room` pixels; all of it in its title then."""
    text = _clean(text)
    element = SubElement(parent, "text", {"x": str(x), "y": str(y), "fill": fill, "font-weight": weight})
    fitting = len(text) if room is None else int(room / _CHARACTER)
    element.text = text if len(text) <= fitting else text[: fitting - 1] + "…"
    if len(text) > fitting:
        SubElement(element, "title").text = text


def _clean(text: str) -> str:
    """XML 1.0 has no place for control characters, not even as references."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
