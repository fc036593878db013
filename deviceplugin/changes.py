"""What is different in what the kubelet is told, from one version to the next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sriov.pci import PciAddress
from sriov.pools.assignment import Member

Members = Mapping[str, tuple[Member, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultChange:
    """A VF whose health, or the reason for it, changed; None is healthy."""

    vf: PciAddress
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceChange:
    """What is different about one resource, and how many VFs it has now. Added VFs may have a fault."""

    resource: str
    added: tuple[Member, ...] = ()
    gone: tuple[PciAddress, ...] = ()
    faults: tuple[FaultChange, ...] = ()
    healthy: int
    total: int

    @property
    def alarming(self) -> tuple[tuple[PciAddress, str], ...]:
        """The VFs that are unhealthy, and were not or for another reason, by address."""
        found = [(member.vf.address, member.fault) for member in self.added if member.fault is not None]
        found += [(change.vf, change.after) for change in self.faults if change.after is not None]
        return tuple(sorted(found, key=lambda each: each[0].order))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a version changed. `generation`: of the pool file that is new with it; None: it is the same file."""

    started: tuple[str, ...] = ()               # resources that were not served before
    ended: tuple[str, ...] = ()                 # and those that are not any more
    resources: tuple[ResourceChange, ...] = ()  # those that are served, where anything is different
    generation: int | None = None

    def warnings(self) -> Iterator[str]:
        """A sentence for each VF that cannot be handed out any more, or now for another reason."""
        for each in self.resources:
            for address, fault in each.alarming:
                yield f"{each.resource}: VF {address} is unhealthy: {fault}"

    def news(self) -> Iterator[str]:
        """A sentence for everything else."""
        for resource in self.ended:
            yield f"{resource}: no pool has this resource any more"
        for each in self.resources:
            for change in each.faults:
                if change.after is None:
                    yield f"{each.resource}: VF {change.vf} is healthy again"
            yield f"{each.resource}: {each.healthy} of {each.total} VFs are healthy"


NO_CHANGE = Change()


def find_change(before: Members, after: Members, generation: int | None = None) -> Change:
    """The difference of two versions' members, by resource."""
    changes = (_compare(resource, before.get(resource), members) for resource, members in after.items())
    return Change(
        started=tuple(resource for resource in after if resource not in before),
        ended=tuple(resource for resource in before if resource not in after),
        resources=tuple(change for change in changes if change is not None),
        generation=generation,
    )


def _compare(resource: str, before: tuple[Member, ...] | None, after: tuple[Member, ...]) -> ResourceChange | None:
    """None: nothing is different. A resource that is new is different, even without VFs."""
    known = {member.vf.address: member.fault for member in before or ()}
    now = {member.vf.address for member in after}
    added = tuple(member for member in after if member.vf.address not in known)
    gone = tuple(address for address in known if address not in now)
    faults = tuple(
        FaultChange(vf=member.vf.address, before=known[member.vf.address], after=member.fault)
        for member in after if member.vf.address in known and known[member.vf.address] != member.fault
    )
    if before is not None and not (added or gone or faults):
        return None
    return ResourceChange(resource=resource, added=added, gone=gone, faults=faults,
                          healthy=sum(member.fault is None for member in after), total=len(after))
