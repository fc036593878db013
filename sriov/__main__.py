"""`vfpool`: what an admin asks of a node and of a pool file. Exit status 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from cni.annotation import NETWORKS, AnnotationError, NetworkRef, parse_networks
from cni.fields import show
from cni.grammar import parse_namespace
from sriov.arguments import add_version
from sriov.commands.arguments import Commands, add_commands
from sriov.commands.invocation import DONE, FAILED, WRONG_INPUT, Discover, HasVf, Node, Owners, read_stdin
from sriov.durable import list_records
from sriov.errors import HostError, InputError, SriovError
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.views.completion import bash_script, read_commands
from sriov.views.output import FORMATS, Output
from sriov.views.tables import plain, tint

_MOST_STDIN = 1 << 20      # bytes: more than any annotation may have


def main(argv: Sequence[str] | None = None, *, discover: Discover | None = None) -> int:
    """Run one command; returns the exit status. `discover` None: the kernel of this node."""
    _fill_closed_streams()
    try:
        return _answer(argv, Node(
            discover=discover or _discover, read_owners=_read_owners, open_kubelet=_open_kubelet))
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _silence(sys.stderr)


def _answer(argv: Sequence[str] | None, node: Node) -> int:
    try:
        try:
            return _run(argv, node)
        finally:
            sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        # A reader that has what it wanted (`vfpool discover | head`) is nothing to complain of.
        return FAILED if isinstance(error, BrokenPipeError) else _complain(
            f"cannot write the answer: {error.strerror}", FAILED)
    except KeyboardInterrupt:       # commands that change anything are not interrupted while they do
        return _complain("interrupted", FAILED)


def _run(argv: Sequence[str] | None, node: Node) -> int:
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")    # a netdev may have any name, a locale few characters
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    output = Output(sys.stdout, sys.stderr, arguments.output, tint if coloured else plain)
    try:
        status: int = arguments.run(arguments, node, output)
    except InputError as error:
        return _complain(str(error), WRONG_INPUT)
    except SriovError as error:
        return _complain(str(error), FAILED)
    return status


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    names = [command.name for command in read_commands(parser)]
    if words and not words[0].startswith("-") and words[0] not in names:
        close = difflib.get_close_matches(words[0], names, n=1)
        meant = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
        parser.error(f"unknown command {words[0]!r}, {meant}")
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**options, allow_abbrev=False)

    def print_help(self, file: Any = None) -> None:  # noqa: ANN401 - whatever has `write`
        (file or sys.stdout).write(self.format_help())    # argparse's own passes over a disk that is full


def _parser() -> argparse.ArgumentParser:
    description = "Pools of SR-IOV virtual functions on this node."
    parser: argparse.ArgumentParser = _Parser(prog="vfpool", description=description)
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    host_root = os.environ.get("VFPOOL_HOST_ROOT") or "/"
    for command in (*add_commands(commands, host_root), _add_networks(commands)):
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
    """Who has which VF by the agent's records of this boot; raises HostError where they cannot be read."""
    from cni.record import parse_record
    from sriov.provision.ledger import BOOT_ID

    try:
        boot_id = BOOT_ID.read_text().strip()
        paths = list_records(state / "vfs")
    except OSError as error:
        raise HostError(f"cannot tell which VFs pods have: {error.filename}", errno=error.errno or 0) from None
    known: dict[PciAddress, str] = {}
    doubtful: dict[PciAddress, str] = {}
    for path in paths:
        try:
            record = parse_record(path.read_text())
        except FileNotFoundError:      # its pod ended since the folder was listed
            continue
        except (OSError, UnicodeDecodeError, SriovError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            doubt = f"a pod may have the VF of the record {path}, which cannot be read: {reason}"
            try:
                doubtful[PciAddress.parse(path.stem)] = doubt
            except InputError:
                raise HostError(doubt) from None
        else:
            if record.boot_id == boot_id:      # no pod outlives its node's boot, its record may
                known[record.vf] = str(record.owner)
    return Owners(known=known, doubtful=doubtful)


def _open_kubelet(folder: Path) -> HasVf:
    # Importing gRPC takes longer than checking a file does.
    from deviceplugin.podresources import PodResources

    kubelet = PodResources(folder)
    kubelet.list_owners()              # where nothing can be told, it is said once, and at once
    return kubelet.holds


# ---- commands that are not about the node -----------------------------------------------------------------


def _completion(_: argparse.Namespace, __: Node, output: Output) -> int:
    parser = _parser()
    output.write(bash_script(parser.prog, read_commands(parser)))
    return DONE


def _add_networks(commands: Commands) -> argparse.ArgumentParser:
    networks = commands.add_parser(
        "networks", help=f"check the text of a pod's annotation {NETWORKS}")
    networks.add_argument("text", metavar="TEXT", help="the annotation's value; - reads it from stdin")
    networks.add_argument("--namespace", type=_parse_namespace, default="default",
                          help="the pod's (default: %(default)s)")
    networks.set_defaults(run=_networks)
    return networks


def _parse_namespace(text: str) -> str:
    try:
        return parse_namespace(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{show(text)} {error.message}") from None


def _networks(arguments: argparse.Namespace, _: Node, output: Output) -> int:
    text = _read_stdin() if arguments.text == "-" else arguments.text
    try:
        networks = parse_networks(text, arguments.namespace)
    except AnnotationError as error:
        output.warn(error.warnings)      # a key that is not known may be the one that is missing
        raise
    output.warn(networks.warnings)
    documents = [
        {"namespace": ref.namespace, "name": ref.name, "interface": _interface(ref), "mac": ref.mac,
         "ips": [str(address) for address in ref.ips]}
        for ref in networks.refs
    ]
    output.show({"networks": documents, "warnings": list(networks.warnings)},
                lambda: "\n".join(map(_describe, networks.refs)) or "no networks")
    return DONE


def _read_stdin() -> str:
    try:
        return read_stdin("the annotation", _MOST_STDIN).decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the annotation from stdin: expected UTF-8 text: {error.reason}") from None


def _describe(ref: NetworkRef) -> str:
    details = [str(each) for each in (ref.mac, *ref.ips) if each is not None]
    return " ".join([f"{ref.namespace}/{ref.name} as {_interface(ref)}", *details])


def _interface(ref: NetworkRef) -> str:
    return ref.interface or f"net{ref.index + 1}"


# ---- streams that do not work -----------------------------------------------------------------------------


def _fill_closed_streams() -> None:
    """Have standard streams that the caller closed fail like others, and no socket or file get their numbers."""
    streams = (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    for name, flag, mode in streams:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flag), mode))


def _silence(stream: TextIO) -> None:
    """Let go of what the stream still holds: the interpreter writes it at exit, and complains if it cannot."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(text: str, status: int) -> int:
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
