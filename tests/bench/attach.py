"""ADD and DEL on real VFs beside the bare kernel operations and, where VFPOOL_PEERS has it, sriov-cni.

`python -m tests.bench.attach [rounds]`, inside the lab. All of a case take turns on the same VFs in one run. The
floor is the netlink messages that the driver needs and the reads that verify them, and nothing else, from one
process that has sockets and descriptors open.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.netns import links_in, open_netns
from sriov.host.netlink import Links
from sriov.model import Link, VfSettings, VirtualFunction
from sriov.pci import MacAddress
from tests.bench.turns import show, timed
from tests.support import node
from tests.support.node import Agent, Cni, config, netns

POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
pools:
  - resource: sriov
    select: [{device: 10ca}]
"""
MAC = MacAddress("02:00:00:00:00:01")
AT_ONCE = 7        # VFs of each of two PFs

Pair = tuple[Callable[[], None], Callable[[], None]]     # one ADD and its DEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    keys: dict[str, Any]
    untrusted_mac: bool = False        # sriov-cni fails here on igb


CASES = (
    Case(name="VLAN", keys={"vlan": 100}),
    Case(name="VLAN + MAC + trust", keys={"vlan": 100, "mac": MAC, "trust": "on"}),
    Case(name="VLAN + MAC, untrusted", keys={"vlan": 100, "mac": MAC}, untrusted_mac=True),
)


class Floor:
    """The messages themselves, by the same encoder."""

    def __init__(self, host: Links, host_fd: int, pod: Links, pod_fd: int, vf: VirtualFunction, case: Case) -> None:
        pf = next(pf for pf in node.pfs() if pf.address == vf.pf)
        assert pf.link is not None
        assert vf.link is not None
        self._host, self._host_fd, self._pod, self._pod_fd = host, host_fd, pod, pod_fd
        self._pf, self._vf, self._link, self._case = pf.link.index, vf.index, vf.link, case
        self._mac = case.keys.get("mac")
        self._trust = {"on": True}.get(case.keys.get("trust", ""))

    def add(self) -> None:
        self._host.find(self._link.index)
        self._host.vf_settings(self._pf)
        self._set(mac=MacAddress.ZERO if self._mac else None, vlan=100, vlan_qos=0, trust=self._trust)
        self._host.change(self._link.index, "move", netns_fd=self._pod_fd, name="net1", mac=self._mac, up=True)
        if self._mac:
            self._set(mac=self._mac)
        self._host.vf_settings(self._pf)
        self._pod.find("net1")

    def delete(self) -> None:
        link: Link | None = self._pod.find("net1")
        assert link is not None
        if self._mac:
            self._set(mac=MacAddress.ZERO)
            self._pod.change(link.index, "mac", mac=self._link.mac, up=True)
        self._pod.change(link.index, "move", netns_fd=self._host_fd, name=self._link.name, up=False)
        self._set(vlan=0, vlan_qos=0, trust=False if self._trust else None)
        self._host.find(self._link.index)
        self._host.vf_settings(self._pf)

    def _set(self, **settings: Any) -> None:
        self._host.set_vf(self._pf, self._vf, VfSettings(**settings), "set")


def cni_pair(cni: Cni, vf: VirtualFunction, pod: str, keys: dict[str, Any]) -> Pair:
    conf = config(vf.address, **keys)
    return lambda: add(cni, conf, pod), lambda: cni.delete(conf, Path(pod).name, pod)


def add(cni: Cni, conf: dict[str, Any], pod: str) -> None:
    cni.add(conf, Path(pod).name, pod)


@contextmanager
def contestants(cni: Cni, vf: VirtualFunction, case: Case) -> Iterator[dict[str, Pair]]:
    with netns() as pod, open_netns(pod) as pod_fd, open_netns("/proc/self/ns/net") as host_fd, \
            Links.open() as host, links_in(pod_fd) as inside:
        floor = Floor(host, host_fd, inside, pod_fd, vf, case)
        found = {"floor": (floor.add, floor.delete), "vfpool": cni_pair(cni, vf, pod, case.keys)}
        if (peer := find_peer()) is not None and not case.untrusted_mac:
            found["sriov-cni"] = cni_pair(Cni(Path("/nonexistent"), (str(peer),)), vf, pod, case.keys)
        yield found


