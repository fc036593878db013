"""`python -m tests.e2e`: build what a cluster is made of, keep one up, compare vfpool with the existing stack."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from sriov.errors import InputError
from tests.e2e.components import build_components
from tests.e2e.peers import find_peers
from tests.lab.cache import check_cache
from tests.lab.errors import LabError
from tests.lab.host import check_host, install_missing_packages
from tests.lab.image import CHECKOUT, build_image

STOPPING = (signal.SIGINT, signal.SIGTERM)
WATCH_SECONDS = 0.5    # between looks at what was started

EXAMPLES = """examples:
  python -m tests.e2e build
  python -m tests.e2e up
  python -m tests.e2e compare

Exit status: 1 where it failed, 2 for wrong usage."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e", description="A Kubernetes cluster whose node is the lab VM.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build the lab's image and the cluster's executables into the cache")
    build.set_defaults(run=build_all)
    up = actions.add_parser("up", help="a cluster with vfpool and Multus, until Ctrl-C")
    up.set_defaults(run=keep_up)
    both = actions.add_parser("compare", help="the existing stack and vfpool side by side, also into the README")
    both.set_defaults(run=print_comparison)
    return parser.parse_args(argv)


def build_all(_: argparse.Namespace) -> None:
    check_host()
    install_missing_packages()
    build_image()
    components = build_components()
    if reason := find_peers().reason:
        sys.stderr.write(f"cluster: {reason}\n")
    sys.stdout.write(f"{components.root}\n")


def keep_up(_: argparse.Namespace) -> None:
    from tests.e2e.cluster import Cluster

    with Cluster() as cluster:
        cluster.install()
        if cluster.peers.find("multus") is not None:
            cluster.multus.use("thin")
        sys.stdout.write(
            "\nThe cluster is up, until Ctrl-C. In another terminal:\n\n"
            f"    export KUBECONFIG={cluster.plane.admin} PATH={cluster.components.bin}:$PATH\n"
            "    kubectl get nodes -o wide\n"
            "    kubectl apply -f deploy/examples/networks.yaml\n\n"
            "Test images on the node (imagePullPolicy: Never): "
            f"{', '.join(cluster.node.images)}\n"
        )
        sys.stdout.flush()
        watch(cluster.find_end)


def watch(find_end: Callable[[], str | None]) -> None:
    """Until SIGINT or SIGTERM; LabError with what `find_end` says as soon as it says something.

    From then on signals are only noted: a second Ctrl-C does not break off what stops the rest.
    """
    noted: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, _: noted.append(number))
    while not noted:
        # A terminal's Ctrl-C goes to everything that was started here, too: what ended by it is no failure.
        if (end := find_end()) is not None and not noted:
            raise LabError(f"{end}\nthe rest was stopped")     # by whom that reaches, before it is shown
        time.sleep(WATCH_SECONDS)


def end_once(number: int, _: FrameType | None) -> None:
    """The first signal ends what goes on, and what was started is stopped; another would break that off."""
    for each in STOPPING:
        signal.signal(each, lambda *_: None)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def print_comparison(_: argparse.Namespace) -> None:
    from tests.e2e.compare import compare, put_into

    table = compare()
    sys.stdout.write(table)
    put_into(CHECKOUT / "README.md", table)


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    for number in STOPPING:
        signal.signal(number, end_once)    # so that neither a process nor a half-built folder is left
    try:
        check_cache()
        arguments.run(arguments)
    except InputError as error:
        sys.stderr.write(f"cluster: {error}\n")
        return 2
    except LabError as error:
        sys.stderr.write(f"cluster: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
