"""What vfpool did to a PF and how it was before, as a record for each PF; and the last state that was reached.

The record is on disk before the first change of the PF. What it says of changes is good for one boot: the next
one begins with none. The last good state is good for as long as the same card is at the address. Pure.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace

from sriov.errors import InputError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.override import Override
from sriov.provision.state import PfState, parse_state, state_document

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a run has under way, for the next one if its process dies. `autoprobe`: how the PF's is to be once it
    is done. `counts`: how many VFs it may have made; as many, whichever they are, are vfpool's."""

    autoprobe: bool
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """`before`: how the PF was when vfpool first changed it in boot `boot_id`. `owns_vfs`: the VFs that `vfs` tells
    from others are vfpool's, made by it or adopted. `last_good`: the last state that was wanted and reached, None:
    none was yet; by `overrides` where it took any. `unfinished` None: no run has begun that did not end."""

    pf: PciAddress
    vendor: str
    device: str
    boot_id: str
    before: PfState
    owns_vfs: bool = False
    vfs: int | None = None
    last_good: PfState | None = None
    overrides: tuple[Override, ...] = ()
    unfinished: Unfinished | None = None

    def is_of(self, pf: PhysicalFunction) -> bool:
        """Whether it is about this card, and not about another that has its slot since."""
        return (self.pf, self.vendor, self.device) == (pf.address, pf.vendor, pf.device)

    def has(self, num_vfs: int, vfs: int | None) -> bool:
        """Whether `num_vfs` VFs, which `vfs` tells from others, are vfpool's."""
        made = self.unfinished is not None and num_vfs in self.unfinished.counts
        return made or (self.owns_vfs and self.vfs == vfs)


def take_over(record: Ownership | None, pf: PhysicalFunction, before: PfState, boot_id: str, *,
              vfs: int | None, counts: tuple[int, ...]) -> Ownership:
    """The record of a PF that is about to be changed; `before` is how it is now, `vfs` tells VFs that are vfpool's
    from others, None: it has none of them. `counts`: as in `Unfinished`."""
    if record is not None and not record.is_of(pf):
        record = None
    unfinished = Unfinished(autoprobe=pf.autoprobe, counts=counts)
    if record is not None and record.boot_id == boot_id:
        if record.unfinished is not None:      # that run found autoprobe as it was; this one, as it left it
            unfinished = replace(unfinished, autoprobe=record.unfinished.autoprobe)
        return replace(record, owns_vfs=vfs is not None, vfs=vfs, unfinished=unfinished)
    return Ownership(pf=pf.address, vendor=pf.vendor, device=pf.device, boot_id=boot_id, before=before,
                     owns_vfs=vfs is not None, vfs=vfs, unfinished=unfinished,
                     last_good=record.last_good if record is not None else None,
                     overrides=record.overrides if record is not None else ())


# ---- JSON -------------------------------------------------------------------------------------------------


def format_ownership(record: Ownership) -> str:
    return json.dumps({
        "version": VERSION, "pf": record.pf, "vendor": record.vendor, "device": record.device,
        "bootId": record.boot_id, "ownsVfs": record.owns_vfs, "vfs": record.vfs,
        "before": state_document(record.before),
        "lastGood": None if record.last_good is None else state_document(record.last_good),
        "overrides": record.overrides,
        "unfinished": None if record.unfinished is None else dataclasses.asdict(record.unfinished),
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
            unfinished=_parse_unfinished(document.get("unfinished")),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a record of a PF: {error!r}") from None


def _parse_unfinished(document: object) -> Unfinished | None:
    if document is None:
        return None
    if not isinstance(document, dict) or not isinstance(document["autoprobe"], bool) or not all(
            type(count) is int for count in document["counts"]):
        raise TypeError(f"expected what is under way, got {document!r}")
    return Unfinished(autoprobe=document["autoprobe"], counts=tuple(document["counts"]))
