"""What the parts of the agent know, joined to one status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cni.owners import list_owners
from cni.record import Baseline, Phase, Record
from cni.record import Owner as RecordOwner
from deviceplugin.inventory import Snapshot, plan_members
from deviceplugin.nodestatus import Agent, Knowledge, describe_node
from sriov.clock import now
from sriov.host.sysfs import Sysfs
from sriov.model import Host, VfSettings
from sriov.pci import PciAddress
from sriov.pools.assignment import Member, assign
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.guards import Override, Refusal
from sriov.provision.terms import Failure, Report
from sriov.status import (
    BroughtHome,
    Moment,
    Owner,
    PfStatus,
    PoolFileStatus,
    Problem,
    Registration,
    Repairs,
    format_status,
    parse_status,
)
from tests.support.tree import Pf, Tree

POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - match: {name: ens1f0}
    numVfs: 4
pools:
  - resource: sriov
    select: [{pf: ens1f0, vfs: 0-1}, {pf: ens2f0}]
  - resource: sriov_dpdk
    select: [{pf: ens1f0, vfs: "2"}]
    driver: vfio-pci
"""
FIRST, SECOND = PciAddress("0000:3b:00.0"), PciAddress("0000:5e:00.0")
AGENT = Agent(version="0.1.0", started=Moment("2026-11-21T17:43:37Z"))
OWNER = Owner(container_id="abc", ifname="net1", network="fast", phase="attached", netns="/run/netns/x", pod="d/a")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree = Tree(tmp_path / "sys")
    tree.add(Pf("0000:3b:00.0", "ens1f0", num_vfs=4, iommu=True, away={1}, numa_node=1))
    tree.add(Pf("0000:5e:00.0", "ens2f0", num_vfs=1))
    tree.add(Pf("0000:af:00.0", "ens3f0", num_vfs=1))
    return Sysfs(tree.root).scan(tree.links)


def know(host: Host, members: Mapping[str, tuple[Member, ...]] | None = None, **more: Any) -> Knowledge:
    file = parse_pool_file(POOLS, "pools.yaml")
    found = plan_members({}, assign(host, file.pools)) if members is None else members
    values: dict[str, Any] = {
        "snapshot": Snapshot(version=3, members=MappingProxyType(dict(found))),
        "since": Moment("2026-11-21T18:00:00Z"), "host": host, "pool_file": file,
        "file": PoolFileStatus(path="/etc/vfpool/pools.yaml", since=Moment("2026-11-21T17:43:38Z")), **more}
    return Knowledge(**values)


def test_resources_and_their_vfs(host: Host) -> None:
    away = PciAddress("0000:3b:02.1")
    known = know(host, owners={away: OWNER}, kubelet={"intel.com/sriov": Registration(registered=True)})
    status = describe_node(AGENT, known)
    assert parse_status(format_status(status)) == status
    kernel, dpdk = status.resources
    assert (kernel.resource, [vf.address for vf in kernel.vfs]) == (
        "intel.com/sriov", ["0000:3b:02.0", "0000:3b:02.1", "0000:5e:02.0"])
    assert (kernel.healthy, kernel.in_pods, kernel.kubelet) == (3, 1, Registration(registered=True))
    in_pod = kernel.vfs[1]
    assert (in_pod.pf, in_pod.pf_name, in_pod.index, in_pod.driver, in_pod.numa_node) == (
        FIRST, "ens1f0", 1, "igbvf", 1)
    assert (in_pod.away, in_pod.owner) == (True, OWNER)
    assert (dpdk.healthy, dpdk.in_pods, dpdk.kubelet) == (0, 0, None)
    assert dpdk.vfs[0].fault == "bound to igbvf, the pool wants vfio-pci"
    assert (status.snapshot, status.agent_version, status.unpooled, status.problems) == (3, "0.1.0", (), ())


def test_resources_are_those_of_the_file_before_the_first_look() -> None:
    status = describe_node(AGENT, replace(know(Host(), {}), snapshot=Snapshot(version=0)))
    assert [(each.resource, each.vfs) for each in status.resources] == [
        ("intel.com/sriov", ()), ("intel.com/sriov_dpdk", ())]
    assert [each.message for each in status.find_problems()] == ["the node has not been looked at yet"]


def test_pfs_and_what_came_of_provisioning(host: Host) -> None:
    refused = Refusal(pf=FIRST, message="numVfs 6: it has 4 VFs", hint="drain it", override=Override.DISTURB_VFS)
    failed = Failure(pf=FIRST, what="cannot make 4 VFs", left=("numVfs is 0",))
    gone = Failure(pf=PciAddress("0000:00:00.0"), what="cannot look at it")
    status = describe_node(AGENT, know(host, report=Report(refused=(refused,), failed=(failed, gone))))
    says = (Problem(message="numVfs 6: it has 4 VFs",
                    hint="drain it; to do it all the same: override disturb-vfs"),
            Problem(message="cannot make 4 VFs; left behind: numVfs is 0"))
    assert status.pfs == (
        PfStatus(address=FIRST, name="ens1f0", num_vfs=4, total_vfs=7, wanted=4, problems=says),
        PfStatus(address=SECOND, name="ens2f0", num_vfs=1, total_vfs=7))
    assert status.problems == (Problem(message="cannot look at it"),)


def test_what_pods_have_and_no_pool_does(host: Host) -> None:
    stray, lost = PciAddress("0000:3b:02.3"), PciAddress("0000:3b:09.9")
    status = describe_node(AGENT, know(host, owners={lost: OWNER, stray: OWNER},
                                       problems=(Problem(message="disk full"),)))
    assert [(vf.address, vf.owner) for vf in status.unpooled] == [(stray, OWNER)]
    assert [each.message for each in status.problems] == [
        "disk full", "VF 0000:3b:09.9 is not on the host, but pod d/a, net1 of network fast has it"]


def test_what_was_mended_and_what_stands(host: Host) -> None:
    standing = Problem(message="VF 0000:3b:02.1 is not home", since=Moment("2026-11-21T18:00:00Z"))
    repairs = Repairs(brought_home=(BroughtHome(reason="its network namespace is gone", vfs=2),), paid_late=1,
                      set_aside=1, last="VF", last_at=Moment("2026-11-21T18:00:09Z"), standing=(standing,))
    status = describe_node(AGENT, know(host, repairs=repairs))
    assert parse_status(format_status(status)).repairs == repairs
    assert standing in status.find_problems()


def test_what_could_not_be_read(host: Host) -> None:
    status = describe_node(AGENT, know(replace(host, unreadable=("cannot read PF 0000:af:00.0: EIO",))))
    assert status.unreadable == ("cannot read PF 0000:af:00.0: EIO",)
    assert "cannot read PF 0000:af:00.0: EIO" in [each.message for each in status.find_problems()]


def test_owners_are_those_of_the_records() -> None:
    def record(vf: str, pod: str) -> Record:
        return Record(
            vf=PciAddress(vf), pf=FIRST, index=1, boot_id="b", phase=Phase.ATTACHED, sets_mac=False,
            owner=RecordOwner(container_id="abc", ifname="net1", network="fast", netns="/run/netns/x", cookie=1,
                              pod=pod),
            baseline=Baseline(link=None, settings=VfSettings(), admin_mac=False))

    first, second = PciAddress("0000:3b:02.0"), PciAddress("0000:3b:02.1")
    assert list_owners([record(first, "d/a"), record(second, "")]) == {
        first: OWNER, second: replace(OWNER, pod=None)}


def test_the_time_is_one_that_can_be_read() -> None:
    assert Moment.parse(now()) == now()[:20]
