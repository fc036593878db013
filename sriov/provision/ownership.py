"""What vfpool did to a PF and how it was before, as a record for each PF; and the last state that was reached.

The record is on disk before the first change of the PF. What it says of changes is good for one boot: the next
one begins with none. The last good state is good for as long as the same card is at the address. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from sriov.errors import InputError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.override import Override
from sriov.provision.state import PfState, parse_state, state_document

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """`before`: how the PF was when vfpool first changed it in boot `boot_id`. `owns_vfs`: they are vfpool's,
    made by it or adopted. `last_good`: the last state that was wanted and reached, None: none was yet; by
    `overrides` where it took any. `vfs` tells the VFs that are meant from others; None: not known."""

    pf: PciAddress
    vendor: str
    device: str
    boot_id: str
    before: PfState
    owns_vfs: bool = False
    vfs: int | None = None
    last_good: PfState | None = None
    overrides: tuple[Override, ...] = ()

    def is_of(self, pf: PhysicalFunction) -> bool:
        """Whether it is about this card, and not about another that has its slot since."""
        return (self.pf, self.vendor, self.device) == (pf.address, pf.vendor, pf.device)


def take_over(record: Ownership | None, pf: PhysicalFunction, before: PfState, boot_id: str, *,
              owns_vfs: bool, vfs: int | None) -> Ownership:
    """The record of a PF that is about to be changed; `before` is how it is now. `vfs` None: still to be made."""
    if record is not None and not record.is_of(pf):
        record = None
    if record is not None and record.boot_id == boot_id:
        return replace(record, owns_vfs=owns_vfs, vfs=vfs)
    return Ownership(pf=pf.address, vendor=pf.vendor, device=pf.device, boot_id=boot_id, before=before,
                     owns_vfs=owns_vfs, vfs=vfs, last_good=record.last_good if record is not None else None,
                     overrides=record.overrides if record is not None else ())


# ---- JSON -------------------------------------------------------------------------------------------------


def format_ownership(record: Ownership) -> str:
    return json.dumps({
        "version": VERSION, "pf": record.pf, "vendor": record.vendor, "device": record.device,
        "bootId": record.boot_id, "ownsVfs": record.owns_vfs, "vfs": record.vfs,
        "before": state_document(record.before),
        "lastGood": None if record.last_good is None else state_document(record.last_good),
        "overrides": record.overrides,
    }, indent=1) + "\n"


def parse_ownership(text: str) -> Ownership:
    """Raises InputError for anything that `format_ownership` does not write."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise InputError(f"version: expected {VERSION}, got {document['version']!r}")
        good = document["lastGood"]
        texts = [document[key] for key in ("vendor", "device", "bootId")]
        vfs = document["vfs"]
        if not all(isinstance(each, str) for each in texts) or not isinstance(document["ownsVfs"], bool) or not (
                vfs is None or type(vfs) is int):
            raise TypeError(f"expected texts, a boolean, a number, got {texts!r}, {document['ownsVfs']!r}, {vfs!r}")
        return Ownership(
            pf=PciAddress.parse(document["pf"]), vendor=texts[0], device=texts[1], boot_id=texts[2],
            owns_vfs=document["ownsVfs"], vfs=vfs, before=parse_state(document["before"]),
            last_good=None if good is None else parse_state(good),
            overrides=tuple(map(Override, document["overrides"])),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a record of a PF: {error!r}") from None
