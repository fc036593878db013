"""Which pool has a VF and why, or every reason why not, and what stands in the way."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from sriov.commands.invocation import Node, load_file, status_of
from sriov.commands.names import find_function
from sriov.diagnosis.causes import Wishes, diagnose
from sriov.diagnosis.examination import Examination
from sriov.diagnosis.symptoms import Symptoms
from sriov.errors import HostError, InputError
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile
from sriov.views.explanation import (
    Findings,
    by_device,
    findings_document,
    format_other,
    format_pf,
    format_vf,
    function_name,
    other_document,
    pf_document,
    vf_document,
)
from sriov.views.exports import Json
from sriov.views.output import Output
from sriov.views.report import format_unreadable
from sriov.views.stories import explain_pf, explain_vf, find_namesakes
from sriov.views.tables import Paint

Answer: TypeAlias = tuple[Json, Callable[[], str]]    # for programs, for people


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    file = load_file(arguments)
    host = node.discover(Sysfs(arguments.sysfs))
    symptoms = Examination(arguments.sysfs, arguments.host_root, arguments.proc).examine(host)
    host = replace(host, unreadable=tuple(sorted({*host.unreadable, *symptoms.unreadable})))
    findings = by_device(diagnose(host, symptoms, Wishes.of(file, host)))
    output.warn(file.warnings)
    explainer = _Explainer(host=host, file=file, symptoms=symptoms, findings=findings, paint=output.paint)
    document, text = explainer.all() if arguments.address is None else explainer.one(
        find_function(host, arguments.address))
    output.show({**document, "warnings": list(file.warnings), "unreadable": list(host.unreadable)},
                lambda: text() + format_unreadable(host))
    return status_of(host)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Explainer:
    """What is known, and how it is told."""

    host: Host
    file: PoolFile
    symptoms: Symptoms
    findings: Findings
    paint: Paint

    def all(self) -> Answer:
        """All PFs; of other NICs those that an entry or a finding is about."""
        entries, findings = self.file.physical_functions, self.findings
        stories = [explain_pf(pf, entries, self.file.pools) for pf in self.host.pfs]
        suspects = [(other, namesakes) for other in self.host.others
                    if (namesakes := find_namesakes(other, entries)) or other.address in findings]
        document = {
            "physicalFunctions": [pf_document(story, findings) for story in stories],
            "others": [other_document(other, namesakes, findings) for other, namesakes in suspects],
        }

        def text() -> str:
            parts = [format_pf(story, findings, self.paint) for story in stories]
            parts += [format_other(other, namesakes, findings, self.paint) for other, namesakes in suspects]
            return "\n".join(parts) or "no SR-IOV capable network PF found\n"

        return document, text

    def one(self, address: PciAddress) -> Answer:
        """The function at an address; raises InputError where there is none, HostError if it was not readable."""
        entries, findings, paint = self.file.physical_functions, self.findings, self.paint
        other = next((other for other in self.host.others if other.address == address), None)
        if other is not None:
            meant = find_namesakes(other, entries)
            return other_document(other, meant, findings), lambda: format_other(other, meant, findings, paint)
        vf = self.host.find_vf(address)
        pf = self.host.find_pf(vf.pf if vf else address)
        if pf is None:
            raise self._unknown(address)
        if vf is None:
            of_pf = explain_pf(pf, entries, self.file.pools)
            return pf_document(of_pf, findings), lambda: format_pf(of_pf, findings, paint, fully=True)
        story = explain_vf(pf, vf, self.file.pools)
        document = {**vf_document(story, findings), "pfFindings": findings_document(findings.get(pf.address, ()))}
        return document, lambda: format_vf(story, pf, findings, paint)

    def _unknown(self, address: PciAddress) -> HostError | InputError:
        """What to say of an address that nothing was found at."""
        unread = [sentence for sentence in self.host.unreadable if address in sentence]
        if unread:
            return HostError("; ".join(unread))
        for pf in self.host.pfs:
            capability = self.symptoms.capabilities.get(pf.address)
            index = capability.index_at(pf.address, address) if capability else None
            if index is not None and pf.num_vfs <= index < pf.total_vfs:
                return InputError(
                    f"{address} does not exist: it would be VF {index} of PF {function_name(pf)}, which has "
                    f"{pf.num_vfs} VFs", hint=f"an entry with numVfs {index + 1} or more makes it")
        functions = (*self.host.pfs, *self.host.vfs, *self.host.others)
        close = difflib.get_close_matches(address, [each.address for each in functions], n=1, cutoff=0.8)
        return InputError(f"{address} is no NIC and no accelerator of this node",
                          hint=f"did you mean {close[0]}?" if close else "vfpool discover lists them")
