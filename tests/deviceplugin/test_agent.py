"""The whole agent on a node in memory, beside a kubelet, while its pool file changes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deviceplugin import agent as agent_module
from deviceplugin.agent import Agent, Node
from deviceplugin.kubeletdir import identify
from deviceplugin.lookout import Lookout
from deviceplugin.nodestatus import Agent as Process
from deviceplugin.podresources import FRESH_SECONDS, PodResources
from deviceplugin.poolsource import PoolSource
from sriov.clock import now
from sriov.commands.status import ask_agent
from sriov.errors import Refused
from sriov.host.knownfile import KnownFile
from sriov.model import Host, RdmaDevice
from sriov.pci import PciAddress
from sriov.provision.ledger import Ledger
from sriov.provision.terms import no_claims
from sriov.status import Owner, Repairs
from tests.deviceplugin.harness import configure, run, socket_of, until
from tests.sriov.fakenode import FakeNode, make_pf
from tests.support.kubelet import Kubelet

A, B = PciAddress("0000:01:00.0"), PciAddress("0000:21:00.0")
BOOT = "b7a3c0de"
HEAD = "apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"


@pytest.fixture
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="agent-") as folder:      # short: a unix socket's path has 107 bytes
        yield Path(folder)


class FakePods:
    """Pods that have VFs, and calls that are at one."""

    def __init__(self) -> None:
        self.held: set[PciAddress] = set()
        self.busy: set[PciAddress] = set()
        self.spoiled: dict[PciAddress, str] = {}
        self.stuck: dict[PciAddress, str] = {}

    def holds(self, vf: PciAddress) -> bool:
        return vf in self.held

    def keep_off(self, vf: PciAddress) -> AbstractContextManager[None]:
        return self._keep_off(vf)

    @contextmanager
    def _keep_off(self, vf: PciAddress) -> Iterator[None]:
        if vf in self.busy:
            raise Refused(f"VF {vf} is on its way to a pod or home")
        yield

    def owners(self) -> dict[PciAddress, Owner]:
        return {vf: Owner(container_id="c1", ifname="net1", network="n", phase="attached", netns="/run/netns/x")
                for vf in self.held}


def pools(**selectors: str) -> str:
    each = (f"  - resource: {name}\n    select: [{{{text}}}]\n" for name, text in selectors.items())
    return "pools:\n" + "".join(each)


def entry(count: int, force: str = "") -> str:
    return f"physicalFunctions:\n  - {{match: {{name: ens1}}, numVfs: {count}{force}}}\n"


class Site:
    """A node in memory, and a folder with its pool file, the agent's state and room for a kubelet."""

    def __init__(self, root: Path, node: FakeNode) -> None:
        self.root = root
        self.node = node
        self.pods = FakePods()
        self.changes = 0            # how often the pods' part was told that the host changed
        self.status_socket = root / "status.sock"
        self.path = root / "pools.yaml"

    def write(self, body: str) -> None:
        draft = self.root / "draft.yaml"
        draft.write_text(HEAD + body)
        draft.replace(self.path)

    def _count(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self, body: str) -> AsyncIterator[Agent]:
        """The agent, running; an error in it fails the test."""
        self.write(body)
        known = KnownFile(self.root / "known.json", BOOT)
        node = Node(lookout=Lookout(self.node.host, known), executor=self.node.executor(),
                    ledger=Ledger(self.root, BOOT), pods=self.pods, kubelet=PodResources(self.root),
                    read_claims=no_claims, owners=self.pods.owners, repairs=Repairs,
                    spoiled=lambda: self.pods.spoiled, stuck=lambda: self.pods.stuck, changed=self._count)
        agent = Agent(Process(version="1", started=now()), node, PoolSource(self.path, "n1"), configure(self.root))
        task = asyncio.create_task(agent.run(self.status_socket), name="agent")
        try:
            await until(lambda: task.done() or agent.status().snapshot > 0)
            yield agent
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()


@pytest.fixture
def site(root: Path) -> Site:
    node = FakeNode(make_pf(A, 1), make_pf(B, 2))
    node.write_num_vfs(A, 4)
    node.write_num_vfs(B, 2)
    return Site(root, node)


