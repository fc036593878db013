"""`vfpool`: what an admin asks of a node and of a pool file. Exit status 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cni.annotation import NETWORKS, NetworkRef, parse_networks
from sriov.errors import InputError, SriovError
from sriov.model import Link
from sriov.poolfile import PoolFile, load_pool_file
from sriov.pools import assign
from sriov.report import (
    assignment_document,
    format_assignment,
    format_host,
    host_document,
    warn_of_entries,
    warn_of_pools,
)
from sriov.sysfs import Sysfs

DONE, FAILED, WRONG_INPUT = 0, 1, 2

LinkReader = Callable[[], tuple[Link, ...]]


def main(argv: Sequence[str] | None = None, *, read_links: LinkReader | None = None) -> int:
    """Run one command; returns the exit status. `read_links` None: from the kernel."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments, read_links or _read_links)
        sys.stdout.flush()
    except InputError as error:
        return _complain(error, WRONG_INPUT)
    except SriovError as error:
        return _complain(error, FAILED)
    except BrokenPipeError:
        # The reader has what it wanted (`vfpool discover | head`). The interpreter flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vfpool", description="Pools of SR-IOV virtual functions on this node.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    discover = commands.add_parser("discover", help="list the PFs and VFs of this node")
    discover.set_defaults(run=_discover)

    check = commands.add_parser("check", help="check a pool file, with --host against this node too")
    check.add_argument("file", type=Path, metavar="FILE", help="the pool file")
    check.add_argument("--host", action="store_true", help="show which VFs of this node each pool gets")
    check.set_defaults(run=_check)

    networks = commands.add_parser("networks", help=f"check the text of a pod's annotation {NETWORKS}")
    networks.add_argument("text", metavar="TEXT", help="the annotation's value; - reads it from stdin")
    networks.add_argument("--namespace", default="default", help="the pod's (default: %(default)s)")
    networks.set_defaults(run=_networks)

    for command in (discover, check, networks):
        command.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    for command in (discover, check):
        command.add_argument("--sysfs", type=Path, default=Path("/sys"), metavar="DIR", help=argparse.SUPPRESS)
    return parser


def _read_links() -> tuple[Link, ...]:
    # Importing pyroute2 takes longer than checking a file does.
    from sriov.netlink import Links

    with Links.open() as links:
        return links.dump()


# ---- commands -------------------------------------------------------------------------------------------


def _discover(arguments: argparse.Namespace, read_links: LinkReader) -> int:
    host = Sysfs(arguments.sysfs).scan(read_links())
    _print(json.dumps(host_document(host), indent=2) if arguments.output == "json" else format_host(host))
    return FAILED if host.unreadable else DONE


def _check(arguments: argparse.Namespace, read_links: LinkReader) -> int:
    file = load_pool_file(arguments.file)
    if not arguments.host:
        _warn(file.warnings)
        if arguments.output == "json":
            resources = {pool.resource: None for pool in file.pools}
            _print(json.dumps({"resources": resources, "warnings": file.warnings}, indent=2))
        else:
            _print("\n".join(_describe(file)))
        return DONE

    host = Sysfs(arguments.sysfs).scan(read_links())
    assignment = assign(host, file.pools)
    warnings = [*file.warnings, *warn_of_entries(file.physical_functions, host),
                *warn_of_pools(file.pools, host, assignment)]
    _warn(warnings)
    if arguments.output == "json":
        _print(json.dumps({**assignment_document(host, assignment), "warnings": warnings}, indent=2))
    else:
        _print(format_assignment(host, assignment))
    return FAILED if host.unreadable else DONE


def _networks(arguments: argparse.Namespace, _: LinkReader) -> int:
    text = sys.stdin.read().strip() if arguments.text == "-" else arguments.text
    networks = parse_networks(text, arguments.namespace)
    _warn(networks.warnings)
    if arguments.output == "json":
        documents = [
            {"namespace": ref.namespace, "name": ref.name, "interface": _interface(ref), "mac": ref.mac,
             "ips": [str(address) for address in ref.ips]}
            for ref in networks.refs
        ]
        _print(json.dumps({"networks": documents, "warnings": networks.warnings}, indent=2))
    else:
        for ref in networks.refs:
            details = [str(each) for each in (ref.mac, *ref.ips) if each is not None]
            _print(" ".join([f"{ref.namespace}/{ref.name} as {_interface(ref)}", *details]))
    return DONE


def _interface(ref: NetworkRef) -> str:
    return ref.interface or f"net{ref.index + 1}"


def _describe(file: PoolFile) -> Iterator[str]:
    for entry in file.physical_functions:
        yield f"{entry.place}: {entry.num_vfs} VFs on each PF that matches"
    for pool in file.pools:
        selectors = "1 selector" if len(pool.selectors) == 1 else f"{len(pool.selectors)} selectors"
        yield f"{pool.place}: {pool.resource}, {selectors}, driver {pool.driver or 'as it is'}"


# ---- output ---------------------------------------------------------------------------------------------


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")


def _complain(error: SriovError, status: int) -> int:
    sys.stderr.write(f"{error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
