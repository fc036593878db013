"""How the running agent and its node are, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator

from sriov.model import printable
from sriov.status import (
    NodeStatus,
    PfStatus,
    Problem,
    Registration,
    Repairs,
    ResourceStatus,
    VfStatus,
    status_fields,
)
from sriov.views.exports import Json
from sriov.views.tables import Cell, Paint, Tone, format_paragraph, format_table, plain


def format_status(status: NodeStatus, paint: Paint = plain) -> str:
    """What is wrong first, each with its next action; then resources, PFs and VFs, a line each."""
    problems = list(status.find_problems())
    verdict = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "all is well"
    headline = printable(f"vfpool-agent {status.agent_version}: {verdict}")
    text = paint(headline, Tone.BAD if problems else Tone.GOOD) + "\n"
    for fact in (f"running since {status.started}",
                 f"version {status.snapshot} of what the kubelet is told, since {status.since}",
                 f"pool file {status.pool_file.path}, in force since {status.pool_file.since}",
                 *_describe_repairs(status.repairs)):
        text += format_paragraph(fact, "  ")
    text += "".join(_problem_lines(problems, paint))
    for rows in (_resource_rows(status), _pf_rows(status), _vf_rows(status)):
        if len(rows) > 1:
            text += "\n" + format_table(rows, paint)
    return text


def status_document(status: NodeStatus) -> Json:
    """What the agent said, with counts for each resource and, first of all, what is wrong."""
    fields = status_fields(status)
    counts = [{"vfs": len(each.vfs), "healthy": each.healthy, "inPods": each.in_pods} for each in status.resources]
    counted = [{"resource": shown["resource"], "counts": count, **shown}
               for shown, count in zip(fields["resources"], counts, strict=True)]
    wrong = [{"message": problem.message, "hint": problem.hint, "since": problem.since}
             for problem in status.find_problems()]
    return {"well": not wrong, "wrong": wrong, **fields, "resources": counted}


def _describe_repairs(repairs: Repairs) -> Iterator[str]:
    """Nothing where nothing was to be mended."""
    for home in repairs.brought_home:
        yield f"{home.vfs} VF{'s' if home.vfs > 1 else ''} brought home without a DEL: {home.reason}"
    if repairs.paid_late:
        yield f"addresses of {repairs.paid_late} attachment{'s' if repairs.paid_late > 1 else ''} given back late"
    if repairs.last is not None:
        yield f"last repair {repairs.last_at}: {repairs.last}"


def _problem_lines(problems: list[Problem], paint: Paint) -> Iterator[str]:
    for problem in problems:
        # A pool file's problems have a line each.
        first, *more = problem.message.splitlines() or [""]
        first += f", since {problem.since}" if problem.since else ""
        lines = format_paragraph(first, "  ! ", "    ") + "".join(format_paragraph(each, "    ") for each in more)
        yield "".join(paint(line, Tone.BAD) + "\n" for line in lines.splitlines())
        if problem.hint:
            yield format_paragraph(f"hint: {problem.hint}", "    ")


def _resource_rows(status: NodeStatus) -> list[tuple[str | Cell, ...]]:
    return [("RESOURCE", "VFS", "HEALTHY", "IN PODS", "KUBELET"),
            *((each.resource, str(len(each.vfs)), _healthy(each), str(each.in_pods), _registration(each.kubelet))
              for each in status.resources)]


def _healthy(resource: ResourceStatus) -> Cell:
    well = resource.healthy == len(resource.vfs)
    return Cell(str(resource.healthy), Tone.GOOD if resource.vfs and well else Tone.DOUBTFUL)


def _registration(kubelet: Registration | None) -> Cell:
    if kubelet is None:
        return Cell("-")
    return Cell("registered", Tone.GOOD) if kubelet.registered else Cell("not registered", Tone.BAD)


def _pf_rows(status: NodeStatus) -> list[tuple[str | Cell, ...]]:
    return [("PF", "PCI ADDRESS", "VFS", "WANTED", "STATE"),
            *((pf.name or "-", pf.address, f"{pf.num_vfs}/{pf.total_vfs}",
               "-" if pf.wanted is None else str(pf.wanted), _pf_state(pf)) for pf in status.pfs)]


def _pf_state(pf: PfStatus) -> Cell:
    if not pf.problems:
        return Cell("as wanted", Tone.GOOD) if pf.wanted is not None else Cell("left as it is", Tone.FAINT)
    count = len(pf.problems)
    return Cell(f"{count} problem{'s' if count > 1 else ''}", Tone.BAD)


def _vf_rows(status: NodeStatus) -> list[tuple[str | Cell, ...]]:
    pooled = [(each.resource, vf) for each in status.resources for vf in each.vfs]
    return [("PCI ADDRESS", "PF", "VF", "DRIVER", "NUMA", "RESOURCE", "STATE"),
            *((vf.address, vf.pf_name or vf.pf, str(vf.index), vf.driver or "-",
               "-" if vf.numa_node is None else str(vf.numa_node), resource, _vf_state(vf))
              for resource, vf in (*pooled, *(("-", vf) for vf in status.unpooled)))]


def _vf_state(vf: VfStatus) -> Cell:
    facts = [f"not healthy: {vf.fault}"] if vf.fault is not None else []
    if vf.owner is not None:
        facts.append(str(vf.owner) if vf.owner.phase == "attached" else f"{vf.owner.phase}: {vf.owner}")
    elif vf.away:
        facts.append("netdev elsewhere")
    if not facts:
        return Cell("free", Tone.GOOD)
    return Cell("; ".join(facts), Tone.BAD if vf.fault is not None else None)
