"""What pool files and pools cost: parsing beside YAML alone, assignment beside a loop over plain tuples.

`python -m tests.bench.pools [runs]`. The floor of the parser is yaml.compose, which it stands on; that of the
assignment has numbers and names only, knows one way to select, and has no reason for a VF that it leaves out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import yaml

from sriov.model import Host
from sriov.pools.assignment import Pool, assign
from sriov.pools.poolfile import parse_pool_file
from tests.bench.scan import PFS, VFS, make_tree, scan
from tests.bench.turns import Case, Row, show_rows, take_turns

POOLS, LINES = 20, 1000

Rule: TypeAlias = tuple[str, str, int, int]     # resource, PF's name, first and last VF
Vf: TypeAlias = tuple[str, int, str]            # PF's name, index, address


def run(runs: int = 20) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        host = scan(make_tree(folder, VFS))
    rules = make_rules(VFS)
    pools = make_pools(rules)
    none = make_pools([(resource, "ens9f0", first, last) for resource, _, first, last in rules])
    check(host, pools, rules)
    vfs = plain(host)
    text = "".join(f"{line}\n" for line in long_file())
    parse, loop = "floor: yaml.compose of 1,000 lines", "floor: 1,024 tuples, 20 rules"
    return take_turns([
        Case(name=parse, work=lambda: yaml.compose(text, Loader=yaml.SafeLoader)),
        Case(name="parse of a pool file of 1,000 lines", floor=parse, work=lambda: parse_pool_file(text, "f")),
        Case(name=loop, work=lambda: sort_plainly(vfs, rules)),
        Case(name="assignment of 1,024 VFs to 20 pools", floor=loop, work=lambda: assign(host, pools)),
        Case(name="the same, why none of them is in any", floor=loop, work=lambda: assign(host, none)),
    ], runs)


def make_rules(vfs: int, pools: int = POOLS) -> list[Rule]:
    """Every VF of 8 PFs in one pool: each PF has two or three of them."""
    shares = [pools // PFS + (n < pools % PFS) for n in range(PFS)]
    return [(f"intel.com/pf{n}_{k}", f"ens{n}f0", vfs * k // share, vfs * (k + 1) // share - 1)
            for n, share in enumerate(shares) for k in range(share)]


def make_pools(rules: Iterable[Rule]) -> tuple[Pool, ...]:
    """As an admin writes them: of the PFs by a glob."""
    lines = ["apiVersion: vfpool.io/v1alpha1", "kind: PoolFile", "pools:"]
    lines += [f"- {{resource: {resource.partition('/')[2]}, select: [{{pf: '{pf[:-1]}*', vfs: {first}-{last}}}]}}"
              for resource, pf, first, last in rules]
    return parse_pool_file("\n".join(lines), "f").pools


def plain(host: Host) -> list[Vf]:
    return [(pf.link.name, vf.index, vf.address) for pf in host.pfs if pf.link for vf in pf.vfs]


def sort_plainly(vfs: Iterable[Vf], rules: Sequence[Rule]) -> dict[str, list[str]]:
    """By the first rule that selects a VF."""
    found: dict[str, list[str]] = {rule[0]: [] for rule in rules}
    for pf, index, address in vfs:
        for resource, name, first, last in rules:
            if pf == name and first <= index <= last:
                found[resource].append(address)
                break
    return found


def check(host: Host, pools: Sequence[Pool], rules: Sequence[Rule]) -> None:
    """Both sides come to the same, with no VF left out."""
    members = assign(host, pools).members
    ours = {resource: [str(member.vf.address) for member in each] for resource, each in members.items()}
    if ours != sort_plainly(plain(host), rules) or sum(map(len, ours.values())) != len(list(host.vfs)):
        raise AssertionError("the floor is not the same assignment")


def long_file() -> Iterator[str]:
    """A pool file of so many lines as a large cluster might have: for each node PFs, pools and why."""
    head = ["apiVersion: vfpool.io/v1alpha1", "kind: PoolFile", "physicalFunctions:"]
    entry = ["  # rack {n}", "  - match:", "      name: [ens{n}f0, ens{n}f1]", '      node: "worker-{n}-*"',
             "    numVfs: 32", "    mtu: 9000"]
    pool = ["  - resource: rack{n}", "    driver: kernel", "    select:",
            '      - {{pf: "ens{n}f*", vfs: "0-15,20", node: "worker-{n}-*"}}',
            "      - {{pf: {{name: ens{n}f1, speed: \">=25G\"}}, vfs: [16-19, 21-31]}}", "    exclude:",
            "      - {{numaNode: 1}}", "    defaults:", "      vlan: {n}", "      spoofchk: on"]
    count, spare = divmod(LINES - len(head) - 1, len(entry) + len(pool))
    yield from head
    yield from (line.format(n=n) for n in range(1, count + 1) for line in entry)
    yield "pools:"
    yield from (line.format(n=n) for n in range(1, count + 1) for line in pool)
    yield from ["# no more"] * spare


def main() -> int:
    return 0 if show_rows(run(*map(int, sys.argv[1:2]))) else 1


if __name__ == "__main__":
    sys.exit(main())
