"""Network namespaces of this machine's own kernel; its root namespace is never touched."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

import pytest

from cni.netns import links_in, open_netns
from sriov.host.netlink import Links
from tests.support import node
from tests.support.node import run


class Namespace:
    """A network namespace, its descriptor, and its links by netlink."""

    def __init__(self, path: str, fd: int, links: Links) -> None:
        self.path, self.fd, self.links = path, fd, links
        self.name = path.rpartition("/")[2]

    def ip(self, *args: str) -> object:
        """What iproute2 says, as JSON."""
        return node.ip("-n", self.name, *args)

    def run(self, *args: str) -> None:
        run("ip", "-n", self.name, *args)

    def add_veth(self, name: str, peer: str) -> int:
        """A veth pair, both ends here; the ifindex of the first."""
        self.run("link", "add", name, "type", "veth", "peer", "name", peer)
        link = self.links.find(name)
        assert link is not None
        return link.index

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


@pytest.fixture
def new_netns() -> Iterator[Callable[[], Namespace]]:
    with contextlib.ExitStack() as stack:
        def make() -> Namespace:
            path = stack.enter_context(node.netns())
            fd = stack.enter_context(open_netns(path))
            return Namespace(path, fd, stack.enter_context(links_in(fd)))

        yield make


@pytest.fixture
def host(new_netns: Callable[[], Namespace]) -> Namespace:
    """Stands for the host's namespace."""
    return new_netns()


@pytest.fixture
def pod(new_netns: Callable[[], Namespace]) -> Namespace:
    return new_netns()
