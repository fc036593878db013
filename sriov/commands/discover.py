"""What the node has."""

from __future__ import annotations

import argparse

from sriov.commands.invocation import Node, status_of, write_file
from sriov.host.sysfs import Sysfs
from sriov.views.exports import host_document
from sriov.views.output import Output
from sriov.views.report import format_host


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    host = node.discover(Sysfs(arguments.sysfs))
    if arguments.svg is not None:
        from sriov.views.drawing import draw

        write_file(arguments.svg, draw(host, None, node.read_owners(arguments.state_dir)))
    output.show(host_document(host), lambda: format_host(host, output.paint))
    return status_of(host)
