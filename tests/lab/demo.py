"""The demo, inside the lab: VFs from nothing into pods and home again, each claim checked before it is told.

    python -m tests.lab run -- python3 -u -m tests.lab.demo

Kernel, udev, drivers, agent, CNI executable and IPAM plugin are real; the kubelet is the stand-in of
tests/support/kubelet.py, and a pod is a network namespace. Exit status 0: every claim held.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from sriov.errors import SriovError
from tests.lab.demo_node import (
    DEVICES,
    DemoNode,
    Pod,
    count_vfs,
    describe_vf,
    settled_links,
    show_numa_node,
)
from tests.lab.story import ClaimFailed, Story
from tests.support import node
from tests.support.kubelet import UnexpectedAdmissionError
from tests.support.node import Agent, CniFailed

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/pools.yaml"
SRIOV, DPDK = "intel.com/sriov", "intel.com/sriov_dpdk"
ALLOCATABLE = {SRIOV: 14, DPDK: 7}      # of three PFs with 7 VFs each, as EXAMPLE divides them
TRY_AGAIN_LATER = 11                    # the CNI specification's error code
STOPPING = ("-m", "tests.support.stopping_agent")

PREFACE = """\
vfpool in a VM with emulated Intel 82576 NICs. Kernel, udev, drivers, agent, CNI executable and IPAM are real.
The kubelet is a stand-in that speaks the kubelet's own gRPC APIs, and a pod is a network namespace.
Seconds are those since the line before. Each line is checked first: what does not hold ends the demo.
"""
FAILURES = (ClaimFailed, UnexpectedAdmissionError, SriovError, AssertionError, OSError,
            subprocess.SubprocessError, grpc.aio.AioRpcError)


class Demo:
    """The parts of the story, in their order."""

    def __init__(self, story: Story, root: Path, stack: ExitStack) -> None:
        self.story = story
        pools = EXAMPLE.read_text()
        self.agent = Agent(root, pools, log_level="info")
        # From outside, a kill in the middle of an ADD would be a race: this one kills itself at a named step.
        self._dying = Agent(root, pools, STOPPING, log_level="info")
        for agent in (self.agent, self._dying):
            stack.callback(kill, agent)
        self._node = DemoNode(story, self.agent, stack)

    async def tell(self) -> None:
        async with self._node.kubelet:
            await self._show_node()
            home = await self._start_agent()
            a, b, dpdk = await self._admit_pods()
            await self._attach_kernel_vfs(a, b)
            await self._attach_vfio_vf(dpdk)
            await self._kill_agent(a, b)
            await self._kill_agent_in_add(a, b)
            self.story.part("The pods end: every VF comes home")
            await self._end(home, a, b, dpdk)
            await self._reuse(home, a)
            await self._stop_agent()

    async def _show_node(self) -> None:
        self.story.part("A node with SR-IOV NICs and not one VF")
        pfs = await self._node.do("looking at the node", node.pfs)
        shown = ", ".join(f"{node.netdev_name(pf)} ({show_numa_node(pf.numa_node)})" for pf in pfs)
        self.story.claim(f"3 PFs without VFs: {shown}", expected=(3, 0),
                         seen=(len(pfs), sum(pf.num_vfs for pf in pfs)))

    async def _start_agent(self) -> dict[str, Any]:
        """The host's links once all is made: what they must look like again at the end."""
        self.story.part("vfpool-agent starts, and is told no more than deploy/examples/pools.yaml")
        await self._node.do("the agent starts", self.agent.start)
        self.story.claim("the agent serves CNI calls", expected=True, seen=self.agent.serves())
        await self._node.wait_allocatable(ALLOCATABLE, "the agent makes VFs, binds drivers, registers",
                                          self.agent)
        pfs = await self._node.do("NICs get a carrier", wait_for_carriers)
        home = await self._node.do("udev names the netdevs", settled_links)
        drivers = Counter((DEVICES / vf.address / "driver").resolve().name for pf in pfs for vf in pf.vfs)
        self.story.claim("21 VFs made: 14 bound to igbvf, 7 to vfio-pci",
                         expected={"igbvf": 14, "vfio-pci": 7}, seen=dict(drivers))
        self.story.claim(f"snapshot of the host (ip -j -d link): {len(home)} links, 21 VFs",
                         expected=21, seen=count_vfs(home))
        return home

    async def _admit_pods(self) -> tuple[Pod, Pod, Pod]:
        self.story.part("The kubelet admits three pods and asks the agent for their VFs")
        a = await self._node.admit("default/a", SRIOV, "10.9.0.1/24", vlan=100, mac="02:00:00:00:09:0a")
        b = await self._node.admit("default/b", SRIOV, "10.9.0.2/24", vlan=100)
        dpdk = await self._node.admit("default/dpdk", DPDK, None, vlan=300, mac="02:00:00:00:09:0d")
        group = f"/dev/vfio/{(DEVICES / dpdk.vf / 'iommu_group').resolve().name}"
        self.story.claim(
            f"default/dpdk gets device nodes that exist: /dev/vfio/vfio and its IOMMU group's {group}",
            expected=[("/dev/vfio/vfio", True), (group, True)],
            seen=[(path, Path(path).is_char_device()) for path in dpdk.devices])
        return a, b, dpdk

    async def _attach_kernel_vfs(self, a: Pod, b: Pod) -> None:
        self.story.part("The runtime calls the CNI executable: VFs move into the pods a and b")
        await self._node.attach(a)
        await self._node.attach(b)
        await self._node.claim_ping(a, b, 3)
        await self._node.claim_neighbour(b, a)
        for vlan, answered in ((200, 0), (100, 3)):
            await self._node.call("DEL", b)
            b.conf["vlan"] = vlan
            await self._node.attach(b)
            await self._node.claim_ping(a, b, answered)

    async def _attach_vfio_vf(self, dpdk: Pod) -> None:
        self.story.part("A VF for DPDK has no netdev to move: its PF alone enforces VLAN and MAC")
        result = await self._node.call("ADD", dpdk)
        shown = await self._node.do("asking the PF", lambda: describe_vf(dpdk.vf))
        self.story.claim(f"default/dpdk has {dpdk.vf}; its PF: {shown}",
                         expected=f"VLAN 300, MAC {dpdk.mac}, trust off", seen=shown)
        self.story.claim("the CNI result tells the pod so", expected=[(dpdk.vf, dpdk.mac)],
                         seen=[(each["pciID"], each["mac"]) for each in result["interfaces"]])

    async def _kill_agent(self, a: Pod, b: Pod) -> None:
        self.story.part("kill -9 of the agent under running pods")
        status = await self._node.do("the agent dies", lambda: self.agent.stop(signal.SIGKILL))
        self.story.claim("the agent is killed", expected=-signal.SIGKILL, seen=status)
        await self._node.wait_allocatable({SRIOV: 0, DPDK: 0}, "the kubelet notices")
        await self._node.claim_ping(a, b, 3, ", without an agent")

    async def _kill_agent_in_add(self, a: Pod, b: Pod) -> None:
        self.story.part("The next agent is killed in the middle of an ADD")
        await self._node.do("the agent starts", lambda: self._dying.start(VFPOOL_KILL_AT="move"))
        await self._node.wait_allocatable(ALLOCATABLE, "the agent registers", self._dying)
        before = await self._node.do("looking at the links", settled_links)
        c = await self._node.admit("default/c", SRIOV, "10.9.0.3/24", vlan=100, mac="02:00:00:00:09:0c")
        code = await self._node.do("CNI ADD for default/c", lambda: self._fail_add(c))
        status = await self._node.do("the agent dies", self._dying.wait)
        mac = await self._node.do("looking into the pod", c.seen_mac)
        self.story.claim("ADD for default/c: the agent dies, its VF in the pod; the runtime shall try again",
                         expected=(TRY_AGAIN_LATER, -signal.SIGKILL, c.mac), seen=(code, status, mac))
        await self._node.do("the agent starts", self.agent.start)
        await self._node.claim_same(before, "the third agent brought that VF home")
        await self._node.attach(c)
        await self._node.claim_ping(a, c, 3)
        await self._node.call("DEL", c)
        self._node.kubelet.remove(c.name)
        await self._node.wait_allocatable(ALLOCATABLE, "the agent registers", self.agent)
        await self._node.claim_ping(a, b, 3, ", all the while attached")

    def _fail_add(self, pod: Pod) -> int | None:
        """The error code of an ADD; None if it succeeds."""
        try:
            self._node.cni.add(pod.conf, pod.container, pod.netns)
        except CniFailed as error:
            return error.code
        return None

    async def _end(self, home: Mapping[str, Any], *pods: Pod) -> None:
        for pod in pods:
            await self._node.call("DEL", pod)
            self._node.kubelet.remove(pod.name)
        self.story.claim("the agent has no record of a VF in a pod", expected=[], seen=self.agent.records())
        await self._node.claim_same(home, "names, altnames, MACs, VLAN, trust, spoofchk, rates, MTU")

    async def _reuse(self, home: Mapping[str, Any], a: Pod) -> None:
        self.story.part("The next pods get the same VFs, with other MACs, untrusted as before")
        d = await self._node.admit("default/d", SRIOV, "10.9.0.1/24", vlan=100, mac="02:00:00:00:09:dd")
        e = await self._node.admit("default/e", SRIOV, "10.9.0.2/24", vlan=100, mac="02:00:00:00:09:ee")
        self.story.claim("default/d has the VF that default/a had", expected=a.vf, seen=d.vf)
        await self._node.attach(d)
        await self._node.attach(e)
        await self._node.claim_ping(d, e, 3)
        await self._node.claim_neighbour(e, d)
        await self._end(home, d, e)

    async def _stop_agent(self) -> None:
        self.story.part("The agent stops")
        status = await self._node.do("the agent stops", self.agent.stop)
        sockets = [path for path in self.agent.root.rglob("*") if path.is_socket()]
        left = [path for path in sockets if path.name != "kubelet.sock"]
        self.story.claim("exit status 0, and none of its sockets is left",
                         expected=(0, []), seen=(status, left))


def wait_for_carriers() -> Any:
    """The PFs, with all that the agent made of them."""
    for pf in node.pfs():
        node.wait_for_carrier(pf)
    return node.pfs()


def kill(agent: Agent) -> None:
    if agent.running:
        agent.stop(signal.SIGKILL)


def main() -> int:
    story = Story()
    sys.stdout.write(PREFACE)
    with tempfile.TemporaryDirectory(prefix="vfpool-demo-") as folder, ExitStack() as stack:
        demo = Demo(story, Path(folder), stack)
        try:
            asyncio.run(demo.tell())
        except FAILURES as error:
            log = demo.agent.tail() if demo.agent.log.exists() else "it never started\n"
            sys.stdout.write(f"\nFAILED ({story.doing}): {error}\n\nThe agent's log ends:\n{log}")
            return 1
        except KeyboardInterrupt:
            return 130
    sys.stdout.write(f"\nEvery claim held: {story.claims} of them, in {story.seconds:.0f} s.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
