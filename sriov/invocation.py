"""What every command is given and answers with: the node, arguments that several share, exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sriov.model import Host
from sriov.pci import PciAddress
from sriov.poolfile import load_pool_file
from sriov.pools import PoolFile, for_node
from sriov.sysfs import Sysfs

DONE, FAILED, WRONG_INPUT = 0, 1, 2

Discover = Callable[[Sysfs], Host]
Owners = Mapping[PciAddress, str]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"    # what add_subparsers returns


@dataclass(frozen=True, slots=True)
class Node:
    """What commands know a node by. `read_owners` tells who has a VF, by the records in a state folder."""

    discover: Discover
    read_owners: Callable[[Path], Owners]


def add_file(command: argparse.ArgumentParser) -> None:
    """Give the command what `load_file` reads."""
    command.add_argument("file", type=Path, metavar="FILE",
                         help="the pool file, or a configuration of sriov-network-device-plugin")
    command.add_argument("--node", metavar="NAME", help="read the file as the Kubernetes node of this name does")


def add_sysfs(command: argparse.ArgumentParser) -> None:
    """Give the command another /sys, for tests."""
    command.add_argument("--sysfs", type=Path, default=Path("/sys"), metavar="DIR", help=argparse.SUPPRESS)


def add_root(command: argparse.ArgumentParser) -> None:
    """Give the command another / to read /proc, /etc and /lib below, for tests."""
    command.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help=argparse.SUPPRESS)


def add_state(command: argparse.ArgumentParser) -> None:
    """Give the command the folder of the agent's records."""
    command.add_argument("--state-dir", type=Path, default=Path("/var/lib/vfpool"), metavar="DIR",
                         help="the agent's state folder (default: %(default)s)")


def load_file(arguments: argparse.Namespace) -> PoolFile:
    """The pool file, with what is for other nodes gone where `--node` says which one this is."""
    file = load_pool_file(arguments.file)
    return file if arguments.node is None else for_node(file, arguments.node)


def status_of(host: Host) -> int:
    """A look at the node that left something out is not done."""
    return FAILED if host.unreadable else DONE
