"""Who has which VF, by the records, and what was mended: for answers to an admin."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cni.record import Record
from cni.repair import Repair
from sriov.clock import moment
from sriov.pci import PciAddress
from sriov.status import BroughtHome, Owner, Problem, Repairs

_DAMAGED = "the VF or address that it was about may be as a pod left it: mend that by hand, then delete the file"


def list_owners(records: Iterable[Record]) -> dict[PciAddress, Owner]:
    """By VF, whether its attachment is under way, there, or on its way home."""
    return {record.vf: _describe(record) for record in records}


def _describe(record: Record) -> Owner:
    owner = record.owner
    return Owner(container_id=owner.container_id, ifname=owner.ifname, network=owner.network, netns=owner.netns,
                 phase=str(record.phase), pod=owner.pod or None)


def describe_repairs(repair: Repair) -> Repairs:
    """What repair and ADDs mended since this process began, and what stands unmended."""
    counts, now = repair.counts, time.time()
    failures = [Problem(message=each.reason, since=moment(now - each.age)) for each in repair.failures]
    full = repair.unfit
    unfit = [] if full is None else [Problem(message=f"no ADD can begin: {full}", hint=full.hint)]
    damaged = [Problem(message=f"set aside a damaged record: {each}", hint=_DAMAGED) for each in repair.damaged]
    return Repairs(
        brought_home=tuple(BroughtHome(reason=why, vfs=count) for why, count in counts.brought_home.items()),
        paid_late=counts.paid_late, set_aside=len(damaged),
        last=counts.last, last_at=None if counts.last is None else moment(counts.last_at),
        standing=(*unfit, *failures, *damaged))
