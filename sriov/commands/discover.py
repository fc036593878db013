"""What the node has."""

from __future__ import annotations

import argparse

from sriov.commands.invocation import Node, show_owners, status_of, write_file
from sriov.host.sysfs import Sysfs
from sriov.views.exports import host_document
from sriov.views.output import Output
from sriov.views.report import format_host


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    host = node.discover(Sysfs(arguments.sysfs))
    if arguments.svg is not None:
        from sriov.views.drawing import draw

        write_file(arguments.svg, draw(host, None, show_owners(arguments, node, output)))
    output.show(host_document(host), lambda: format_host(host, output.paint))
    return status_of(host)
