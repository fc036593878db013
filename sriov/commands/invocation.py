"""What every command is given, and answers with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sriov.errors import HostError, InputError
from sriov.host.sysfs import Sysfs
from sriov.model import Host, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile, for_node
from sriov.pools.documents import decode
from sriov.pools.poolfile import MAX_SIZE, load_pool_file, parse_pool_file
from sriov.views.output import Output

DONE, FAILED, WRONG_INPUT = 0, 1, 2    # exit status

Discover: TypeAlias = Callable[[Sysfs], Host]
HasVf: TypeAlias = Callable[[VirtualFunction], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Who has which VF, by the agent's records. `doubtful`: VFs that pods may have, and why that is not known."""

    known: Mapping[PciAddress, str] = field(default_factory=dict)
    doubtful: Mapping[PciAddress, str] = field(default_factory=dict)

    def __contains__(self, vf: PciAddress) -> bool:
        return vf in self.known or vf in self.doubtful


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What commands know a node by.

    `read_owners`: by the records in a state folder. `open_kubelet`: by a kubelet's folder, whether it gave a VF to
    a pod, at the time of the question. Both raise HostError where that cannot be told.
    """

    discover: Discover
    read_owners: Callable[[Path], Owners]
    open_kubelet: Callable[[Path], HasVf]


Run: TypeAlias = Callable[[argparse.Namespace, Node, Output], int]


def load_file(arguments: argparse.Namespace) -> PoolFile:
    """The pool file, `-` from stdin, with what is for other nodes gone where `--node` says which one this is."""
    if str(arguments.file) == "-":
        file = parse_pool_file(decode(read_stdin("the pool file", MAX_SIZE), "stdin"), "stdin")
    else:
        file = load_pool_file(arguments.file)
    return file if arguments.node is None else for_node(file, arguments.node)


def read_stdin(what: str, most: int) -> bytes:
    """All of it; raises InputError if it cannot be read, or has more bytes than `most`."""
    try:
        data = sys.stdin.buffer.read(most + 1)
    except OSError as error:
        raise InputError(f"cannot read {what} from stdin: {error.strerror or error}") from None
    if len(data) > most:
        raise InputError(f"cannot read {what} from stdin: it is larger than {most >> 20} MiB")
    return data


def show_owners(arguments: argparse.Namespace, node: Node, output: Output) -> Mapping[PciAddress, str]:
    """Who has which VF, as far as can be read; of the rest it warns."""
    try:
        owners = node.read_owners(arguments.state_dir)
    except HostError as error:
        output.warn([str(error)])
        return {}
    output.warn(owners.doubtful.values())
    return owners.known


def write_file(path: Path, text: str) -> None:
    """Raises HostError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise HostError(f"cannot write {path}", errno=error.errno or 0) from error


def status_of(host: Host) -> int:
    """A look at the node that left something out is not done."""
    return FAILED if host.unreadable else DONE
