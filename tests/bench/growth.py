"""How time and memory grow with the VFs of a node, beside the floors, as a table.

`python -m tests.bench.growth [runs]`. The same node as `tests.bench.scan`, with 8 to 512 VFs on each of 8 PFs, and
the same floors. Memory is what Python keeps of a scan, without the links, which are the caller's; its floor is a
tuple of the same values for each VF.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter

from sriov.host.sysfs import Sysfs
from sriov.model import Host, VirtualFunction
from sriov.pools.assignment import assign
from tests.bench.pools import check, make_pools, make_rules, plain, sort_plainly
from tests.bench.scan import PFS, make_tree, read_all, scan
from tests.bench.turns import Case, show, take_turns

GROWTH = (64, 256, 1024, 4096)
FIELDS = attrgetter(*(field.name for field in fields(VirtualFunction) if field.name != "address"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A node with `vfs` VFs: milliseconds of each case, and bytes kept for each VF, ours and the floor's."""

    vfs: int
    scan: float
    scan_floor: float
    assignment: float
    assignment_floor: float
    kept: float
    kept_floor: float


def measure(vfs: int, runs: int) -> Size:
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(folder, vfs // PFS)
        host, sysfs, rules = scan(tree), Sysfs(tree.root), make_rules(vfs // PFS)
        pools, tuples = make_pools(rules), plain(host)
        check(host, pools, rules)
        rows = {row.name: row.p50 for row in take_turns([
            Case(name="read", work=lambda: read_all(tree, [pf.address for pf in host.pfs])),
            Case(name="scan", work=lambda: sysfs.scan(tree.links)),
            Case(name="loop", work=lambda: sort_plainly(tuples, rules)),
            Case(name="assign", work=lambda: assign(host, pools)),
        ], runs)}
        return Size(
            vfs=vfs, scan=rows["scan"], scan_floor=rows["read"],
            assignment=rows["assign"], assignment_floor=rows["loop"],
            kept=kept_by(lambda: sysfs.scan(tree.links)) / vfs, kept_floor=kept_by(lambda: hold(host)) / vfs,
        )


def hold(host: Host) -> list[tuple[str, object]]:
    """The values alone: each VF's address is a text of its own, as when it was read."""
    return [(str(vf.address.encode(), "ascii"), FIELDS(vf)) for vf in host.vfs]


def kept_by(make: Callable[[], object]) -> int:
    """Bytes that what it returns takes, with all that it did not share before."""
    gc.collect()
    tracemalloc.start()
    made = make()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return kept


def main(runs: int = 10) -> None:
    show(f"{'VFs':>5}{'scan ms':>10}{'us each':>9}{'x floor':>9}{'assign ms':>11}{'us each':>9}{'x floor':>9}"
         f"{'bytes each':>12}{'x floor':>9}")
    for vfs in GROWTH:
        size = measure(vfs, runs)
        show(f"{size.vfs:5}{size.scan:10.1f}{size.scan / size.vfs * 1e3:9.1f}{size.scan / size.scan_floor:9.2f}"
             f"{size.assignment:11.1f}{size.assignment / size.vfs * 1e3:9.1f}"
             f"{size.assignment / size.assignment_floor:9.1f}{size.kept:12.0f}{size.kept / size.kept_floor:9.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
