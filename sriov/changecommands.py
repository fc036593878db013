"""Commands about changes to the node: what a pool file would change."""

from __future__ import annotations

import argparse

from sriov.invocation import FAILED, Commands, Node, add_file, add_state, add_sysfs, load_file, status_of
from sriov.ledger import Ledger
from sriov.model import VirtualFunction
from sriov.output import Output
from sriov.plantext import format_plan, plan_document
from sriov.report import format_unreadable
from sriov.sysfs import Sysfs


def add_commands(commands: Commands) -> tuple[argparse.ArgumentParser, ...]:
    """Add the commands to argparse's subparsers, each with `run(arguments, node, output)` as its default."""
    plan = commands.add_parser("plan", help="show what a pool file would change on this node; change nothing")
    plan.set_defaults(run=_plan)
    for command in (plan,):
        add_file(command)
        add_state(command)
        add_sysfs(command)
    return (plan,)


def _plan(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    # They import pyroute2, which takes longer than checking a file does.
    from sriov.apply import Terms, plan_jobs, pool_file_jobs
    from sriov.executor import Executor

    file = load_file(arguments)
    sysfs = Sysfs(arguments.sysfs)
    host = node.discover(sysfs)
    owners = node.read_owners(arguments.state_dir)
    ledger = Ledger.open(arguments.state_dir)

    def in_use(vf: VirtualFunction) -> bool:
        return vf.away or vf.address in owners

    plan = plan_jobs(Executor(sysfs), pool_file_jobs(host, file), Terms(in_use=in_use, ledger=ledger))
    output.warn([*file.warnings, *(f"set aside a damaged record: {damaged}" for damaged in ledger.damaged)])
    output.show({**plan_document(plan), "unreadable": list(host.unreadable)},
                lambda: format_plan(plan, output.paint) + format_unreadable(host))
    return FAILED if plan.refused else status_of(host)
