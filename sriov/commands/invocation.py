"""What every command is given, and answers with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sriov.errors import HostError
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile, for_node
from sriov.pools.poolfile import load_pool_file
from sriov.views.output import Output

DONE, FAILED, WRONG_INPUT = 0, 1, 2    # exit status

Discover: TypeAlias = Callable[[Sysfs], Host]
Owners: TypeAlias = Mapping[PciAddress, str]


@dataclass(frozen=True, slots=True)
class Node:
    """What commands know a node by. `read_owners` tells who has a VF, by the records in a state folder."""

    discover: Discover
    read_owners: Callable[[Path], Owners]


Run: TypeAlias = Callable[[argparse.Namespace, Node, Output], int]


def load_file(arguments: argparse.Namespace) -> PoolFile:
    """The pool file, with what is for other nodes gone where `--node` says which one this is."""
    file = load_pool_file(arguments.file)
    return file if arguments.node is None else for_node(file, arguments.node)


def write_file(path: Path, text: str) -> None:
    """Raises HostError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise HostError(f"cannot write {path}", errno=error.errno or 0) from error


def status_of(host: Host) -> int:
    """A look at the node that left something out is not done."""
    return FAILED if host.unreadable else DONE
