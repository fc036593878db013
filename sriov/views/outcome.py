"""What came of changes to the node, for people and programs: what was done, refused, and could not be done."""

from __future__ import annotations

from sriov.provision.steps import VfStep
from sriov.provision.terms import Report
from sriov.views.exports import Json
from sriov.views.plantext import refusal_document
from sriov.views.tables import Paint, Tone, format_paragraph, plain


def format_outcome(report: Report, paint: Paint = plain) -> str:
    """A line for each; below what failed, what it left behind."""
    lines = [(f"done: {step.describe()}", Tone.GOOD) for step in report.done]
    lines += [(f"refused: {refusal}", Tone.BAD) for refusal in report.refused]
    lines += [(f"failed: {failure}", Tone.BAD) for failure in report.failed]
    return "".join(paint(line, tone) + "\n" for text, tone in lines for line in format_paragraph(text).splitlines())


def outcome_document(report: Report) -> Json:
    return {
        "done": [{"pf": step.vf.pf if isinstance(step, VfStep) else step.pf.address, "text": step.describe()}
                 for step in report.done],
        "refused": [{"pf": each.pf, **refusal_document(each)} for each in report.refused],
        "failed": [{"pf": each.pf, "message": each.what, "leftBehind": list(each.left)} for each in report.failed],
    }
