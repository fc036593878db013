"""Warnings: what a pool file says that is allowed but hardly meant, by itself and against a node.

Each is a sentence that begins with its place; where two things of the file meet, both places are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, Driver, PfEntry, Pool, PoolFile, variable_name
from sriov.pools.drivernames import warn_of_driver_name
from sriov.pools.overlap import Earlier, covers, crosses
from sriov.pools.patterns import is_literal, matches, matches_any
from sriov.pools.prospects import find_misnamed, find_prospects
from sriov.pools.selectors import FunctionClass, Selector


def warn_of_file(file: PoolFile) -> Iterator[str]:
    """What needs no node to be seen: entries and selectors that can never be used, and those that collide."""
    yield from _warn_of_dead_entries(file.physical_functions)
    yield from _warn_of_dead_selectors(file.pools)
    yield from _warn_of_variables(file.pools)
    for entry in file.physical_functions:
        yield from _warn_of_macs(entry)
    makers = _makers(file.physical_functions)
    for pool in file.pools:
        yield from warn_of_driver_name(pool)
        yield from _warn_of_mtu(pool, makers)
        for selector in pool.selectors:
            yield from _warn_of_driver(pool, selector)
            yield from _warn_of_class(pool, selector)
            for name in _names(selector):
                yield from _warn_of_indices(name, selector, makers)


def _names(selector: Selector) -> tuple[str, ...]:
    """The words by which a selector names PFs."""
    return (*selector.pf, *selector.on.name, *selector.on.address)


def warn_of_entries(entries: Sequence[PfEntry], host: Host) -> Iterator[str]:
    """What entries ask for and this node's PFs do not have; the first entry that matches a PF has it."""
    matching = [{pf.address for pf in host.pfs if entry.match.matches(pf)} for entry in entries]
    taken: dict[PciAddress, int] = {}
    for number, entry in enumerate(entries):
        if not matching[number]:
            reason = _nearest(entry.match.mismatches(pf) for pf in host.pfs)
            yield f"{entry.place}: no PF of this node matches: {reason or 'it has none'}"
        for pf in host.pfs:
            if pf.address not in matching[number]:
                continue
            first = taken.setdefault(pf.address, number)
            if first != number:
                if matching[first] < matching[number]:    # the exception, then the rule: that is how it is done
                    continue
                yield (f"{entry.place}: PF {pf.address} belongs to the entry at {entries[first].place}, "
                       "which comes first")
            elif entry.num_vfs > pf.total_vfs:
                yield f"{entry.place}: numVfs is {entry.num_vfs}, PF {pf.address} can have {pf.total_vfs} at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a selector of a pool would have of this node if it came first."""

    pool: Pool
    selector: Selector
    vfs: frozenset[PciAddress]

    def __str__(self) -> str:
        return f"{self.pool.resource} at {self.selector.place}"


def warn_of_pools(pools: Sequence[Pool], host: Host, assignment: Assignment, entries: Sequence[PfEntry] = (),
                  ) -> Iterator[str]:
    """Pools and selectors that get no VF of this node, and why; pools that claim each other's VFs.

    Not those whose VFs `entries` are still to make.
    """
    owners: dict[PciAddress, Claim] = {}
    prospects = find_prospects(pools, entries, host, assignment)
    for pool in pools:
        claims = _claims(pool, host)
        if assignment.members[pool.resource]:
            for claim in claims:
                yield from _warn_of_claim(claim, owners)
        elif misnamed := list(find_misnamed(pool, host)):
            yield from misnamed
        elif pool.resource not in prospects:
            yield f"{pool.place}: {pool.resource} gets no VF: {_why_none(pool, claims, host, owners)}"
        for claim in claims:
            for address in claim.vfs:
                owners.setdefault(address, claim)


def _claims(pool: Pool, host: Host) -> list[Claim]:
    return [
        Claim(pool=pool, selector=selector, vfs=frozenset(
            vf.address for pf in host.pfs for vf in pf.vfs
            if selector.selects(pf, vf) and pool.find_exclusion(pf, vf) is None))
        for selector in pool.selectors
    ]


