"""What stands in the way of what could not be done, and the next action: `explain`'s findings, after a failure."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator

from sriov.commands.invocation import Node
from sriov.diagnosis.causes import Finding, Wishes, diagnose
from sriov.diagnosis.examination import Examination
from sriov.errors import HostError
from sriov.host.sysfs import Sysfs
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile
from sriov.provision.steps import pf_name
from sriov.provision.terms import Report

_MOST = 8        # sentences for each PF: its VFs mostly have one trouble


def find_causes(report: Report, wanted: PoolFile | Wishes, arguments: argparse.Namespace, node: Node) -> list[str]:
    """A sentence for each finding about a PF that something failed on, and its VFs, the same one once."""
    failed = {failure.pf for failure in report.failed}
    return list(_find(failed, wanted, arguments, node)) if failed else []


def _find(failed: Collection[PciAddress], wanted: PoolFile | Wishes, arguments: argparse.Namespace, node: Node,
          ) -> Iterator[str]:
    try:
        host = node.discover(Sysfs(arguments.sysfs))
    except HostError:           # what failed says more
        return
    symptoms = Examination(arguments.sysfs, arguments.host_root, arguments.proc).examine(host)
    wishes = wanted if isinstance(wanted, Wishes) else Wishes.of(wanted, host)
    findings = diagnose(host, symptoms, wishes)
    for pf in host.pfs:
        if pf.address not in failed:
            continue
        own = {pf.address, *(vf.address for vf in pf.vfs)}
        said: dict[tuple[str, str], Finding] = {}
        for finding in findings:
            if finding.device in own:
                said.setdefault((finding.problem, finding.action), finding)
        for finding in list(said.values())[:_MOST]:
            about = pf_name(pf) if finding.device == pf.address else f"VF {finding.device} of {pf_name(pf)}"
            yield f"{about}: {finding.problem} (hint: {finding.action})"
