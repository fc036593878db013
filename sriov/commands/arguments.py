"""What the commands about a node take, as argparse's parsers."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from sriov.arguments import parse_folder, parse_socket
from sriov.commands.invocation import Node, Run
from sriov.pools.override import Override
from sriov.status import SOCKET_PATH
from sriov.views.output import Output

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"    # what add_subparsers returns


def add_commands(commands: Commands, host_root: str) -> list[argparse.ArgumentParser]:
    """Add the commands, each with `run` of its module as its default; `host_root` is that of `--host-root`."""
    discover = commands.add_parser("discover", help="list the PFs, VFs, other NICs and accelerators of this node")
    check = commands.add_parser("check", help="check a pool file, with --host against this node too")
    explain = commands.add_parser(
        "explain", help="say which pool has a VF and why, or every reason why not, and what stands in the way")
    plan = commands.add_parser("plan", help="show what a pool file would change on this node; change nothing")

    apply = commands.add_parser("apply", help="make this node fit a pool file")
    reset = commands.add_parser("reset", help="undo what vfpool did to this node since it booted, and only that")

    status = commands.add_parser(
        "status", help="ask the running agent: pools, VFs, who has them, what is wrong",
        epilog="Exit status: 0 all is well, 1 something is wrong or the agent cannot be asked, 2 wrong arguments.")

    for command in (check, explain, plan, apply):
        _add_file(command, needed=command is not apply)
    apply.add_argument("--last-good", action="store_true",
                       help="in place of FILE: what this node last was when all was as wanted")
    reset.add_argument("pf", nargs="*", metavar="PF",
                       help="only these: netdev name or PCI address, 3b:00.0 for short (default: all)")
    for command in (plan, apply, reset):
        command.add_argument("--force", action="append", default=[], choices=[str(each) for each in Override],
                             help="do what is refused otherwise: the override that the refusal names")
    check.add_argument("--host", action="store_true", help="show which VFs of this node each pool gets")
    explain.add_argument("address", nargs="?", metavar="DEVICE",
                         help="one VF, PF or other NIC: netdev name or PCI address, 3b:02.1 for short")
    discover.add_argument("--svg", type=Path, metavar="PATH", help="draw the node into this file too")
    check.add_argument("--svg", type=Path, metavar="PATH",
                       help="as --host, and draw the node with the pools' VFs into this file too")
    for command in (discover, check, plan, apply, reset):
        command.add_argument("--state-dir", type=Path, default=Path("/var/lib/vfpool"), metavar="DIR",
                             help="the agent's (default: %(default)s)")
    for command in (plan, apply, reset):
        command.add_argument("--kubelet-dir", type=Path, default=Path("/var/lib/kubelet"), metavar="DIR",
                             help="the kubelet's, to ask it which VFs pods have (default: %(default)s)")

    status.add_argument("--socket", type=parse_socket, default=Path(SOCKET_PATH), metavar="PATH",
                        help="where the agent answers (default: %(default)s)")
    status.set_defaults(run=_run("status"))

    named = {"discover": discover, "check": check, "explain": explain, "plan": plan, "apply": apply, "reset": reset}
    for name, command in named.items():
        command.set_defaults(run=_run(name))
        command.add_argument("--sysfs", type=Path, default=Path("/sys"), metavar="DIR", help=argparse.SUPPRESS)
    for command in (explain, plan, apply, reset):
        command.add_argument("--proc", type=Path, default=Path("/proc"), metavar="DIR", help=argparse.SUPPRESS)
        # Below one that is not there nobody would seem to make VFs.
        command.add_argument("--host-root", type=parse_folder, default=host_root, metavar="DIR",
                             help="where the host's /etc, /run and /usr are, to read who else is to make VFs "
                                  "(default: VFPOOL_HOST_ROOT of the environment, or else /)")
    return [*named.values(), status]


def _run(name: str) -> Run:
    def run(arguments: argparse.Namespace, node: Node, output: Output) -> int:
        # Loading all of them takes as long as checking a file does.
        command: Run = import_module(f"sriov.commands.{name}").run
        return command(arguments, node, output)

    return run


def _add_file(command: argparse.ArgumentParser, *, needed: bool) -> None:
    command.add_argument("file", type=Path, metavar="FILE", nargs=None if needed else "?",
                         help="the pool file, or a configuration of sriov-network-device-plugin; - for stdin")
    command.add_argument("--node", metavar="NAME", help="read the file as the Kubernetes node of this name does")
