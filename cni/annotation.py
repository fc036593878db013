"""The pod annotation `k8s.v1.cni.cncf.io/networks`: its text to NetworkRefs, or everything that is wrong with it.

Source: NPWG multi-network specification 1.3. Where it leaves room, or says "invalid and ignored", this says what
Multus will do: what it refuses, or reads otherwise than it was meant, is a problem; what it passes over a warning.
"""

from __future__ import annotations

from collections.abc import Sequence

from cni.fields import ENOUGH, EnoughProblemsError, Report, show
from cni.grammar import parse_ifname, parse_namespace, parse_short_name
from cni.networkref import MOST_NETWORKS, NetworkRef, Networks
from cni.selection import parse_selections
from sriov.errors import InputError

__all__ = ["NETWORKS", "AnnotationError", "NetworkRef", "Networks", "format_problems", "parse_networks"]

NETWORKS = "k8s.v1.cni.cncf.io/networks"

_MAX_TEXT = 256 << 10      # what the API server takes as annotations of one object, in bytes
_MOST = 20                 # problems that a message lists


class AnnotationError(InputError):
    """Everything that is wrong with an annotation, in its order; each problem begins with its path."""

    def __init__(self, problems: Sequence[str], warnings: Sequence[str] = ()) -> None:
        super().__init__(format_problems(problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def format_problems(problems: Sequence[str]) -> str:
    """One problem on the line of the annotation's name; several below it, a line each."""
    if len(problems) == 1:
        return f"annotation {NETWORKS}: {problems[0]}"
    rest = [f"and {len(problems) - _MOST} more"] if len(problems) > _MOST else []
    count = f"{len(problems)} or more" if len(problems) == ENOUGH else f"{len(problems)}"
    return "\n- ".join([f"annotation {NETWORKS} has {count} problems:", *problems[:_MOST], *rest])


def parse_networks(text: str, namespace: str) -> Networks:
    """Read the annotation of a pod in `namespace`; raise AnnotationError with all problems at once."""
    report = Report()
    if not text:
        return Networks(warnings=(f"annotation {NETWORKS} is empty, so no network is attached",))
    refs: list[NetworkRef] = []
    try:
        if len(text) > _MAX_TEXT:
            report.note("", f"{len(text)} characters, expected at most {_MAX_TEXT}")
        # Multus decides by these three characters, wherever they stand.
        elif any(mark in text for mark in '[{"'):
            refs = parse_selections(text, namespace, report)
        else:
            refs = _parse_short(text, namespace, report)
        _check_together(refs, report)
    except EnoughProblemsError:
        pass
    if report.problems:
        raise AnnotationError(report.problems, report.warnings)
    return Networks(refs=tuple(refs), warnings=tuple(report.warnings))


def _parse_short(text: str, namespace: str, report: Report) -> list[NetworkRef]:
    refs = []
    items = text.split(",")
    if len(items) > MOST_NETWORKS:
        report.note("", f"{len(items)} networks, expected at most {MOST_NETWORKS}")
        return []
    for index, raw in enumerate(items):
        path, item = f"networks[{index}]", raw.strip()
        if not item:
            # Multus takes it for a network without a name, and the pod never starts.
            where = "is blank" if len(items) == 1 else "ends with a comma" if index == len(items) - 1 \
                else "has nothing before a comma"
            report.note(path, f"the annotation {where}, expected a network like default/fast@net1")
            continue
        head, *tail = [part.strip() for part in item.split("/")]
        name, *ifname = [part.strip() for part in (tail[0] if tail else head).split("@")]
        if len(tail) > 1 or len(ifname) > 1:
            report.note(path, f"{show(item)} has more than one {'/' if len(tail) > 1 else '@'}, "
                              "expected [NAMESPACE/]NAME[@INTERFACE]")
            continue
        if tail and head:
            report.check(f"{path}.namespace", head, parse_namespace)
        report.check(f"{path}.name", name, parse_short_name)
        interface = report.check(f"{path}.interface", ifname[0], parse_ifname) if any(ifname) else None
        refs.append(NetworkRef(index=index, namespace=head if tail and head else namespace, name=name,
                               interface=interface))
    return refs


def _check_together(refs: Sequence[NetworkRef], report: Report) -> None:
    taken: dict[str, NetworkRef] = {}
    for ref in refs:
        if ref.interface is None:
            continue
        other = taken.setdefault(ref.interface, ref)
        if other is not ref:
            report.note(f"{ref.path}.interface", f"{show(ref.interface)} is the interface of {other.path} already")
    for ref in refs:
        generated = f"net{ref.index + 1}"
        if ref.interface is None and generated in taken:
            report.warn(f"{taken[generated].path}.interface",
                        f"{show(generated)} is what {ref.path} is called, as it has no interface of its own")
    routed = [ref for ref in refs if ref.default_route is not None]
    for ref in routed[1:]:
        report.note(f"{ref.path}.default-route", f"{routed[0].path} has one already, expected one at most")
