"""Commands that show what a node has and what a pool file says: discover, check."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sriov.advice import warn_of_entries, warn_of_pools
from sriov.drawing import draw
from sriov.errors import HostError
from sriov.exports import assignment_document, host_document
from sriov.invocation import DONE, Commands, Node, add_file, add_state, add_sysfs, load_file, status_of
from sriov.output import Output
from sriov.pools import PoolFile, assign
from sriov.report import format_assignment, format_host
from sriov.sysfs import Sysfs


def add_commands(commands: Commands) -> tuple[argparse.ArgumentParser, ...]:
    """Add the commands to argparse's subparsers, each with `run(arguments, node, output)` as its default."""
    discover = commands.add_parser("discover", help="list the PFs, VFs, other NICs and accelerators of this node")
    discover.set_defaults(run=_discover)

    check = commands.add_parser("check", help="check a pool file, with --host against this node too")
    check.add_argument("--host", action="store_true", help="show which VFs of this node each pool gets")
    check.set_defaults(run=_check)

    add_file(check)
    for command in (discover, check):
        command.add_argument("--svg", type=Path, metavar="PATH", help="draw the node into this file too")
        add_state(command)
        add_sysfs(command)
    return discover, check


def _discover(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    host = node.discover(Sysfs(arguments.sysfs))
    if arguments.svg is not None:
        _write(arguments.svg, draw(host, None, node.read_owners(arguments.state_dir)))
    output.show(host_document(host), lambda: format_host(host, output.paint))
    return status_of(host)


def _check(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    file = load_file(arguments)
    if not arguments.host and arguments.svg is None:
        output.warn(file.warnings)
        document = {"resources": {pool.resource: None for pool in file.pools}, "warnings": list(file.warnings)}
        output.show(document, lambda: "\n".join(_describe(file)))
        return DONE
    host = node.discover(Sysfs(arguments.sysfs))
    assignment = assign(host, file.pools)
    warnings = [*file.warnings, *warn_of_entries(file.physical_functions, host),
                *warn_of_pools(file.pools, host, assignment)]
    output.warn(warnings)
    if arguments.svg is not None:
        _write(arguments.svg, draw(host, assignment, node.read_owners(arguments.state_dir)))
    output.show({**assignment_document(host, assignment), "warnings": warnings},
                lambda: format_assignment(host, assignment, output.paint))
    return status_of(host)


def _describe(file: PoolFile) -> Iterator[str]:
    for entry in file.physical_functions:
        yield f"{entry.place}: {entry.num_vfs} VFs on each PF that matches"
    for pool in file.pools:
        selectors = "1 selector" if len(pool.selectors) == 1 else f"{len(pool.selectors)} selectors"
        yield f"{pool.place}: {pool.resource}, {selectors}, driver {pool.driver or 'as it is'}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise HostError(f"cannot write {path}", errno=error.errno or 0) from error
