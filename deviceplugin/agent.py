"""The agent at work: looks, provisioning, the kubelet and the pool file, each told of what the others find."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deviceplugin.inventory import Inventory, View
from deviceplugin.lookout import Lookout
from deviceplugin.nodestatus import Agent as Process
from deviceplugin.nodestatus import Knowledge, describe_node
from deviceplugin.podresources import PodResources
from deviceplugin.poolsource import PoolSource
from deviceplugin.provisioner import Provisioner, Surroundings
from deviceplugin.service import Service, ServiceConfig
from deviceplugin.statusserver import serving_status
from deviceplugin.watch import KernelWatch
from sriov.clock import moment
from sriov.model import Host, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile, assign
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.terms import ClaimReader
from sriov.status import NodeStatus, Owner, PoolFileStatus, Problem, Registration, Repairs

log = logging.getLogger("vfpool-agent")


class Pods(Protocol):
    """Who has VFs; any thread may ask."""

    def holds(self, vf: PciAddress) -> bool:
        """Whether a pod has it, or gets it just now."""

    def keep_off(self, vf: PciAddress) -> AbstractContextManager[None]:
        """Let no pod get it, or give it back, as long as the context lasts; raises Refused where one is at it."""


_STRAY = "its netdev is in another network namespace, and no record says whose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What the agent works on. `kubelet` knows which VFs pods were given, `owners` who has which by CNI, `repairs`
    what was mended of those; `spoiled` are VFs that no pod may have, `stuck` those that did not come home from pods
    that are gone, though the kubelet may know of them yet, each with the reason; `read_claims` tells who else makes
    VFs; `changed` is told when the kernel says that netdevs or PCI functions changed."""

    lookout: Lookout
    executor: Executor
    ledger: Ledger
    pods: Pods
    kubelet: PodResources
    read_claims: ClaimReader
    owners: Callable[[], Mapping[PciAddress, Owner]]
    repairs: Callable[[], Repairs]
    spoiled: Callable[[], Mapping[PciAddress, str]]
    stuck: Callable[[], Mapping[PciAddress, str]]
    changed: Callable[[], None]


class Agent:
    """Keeps the host as the pool file says and the kubelet told of it. Made on the loop that runs it."""

    def __init__(self, process: Process, node: Node, source: PoolSource, config: ServiceConfig) -> None:
        self._process = process
        self._node = node
        self._source = source
        self._inventory = Inventory(source.wish.file.pools)
        self._service = Service(config, self._inventory)
        around = Surroundings(look=node.lookout.look, executor=node.executor, ledger=node.ledger,
                              in_use=self._in_use, hold=node.pods.keep_off, read_claims=node.read_claims)
        self._provisioner = Provisioner(around, source.wish.file)
        self._settled = 0           # the generation of the last pool file that the host came to fit
        self._sweeps = False        # the next scan is after a try to make it fit a newer one

    async def run(self, status_socket: Path) -> None:
        """Until SIGTERM or SIGINT; as long, who connects to `status_socket` is told the status."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with serving_status(status_socket, self.status):
            with KernelWatch(loop, self._changed):
                await self._work(stop)

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._inventory.run(self._scan), name="inventory"),
                tasks.create_task(self._provisioner.run(self._tried), name="provision"),
                tasks.create_task(self._service.run(), name="serve"),
                tasks.create_task(self._source.follow(self._reload), name="follow the pool file"),
            ]
            await stop.wait()
            log.info("stopping")
            for task in running:
                task.cancel()

    def status(self) -> NodeStatus:
        """How the node is, as far as is known by now."""
        snapshot, wish = self._inventory.snapshot, self._source.wish
        troubles = (self._inventory.failure, self._provisioner.trouble, self._node.lookout.trouble,
                    self._node.kubelet.trouble)
        return describe_node(self._process, Knowledge(
            snapshot=snapshot, since=moment(snapshot.since), host=self._node.lookout.host, pool_file=wish.file,
            file=PoolFileStatus(path=str(self._source.path), since=moment(wish.since), error=wish.problem),
            owners=self._node.owners(), repairs=self._node.repairs(), report=self._provisioner.report,
            kubelet={name: Registration(registered=problem is None, problem=problem)
                     for name, problem in self._service.problems.items()},
            problems=[Problem(message=trouble) for trouble in troubles if trouble is not None],
        ))

    def _changed(self) -> None:
        self._inventory.rescan()
        self._node.changed()

    def _reload(self) -> None:
        self._provisioner.want(self._source.wish.file)
        self._inventory.rescan()

    def _tried(self, file: PoolFile) -> None:
        wish = self._source.wish
        if file == wish.file and wish.generation > self._settled:
            self._sweeps = True
            if self._provisioner.fulfilled:
                self._settled = wish.generation
        self._inventory.rescan()

    def _scan(self) -> View:
        sweeps, self._sweeps = self._sweeps, False
        wish = self._source.wish
        owned = frozenset(self._node.owners())      # before the look: a DEL may bring home what is away in it
        host = self._provisioner.look()
        pools = wish.file.pools
        return View(pools=pools, assignment=assign(host, pools, self._find_faults(host, owned)),
                    generation=wish.generation, held=self._find_held() if sweeps else None)

    def _find_faults(self, host: Host, owned: Container[PciAddress]) -> Mapping[PciAddress, str]:
        """Why the next pod could not use VFs, by who moves them; one that a pod has is not the next one's yet."""
        node = self._node
        stray = {vf.address: _STRAY for vf in host.vfs if vf.away and vf.last_link is not None
                 and vf.address not in owned and not node.pods.holds(vf.address)}
        free = {address: reason for address, reason in {**stray, **node.stuck()}.items()
                if (vf := host.find_vf(address)) is not None and not node.kubelet.holds(vf)}
        return {**free, **node.spoiled()}

    def _find_held(self) -> frozenset[PciAddress]:
        """Of the VFs that the kubelet sees, those that a pod has, or may have where that is not known."""
        listed = self._inventory.snapshot.members.values()
        return frozenset(member.vf.address for members in listed for member in members if self._in_use(member.vf))

    def _in_use(self, vf: VirtualFunction) -> bool:
        node = self._node
        return vf.away or vf.maybe_open or node.pods.holds(vf.address) or node.kubelet.holds(vf)
