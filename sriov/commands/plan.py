"""What a pool file would change on the node, whom that disturbs, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from sriov.commands.invocation import FAILED, Node, load_file, status_of
from sriov.diagnosis.causes import find_obstacles
from sriov.diagnosis.examination import Examination
from sriov.diagnosis.symptoms import Symptoms
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from sriov.pools.override import Override
from sriov.provision.apply import Terms, find_abandoned, plan_jobs, pool_file_jobs
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.makers import read_claims
from sriov.provision.plan import Plan
from sriov.provision.steps import MakeVfs, pf_name
from sriov.views.output import Output
from sriov.views.plantext import format_plan, plan_document
from sriov.views.report import format_unreadable


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    file = load_file(arguments)
    sysfs = Sysfs(arguments.sysfs)
    host = node.discover(sysfs)
    ledger = Ledger.open(arguments.state_dir)
    jobs = pool_file_jobs(host, file)
    plan = plan_jobs(Executor(sysfs), jobs, terms_of(arguments, node, ledger))
    fits = "the node fits the file" if jobs else "no entry of the file matches a PF of this node"
    symptoms = Examination(arguments.sysfs, arguments.host_root, arguments.proc).examine(host)
    warnings = [*file.warnings, *(f"damaged record: {damaged}" for damaged in ledger.damaged),
                *find_abandoned(host, file, ledger), *_foresee(plan, symptoms)]
    output.warn(warnings)

    def text() -> str:
        return (format_plan(plan, output.paint) or f"nothing to do: {fits}\n") + format_unreadable(host)

    output.show({**plan_document(plan), "warnings": warnings, "unreadable": list(host.unreadable)}, text)
    return FAILED if plan.refused else status_of(host)


def terms_of(arguments: argparse.Namespace, node: Node, ledger: Ledger) -> Terms:
    """On what terms this node's host may be changed: VFs of pods and PFs of other programs are theirs.

    Raises HostError where it cannot be told which VFs pods have.
    """
    owners = node.read_owners(arguments.state_dir)
    has_given = node.open_kubelet(arguments.kubelet_dir)

    def in_use(vf: VirtualFunction) -> bool:
        return vf.away or vf.maybe_open or vf.address in owners or has_given(vf)

    return Terms(in_use=in_use, ledger=ledger, read_claims=partial(read_claims, root=arguments.host_root),
                 overrides={Override(each) for each in arguments.force})


def _foresee(plan: Plan, symptoms: Symptoms) -> Iterator[str]:
    """What would go wrong with the plan's new VFs, though nothing forbids them."""
    for step in plan.steps:
        if isinstance(step, MakeVfs):
            for finding in find_obstacles(step.pf, symptoms, step.count):
                yield f"{pf_name(step.pf)}: {finding.problem} (hint: {finding.action})"
