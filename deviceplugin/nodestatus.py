"""How the node is, for `vfpool status`: joins what the parts of the agent know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deviceplugin.inventory import Snapshot
from sriov.model import Host, PhysicalFunction, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import PoolFile
from sriov.provision.guards import Refusal
from sriov.provision.plan import find_entry
from sriov.provision.terms import Report
from sriov.status import (
    Moment,
    NodeStatus,
    Owner,
    PfStatus,
    PoolFileStatus,
    Problem,
    Registration,
    Repairs,
    ResourceStatus,
    VfStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The process itself."""

    version: str
    started: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the agent knows at one moment. `pool_file` is the one in force, `file` where it is from and its state.

    `owners`: who has which VF. `kubelet`: by resource. `report`: of the last try to make the host fit the file.
    `repairs`: what was mended of VFs that pods had. `problems`: what else went wrong, of the node as a whole.
    """

    snapshot: Snapshot
    since: Moment                     # since when there is that snapshot
    host: Host
    pool_file: PoolFile
    file: PoolFileStatus
    owners: Mapping[PciAddress, Owner] = field(default_factory=dict)
    kubelet: Mapping[str, Registration] = field(default_factory=dict)
    report: Report | None = None
    repairs: Repairs = field(default_factory=Repairs)
    problems: Sequence[Problem] = ()


def describe_node(agent: Agent, known: Knowledge) -> NodeStatus:
    """Resources in the order of the pool file, then those of earlier files that the kubelet still sees."""
    members = known.snapshot.members
    names = dict.fromkeys([*(pool.resource for pool in known.pool_file.pools), *members])
    resources = tuple(
        ResourceStatus(
            resource=name, kubelet=known.kubelet.get(name),
            vfs=tuple(_describe_vf(member.vf, known, member.fault) for member in known.snapshot.get_members(name)))
        for name in names
    )
    pooled = {vf.address for resource in resources for vf in resource.vfs}
    strays = [address for address in known.owners if address not in pooled]
    there = [vf for address in strays if (vf := known.host.find_vf(address)) is not None]
    return NodeStatus(
        agent_version=agent.version, started=agent.started,
        snapshot=known.snapshot.version, since=known.since, pool_file=known.file,
        resources=resources, pfs=tuple(_describe_pfs(known, resources)),
        unpooled=tuple(_describe_vf(vf, known, None) for vf in sorted(there, key=lambda vf: vf.address.order)),
        problems=(*known.problems, *_find_lost(strays, known)),
        unreadable=known.host.unreadable, repairs=known.repairs,
    )


def _describe_vf(vf: VirtualFunction, known: Knowledge, fault: str | None) -> VfStatus:
    pf = known.host.find_pf(vf.pf)
    return VfStatus(
        address=vf.address, pf=vf.pf, pf_name=_name(pf) if pf else None, index=vf.index, driver=vf.driver,
        numa_node=vf.numa_node, fault=fault, away=vf.away, owner=known.owners.get(vf.address))


def _describe_pfs(known: Knowledge, resources: Sequence[ResourceStatus]) -> Iterator[PfStatus]:
    """Those that are in the pool file's hands, or whose VFs are in a pool's."""
    serving = {vf.pf for resource in resources for vf in resource.vfs}
    troubles = list(_find_troubles(known.report))
    for pf in known.host.pfs:
        entry = find_entry(pf, known.pool_file.physical_functions)
        if entry is None and pf.address not in serving:
            continue
        yield PfStatus(
            address=pf.address, name=_name(pf), num_vfs=pf.num_vfs, total_vfs=pf.total_vfs,
            wanted=None if entry is None else entry.num_vfs,
            problems=tuple(problem for address, problem in troubles if address == pf.address))


def _find_troubles(report: Report | None) -> Iterator[tuple[PciAddress, Problem]]:
    """What was refused and what failed, with the PF."""
    if report is not None:
        for refusal in report.refused:
            yield refusal.pf, _describe_refusal(refusal)
        for failure in report.failed:
            yield failure.pf, Problem(message=str(failure))


def _describe_refusal(refusal: Refusal) -> Problem:
    says = [refusal.hint] if refusal.hint else []
    if refusal.override is not None:
        says.append(f"to do it all the same: override {refusal.override}")
    return Problem(message=refusal.message, hint="; ".join(says) or None)


def _find_lost(strays: Sequence[PciAddress], known: Knowledge) -> Iterator[Problem]:
    """What is about functions that the host does not show."""
    for address in strays:
        if known.host.find_vf(address) is None:
            yield Problem(message=f"VF {address} is not on the host, but {known.owners[address]} has it")
    for pf, problem in _find_troubles(known.report):
        if known.host.find_pf(pf) is None:
            yield problem


def _name(pf: PhysicalFunction) -> str | None:
    return pf.known_link.name if pf.known_link else None
