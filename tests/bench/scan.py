"""What a scan of sysfs costs, beside the bare reads that it cannot do without, in the same run.

`python -m tests.bench.scan [runs]`. The tree is synthetic (8 PFs with 128 VFs each, on a plain file system), so
the floor takes from the figures what the file system costs. What needs no file is beside it: assignment to 16
pools, what ties each NIC to the node, what is known of VFs in pods. Then how time and memory grow with VFs.
"""

import gc
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sriov.host.known import Known, recall, remember
from sriov.host.routes import DefaultRoute
from sriov.host.sysfs import Sysfs
from sriov.host.ties import find_ties, tie_functions
from sriov.model import Host, Link
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Pool, Selector, VfIndices, assign
from tests.support.tree import Pf, Tree

PFS, VFS = 8, 128
GROWTH = (64, 256, 1024, 4096)
FILES, LINKS = ("numa_node", "vendor", "device"), ("driver", "iommu_group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds; `ratio` of the p50 to the floor's, None where nothing is read."""

    name: str
    p50: float
    best: float
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A scan of a node with `vfs` VFs: milliseconds, and bytes that the host keeps for each, its link aside."""

    vfs: int
    p50: float
    bytes_each: float


def run(runs: int = 20) -> list[Row]:
    """Measure all cases, taking turns, `runs` times each after a warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(folder, VFS)
        sysfs, links, one = Sysfs(tree.root), tree.links, PciAddress("0000:10:00.0")
        old, host = tree.links_without_parent, sysfs.scan(links)
        if len(list(host.vfs)) != PFS * VFS or host.unreadable:
            raise AssertionError(f"the tree was not read: {host.unreadable}")
        all_devices, one_device = devices(tree, host), devices(tree, Host(pfs=host.pfs[:1]))
        pools = [Pool(resource=f"intel.com/{n}", selectors=(
            Selector(pf=(f"ens{n // 2}f*",), vfs=VfIndices.parse("0-63" if n % 2 else "64-120")),
        )) for n in range(2 * PFS)]
        cases: dict[str, Callable[[], object]] = {
            "floor: bare reads of 1,024 VFs": lambda: read_all(all_devices),
            "scan of 1,024 VFs on 8 PFs": lambda: sysfs.scan(links),
            "the same before Linux 5.14": lambda: sysfs.scan(old),
            "floor: bare reads of 128 VFs": lambda: read_all(one_device),
            "rescan of one PF, 128 VFs": lambda: sysfs.scan_pf(one, links),
            "assignment of 1,024 VFs to 16 pools": lambda: assign(host, pools),
            "ties of 1,024 VFs in 8 bonds": lambda: tie_functions(host, bonded, find_ties(bonded, (), routes)),
            "known facts of 256 VFs in pods": lambda: recall(host, remember(known, host)),
        }
        bonded, routes = bond(links), [DefaultRoute(version=4, links=(10_000,))]
        known = remember(Known(boot_id="this"), host)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(-2, runs):
            for name, case in cases.items():
                start = time.perf_counter()
                case()
                if turn >= 0:
                    times[name].append((time.perf_counter() - start) * 1e3)
    rows, floor = [], 0.0
    for name, took in times.items():
        p50 = statistics.median(took)
        floor = p50 if name.startswith("floor") else floor
        reads = "scan" in name or name.startswith(("floor", "the same"))
        rows.append(Row(name=name, p50=p50, best=min(took), ratio=p50 / floor if reads else None))
    return rows


def grow(runs: int = 10) -> Iterator[Size]:
    """The same scan of ever larger nodes, all with 8 PFs."""
    for vfs in GROWTH:
        with tempfile.TemporaryDirectory() as folder:
            tree = make_tree(folder, vfs // PFS)
            sysfs, times = Sysfs(tree.root), []
            for _ in range(runs):
                start = time.perf_counter()
                sysfs.scan(tree.links)
                times.append((time.perf_counter() - start) * 1e3)
            gc.collect()
            tracemalloc.start()
            host = sysfs.scan(tree.links)
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            if len(list(host.vfs)) != vfs:
                raise AssertionError(f"the tree was not read: {host.unreadable}")
            yield Size(vfs=vfs, p50=statistics.median(times), bytes_each=kept / vfs)


def make_tree(folder: str, vfs: int) -> Tree:
    """8 PFs with so many VFs each, a fourth of them in pods."""
    tree = Tree(Path(folder, "sys"))
    for n in range(PFS):
        # Each on 16 buses of its own: 512 VFs fill two.
        tree.add(Pf(f"0000:{0x10 * (n + 1):02x}:00.0", f"ens{n}f0", num_vfs=vfs, total_vfs=vfs, numa_node=n % 2,
                    iommu=True, away=frozenset(range(0, vfs, 4))))
    return tree


def bond(links: tuple[Link, ...]) -> list[Link]:
    """The links, each a port of one of eight bonds."""
    ports = [replace(link, master=10_000 + link.index % 8) for link in links]
    bonds = [Link(index=10_000 + n, name=f"bond{n}", mac=MacAddress.ZERO, mtu=1500, up=True, carrier=True,
                  software="bond") for n in range(8)]
    return [*ports, *bonds]


def devices(tree: Tree, host: Host) -> list[str]:
    return [str(tree.path(vf.address)) for vf in host.vfs]


def read_all(folders: list[str]) -> None:
    """The files and links of each VF that a scan has to look at, and nothing made of them."""
    for folder in folders:
        for name in FILES:
            fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 4096)
            os.close(fd)
        for name in LINKS:
            os.readlink(f"{folder}/{name}")


def main() -> None:
    for row in run(*map(int, sys.argv[1:2])):
        ratio = "" if row.ratio is None else f"{row.ratio:6.2f} x"
        sys.stdout.write(f"{row.name:40}{row.p50:8.2f} ms, best{row.best:8.2f} ms {ratio}\n")
    sys.stdout.write(f"\n{'VFs':>6}{'scan':>12}{'for each VF':>16}{'kept for each':>16}\n")
    for size in grow():
        sys.stdout.write(f"{size.vfs:6}{size.p50:9.1f} ms{size.p50 / size.vfs * 1e3:13.1f} µs"
                         f"{size.bytes_each:14.0f} B\n")


if __name__ == "__main__":
    main()
