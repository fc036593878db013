"""`python -m tests.lab`: build the lab's image, run a command in a fresh lab machine, or get a shell there."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from sriov.errors import InputError
from tests.lab.cache import check_cache
from tests.lab.errors import LabError
from tests.lab.host import check_host, install_missing_packages
from tests.lab.image import build_image
from tests.lab.machine import Machine
from tests.lab.topology import Pf, Topology

EXAMPLES = """examples:
  python -m tests.lab build
  python -m tests.lab run -- python3 -m pytest tests/lab
  python -m tests.lab run --pfs 0,0,-1 --memory 3072 -C /vfpool/out.json:out.json -- vfpool discover
  python -m tests.lab shell

Exit status: the command's own; 1 where the lab failed, 2 for wrong usage."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="A VM with emulated SR-IOV NICs.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("build", help="build the image, where the cache has none of this recipe")
    run = actions.add_parser("run", help="run a command in a fresh machine, in the working tree")
    shell = actions.add_parser("shell", help="a shell in a fresh machine, on this terminal")
    for action in (run, shell):
        action.add_argument(
            "--pfs", type=parse_pfs, default=Topology().pfs, metavar="NODE,...",
            help="a PF for each NUMA node named, -1 for none (default 0,1,-1)",
        )
        action.add_argument("--no-iommu", dest="iommu", action="store_false")
        action.add_argument("--cpus", type=int, default=Topology().cpus)
        action.add_argument("--memory", type=int, default=Topology().memory, metavar="MIB")
        action.add_argument(
            "-C", "--copy", type=parse_copy, action="append", default=[], metavar="GUEST:HOST",
            help="afterwards, copy a file or folder of the guest to the host",
        )
    run.add_argument("command", nargs="+", metavar="COMMAND")
    return parser.parse_args(argv)


def parse_pfs(text: str) -> tuple[Pf, ...]:
    """`0,1,-1`: the NUMA nodes of the PFs."""
    try:
        nodes = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NUMA nodes like 0,1,-1, got {text!r}") from None
    return tuple(Pf(numa_node=None if node == -1 else node) for node in nodes)


def parse_copy(text: str) -> tuple[str, Path]:
    guest, colon, host = text.rpartition(":")
    if not (guest and colon and host):
        raise argparse.ArgumentTypeError(f"expected GUEST:HOST, got {text!r}")
    return guest, Path(host)


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))    # so that `with` removes what it made
    try:
        check_cache()
        if arguments.action == "build":
            check_host()
            install_missing_packages()
            sys.stdout.write(f"{build_image().root}\n")
            return 0
        topology = Topology(
            pfs=arguments.pfs, iommu=arguments.iommu, cpus=arguments.cpus, memory=arguments.memory
        )
        with Machine(topology) as machine:
            if arguments.action == "shell":
                status = machine.channel.shell()
            else:
                terminal = sys.stdin.isatty() and sys.stdout.isatty()
                status = machine.channel.stream(arguments.command, tty=terminal)
            for guest, host in arguments.copy:
                machine.channel.copy_out(guest, host)
            return status
    except InputError as error:
        sys.stderr.write(f"lab: {error}\n")
        return 2
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