def test_a_resource_comes_and_one_goes_with_the_pool_file(site: Site) -> None:
    async def scenario() -> None:
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1", two="pf: ens2")):
            await kubelet.wait_allocatable("intel.com/one", 4)
            await kubelet.wait_allocatable("intel.com/two", 2)
            one, two, three = (socket_of(site.root, True, f"intel.com/{name}") for name in ("one", "two", "three"))
            before = identify(one)
            site.write(pools(one="pf: ens1, vfs: 0-2", three="pf: ens2"))
            await kubelet.wait_allocatable("intel.com/three", 2)
            await kubelet.wait_allocatable("intel.com/two", 0)
            await kubelet.wait_allocatable("intel.com/one", 3)
            assert (three.exists(), two.exists()) == (True, False)
            assert identify(one) == before
            site.write(pools(two="pf: ens2"))
            await kubelet.wait_allocatable("intel.com/two", 2)
            await kubelet.wait_allocatable("intel.com/three", 0)
            assert [path.exists() for path in (one, two, three)] == [False, True, False]

    run(scenario)


def test_a_bad_file_changes_nothing_and_shows_in_the_status(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 4)
            assert (await asyncio.to_thread(ask_agent, site.status_socket)).pool_file.error is None
            site.write(pools(one="pf: ens1, vfs: 0-"))
            await until(lambda: agent.status().pool_file.error is not None)
            status = await asyncio.to_thread(ask_agent, site.status_socket)
            assert status.pool_file.error is not None
            assert f"{site.path}:5:30: pools[0].select[0].vfs: expected an index range" in status.pool_file.error
            assert [(each.resource, each.healthy) for each in status.resources] == [("intel.com/one", 4)]
            assert kubelet.allocatable("intel.com/one") == 4
            site.write(pools(one="pf: ens1, vfs: 0"))
            await kubelet.wait_allocatable("intel.com/one", 1)
            assert agent.status().pool_file.error is None

    run(scenario)
    assert sum("cannot be used" in record.getMessage() for record in caplog.records) == 1