def find_peer() -> Path | None:
    folder = os.environ.get("VFPOOL_PEERS")
    return Path(folder, "sriov") if folder and Path(folder, "sriov").exists() else None


def run_case(cni: Cni, vfs: tuple[VirtualFunction, ...], case: Case, rounds: int) -> None:
    adds: dict[str, list[float]] = {}
    dels: dict[str, list[float]] = {}
    for vf in vfs:
        with contestants(cni, vf, case) as pairs:
            for number in range(rounds + 1):
                for name, (attach, detach) in pairs.items():
                    attached, detached = timed(attach), timed(detach)
                    if number:         # the first is a warm-up
                        adds.setdefault(name, []).append(attached)
                        dels.setdefault(name, []).append(detached)
    floor = statistics.median(adds["floor"]) + statistics.median(dels["floor"])
    peer = statistics.median(adds.get("sriov-cni", [0])) + statistics.median(dels.get("sriov-cni", [0]))
    for name in adds:
        both = statistics.median(adds[name]) + statistics.median(dels[name])
        against = f"{both / peer:12.2f}" if peer else f"{'-':>12}"
        show(f"{case.name:24}{name:11}{statistics.median(adds[name]):9.1f}{tail(adds[name]):9.1f}"
             f"{statistics.median(dels[name]):9.1f}{tail(dels[name]):9.1f}{both / floor:9.2f}{against}")


def tail(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def run_at_once(cni: Cni, vfs: tuple[VirtualFunction, ...], rounds: int) -> None:
    """All at once through the executable, against the same one after another at the floor."""
    case = CASES[2]
    floors, ours = [], []
    with ExitStack() as stack:
        pods = [stack.enter_context(netns()) for _ in vfs]
        pairs = [stack.enter_context(contestants(cni, vf, case))["floor"] for vf in vfs]
        calls = [(config(vf.address, **case.keys | {"mac": f"02:00:00:00:01:{n:02x}"}), f"c{n}", pod)
                 for n, (vf, pod) in enumerate(zip(vfs, pods, strict=True))]

        def at_the_floor() -> None:
            for attach, detach in pairs:
                attach()
                detach()

        def at_once() -> None:
            for command in ("ADD", "DEL"):
                for process in [cni.start(command, *call) for call in calls]:
                    cni.finish(process)

        for number in range(rounds + 1):
            times = timed(at_the_floor), timed(at_once)
            if number:
                floors.append(times[0])
                ours.append(times[1])
    floor, wall = statistics.median(floors), statistics.median(ours)
    show(f"\n{len(vfs)} ADD and DEL, VLAN + MAC, two PFs: one after another at the floor {floor:.0f} ms, "
         f"at once through vfpool {wall:.0f} ms, ratio {wall / floor:.2f}")


def main(rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Path(folder), POOLS, log_level="info")
        (agent.kubelet / "plugins_registry").mkdir(parents=True)      # as on a node
        pfs = node.pfs()[:2]
        vfs = tuple(vf for pf in pfs for vf in node.make_vfs(pf, AT_ONCE))
        agent.start()
        try:
            show(f"{'milliseconds':35}{'ADD p50':>9}{'p99':>9}{'DEL p50':>9}{'p99':>9}{'x floor':>9}"
                 f"{'x sriov-cni':>12}")
            for case in CASES:
                run_case(Cni(agent.socket), vfs[:AT_ONCE], case, rounds)
            if find_peer() is None:
                show("sriov-cni: not measured, VFPOOL_PEERS names no folder that has it")
            run_at_once(Cni(agent.socket), vfs, rounds)
        finally:
            agent.stop()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
