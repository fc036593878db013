"""Why a VF is in its pool, or in none: every selector's answer, and which entry a PF has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from sriov.model import PciFunction, PhysicalFunction, VirtualFunction
from sriov.pools.assignment import PfEntry, Pool
from sriov.pools.selectors import Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a selector, or an entry, says to a function: every reason why not; none: it takes it."""

    what: str                         # resource of the pool; "" for an entry
    place: str
    why_not: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VfStory:
    """Which pool has a VF.

    `attempts` are those of the selectors that were asked before, of all where no pool has it. `later` would have
    taken it too, had they come first.
    """

    vf: VirtualFunction
    pool: Pool | None
    selector: Selector | None
    fault: str | None                 # why it cannot be handed out now
    attempts: tuple[Attempt, ...] = ()
    later: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PfStory:
    """Which entry a PF has: the last of the attempts, if that one takes it. Its VFs by index."""

    pf: PhysicalFunction
    entry: PfEntry | None
    attempts: tuple[Attempt, ...] = ()
    vfs: tuple[VfStory, ...] = ()


def explain_pf(pf: PhysicalFunction, entries: Sequence[PfEntry], pools: Sequence[Pool]) -> PfStory:
    """The PF and all its VFs."""
    attempts: list[Attempt] = []
    found = None
    for entry in entries:
        attempts.append(Attempt(what="", place=entry.place, why_not=tuple(entry.match.mismatches(pf))))
        if not attempts[-1].why_not:
            found = entry
            break
    vfs = tuple(explain_vf(pf, vf, pools) for vf in pf.vfs)
    return PfStory(pf=pf, entry=found, attempts=tuple(attempts), vfs=vfs)


def explain_vf(pf: PhysicalFunction, vf: VirtualFunction, pools: Sequence[Pool]) -> VfStory:
    """The VF, by the rules of `sriov.pools.assignment.assign`."""
    attempts: list[Attempt] = []
    later: list[Attempt] = []
    pool, selector = None, None
    for each in pools:
        for tried, attempt in _ask(each, pf, vf):
            if pool is None and not attempt.why_not:
                pool, selector = each, tried
            elif pool is None:
                attempts.append(attempt)
            elif not attempt.why_not and each is not pool:
                later.append(attempt)
    return VfStory(vf=vf, pool=pool, selector=selector, fault=pool.find_fault(vf, selector) if pool else None,
                   attempts=tuple(attempts), later=tuple(later))


def find_namesakes(other: PciFunction, entries: Sequence[PfEntry]) -> tuple[PfEntry, ...]:
    """The entries that would match a NIC that is no PF, if it were one."""
    pf = as_pf(other)
    return tuple(entry for entry in entries if entry.match.matches(pf))


def as_pf(other: PciFunction) -> PhysicalFunction:
    """The function as it would be if it could have VFs, none of them there."""
    facts = {field.name: getattr(other, field.name) for field in fields(PciFunction)}
    return PhysicalFunction(**facts, total_vfs=0, num_vfs=0)


def _ask(pool: Pool, pf: PhysicalFunction, vf: VirtualFunction) -> Iterator[tuple[Selector, Attempt]]:
    exclusion = pool.find_exclusion(pf, vf)
    for selector in pool.selectors:
        why_not = tuple(selector.mismatches(pf, vf))
        if not why_not and exclusion is not None:
            why_not = (f"exclude takes it out{f', at {exclusion.place}' if exclusion.place else ''}",)
        yield selector, Attempt(what=pool.resource, place=selector.place, why_not=why_not)
