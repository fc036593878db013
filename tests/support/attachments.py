"""A node's attachments in this process: for trials that have to see, or to spoil, each step of a call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.attach import Attachments
from cni.invocation import Invocation
from cni.kernel import Kernel
from cni.protocol import Command, parse_request
from cni.store import Store
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.node import CNI_PATH, config, netns

MAC = "02:00:00:00:03:01"


class Node:
    """An agent's attachments in this process, one of them of `vf` in `pod`."""

    def __init__(self, kernel: Kernel, state: Path, vf: VirtualFunction, pod: str, ipam: Path) -> None:
        self.pod = pod
        self._kernel, self._state, self._ipam = kernel, state, ipam
        delegation = {"type": "host-local", "dataDir": str(ipam), "ranges": [
            [{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.5"}],     # one address each:
            [{"subnet": "fd00::/64", "rangeStart": "fd00::5", "rangeEnd": "fd00::5"}]],        # a leak shows
            "routes": [{"dst": "10.50.0.0/16"}]}
        rate = {"max_tx_rate": 100, "spoofchk": "off"}
        self._config = config(vf.address, vlan=5, mac=MAC, mtu=1400, ipam=delegation, **rate)
        self.store = Store.open(state)
        self.attachments = Attachments(kernel, self.store)

    def reopen(self) -> None:
        """As the next agent, which knows what is on disk."""
        self.store.close()
        self.store = Store.open(self._state)
        self.attachments = Attachments(self._kernel, self.store)

    def restart(self) -> None:
        """What the next agent makes of what this one left."""
        self.reopen()
        self.attachments.repair.reconcile()

    def call(self, command: Command, container: str = "c1", **keys: Any) -> Any:
        environment = {"CNI_COMMAND": command.value, "CNI_CONTAINERID": container, "CNI_NETNS": self.pod,
                       "CNI_IFNAME": "net1", "CNI_PATH": CNI_PATH}
        fd = os.open(self.pod, os.O_RDONLY)
        try:
            return self.attachments.handle(Invocation(
                request=parse_request(environment, json.dumps({**self._config, **keys}).encode()), netns_fd=fd,
                gone=lambda: False, deadline=time.monotonic() + 50))
        finally:
            os.close(fd)

    def left(self) -> dict[str, list[str]]:
        """What agent and IPAM know of attachments."""
        return {"records": [record.phase for record in self.store],
                "owed": [record.owner.container_id for record in self.store.owed],
                "reserved": sorted(path.name for path in self._ipam.glob("net/*") if path.name[0] in "1f")}

    def view(self) -> dict[str, Any]:
        """All that an ADD or DEL changes."""
        return {"host": node.snapshot(), "pod": inside(self.pod), **self.left()}


def inside(pod: str) -> dict[str, Any]:
    """The namespace's links, addresses and routes, without what comes when a carrier does."""
    name = Path(pod).name
    links = {link["ifname"]: {**{key: link.get(key) for key in ("altnames", "address", "mtu", "txqlen", "group")},
                              "up": "UP" in link["flags"],
                              "addresses": [[a["local"], a["prefixlen"]] for a in link["addr_info"]
                                            if a["scope"] != "link"]}
             for link in node.ip("-n", name, "addr", "show")}
    routes = [route["dst"] for route in node.ip("-n", name, "-4", "route", "show")]
    return {"links": links, "routes": routes}


@contextmanager
def trial(kernel: Kernel, root: Path, vf: VirtualFunction) -> Iterator[Node]:
    with netns() as pod:
        made = Node(kernel, root / "state", vf, pod, root / "ipam")
        try:
            yield made
        finally:
            made.store.close()
