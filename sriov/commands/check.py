"""What is wrong with a pool file, by itself and against the node."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from sriov.commands.invocation import DONE, Node, load_file, show_owners, status_of, write_file
from sriov.host.sysfs import Sysfs
from sriov.pools.assignment import PoolFile, assign
from sriov.views.exports import assignment_document
from sriov.views.output import Output


def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    file = load_file(arguments)
    if arguments.host or arguments.svg is not None:
        return _check_host(file, arguments, node, output)
    output.warn(file.warnings)
    output.show({"resources": {pool.resource: None for pool in file.pools}, "warnings": list(file.warnings)},
                lambda: "\n".join(_describe(file)) or _say_nothing(arguments.node))
    return DONE


def _check_host(file: PoolFile, arguments: argparse.Namespace, node: Node, output: Output) -> int:
    from sriov.pools.advice import warn_of_entries, warn_of_pools
    from sriov.pools.prospects import find_prospects
    from sriov.views.drawing import draw
    from sriov.views.report import format_assignment

    host = node.discover(Sysfs(arguments.sysfs))
    assignment = assign(host, file.pools)
    prospects = find_prospects(file.pools, file.physical_functions, host, assignment)
    warnings = [*file.warnings, *warn_of_entries(file.physical_functions, host),
                *warn_of_pools(file.pools, host, assignment, file.physical_functions)]
    output.warn(warnings)
    if arguments.svg is not None:
        write_file(arguments.svg, draw(host, assignment, show_owners(arguments, node, output)))
    output.show({**assignment_document(host, assignment), "warnings": warnings},
                lambda: format_assignment(host, assignment, output.paint, prospects))
    return status_of(host)


def _say_nothing(node: str | None) -> str:
    return "no pool and no entry" if node is None else f"no pool and no entry for node {node}"


def _describe(file: PoolFile) -> Iterator[str]:
    for entry in file.physical_functions:
        yield f"{entry.place}: {entry.num_vfs} VFs on each PF that matches"
    for pool in file.pools:
        selectors = "1 selector" if len(pool.selectors) == 1 else f"{len(pool.selectors)} selectors"
        yield f"{pool.place}: {pool.resource}, {selectors}, driver {pool.driver or 'as it is'}"
