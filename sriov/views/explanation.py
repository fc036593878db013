"""Explanations for people and programs: stories of PFs and VFs with what was found wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sriov.diagnosis.causes import Finding
from sriov.model import PciFunction, PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import PfEntry
from sriov.pools.ranges import VfIndices
from sriov.views.exports import Json
from sriov.views.stories import Attempt, PfStory, VfStory
from sriov.views.tables import Paint, Tone, format_heading, format_paragraph, plain

_NEAREST = 8                          # so many attempts are shown of each, where many things are explained

Findings = Mapping[PciAddress, Sequence[Finding]]


def by_device(findings: Sequence[Finding]) -> Findings:
    """The findings of each device, in their order."""
    found: dict[PciAddress, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.device, []).append(finding)
    return found


def function_name(function: PciFunction) -> str:
    """`ens1f0 (0000:3b:00.0)`, or its address alone where it has no netdev that is known."""
    link = function.known_link
    return f"{link.name} ({function.address})" if link else str(function.address)


def format_pf(story: PfStory, findings: Findings, paint: Paint = plain, *, fully: bool = False) -> str:
    """A PF: its entry, its VFs with those of one fate together, what stands in the way. `fully`: every reason."""
    pf = story.pf
    text = format_heading(f"PF {function_name(pf)}: {pf.num_vfs} of {pf.total_vfs} VFs", paint)
    if story.entry is not None:
        text += format_paragraph(f"numVfs {story.entry.num_vfs} by the entry at {story.entry.place}", "  ")
    else:
        text += format_paragraph("no entry matches it: it is left as it is", "  ")
    missed = [attempt for attempt in story.attempts if attempt.why_not]
    if fully:
        text += "".join(_format_attempt(attempt, "    ") for attempt in missed)
    elif story.entry is None:
        text += _format_nearest(missed, "    ", pf.address)
    text += _format_findings(findings.get(pf.address, ()), "  ", paint)
    for group in _groups(story.vfs, findings):
        text += _format_group(group, paint) + _format_findings(findings.get(group[0].vf.address, ()), "    ", paint)
    return text


def format_vf(story: VfStory, pf: PhysicalFunction, findings: Findings, paint: Paint = plain) -> str:
    """One VF: its pool and the selector that gave it there, what other selectors say, what stands in the way."""
    vf = story.vf
    text = format_heading(f"VF {function_name(vf)}: VF {vf.index} of PF {function_name(pf)}", paint)
    text += format_paragraph(_fate(story), "  ")
    text += "".join(_format_attempt(attempt, "    ") for attempt in story.attempts)
    text += "".join(format_paragraph(f"{_at(attempt)} would select it too, but comes later", "    ")
                    for attempt in story.later)
    text += _format_findings(findings.get(vf.address, ()), "  ", paint)
    of_pf = _format_findings(findings.get(pf.address, ()), "    ", paint)
    return text + (format_paragraph(f"its PF {function_name(pf)}:", "  ") + of_pf if of_pf else "")


def format_other(other: PciFunction, namesakes: Sequence[PfEntry], findings: Findings, paint: Paint = plain) -> str:
    """A NIC or accelerator that is no PF and no VF; `namesakes` are entries that would match it if it were one."""
    text = format_heading(f"{function_name(other)}: neither PF nor VF", paint)
    text += format_paragraph("; ".join([f"driver {other.driver or 'none'}", *other.ties]), "  ")
    text += "".join(format_paragraph(f"the entry at {entry.place} would match it", "  ") for entry in namesakes)
    return text + _format_findings(findings.get(other.address, ()), "  ", paint)


# ---- JSON -------------------------------------------------------------------------------------------------


def pf_document(story: PfStory, findings: Findings) -> Json:
    return {
        "address": story.pf.address, "numVfs": story.pf.num_vfs, "totalVfs": story.pf.total_vfs,
        "entry": story.entry and {"place": story.entry.place, "numVfs": story.entry.num_vfs},
        "attempts": [_attempt_document(attempt) for attempt in story.attempts],
        "findings": findings_document(findings.get(story.pf.address, ())),
        "virtualFunctions": [vf_document(vf, findings) for vf in story.vfs],
    }


def vf_document(story: VfStory, findings: Findings) -> Json:
    return {
        "address": story.vf.address, "pf": story.vf.pf, "index": story.vf.index,
        "resource": story.pool and story.pool.resource, "selector": story.selector and story.selector.place,
        "fault": story.fault, "netdevElsewhere": story.vf.away,
        "attempts": [_attempt_document(attempt) for attempt in story.attempts],
        "later": [{"resource": attempt.what, "place": attempt.place} for attempt in story.later],
        "findings": findings_document(findings.get(story.vf.address, ())),
    }


def other_document(other: PciFunction, namesakes: Sequence[PfEntry], findings: Findings) -> Json:
    return {
        "address": other.address, "netdev": other.link and other.link.name,
        "entries": [entry.place for entry in namesakes],
        "findings": findings_document(findings.get(other.address, ())),
    }


def findings_document(findings: Sequence[Finding]) -> list[Json]:
    return [{"problem": finding.problem, "action": finding.action} for finding in findings]


def _attempt_document(attempt: Attempt) -> Json:
    resource = {"resource": attempt.what} if attempt.what else {}
    return {**resource, "place": attempt.place, "whyNot": list(attempt.why_not)}


# ---- text -------------------------------------------------------------------------------------------------


def _groups(stories: Sequence[VfStory], findings: Findings) -> Iterator[list[VfStory]]:
    """Stories that differ in nothing but the VF, by the index of their first."""
    groups: dict[object, list[VfStory]] = {}
    for story in stories:
        found = tuple((each.problem, each.action) for each in findings.get(story.vf.address, ()))
        reasons = () if story.pool else tuple(_without_index(attempt, story) for attempt in story.attempts)
        place = story.selector.place if story.selector else None
        key = (story.pool and story.pool.resource, place, story.fault, story.vf.away, reasons, found)
        groups.setdefault(key, []).append(story)
    yield from groups.values()


def _format_group(group: Sequence[VfStory], paint: Paint) -> str:
    story = group[0]
    indices = VfIndices.merge([(each.vf.index, each.vf.index) for each in group])
    name = f"VF {indices}" if len(group) == 1 else f"VFs {indices}"
    tone = None if story.pool and not story.fault else Tone.DOUBTFUL
    first, *rest = format_paragraph(f"{name}: {_fate(story)}", "  ").splitlines()
    text = "".join(paint(line, tone) + "\n" for line in (first, *rest))
    if story.pool is None:
        attempts = [_without_index(attempt, story) for attempt in story.attempts]
        text += _format_nearest(attempts, "    ", story.vf.address)
    return text


def _fate(story: VfStory) -> str:
    if story.pool is None:
        return "in no pool" + ("" if story.attempts else ": the file has none")
    place = f" by the selector at {story.selector.place}" if story.selector and story.selector.place else ""
    away = ", netdev elsewhere" if story.vf.away else ""
    return f"in {story.pool.resource}{place}{away}{f', not healthy: {story.fault}' if story.fault else ''}"


def _without_index(attempt: Attempt, story: VfStory) -> Attempt:
    """The attempt in words that are the same for VFs that differ only in what the selector does not ask."""
    why_not = tuple(_without_own(phrase, story) for phrase in attempt.why_not)
    return Attempt(what=attempt.what, place=attempt.place, why_not=why_not)


def _without_own(phrase: str, story: VfStory) -> str:
    key, index, address = phrase.partition(" ")[0], f" has no {story.vf.index}", str(story.vf.address)
    if key == "vfs" and phrase.endswith(index):
        return f"{phrase.removesuffix(index)} does not have it"
    if key in ("address", "path") and phrase.endswith(address):
        return f"{phrase.removesuffix(address)}its own"
    return phrase


def _format_attempt(attempt: Attempt, indent: str) -> str:
    return format_paragraph(f"not {_at(attempt)}: {'; '.join(attempt.why_not)}", indent)


def _format_nearest(attempts: Sequence[Attempt], indent: str, address: PciAddress) -> str:
    """The attempts with the fewest reasons, in their order: one of them was probably meant."""
    nearest = sorted(range(len(attempts)), key=lambda number: len(attempts[number].why_not))
    if len(attempts) > _NEAREST + 1:      # of one more, its reasons take no more room than a word about it
        nearest = nearest[:_NEAREST]
    text = "".join(_format_attempt(attempts[number], indent) for number in sorted(nearest))
    if len(attempts) > len(nearest):
        more = len(attempts) - len(nearest)
        text += format_paragraph(f"nor {more} others, for the reasons that explain {address} shows", indent)
    return text


def _at(attempt: Attempt) -> str:
    if attempt.what:
        return f"{attempt.what} at {attempt.place}" if attempt.place else attempt.what
    return f"the entry at {attempt.place}"


def _format_findings(findings: Sequence[Finding], indent: str, paint: Paint) -> str:
    text = ""
    for finding in findings:
        first, *rest = format_paragraph(f"! {finding.problem}", indent).splitlines()
        text += "".join(paint(line, Tone.BAD) + "\n" for line in (first, *rest))
        text += format_paragraph(f"hint: {finding.action}", indent + "  ")
    return text