def _warn_of_claim(claim: Claim, owners: Mapping[PciAddress, Claim]) -> Iterator[str]:
    """What a pool that has VFs loses to earlier ones; not again what the file alone shows."""
    winners = dict.fromkeys(owners[address] for address in sorted(claim.vfs) if address in owners)
    if winners and claim.vfs <= owners.keys():
        if not any(covers(winner.selector, claim.selector) and not winner.pool.exclude for winner in winners):
            yield (f"{claim.selector.place}: {claim.pool.resource} gets no VF from this selector: all that it "
                   f"selects belong to {', '.join(map(str, winners))}")
        return
    for winner in winners:
        # An exception first and then the rule that takes all the rest is how pools are meant to be written.
        if not winner.vfs < claim.vfs and not (
                crosses(winner.selector, claim.selector) and not winner.pool.exclude):
            both = sorted(claim.vfs & winner.vfs)
            more = f" and {len(both) - 2} more" if len(both) > 2 else ""
            yield (f"{claim.selector.place}: {claim.pool.resource} does not get {', '.join(both[:2])}{more}: "
                   f"they belong to {winner}, which comes first")


def _why_none(pool: Pool, claims: Sequence[Claim], host: Host, owners: Mapping[PciAddress, Claim]) -> str:
    if any(claim.vfs for claim in claims):
        winners = {owners[address].pool.resource: owners[address].pool.place
                   for claim in claims for address in sorted(claim.vfs)}
        names = ", ".join(f"{resource} at {place}" for resource, place in winners.items())
        return f"all that it selects belong to {names}, which {'comes' if len(winners) == 1 else 'come'} first"
    pairs = [(pf, vf) for pf in host.pfs for vf in pf.vfs]
    excluded = {exclusion.place for pair in pairs for exclusion in [pool.find_exclusion(*pair)]
                if exclusion and any(selector.selects(*pair) for selector in pool.selectors)}
    if excluded:
        return f"all that it selects are taken out by its exclude at {', '.join(sorted(excluded))}"
    if (named := next(_name_others(pool, host), None)) is not None:
        return named
    nearest = _nearest(selector.mismatches(*pair) for selector in pool.selectors for pair in pairs)
    return nearest or "this node has none"


def _name_others(pool: Pool, host: Host) -> Iterator[str]:
    """Functions that selectors name by their addresses, and that are no VFs."""
    for function, what in (*((pf, "a PF") for pf in host.pfs), *((other, "no VF") for other in host.others)):
        for selector in pool.selectors:
            if any(is_literal(address) and matches(address, function.address, ignore_case=True)
                   for address in selector.address):
                yield f"{function.address} is {what}, and only VFs are handed out"


def _nearest(tries: Iterable[Iterator[str]]) -> str:
    """The mismatches of the try that came closest; empty where there was none."""
    nearest = min((list(mismatches) for mismatches in tries), key=len, default=[])
    return ", ".join(nearest)


# ---- the file alone ---------------------------------------------------------------------------------------


def _warn_of_dead_entries(entries: Sequence[PfEntry]) -> Iterator[str]:
    earlier = Earlier()
    for entry in entries:
        near = (entries[number] for number in earlier.near(entry.match))
        if (first := next((each for each in near if covers(each.match, entry.match)), None)) is not None:
            yield (f"{entry.place}: this entry is never used: the one at {first.place} matches all the PFs that it "
                   "does, and comes first")
        earlier.add(entry.match)


def _warn_of_dead_selectors(pools: Sequence[Pool]) -> Iterator[str]:
    earlier = Earlier()
    claims: list[tuple[Pool, Selector]] = []
    for pool in pools:
        for selector in pool.selectors:
            yield from _warn_of_earlier(pool, selector, [claims[number] for number in earlier.near(selector)])
            earlier.add(selector)
            claims.append((pool, selector))