def test_provisioning_follows_the_pool_file(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        one = pools(one="pf: ens1")
        async with Kubelet(site.root) as kubelet, site.running(entry(4) + one):
            await kubelet.wait_allocatable("intel.com/one", 4)
            await until(lambda: "the host is as the pool file says" in caplog.text)
            site.write(entry(6) + one)
            await until(lambda: "override disturb-vfs" in caplog.text)
            assert site.node.pfs[A].num_vfs == 4
            site.write(entry(6, ", force: [disturb-vfs, adopt]") + one)
            await kubelet.wait_allocatable("intel.com/one", 6)
            site.write(entry(6) + one + "    driver: vfio-pci\n")
            await until(lambda: {vf.driver for vf in site.node.pfs[A].vfs} == {"vfio-pci"})
            await kubelet.wait_allocatable("intel.com/one", 6)

    run(scenario)


def test_a_vf_that_a_call_is_at_is_left_alone_and_tried_again(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deviceplugin.provisioner.RETRY", 0.1)

    async def scenario() -> None:
        first = site.node.pfs[A].vfs[0].address
        site.pods.busy.add(first)
        text = entry(4, ", force: [adopt]") + pools(one="pf: ens1") + "    driver: vfio-pci\n"
        async with site.running(text) as agent:
            await until(lambda: "is on its way to a pod or home" in caplog.text)
            await until(lambda: {vf.driver for vf in site.node.pfs[A].vfs[1:]} == {"vfio-pci"})
            assert site.node.pfs[A].vfs[0].driver == "igbvf"
            (problem,) = next(pf for pf in agent.status().pfs if pf.address == A).problems
            assert problem.message == (
                f"cannot bind VF {first} to vfio-pci (now igbvf): VF {first} is on its way to a pod or home")
            site.pods.busy.clear()
            await until(lambda: site.node.pfs[A].vfs[0].driver == "vfio-pci")
            await until(lambda: not any(pf.problems for pf in agent.status().pfs))

    run(scenario)
    assert caplog.text.count("is on its way to a pod or home") == 1      # however often it was tried


def test_a_vf_that_the_kubelet_gave_away_keeps_its_driver_until_its_pod_ends(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a CNI call: as a pod has it that names no network, or whose sandbox is not made yet."""
    monkeypatch.setattr("deviceplugin.provisioner.RETRY", 0.1)

    async def scenario() -> None:
        adopting = entry(4, ", force: [adopt]") + pools(one="pf: ens1")
        async with Kubelet(site.root) as kubelet, site.running(adopting):
            await kubelet.wait_allocatable("intel.com/one", 4)
            given = await kubelet.admit("default/a", {"app": {"intel.com/one": 1}})
            mine, = given["app"].device_ids["intel.com/one"]

            def drivers() -> set[str | None]:
                return {vf.driver for vf in site.node.pfs[A].vfs if vf.address != mine}

            site.write(adopting + "    driver: vfio-pci\n")
            await until(lambda: drivers() == {"vfio-pci"})
            in_use = f"VF {mine} is bound to igbvf, its pool wants vfio-pci: it is in use"
            await until(lambda: in_use in caplog.text)
            assert next(vf.driver for vf in site.node.pfs[A].vfs if vf.address == mine) == "igbvf"
            kubelet.remove("default/a")
            await until(lambda: {vf.driver for vf in site.node.pfs[A].vfs} == {"vfio-pci"})

    run(scenario)


def test_what_a_file_cannot_mean_for_this_node_is_said_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with site.running(entry(4) + pools(one="pf: ens1", none="pf: ens7")) as agent:
            await until(lambda: "intel.com/none gets no VF: no PF of this node is named ens7" in caplog.text)
            before = agent.status().snapshot
            site.node.write_num_vfs(A, 0)                    # is mended: another try by the same file
            agent._inventory.rescan()
            await until(lambda: site.node.pfs[A].num_vfs == 4)
            site.write(entry(4) + pools(one="pf: ens1", none="pf: ens8"))
            await until(lambda: "no PF of this node is named ens8" in caplog.text)
            await until(lambda: agent.status().snapshot > before)

    run(scenario)
    assert caplog.text.count("intel.com/none gets no VF") == 2


def test_vfs_that_a_new_file_takes_from_a_pool_leave_the_list_but_those_of_pods(site: Site) -> None:
    async def scenario() -> None:
        vfs = [vf.address for vf in site.node.pfs[A].vfs]
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 4)
            site.pods.held.add(vfs[3])
            site.write(pools(one="pf: ens1, vfs: 0-1"))
            await kubelet.wait_capacity("intel.com/one", 3)
            (resource,) = agent.status().resources
            assert {vf.address: vf.fault is None for vf in resource.vfs} == {
                vfs[0]: True, vfs[1]: True, vfs[3]: False}
            # One that is lost by no file's doing is expected back.
            lost = site.node.pfs[A]
            site.node.pfs[A] = replace(lost, vfs=lost.vfs[1:])
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 1)
            assert kubelet.capacity("intel.com/one") == 3
            site.node.pfs[A] = lost
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 2)

    run(scenario)


def test_a_vf_that_a_pod_spoiled_is_unhealthy_until_that_is_mended(site: Site) -> None:
    async def scenario() -> None:
        first = site.node.pfs[A].vfs[0].address
        site.pods.spoiled[first] = "its record was damaged"
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 3)
            (resource,) = agent.status().resources
            assert {vf.address: vf.fault for vf in resource.vfs if vf.fault} == {first: "its record was damaged"}
            site.pods.spoiled.clear()
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 4)

    run(scenario)


def test_a_vf_that_does_not_come_home_is_unhealthy_once_the_kubelet_has_taken_it_back(site: Site) -> None:
    async def scenario() -> None:
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 4)
            given = await kubelet.admit("default/a", {"app": {"intel.com/one": 1}})
            mine, = (PciAddress(vf) for vf in given["app"].device_ids["intel.com/one"])
            free = next(vf.address for vf in site.node.pfs[A].vfs if vf.address != mine)
            elsewhere = PciAddress("0000:99:00.1")
            site.pods.stuck = dict.fromkeys((mine, free, elsewhere), "it is not home")
            agent._inventory.rescan()

            def faults() -> dict[PciAddress, str | None]:
                members = agent._inventory.snapshot.get_members("intel.com/one")
                return {member.vf.address: member.fault for member in members if member.fault}

            await until(lambda: faults() == {free: "it is not home"})
            kubelet.remove("default/a")
            await asyncio.sleep(FRESH_SECONDS)       # as long an answer of the kubelet's counts
            agent._inventory.rescan()
            await until(lambda: set(faults()) == {mine, free})
            site.pods.stuck.clear()
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 4)

    run(scenario)


def test_a_vf_that_somebody_took_by_hand_is_unhealthy_until_its_netdev_is_back(site: Site) -> None:
    async def scenario() -> None:
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 4)
            here = site.node.pfs[A]
            given = await kubelet.admit("default/a", {"app": {"intel.com/one": 1}})
            (mine,) = given["app"].device_ids["intel.com/one"]
            await asyncio.sleep(FRESH_SECONDS)       # as long an answer of the kubelet's counts
            ours, stray, *rest = (vf for vf in here.vfs if vf.address != mine)
            site.pods.held.add(ours.address)
            site.node.pfs[A] = replace(here, vfs=tuple(
                vf if vf in rest else replace(vf, link=None) for vf in here.vfs))
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 3)
            (resource,) = agent.status().resources
            assert {vf.address: vf.fault for vf in resource.vfs if vf.fault} == {
                stray.address: "its netdev is in another network namespace, and no record says whose"}
            site.node.pfs[A] = here
            agent._inventory.rescan()
            await kubelet.wait_allocatable("intel.com/one", 4)

    run(scenario)


def test_a_vf_that_comes_home_during_a_look_is_not_taken_for_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look, here = site.node.host, site.node.pfs[A]
    (mine, *rest) = here.vfs
    looks: list[bool] = []

    def host() -> Host:
        found = look()
        looks.append(mine.address in site.pods.held)
        site.node.pfs[A] = here
        site.pods.held.clear()
        return found

    async def scenario() -> None:
        async with Kubelet(site.root) as kubelet, site.running(pools(one="pf: ens1")) as agent:
            await kubelet.wait_allocatable("intel.com/one", 4)
            site.pods.held.add(mine.address)
            site.node.pfs[A] = replace(here, vfs=(replace(mine, link=None), *rest))
            looks.clear()
            agent._inventory.rescan()
            await until(lambda: looks[:1] == [True])
            agent._inventory.rescan()
            await until(lambda: len(looks) > 1)

    monkeypatch.setattr(site.node, "host", host)
    run(scenario)
    assert "no record says whose" not in caplog.text


def test_versions_say_what_they_changed(site: Site) -> None:
    async def scenario() -> None:
        async with site.running(pools(one="pf: ens1", two="pf: ens2")) as agent:
            first = agent._inventory.snapshot
            assert (first.change.started, first.change.generation) == (("intel.com/one", "intel.com/two"), 1)
            site.write(pools(one="pf: ens1, vfs: 1-3", three="pf: ens2"))
            second = await agent._inventory.wait_newer(first.version)
            change = second.change
            assert (change.started, change.ended) == (("intel.com/three",), ("intel.com/two",))
            assert change.generation == 2
            assert {each.resource: (len(each.added), each.healthy, each.total) for each in change.resources} == {
                "intel.com/one": (0, 3, 4), "intel.com/three": (2, 2, 2)}

    run(scenario)


def test_who_has_a_vf_and_which_stop_leaves_no_socket(site: Site) -> None:
    async def scenario() -> None:
        site.pods.held.add(site.node.pfs[A].vfs[2].address)
        async with site.running(pools(one="pf: ens1")):
            (resource,) = (await asyncio.to_thread(ask_agent, site.status_socket)).resources
            assert [vf.owner is not None for vf in resource.vfs] == [False, False, True, False]
            assert os.stat(site.status_socket).st_mode & 0o777 == 0o600
        assert not site.status_socket.exists()

    run(scenario)


def test_a_vf_in_a_pod_keeps_what_its_pool_selects_it_by(root: Path) -> None:
    """RDMA devices leave with the netdev; a restarted agent finds them in its file."""
    node = FakeNode(make_pf(A, 1))
    node.write_num_vfs(A, 2)
    pf = node.pfs[A]
    at_home = tuple(replace(vf, rdma=(RdmaDevice(name=f"mlx5_{vf.index}"),)) for vf in pf.vfs)
    away = (replace(at_home[0], link=None, rdma=()), at_home[1])
    site = Site(root, node)
    site.pods.held.add(at_home[0].address)

    async def scenario() -> None:
        for vfs in (at_home, away, away):
            node.pfs[A] = replace(pf, vfs=vfs)
            async with site.running(pools(rdma="pf: ens1, rdma: true")) as agent:
                members = agent._inventory.snapshot.get_members("intel.com/rdma")
                assert [(member.vf.address, member.fault) for member in members] == [
                    (vf.address, None) for vf in at_home]

    run(scenario)


def test_what_the_kernel_says_is_a_hint_for_who_mends_vfs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Callable[[], None]] = []

    @contextmanager
    def watch(_: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> Iterator[None]:
        heard.append(changed)
        yield

    monkeypatch.setattr(agent_module, "KernelWatch", watch)

    async def scenario() -> None:
        async with site.running(pools(one="pf: ens1")):
            (changed,) = heard
            assert site.changes == 0
            changed()
            assert site.changes == 1

    run(scenario)
