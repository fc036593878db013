"""What the node's kernel says: PFs, VFs, the agent's records, pods' network namespaces."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.node import Node
from tests.support.node import differences, wait_for

STATE = "/var/lib/vfpool"
POLL = 0.5    # seconds between two looks


class Host:
    """The node's SR-IOV side. `baseline`: its links as they were when no pod had a VF."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.baseline: dict[str, Any] = {}

    def links(self) -> dict[str, Any]:
        """`ip -j -d link` of PCI devices in the host's netns, by name, as tests.support.node.links() has them.

        Without counters that a pod's traffic moves, and without ifindex: a netdev that comes home may have a
        new one.
        """
        found = json.loads(self._node.sh("ip -j -d link show"))
        return {
            link["ifname"]: {key: value for key, value in link.items() if key not in ("qdisc", "ifindex")}
            for link in found if link.get("parentbus") == "pci"
        }

    def take_baseline(self) -> None:
        self._node.sh("udevadm settle")
        self.baseline = self.links()

    def records(self) -> list[dict[str, Any]]:
        """The agent's records, one for each VF that is in a pod or not yet home."""
        text = self._node.sh(f"cat {STATE}/vfs/*.json 2>/dev/null || true")
        decoder, found, rest = json.JSONDecoder(), [], text.lstrip()
        while rest:
            record, end = decoder.raw_decode(rest)
            found.append(record)
            rest = rest[end:].lstrip()
        return found

    def owed(self) -> list[str]:
        """The agent's notes of IPAM DELs that are still to be done."""
        return self._node.sh(f"ls {STATE}/ipam").split()

    def astray(self, *, macs: bool = True) -> list[str]:
        """Where the links differ from the baseline, each record and each IPAM DEL owed: nothing when all is home.

        Without `macs`: VFs that were made anew draw others at random.
        """
        before, now = (self.baseline, self.links()) if macs else map(_without_macs, (self.baseline, self.links()))
        return [*differences(before, now), *(f"record {record['vf']}" for record in self.records()),
                *(f"IPAM DEL {name}" for name in self.owed())]

    def wait_home(self, timeout: float = 30, *, macs: bool = True) -> None:
        """Until every VF is home with its baseline and no record is left."""
        try:
            wait_for("every VF home", lambda: not self.astray(macs=macs), timeout, POLL)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.astray(macs=macs)}") from None

    def sandboxes(self) -> list[str]:
        """Names of the network namespaces that the runtime made for pods."""
        return [name for name in self._node.sh("ls /run/netns").split() if name.startswith("cni-")]

    def enforced(self, vf: str) -> dict[str, Any]:
        """What its PF enforces on a VF: the entry of `ip -j -d link show PF`."""
        name, index = self._place(vf)
        (link,) = json.loads(self._node.sh(f"ip -j -d link show {name}"))
        return dict(link["vfinfo_list"][int(index)])

    def set_vf(self, vf: str, words: str) -> None:
        """`ip link set PF vf N` by hand."""
        name, index = self._place(vf)
        self._node.sh(f"ip link set {name} vf {index} {words}")

    def find_vfs(self, driver: str) -> list[str]:
        """PCI addresses of the VFs with this driver, those of one PF one after the other."""
        return self._node.sh(f"ls /sys/bus/pci/drivers/{driver} | grep ^0000").split()

    def _place(self, vf: str) -> list[str]:
        """Name of the VF's PF, and its index there."""
        device = f"/sys/bus/pci/devices/{vf}"
        return self._node.sh(f"""
            ls {device}/physfn/net
            for entry in {device}/physfn/virtfn*; do
                if [ "$(readlink -f $entry)" = "$(readlink -f {device})" ]; then echo "${{entry##*virtfn}}"; fi
            done""").split()

    def links_in(self, namespace: str, name: str, link: str = "") -> list[dict[str, Any]]:
        """`ip -j -d address` in a pod: of one link, or of all."""
        return list(json.loads(self.in_pod(namespace, name, f"ip -j -d address show {link}")))

    def in_pod(self, namespace: str, name: str, command: str) -> str:
        """Run a command of the node in a pod's network namespace."""
        return self._node.sh(f"ip netns exec {self.netns(namespace, name)} {command}")

    def netns(self, namespace: str, name: str) -> str:
        """The name under /run/netns of a pod's network namespace, by the runtime's own word."""
        labels = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.namespace": namespace,
                  "io.kubernetes.pod.name": name}
        wanted = ",".join(f'labels."{label}"=={value}' for label, value in labels.items())    # a comma means "and"
        made = self._node.sh(f"ctr -n k8s.io containers list -q '{wanted}'").split()
        # One that got no network stays listed for a while; it never ran.
        (sandbox,) = set(made) & set(self._node.sh("ctr -n k8s.io tasks list -q").split())
        info = json.loads(self._node.sh(f"ctr -n k8s.io containers info {sandbox}"))
        (path,) = [entry["path"] for entry in info["Spec"]["linux"]["namespaces"] if entry["type"] == "network"]
        return str(path).rpartition("/")[2]


def _without_macs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_macs(inner) for key, inner in value.items() if key != "address"}
    return [_without_macs(inner) for inner in value] if isinstance(value, list) else value
