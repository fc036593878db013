"""Who has which VF, by the records: for answers to an admin."""

from __future__ import annotations

from collections.abc import Iterable

from cni.record import Record
from sriov.pci import PciAddress
from sriov.status import Owner


def list_owners(records: Iterable[Record]) -> dict[PciAddress, Owner]:
    """By VF, whether its attachment is under way, there, or on its way home."""
    return {record.vf: _describe(record) for record in records}


def _describe(record: Record) -> Owner:
    owner = record.owner
    return Owner(container_id=owner.container_id, ifname=owner.ifname, network=owner.network, netns=owner.netns,
                 phase=str(record.phase), pod=owner.pod or None)
