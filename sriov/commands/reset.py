"""Undo what vfpool did to the node's PFs and VFs since it booted, and only that."""

from __future__ import annotations

import argparse

from sriov.apply import reset
from sriov.commands.apply import open_ledger, show
from sriov.commands.invocation import Node
from sriov.commands.plan import terms_of
from sriov.executor import Executor
from sriov.ledger import hold_state
from sriov.output import Output
from sriov.sysfs import Sysfs


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    with hold_state(arguments.state_dir):
        ledger = open_ledger(arguments, output)
        report = reset(Executor(Sysfs(arguments.sysfs)), terms_of(arguments, node, ledger), ledger)
        return show(report, output)
