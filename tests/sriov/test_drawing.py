"""The drawing is sound XML, the same each time, with a box for each PF and VF inside that of its NUMA node."""

from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pools.assignment import Driver, Pool, Selector, VfIndices, assign
from sriov.views.drawing import draw
from tests.support.nics import nic
from tests.support.tree import Tree

SVG = "{http://www.w3.org/2000/svg}"
NO_POOL, ALARM = "#ffffff", "#c00000"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """4 PFs of 64 VFs on three NUMA nodes, one of which is not known, and a plain NIC."""
    tree = Tree(tmp_path_factory.mktemp("tree") / "sys")
    for n, (bus, numa) in enumerate((("3b", 0), ("3c", 0), ("5e", 1), ("81", -1))):
        tree.add(nic("i40e", f"0000:{bus}:00.0", f"ens{n}f0", num_vfs=64, numa_node=numa, away={1},
                     vf_drivers={2: None}))
    tree.add_other("0000:17:00.0", "020000", netdev="eno1", driver="tg3")
    return Sysfs(tree.root).scan(tree.links)


POOLS = (Pool(resource="a/kernel", selectors=(Selector(pf=("ens0f0",), vfs=VfIndices.parse("0-31")),)),
         Pool(resource="a/dpdk", driver=Driver("vfio-pci"), selectors=(Selector(pf=("ens1f0",)),)))


def parse(text):
    return ElementTree.fromstring(text)


def texts(svg):
    return [element.text for element in svg.iter(f"{SVG}text")]


def vf_boxes(svg):
    """For each VF its title's first line, the box, its other elements."""
    found = {}
    for group in svg.iter(f"{SVG}g"):
        title, box, *rest = group
        found[title.text.split("\n")[0]] = (title.text, box, rest)
    return found


def area(box):
    x, y, width, height = (int(box.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def test_every_pf_and_vf_is_there(host):
    svg = parse(draw(host))
    shown = texts(svg)
    assert [text for text in shown if text.startswith("NUMA")] == [
        "NUMA node 0", "NUMA node 1", "NUMA node not known"]
    for pf in host.pfs:
        assert f"{pf.link.name}  {pf.address}" in shown
    assert "eno1  0000:17:00.0, 8086:0001, tg3" in shown
    assert set(vf_boxes(svg)) == {f"VF {vf.index}, {vf.address}" for vf in host.vfs}


def test_boxes_lie_apart_and_inside_the_drawing(host):
    svg = parse(draw(host, assign(host, POOLS)))
    _, _, width, height = map(int, svg.get("viewBox").split())
    areas = [area(box) for _, box, _ in vf_boxes(svg).values()]
    assert len(areas) == 256
    assert all(left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in areas)
    assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(areas, 2))
    assert max(width, height) < 1300           # readable on one screen
    outer = [area(box) for box in svg.findall(f"{SVG}rect") if box.get("fill") == "#f4f4f4"]
    assert len(outer) == 3
    assert all(any(o[0] <= a[0] and o[1] <= a[1] and a[2] <= o[2] and a[3] <= o[3] for o in outer) for a in areas)


def test_pools_faults_and_owners(host):
    first, second = host.pfs[0].vfs, host.pfs[1].vfs
    svg = parse(draw(host, assign(host, POOLS), {first[3].address: "container abc, net1 of network fast"}))
    boxes = vf_boxes(svg)

    def of(vf):
        return boxes[f"VF {vf.index}, {vf.address}"]

    assert {"a/kernel", "a/dpdk", "in no pool"} <= set(texts(svg))
    assert of(first[0])[1].get("fill") != of(second[0])[1].get("fill")
    assert of(first[40])[1].get("fill") == NO_POOL
    assert "no pool selects it" in of(first[40])[0]
    assert of(second[0])[1].get("stroke") == ALARM
    assert "not healthy: bound to iavf, the pool wants vfio-pci" in of(second[0])[0]
    assert of(first[0])[1].get("stroke") != ALARM
    assert of(first[2])[1].get("stroke-dasharray")
    dots = {name for name, (_, _, rest) in boxes.items() if any(each.tag == f"{SVG}circle" for each in rest)}
    assert dots == {f"VF 3, {first[3].address}", *(f"VF 1, {pf.vfs[1].address}" for pf in host.pfs)}
    assert "container abc, net1 of network fast" in of(first[3])[0]
    assert "3: container abc, net1 of network fast" in texts(svg)


def test_many_owners_stay_in_the_box_of_their_pf(host):
    pf = host.pfs[0]
    svg = parse(draw(Host(pfs=(pf,)), None, {vf.address: "container " + "a" * 90 for vf in pf.vfs}))
    outer, box = [box for box in svg.findall(f"{SVG}rect") if box.get("width") != "100%"][:2]
    lines = [text for text in svg.iter(f"{SVG}text") if text.text.partition(": ")[2].startswith("container")]
    assert len(lines) == 64
    left, top, right, bottom = area(box)
    assert all(left < int(line.get("x")) < right and top < int(line.get("y")) < bottom for line in lines)
    assert all(line.text.endswith("…") and line[0].tag == f"{SVG}title" for line in lines)
    assert area(outer)[3] > bottom


def test_the_same_node_gives_the_same_text(host):
    assert draw(host, assign(host, POOLS)) == draw(host, assign(host, POOLS))


def test_what_names_and_sentences_hold_is_no_markup(host):
    pf = host.pfs[0]
    odd = replace(pf, link=replace(pf.link, name="<a&b>\x1b"), ties=("has \"address\" <x>",), vfs=pf.vfs[:1])
    pools = [Pool(resource="a/<&>", selectors=(Selector(pf=("*",)),))]
    alone = Host(pfs=(odd,), unreadable=("cannot read <x>" + "y" * 300,))
    svg = parse(draw(alone, assign(alone, pools), {pf.vfs[0].address: "<owner>"}))
    shown = texts(svg)
    assert "<a&b>\ufffd  0000:3b:00.0" in shown
    assert "has \"address\" <x>" in shown
    assert any(text.startswith("unreadable: cannot read <x>y") and text.endswith("…") for text in shown)
    assert "a/<&>" in shown


def test_a_node_without_any():
    assert texts(parse(draw(Host()))) == [
        ("number: VF index; dot: in use, or its netdev is elsewhere; dashed: no driver; red: not healthy, or "
         "needed by the node itself")]
