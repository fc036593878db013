"""The demo's node: what kubelet and runtime do with a pod, and the claims that are made more than once."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deviceplugin.kubelet.podresources_pb2 import GetPodResourcesRequest
from deviceplugin.kubelet.podresources_pb2_grpc import PodResourcesListerStub
from sriov.pools.assignment import variable_name
from tests.lab.story import ClaimFailed, Story
from tests.support import node
from tests.support.kubelet import Kubelet
from tests.support.kubelet_plugins import dial
from tests.support.node import Agent, Cni, CniFailed

T = TypeVar("T")

DEVICES = Path("/sys/bus/pci/devices")
PATIENCE = 90.0                         # seconds; a deadline, not a measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as kubelet and runtime know it; `conf` is what its NAD says, `devices` what Allocate gave it."""

    name: str
    vf: str
    netns: str
    container: str
    conf: dict[str, Any]
    mac: str                            # the one that it must have: of the NAD, or else the VF's own
    devices: tuple[str, ...]

    @property
    def ip(self) -> str:
        address: str = self.conf["ipam"]["addresses"][0]["address"]
        return address.partition("/")[0]

    def seen_mac(self) -> str:
        """Of net1 in the pod, asked of the kernel."""
        return str(node.ip("-n", Path(self.netns).name, "link", "show", "net1")[0]["address"])


class DemoNode:
    """`stack` gets what is to go in the end, whatever happens: the pods' namespaces."""

    def __init__(self, story: Story, agent: Agent, stack: ExitStack) -> None:
        self.story = story
        self.kubelet = Kubelet(agent.kubelet, watch_period=0.2)
        self.cni = Cni(agent.socket)
        self._stack = stack

    async def do(self, doing: str, work: Callable[[], T]) -> T:
        """Blocking work in a thread: the kubelet has to go on answering meanwhile."""
        return await self.story.wait(doing, asyncio.to_thread(work))

    async def wait_allocatable(self, counts: Mapping[str, int], doing: str,
                               agent: Agent | None = None) -> None:
        """Until the kubelet counts so; in vain after PATIENCE, or as soon as `agent` has died."""
        def count() -> dict[str, int]:
            return {resource: self.kubelet.allocatable(resource) for resource in counts}

        async def wait() -> None:
            deadline = time.monotonic() + PATIENCE
            while count() != counts:
                if time.monotonic() > deadline or (agent is not None and not agent.running):
                    return
                await asyncio.sleep(0.02)

        await self.story.wait(doing, wait())
        shown = ", ".join(f"{resource} {number}" for resource, number in counts.items())
        self.story.claim(f"the kubelet counts as allocatable: {shown}", expected=counts, seen=count())

    async def admit(self, name: str, resource: str, address: str | None, **conf: Any) -> Pod:
        """A pod with one VF, and its network namespace. Its NUMA node is the same for kubelet and kernel."""
        work = self.kubelet.admit(name, {"app": {resource: 1}})
        allocation = (await self.story.wait(f"the kubelet admits {name}", work))["app"]
        variable = variable_name(resource)
        vf = allocation.envs[variable]
        number = int((DEVICES / vf / "numa_node").read_text())
        self.story.claim(
            f"{name}: {resource}: 1 gives {variable}={vf}, {show_numa_node(number)}",
            expected=(allocation.device_ids[resource], [number] if number >= 0 else []),
            seen=((vf,), await self._numa_nodes(name)))
        if address is not None:
            conf["ipam"] = {"type": "static", "addresses": [{"address": address}]}
        mac = conf.get("mac") or next((DEVICES / vf / "net").glob("*/address")).read_text().strip()
        netns = await self.do(f"making {name}'s netns", lambda: self._stack.enter_context(node.netns()))
        return Pod(
            name=name, vf=vf, netns=netns, container=secrets.token_hex(32), mac=mac,
            conf=node.config(vf, **conf),
            devices=tuple(device.host_path for device in allocation.devices))

    async def _numa_nodes(self, name: str) -> list[int]:
        """Of the pod's devices, from the kubelet's pod-resources API."""
        namespace, _, pod = name.partition("/")
        async with dial(self.kubelet.pod_resources_socket, authority="localhost") as channel:
            answer = await PodResourcesListerStub(channel).Get(
                GetPodResourcesRequest(pod_namespace=namespace, pod_name=pod))
        return [numa.ID for container in answer.pod_resources.containers for device in container.devices
                for numa in device.topology.nodes]

    async def call(self, command: str, pod: Pod) -> dict[str, Any]:
        """The CNI executable with `command`, as a runtime calls it; its result."""
        doing = f"CNI {command} for {pod.name}"
        try:
            return await self.do(
                doing, lambda: self.cni.finish(self.cni.start(command, pod.conf, pod.container, pod.netns)))
        except CniFailed as error:
            raise ClaimFailed(doing, expected="exit status 0", seen=error) from error

    async def attach(self, pod: Pod) -> None:
        await self.call("ADD", pod)
        mac = await self.do("looking into the pod", pod.seen_mac)
        shown = await self.do("asking the PF", lambda: describe_vf(pod.vf))
        self.story.claim(f"{pod.name} has net1, MAC {mac}; its PF: {shown}", seen=(mac, shown),
                         expected=(pod.mac, f"VLAN {pod.conf['vlan']}, MAC {pod.mac}, trust off"))

    async def claim_ping(self, one: Pod, other: Pod, answered: int, when: str = "") -> None:
        seen = await self.do(f"{one.name} pings {other.name}", lambda: node.answered(one.netns, other.ip, 3))
        vlans = f"VLAN {one.conf['vlan']} to VLAN {other.conf['vlan']}"
        self.story.claim(f"{one.name} pings {other.name}, {vlans}{when}: {answered} of 3 answered",
                         expected=answered, seen=seen)

    async def claim_neighbour(self, one: Pod, other: Pod) -> None:
        netns = Path(one.netns).name
        found = await self.do("asking for neighbours", lambda: node.ip("-4", "-n", netns, "neigh"))
        self.story.claim(f"the frames that {one.name} got came from MAC {other.mac}",
                         expected=[(other.ip, other.mac)],
                         seen=[(each["dst"], each.get("lladdr")) for each in found])

    async def claim_same(self, before: Mapping[str, Any], what: str) -> None:
        after = await self.do("comparing the host with its snapshot", settled_links)
        self.story.claim(f"{what}: {len(after)} links, {count_vfs(after)} VFs compared: identical",
                         expected=[], seen=node.differences(before, after))


def settled_links() -> dict[str, Any]:
    """All of `ip -j -d link` once udev is done."""
    node.run("udevadm", "settle")
    return node.links()


def count_vfs(links: Mapping[str, Any]) -> int:
    return sum(len(link.get("vfinfo_list", ())) for link in links.values())


def describe_vf(address: str) -> str:
    """What the VF's PF enforces on it, as `ip link show` says."""
    pf, vf = next((pf, vf) for pf in node.pfs() for vf in pf.vfs if vf.address == address)
    view = node.links()[node.netdev_name(pf)]["vfinfo_list"][vf.index]
    vlan = view["vlan_list"][0].get("vlan", "none")
    return f"VLAN {vlan}, MAC {view['address']}, trust {'on' if view['trust'] else 'off'}"


def show_numa_node(number: int | None) -> str:
    """sysfs shows -1 where the platform does not say."""
    return "no NUMA node" if number in (None, -1) else f"NUMA node {number}"
