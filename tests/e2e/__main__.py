"""`python -m tests.e2e`: build what a cluster is made of, keep one up, compare vfpool with the existing stack."""

from __future__ import annotations

import argparse
import signal
import sys

from sriov.errors import InputError
from tests.e2e.components import build_components
from tests.e2e.peers import find_peers
from tests.lab.errors import LabError
from tests.lab.host import check_host, install_missing_packages
from tests.lab.image import CHECKOUT, build_image

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
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def print_comparison(_: argparse.Namespace) -> None:
    from tests.e2e.compare import compare, put_into

    table = compare()
    sys.stdout.write(table)
    put_into(CHECKOUT / "README.md", table)


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))    # so that no half-built folder is left
    try:
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