def _warn_of_earlier(pool: Pool, selector: Selector, earlier: Sequence[tuple[Pool, Selector]]) -> Iterator[str]:
    never = f"{selector.place}: {pool.resource} never gets a VF from this selector"
    if (exclusion := next((each for each in pool.exclude if covers(each, selector)), None)) is not None:
        yield f"{never}: the exclude at {exclusion.place} takes out all that it selects"
        return
    for other, first in earlier:
        if other is not pool and other.exclude:    # what that pool excludes, this selector may still get
            continue
        if covers(first, selector):
            likeness = "is the same" if first == selector else "selects all that it does"
            yield f"{never}: the one at {first.place} {likeness} and comes first"
            return
        if other is not pool and selector.vfs and first.vfs and crosses(first, selector):
            yield (f"{selector.place}: {pool.resource} does not get vfs {first.vfs & selector.vfs} of this "
                   f"selector: they belong to {other.resource} at {first.place}, which comes first")


def _warn_of_variables(pools: Sequence[Pool]) -> Iterator[str]:
    """Resources by whose environment variables a pod could not tell its VFs apart."""
    earlier: dict[str, Pool] = {}
    for pool in pools:
        first = earlier.setdefault(variable_name(pool.resource), pool)
        if first.resource != pool.resource:
            yield (f"{pool.place}: {pool.resource} and {first.resource} at {first.place} have one environment "
                   f"variable in pods, {variable_name(pool.resource)}: a pod with both sees VFs of one only")


def _warn_of_driver(pool: Pool, selector: Selector) -> Iterator[str]:
    if (selector.driver and pool.driver not in (None, Driver.KERNEL)
            and not matches_any(selector.driver, (str(pool.driver),))):
        yield (f"{selector.place}: selects only VFs bound to {' or '.join(selector.driver)}, but "
               f"{pool.resource} binds its VFs to {pool.driver}: they would leave the pool")


def _warn_of_class(pool: Pool, selector: Selector) -> Iterator[str]:
    if selector.base_class and FunctionClass.NETWORK not in selector.base_class:
        yield (f"{selector.place}: {pool.resource} gets no VF from this selector: accelerators are not handed out "
               "yet")


def _makers(entries: Sequence[PfEntry]) -> dict[str, PfEntry]:
    """The first entry for each word that names a PF; which PFs a glob means, only the node knows."""
    makers: dict[str, PfEntry] = {}
    for entry in entries:
        for name in (*entry.match.name, *entry.match.address):
            makers.setdefault(name, entry)
    return makers


def _warn_of_macs(entry: PfEntry) -> Iterator[str]:
    if len(entry.vf_macs) > entry.num_vfs:
        yield (f"{entry.place}: vfMacs has {len(entry.vf_macs)} addresses, but numVfs makes {entry.num_vfs} VFs: "
               f"{entry.vf_macs[entry.num_vfs]} and what follows is never used")


def _warn_of_mtu(pool: Pool, makers: Mapping[str, PfEntry]) -> Iterator[str]:
    """A VF's packets leave by its PF; drivers refuse more than that can take."""
    found = {entry.place: entry for selector in pool.selectors for name in _names(selector)
             if (entry := makers.get(name)) is not None}
    for entry in found.values():
        if pool.vf_mtu is not None and entry.mtu is not None and pool.vf_mtu > entry.mtu:
            yield (f"{pool.place}: {pool.resource} wants MTU {pool.vf_mtu} on its VFs, but the entry at "
                   f"{entry.place} gives their PF {entry.mtu}")


def _warn_of_indices(name: str, selector: Selector, makers: Mapping[str, PfEntry]) -> Iterator[str]:
    entry = makers.get(name)
    if entry is None or selector.vfs is None or entry.match.node not in ((), selector.node):
        return
    last = selector.vfs.spans[-1][1]
    if last >= entry.num_vfs:
        yield (f"{selector.place}: vfs {selector.vfs} reaches VF {last} of {name}, but the entry at "
               f"{entry.place} makes {entry.num_vfs}")
