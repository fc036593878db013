"""What a scan of sysfs costs, beside the bare reads that it cannot do without, in the same run.

`python -m tests.bench.scan [runs]`. The tree is synthetic (8 PFs with 128 VFs each, on a plain file system), so
the floor takes from the figures what the file system costs. What needs no file comes after it: what ties each NIC
to the node, what is known of VFs in pods.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sriov.host.discovery import add_ties
from sriov.host.known import Known, recall, remember
from sriov.host.routes import Address, Route
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link
from sriov.pci import MacAddress, PciAddress
from tests.bench.turns import Case, Row, show_rows, take_turns
from tests.support.tree import Pf, Tree

PFS, VFS = 8, 128
FIRST = PciAddress("0000:10:00.0")
FILES, LINKS = ("numa_node", "vendor", "device"), ("driver", "iommu_group")


def run(runs: int = 20) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(folder, VFS)
        sysfs, links, old = Sysfs(tree.root), tree.links, tree.links_without_parent
        host = scan(tree)
        ports = bond(links)
        known = remember(Known(boot_id="this"), host)
        every, one = "floor: the same files of 1,024 VFs", "floor: the same files of 128 VFs"
        return take_turns([
            Case(name=every, work=lambda: read_all(tree, [pf.address for pf in host.pfs])),
            Case(name="scan of 1,024 VFs on 8 PFs", floor=every, budget=150, work=lambda: sysfs.scan(links)),
            Case(name="the same before Linux 5.14", floor=every, work=lambda: sysfs.scan(old)),
            Case(name=one, work=lambda: read_all(tree, [FIRST])),
            Case(name="rescan of one PF, 128 VFs", floor=one, budget=20,
                 work=lambda: sysfs.scan_pf(FIRST, links)),
            Case(name="ties of 1,024 VFs in 8 bonds",
                 work=lambda: add_ties(host, tuple(ports), Tables())),
            Case(name="known facts of 256 VFs in pods", work=lambda: recall(host, remember(known, host))),
        ], runs)


class Tables:
    """A default route over the first bond."""

    def dump_addresses(self) -> tuple[Address, ...]:
        return ()

    def dump_routes(self) -> tuple[Route, ...]:
        return (Route(version=4, links=(10_000,)),)


def make_tree(folder: str, vfs: int) -> Tree:
    """8 PFs with so many VFs each, a fourth of them in pods."""
    tree = Tree(Path(folder, "sys"))
    for n in range(PFS):
        # Each on 16 buses of its own: 512 VFs fill two.
        tree.add(Pf(f"0000:{0x10 * (n + 1):02x}:00.0", f"ens{n}f0", num_vfs=vfs, total_vfs=vfs, numa_node=n % 2,
                    iommu=True, away=frozenset(range(0, vfs, 4))))
    return tree


def scan(tree: Tree) -> Host:
    """The whole tree; a scan that misses any of it measures nothing."""
    host = Sysfs(tree.root).scan(tree.links)
    if host.unreadable or len(host.pfs) != PFS or any(len(pf.vfs) != pf.num_vfs for pf in host.pfs):
        raise AssertionError(f"the tree was not read: {host.unreadable}")
    return host


def bond(links: tuple[Link, ...]) -> list[Link]:
    """The links, each a port of one of eight bonds."""
    ports = [replace(link, master=10_000 + link.index % 8) for link in links]
    bonds = [Link(index=10_000 + n, name=f"bond{n}", mac=MacAddress.ZERO, mtu=1500, up=True, carrier=True,
                  software="bond") for n in range(8)]
    return [*ports, *bonds]


def read_all(tree: Tree, pfs: Sequence[PciAddress]) -> None:
    """The PFs' folders, and the files and links of each VF that a scan has to look at; nothing made of them."""
    devices = f"{tree.root}/bus/pci/devices"
    for pf in pfs:
        for virtfn in os.listdir(f"{devices}/{pf}"):
            if not virtfn.startswith("virtfn"):
                continue
            device = f"{devices}/{os.readlink(f'{devices}/{pf}/{virtfn}').rpartition('/')[2]}"
            for name in FILES:
                fd = os.open(f"{device}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                os.read(fd, 4096)
                os.close(fd)
            for name in LINKS:
                os.readlink(f"{device}/{name}")


def main() -> int:
    return 0 if show_rows(run(*map(int, sys.argv[1:2]))) else 1


if __name__ == "__main__":
    sys.exit(main())
