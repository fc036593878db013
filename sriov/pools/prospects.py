"""Prospects: what pools may expect of a node as it is, before its VFs are made; names that no PF of it has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sriov.model import Host, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, PfEntry, Pool
from sriov.pools.patterns import is_literal, matches_any
from sriov.pools.selectors import Selector


def imagine_vfs(pf: PhysicalFunction, count: int) -> PhysicalFunction:
    """The PF with `count` VFs as far as they are known before they exist: not address, device id and driver."""
    return replace(pf, num_vfs=count, vfs=tuple(
        VirtualFunction(address=pf.address, pf=pf.address, index=index, vendor=pf.vendor, device="", driver=None,
                        numa_node=pf.numa_node, iommu_group=pf.iommu_group, link=None, pci_class=pf.pci_class)
        for index in range(count)))


def find_prospects(pools: Sequence[Pool], entries: Sequence[PfEntry], host: Host, assignment: Assignment,
                   ) -> Mapping[str, str]:
    """For each pool without VFs that has some to come: `none yet, the entry at pools.yaml:4:5 makes 8`."""
    coming: list[tuple[PfEntry, PhysicalFunction]] = []
    for pf in host.pfs:
        entry = next((entry for entry in entries if entry.match.matches(pf)), None)
        if entry is not None and pf.num_vfs < entry.num_vfs <= pf.total_vfs:
            coming.append((entry, imagine_vfs(pf, entry.num_vfs)))
    found: dict[str, str] = {}
    for pool in pools:
        makers = [] if assignment.members[pool.resource] else [
            entry for entry, pf in coming if any(_may_select(pool, pf, vf) for vf in pf.vfs)]
        if makers:
            told = {entry.place: f"the entry at {entry.place} makes {entry.num_vfs}" for entry in makers}
            found[pool.resource] = f"none yet, {', '.join(told.values())}"
    return found


def find_misnamed(pool: Pool, host: Host) -> Iterator[str]:
    """A sentence with its place for each selector, if all of them name PFs in so many letters that are not here.

    None where a PF's netdev is not known: it may be the one.
    """
    links = [pf.known_link for pf in host.pfs]
    names = [name for link in links if link is not None for name in (link.name, *link.altnames)]
    if not links or None in links:
        return
    wrong = {selector.place: words for selector in pool.selectors
             if (words := _names(selector)) and not matches_any(words, names)}
    if len(wrong) < len({selector.place for selector in pool.selectors}):
        return
    for place, words in wrong.items():
        close = [near[0] for word in words if (near := difflib.get_close_matches(word, names, n=1, cutoff=0.8))]
        meant = f", did you mean {close[0]}?" if close else ""
        yield (f"{place or pool.place}: {pool.resource} gets no VF: no PF of this node is named "
               f"{' or '.join(words)}{meant}")


def _names(selector: Selector) -> tuple[str, ...]:
    """The names by which the selector asks for PFs; () where it may ask for them otherwise, or for other nodes."""
    words = (*selector.pf, *selector.on.name)
    plain = all(is_literal(word) and not isinstance(word, PciAddress) for word in words)
    return words if plain and not selector.node else ()


def _may_select(pool: Pool, pf: PhysicalFunction, vf: VirtualFunction) -> bool:
    """Whether the pool may have such a VF, by all that is known of it."""
    known = (replace(selector, address=(), path=(), device=(), driver=(), acpi_index=(), rdma=None)
             for selector in pool.selectors)
    return any(selector.selects(pf, vf) for selector in known) and pool.find_exclusion(pf, vf) is None
