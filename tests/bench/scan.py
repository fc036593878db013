"""What a scan of sysfs costs, beside the bare reads that it cannot do without, in the same run.

`python -m tests.bench.scan [runs]`. The tree is synthetic (8 PFs with 128 VFs each, on a plain file system), so
the floor takes from the figures what the file system costs. Assignment to 16 pools is beside it: it needs no file.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools import Pool, Selector, VfIndices, assign
from sriov.sysfs import Sysfs
from tests.support.tree import Pf, Tree

PFS, VFS = 8, 128
FILES, LINKS = ("numa_node", "vendor", "device"), ("driver", "iommu_group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds; `ratio` of the p50 to the floor's, None where nothing is read."""

    name: str
    p50: float
    best: float
    ratio: float | None = None


def run(runs: int = 20) -> list[Row]:
    """Measure all cases, taking turns, `runs` times each after a warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder, "sys"))
        for n in range(PFS):
            tree.add(Pf(f"0000:{0x10 + n:02x}:00.0", f"ens{n}f0", num_vfs=VFS, total_vfs=VFS, numa_node=n % 2,
                        iommu=True, away=frozenset(range(0, VFS, 4))))
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
        }
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
        reads = not name.startswith("assignment")
        rows.append(Row(name=name, p50=p50, best=min(took), ratio=p50 / floor if reads else None))
    return rows


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


if __name__ == "__main__":
    main()
