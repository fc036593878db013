"""`vfpool`: what an admin asks of a node and of a pool file. Exit status 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cni.annotation import NETWORKS, NetworkRef, parse_networks
from sriov.commands.arguments import Commands, add_commands
from sriov.commands.invocation import DONE, FAILED, WRONG_INPUT, Discover, Node, Owners
from sriov.errors import InputError, SriovError
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.views.completion import bash_script, read_commands
from sriov.views.output import FORMATS, Output
from sriov.views.tables import plain, tint


def main(argv: Sequence[str] | None = None, *, discover: Discover | None = None) -> int:
    """Run one command; returns the exit status. `discover` None: the kernel of this node."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")    # a netdev may have any name, a locale few characters
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    output = Output(sys.stdout, sys.stderr, arguments.output, tint if coloured else plain)
    node = Node(discover=discover or _discover, read_owners=_read_owners)
    try:
        status: int = arguments.run(arguments, node, output)
        sys.stdout.flush()
    except InputError as error:
        return _complain(error, WRONG_INPUT)
    except SriovError as error:
        return _complain(error, FAILED)
    except OSError as error:
        # A reader that has what it wanted (`vfpool discover | head`) is nothing to complain of. The interpreter
        # flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"cannot write the answer: {error.strerror}\n")
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vfpool", description="Pools of SR-IOV virtual functions on this node.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (*add_commands(commands), _add_networks(commands)):
        command.add_argument("-o", "--output", choices=FORMATS, default="table", help="default: table")

    completion = commands.add_parser("completion", help="print a script that completes vfpool's words in a shell")
    completion.add_argument("shell", choices=("bash",), help="source <(vfpool completion bash)")
    completion.set_defaults(run=_completion, output="table")
    return parser


def _discover(sysfs: Sysfs) -> Host:
    # Importing pyroute2 takes longer than checking a file does.
    from sriov.host.discovery import discover

    return discover(sysfs)


def _read_owners(state: Path) -> Owners:
    """Who has which VF, as far as the agent's records can be read: what cannot is for the agent to complain of."""
    from cni.record import parse_record
    from sriov.provision.ledger import BOOT_ID

    owners: dict[PciAddress, str] = {}
    try:
        boot_id = BOOT_ID.read_text().strip()
        paths = sorted((state / "vfs").glob("*.json"))
    except OSError:
        return owners
    for path in paths:
        try:
            record = parse_record(path.read_text())
        except (OSError, UnicodeDecodeError, SriovError):
            continue
        if record.boot_id == boot_id:      # no pod outlives its node's boot, its record may
            owners[record.vf] = str(record.owner)
    return owners


# ---- commands that are not about the node -----------------------------------------------------------------


def _completion(_: argparse.Namespace, __: Node, output: Output) -> int:
    parser = _parser()
    output.write(bash_script(parser.prog, read_commands(parser)))
    return DONE


def _add_networks(commands: Commands) -> argparse.ArgumentParser:
    networks = commands.add_parser(
        "networks", help=f"check the text of a pod's annotation {NETWORKS}")
    networks.add_argument("text", metavar="TEXT", help="the annotation's value; - reads it from stdin")
    networks.add_argument("--namespace", default="default", help="the pod's (default: %(default)s)")
    networks.set_defaults(run=_networks)
    return networks


def _networks(arguments: argparse.Namespace, _: Node, output: Output) -> int:
    text = _read_stdin() if arguments.text == "-" else arguments.text
    networks = parse_networks(text, arguments.namespace)
    output.warn(networks.warnings)
    documents = [
        {"namespace": ref.namespace, "name": ref.name, "interface": _interface(ref), "mac": ref.mac,
         "ips": [str(address) for address in ref.ips]}
        for ref in networks.refs
    ]
    output.show({"networks": documents, "warnings": list(networks.warnings)},
                lambda: "\n".join(map(_describe, networks.refs)))
    return DONE


def _read_stdin() -> str:
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the annotation from stdin: expected UTF-8 text: {error.reason}") from None


def _describe(ref: NetworkRef) -> str:
    details = [str(each) for each in (ref.mac, *ref.ips) if each is not None]
    return " ".join([f"{ref.namespace}/{ref.name} as {_interface(ref)}", *details])


def _interface(ref: NetworkRef) -> str:
    return ref.interface or f"net{ref.index + 1}"


def _complain(error: SriovError, status: int) -> int:
    sys.stderr.write(f"{error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
