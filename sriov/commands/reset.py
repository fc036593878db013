"""Undo what vfpool did to the node's PFs and VFs since it booted, and only that."""

from __future__ import annotations

import argparse

from sriov.commands.apply import open_ledger, show
from sriov.commands.causes import find_causes
from sriov.commands.invocation import Node
from sriov.commands.names import find_pfs
from sriov.commands.plan import terms_of
from sriov.commands.signals import finishing
from sriov.diagnosis.causes import Wishes
from sriov.host.sysfs import Sysfs
from sriov.provision.apply import reset
from sriov.provision.executor import Executor
from sriov.provision.ledger import hold_state
from sriov.views.output import Output


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    chosen = find_pfs(node.discover(Sysfs(arguments.sysfs)), arguments.pf) if arguments.pf else []
    with hold_state(arguments.state_dir):
        ledger = open_ledger(arguments, output)
        terms = terms_of(arguments, node, ledger)
        with finishing(output):
            report = reset(Executor(Sysfs(arguments.sysfs)), terms, ledger, chosen)
        return show(report, output, find_causes(report, Wishes(), arguments, node))
