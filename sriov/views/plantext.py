"""A plan for people and programs: per PF what would change and whom that disturbs, what is refused and why."""

from __future__ import annotations

from sriov.provision.guards import Refusal
from sriov.provision.plan import PfPlan, Plan
from sriov.provision.steps import Disturbs, MakeVfs, Step, VfStep, pf_name
from sriov.views.exports import Json
from sriov.views.tables import Paint, Tone, format_heading, format_paragraph, plain


def format_plan(plan: Plan, paint: Paint = plain) -> str:
    """A diff: `+` what would be made, `-` what would go, `~` what would change, `!` what is refused; maybe ""."""
    return "\n".join(_format_pf(each, paint) for each in plan.pfs)


def plan_document(plan: Plan) -> Json:
    """Steps in their order within each PF; PFs are apart from each other."""
    return {"physicalFunctions": [
        {
            "address": each.pf.address,
            "steps": [_step_document(step) for step in each.steps], "later": list(each.later),
            "refused": [refusal_document(refusal) for refusal in each.refused],
        }
        for each in plan.pfs
    ]}


def refusal_document(refusal: Refusal) -> Json:
    """`disturbs` is "reboot" where only that would help, and else null."""
    return {"message": refusal.message, "hint": refusal.hint, "override": refusal.override,
            "disturbs": None if refusal.disturbs is None else refusal.disturbs.name.lower()}


def _format_pf(plan: PfPlan, paint: Paint) -> str:
    text = format_heading(pf_name(plan.pf), paint)
    for step in plan.steps:
        disturbs = f" [{step.disturbs}]" if step.disturbs is not Disturbs.NOTHING else ""
        text += _tinted(f"{_sign(step)} {step.describe()}{disturbs}", _tone(step), paint)
    for sentence in plan.later:
        text += _tinted(f"+ then {sentence}", Tone.GOOD, paint)
    for refusal in plan.refused:
        text += _tinted(f"! {refusal}", Tone.BAD, paint)
    return text


def _sign(step: Step) -> str:
    return "~" if not isinstance(step, MakeVfs) else "+" if step.count else "-"


def _tone(step: Step) -> Tone:
    return Tone.GOOD if step.disturbs is Disturbs.NOTHING else Tone.DOUBTFUL


def _step_document(step: Step) -> Json:
    kind = type(step).__name__
    return {
        "kind": kind[0].lower() + kind[1:], "vf": step.vf.address if isinstance(step, VfStep) else None,
        "text": step.describe(), "disturbs": step.disturbs.name.lower(),
    }


def _tinted(sentence: str, tone: Tone, paint: Paint) -> str:
    return "".join(paint(line, tone) + "\n" for line in format_paragraph(sentence, "  ").splitlines())
