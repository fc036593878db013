"""Commands that look at a node and a pool file and change nothing: discover, check, explain."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sriov.advice import warn_of_entries, warn_of_pools
from sriov.diagnosis import Wishes, diagnose
from sriov.drawing import draw
from sriov.errors import HostError, InputError
from sriov.examination import Examination
from sriov.explain import PfStory, explain_pf, find_namesakes
from sriov.explanation import (
    Findings,
    by_device,
    findings_document,
    format_other,
    format_pf,
    format_vf,
    function_name,
    other_document,
    pf_document,
    vf_document,
)
from sriov.exports import assignment_document, host_document
from sriov.invocation import DONE, Commands, Node, add_file, add_root, add_state, add_sysfs, load_file, status_of
from sriov.model import Host, PhysicalFunction, VirtualFunction
from sriov.output import Output
from sriov.pci import PciAddress
from sriov.pools import PoolFile, assign
from sriov.report import format_assignment, format_host, format_unreadable
from sriov.symptoms import Symptoms
from sriov.sysfs import Sysfs


def add_commands(commands: Commands) -> tuple[argparse.ArgumentParser, ...]:
    """Add the commands to argparse's subparsers, each with `run(arguments, node, output)` as its default."""
    discover = commands.add_parser("discover", help="list the PFs, VFs, other NICs and accelerators of this node")
    discover.set_defaults(run=_discover)

    check = commands.add_parser("check", help="check a pool file, with --host against this node too")
    check.add_argument("--host", action="store_true", help="show which VFs of this node each pool gets")
    check.set_defaults(run=_check)

    explain = commands.add_parser(
        "explain", help="say which pool has a VF and why, or every reason why not, and what stands in the way")
    explain.set_defaults(run=_explain)

    for command in (check, explain):
        add_file(command)
    explain.add_argument("address", nargs="?", metavar="BDF", help="PCI address of one VF, PF or other NIC")
    for command in (discover, check):
        command.add_argument("--svg", type=Path, metavar="PATH", help="draw the node into this file too")
        add_state(command)
    for command in (discover, check, explain):
        add_sysfs(command)
    add_root(explain)
    return discover, check, explain


# ---- discover, check --------------------------------------------------------------------------------------


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


# ---- explain ----------------------------------------------------------------------------------------------


def _explain(arguments: argparse.Namespace, node: Node, output: Output) -> int:
    address = None if arguments.address is None else PciAddress.parse(arguments.address)
    file = load_file(arguments)
    host = node.discover(Sysfs(arguments.sysfs))
    symptoms = Examination(arguments.sysfs, arguments.root).examine(host)
    host = replace(host, unreadable=tuple(sorted({*host.unreadable, *symptoms.unreadable})))
    findings = by_device(diagnose(host, symptoms, Wishes.of(file, host)))
    output.warn(file.warnings)
    if address is None:
        _explain_all(host, file, findings, output)
    else:
        _explain_one(address, host, file, findings, symptoms, output)
    return status_of(host)


def _explain_all(host: Host, file: PoolFile, findings: Findings, output: Output) -> None:
    stories = [explain_pf(pf, file.physical_functions, file.pools) for pf in host.pfs]
    suspects = [(other, namesakes) for other in host.others
                if (namesakes := find_namesakes(other, file.physical_functions)) or other.address in findings]

    def text() -> str:
        parts = [format_pf(story, findings, output.paint) for story in stories]
        parts += [format_other(other, namesakes, findings, output.paint) for other, namesakes in suspects]
        return ("\n".join(parts) or "no SR-IOV capable network PF found\n") + format_unreadable(host)

    output.show({
        "physicalFunctions": [pf_document(story, findings) for story in stories],
        "others": [other_document(other, namesakes, findings) for other, namesakes in suspects],
        "unreadable": list(host.unreadable),
    }, text)


def _explain_one(address: PciAddress, host: Host, file: PoolFile, findings: Findings, symptoms: Symptoms,
                 output: Output) -> None:
    other = next((other for other in host.others if other.address == address), None)
    if other is not None:
        namesakes = find_namesakes(other, file.physical_functions)
        output.show(other_document(other, namesakes, findings),
                    lambda: format_other(other, namesakes, findings, output.paint))
        return
    vf = host.find_vf(address)
    pf = host.find_pf(vf.pf if vf else address)
    if pf is None:
        raise _unknown(address, host, symptoms)
    story = explain_pf(pf, file.physical_functions, file.pools)
    if vf is None:
        output.show(pf_document(story, findings), lambda: format_pf(story, findings, output.paint, fully=True))
        return
    _explain_vf(story, vf, pf, findings, output)


def _explain_vf(of_pf: PfStory, vf: VirtualFunction, pf: PhysicalFunction, findings: Findings,
                output: Output) -> None:
    story = next(story for story in of_pf.vfs if story.vf is vf)
    document = {**vf_document(story, findings), "pfFindings": findings_document(findings.get(pf.address, ()))}
    output.show(document, lambda: format_vf(story, pf, findings, output.paint))


def _unknown(address: PciAddress, host: Host, symptoms: Symptoms) -> HostError | InputError:
    """What to say of an address that nothing was found at."""
    unread = [sentence for sentence in host.unreadable if address in sentence]
    if unread:
        return HostError("; ".join(unread))
    for pf in host.pfs:
        capability = symptoms.capabilities.get(pf.address)
        index = capability.index_at(pf.address, address) if capability else None
        if index is not None and pf.num_vfs <= index < pf.total_vfs:
            return InputError(f"{address} does not exist: it would be VF {index} of PF {function_name(pf)}, which "
                              f"has {pf.num_vfs} VFs", hint=f"an entry with numVfs {index + 1} or more makes it")
    known = [function.address for function in (*host.pfs, *host.vfs, *host.others)]
    close = difflib.get_close_matches(address, known, n=1, cutoff=0.8)
    return InputError(f"{address} is no NIC and no accelerator of this node",
                      hint=f"did you mean {close[0]}?" if close else "vfpool discover lists them")
