"""Make the node fit a pool file, or what it last was when all was as wanted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sriov.commands.causes import find_causes
from sriov.commands.invocation import DONE, FAILED, Node, load_file
from sriov.commands.plan import terms_of
from sriov.commands.signals import finishing
from sriov.diagnosis.causes import Wishes
from sriov.errors import InputError
from sriov.host.sysfs import Sysfs
from sriov.pools.assignment import PoolFile
from sriov.provision.apply import Report, apply_last_good, find_abandoned, let_go_of_others, pool_file_jobs
from sriov.provision.apply import run as run_jobs
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger, hold_state
from sriov.views.outcome import format_outcome, outcome_document
from sriov.views.output import Output


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    if (arguments.file is None) != arguments.last_good:
        raise InputError("expected either a pool file or --last-good")
    file = None if arguments.last_good else load_file(arguments)
    if file is not None:
        output.warn(file.warnings)
    with hold_state(arguments.state_dir):
        ledger = open_ledger(arguments, output)
        report = _apply(file, arguments, node, ledger, output)
        wanted = file or Wishes(num_vfs={pf: record.last_good.num_vfs for pf, record in ledger.records.items()
                                         if record.last_good is not None})
        status = show(report, output, find_causes(report, wanted, arguments, node))
        # What a damaged record wanted to have back is not there.
        return FAILED if file is None and ledger.damaged else status


def _apply(file: PoolFile | None, arguments: argparse.Namespace, node: Node, ledger: Ledger,
           output: Output) -> Report:
    sysfs = Sysfs(arguments.sysfs)
    executor, terms = Executor(sysfs), terms_of(arguments, node, ledger)
    if file is None:
        with finishing(output):
            return apply_last_good(executor, terms, ledger)
    host = node.discover(sysfs)
    jobs = pool_file_jobs(host, file)
    output.warn(find_abandoned(host, file, ledger))
    with finishing(output):
        let_go_of_others(host, file, ledger)
        return run_jobs(executor, jobs, terms)


def open_ledger(arguments: argparse.Namespace, output: Output) -> Ledger:
    """The records of PFs; of those that are damaged it warns."""
    ledger = Ledger.open(arguments.state_dir)
    output.warn(f"damaged record: {damaged}" for damaged in ledger.damaged)
    return ledger


def show(report: Report, output: Output, causes: Sequence[str]) -> int:
    """Say what came of it, and what may be the cause where something failed; the exit status."""
    output.warn(causes)
    output.show({**outcome_document(report), "causes": list(causes)},
                lambda: format_outcome(report, output.paint) or "nothing to do\n")
    return FAILED if report.problems else DONE
