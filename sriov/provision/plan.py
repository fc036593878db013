"""What to do to the host so that it fits the pool file, and what must not be done, as values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sriov.diagnosis.causes import find_limit
from sriov.model import Host, Link, PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver, PfEntry, Pool
from sriov.pools.prospects import imagine_vfs
from sriov.pools.ranges import name_indices
from sriov.provision.guards import NO_FACTS, Facts, Guard, InUse, Override, Refusal, name_wish
from sriov.provision.state import (
    ANY_VF,
    UNCHANGED,
    PfState,
    VfState,
    difference,
    find_unknown,
    settle,
    wanted_driver,
)
from sriov.provision.steps import (
    BindDriver,
    Disturbs,
    MakeVfs,
    PfStep,
    SetAutoprobe,
    SetEswitch,
    SetPfMtu,
    SetUp,
    SetVfMtu,
    SetVfSettings,
    Step,
    VfStep,
    say_settings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PfPlan:
    """One PF: steps of its own first, then those of its VFs, in the order in which they have to be done."""

    pf: PhysicalFunction
    pf_steps: tuple[PfStep, ...] = ()
    vf_steps: tuple[VfStep, ...] = ()
    refused: tuple[Refusal, ...] = ()
    later: tuple[str, ...] = ()       # "VFs 4-7: driver vfio-pci": what VFs get that the steps make

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*self.pf_steps, *self.vf_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`pfs` are those with anything to do or to refuse."""

    pfs: tuple[PfPlan, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(chain.from_iterable(each.steps for each in self.pfs))

    @property
    def refused(self) -> tuple[Refusal, ...]:
        return tuple(chain.from_iterable(each.refused for each in self.pfs))

    def describe(self) -> tuple[str, ...]:
        return (*(step.describe() for step in self.steps), *map(str, self.refused))


def plan_host(host: Host, entries: Sequence[PfEntry], pools: Sequence[Pool], in_use: InUse,
              tended: Container[PciAddress] = (), *, facts: Facts = NO_FACTS,
              overrides: Collection[Override] = ()) -> Plan:
    """Steps for the PFs that an entry matches, first match wins; no other PF is ever written to.

    `tended` are VFs that had their driver chosen before: who changed it since had a reason.
    VFs' steps are planned for the VFs that exist: after others were made, look and plan again.
    """
    guard = Guard(facts=facts, in_use=in_use)
    plans = (plan_pf(pf, settle(pf, entry, pools), replace(guard, overrides={*overrides, *entry.force}), tended,
                     entry.place)
             for pf in host.pfs if (entry := find_entry(pf, entries)) is not None)
    return Plan(pfs=tuple(plan for plan in plans if plan.steps or plan.refused))


def find_entry(pf: PhysicalFunction, entries: Sequence[PfEntry]) -> PfEntry | None:
    """The entry that a PF belongs to: the first that matches."""
    return next((entry for entry in entries if entry.match.matches(pf)), None)


def plan_pf(pf: PhysicalFunction, wish: PfState, guard: Guard, tended: Container[PciAddress] = (),
            place: str = "") -> PfPlan:
    """What makes the PF and the VFs that it has now as `wish` says; `place` is where that was written."""
    vf_steps, vf_refused = _plan_vfs(pf, wish, guard, tended)
    probes = any(isinstance(step, BindDriver) and step.probes for step in vf_steps)
    pf_steps, refused = _plan_itself(pf, wish, guard, place, probes=probes)
    if any(isinstance(step, MakeVfs) for step in pf_steps):
        vf_steps, vf_refused = [], []
    return PfPlan(pf=pf, pf_steps=tuple(pf_steps), vf_steps=tuple(vf_steps), refused=(*refused, *vf_refused))


def _plan_itself(pf: PhysicalFunction, wish: PfState, guard: Guard, place: str, *, probes: bool,
                 ) -> tuple[Sequence[PfStep], Sequence[Refusal]]:
    named = name_wish(place, _name_change(pf, wish), pf)
    steps: list[PfStep] = []
    if wish.num_vfs and (limit := find_limit(pf, wish.num_vfs)) is not None:
        refused = [Refusal(pf=pf.address, message=f"{named}: {limit.problem}", hint=limit.action,
                           disturbs=Disturbs.REBOOT if limit.reboot else None)]
    else:
        steps = list(_plan_own(pf, wish, probes=probes))
        refused = list(guard.check_pf(pf, steps, named))
    if not refused and wish.mtu is not None and pf.link is None:      # all else of it can be done
        return steps, [Refusal(pf=pf.address, hint="bind the PF to its kernel driver, or leave mtu out", message=(
            f"{name_wish(place, f'mtu {wish.mtu}', pf)}: it has no netdev on the host"))]
    if refused:      # what the PF's VFs need is not refused with it, nor what a run that died left
        steps = [*(_plan_up(pf) if probes else ()), *_plan_autoprobe(pf, wish)]
    return steps, refused


def _plan_vfs(pf: PhysicalFunction, wish: PfState, guard: Guard, tended: Container[PciAddress],
              ) -> tuple[list[VfStep], list[Refusal]]:
    found: list[VfStep] = []
    refused: list[Refusal] = []
    bare: dict[Driver, list[VirtualFunction]] = {}
    chooses = pf.autoprobe if wish.autoprobe is None else wish.autoprobe
    for vf in pf.vfs:
        if vf.address in tended:
            continue
        own = wish.vfs.get(vf.index, ANY_VF)
        driver = wanted_driver(own, vf)
        if own.driver is None and vf.driver is None and chooses and guard.leaves_to_kernel(pf, vf):
            driver = Driver.KERNEL
        if driver is not None and guard.cannot_take(driver, vf) and not guard.in_use(vf):
            bare.setdefault(driver, []).append(vf)
            continue
        steps, refusals = _plan_vf(pf, vf, own, driver, guard)
        found.extend(steps)
        refused.extend(refusals)
    refused += [guard.refuse_driver(pf, vfs, driver) for driver, vfs in bare.items()]
    return found, refused


def foresee(plan: PfPlan, wish: Callable[[PhysicalFunction], PfState], guard: Guard) -> PfPlan:
    """The plan, with what is known already of VFs that it makes, to be done or to be refused. Their addresses and
    device id are not known before: pools that go by those are left out."""
    count = max((step.count for step in plan.pf_steps if isinstance(step, MakeVfs)), default=0)
    pf = plan.pf
    made = imagine_vfs(pf, count)
    wanted = wish(made).vfs
    barred: dict[Driver, list[VirtualFunction]] = {}
    alike: dict[str, list[int]] = {}
    for vf in made.vfs:
        state = wanted.get(vf.index, ANY_VF)
        if state.driver is not None and guard.cannot_take(state.driver, vf):
            barred.setdefault(state.driver, []).append(vf)
        elif said := ", ".join(_say_wishes(state)):
            alike.setdefault(said, []).append(vf.index)
    later = (f"{name_indices(indices)}: {said}" for said, indices in alike.items())
    refused = (guard.refuse_driver(pf, vfs, driver) for driver, vfs in barred.items())
    return replace(plan, later=tuple(later), refused=(*plan.refused, *refused))


def _say_wishes(state: VfState) -> Iterator[str]:
    """What a VF is to get, in words that are the same for VFs that differ in their MACs only."""
    if state.driver is not None:
        yield f"driver {state.driver}"
    if state.mtu is not None:
        yield f"MTU {state.mtu}"
    if state.settings.mac is not None:
        yield "a MAC of its own"
    yield from say_settings(replace(state.settings, mac=None))


def _name_change(pf: PhysicalFunction, wish: PfState) -> str:
    """The key of the pool file that asks for a change of the PF; what only a reset asks for has none."""
    if wish.num_vfs != pf.num_vfs:
        return f"numVfs {wish.num_vfs}"
    if wish.eswitch not in (None, pf.eswitch):
        return f"eswitch {wish.eswitch}"
    if wish.mtu is not None and pf.link is not None and pf.link.mtu != wish.mtu:
        return f"mtu {wish.mtu}"
    return "its former state"


def _plan_own(pf: PhysicalFunction, wish: PfState, *, probes: bool) -> Iterator[PfStep]:
    """`probes`: drivers will probe VFs that it has. Its netdev is set down only when none will."""
    eswitch = wish.eswitch not in (None, pf.eswitch)
    if pf.num_vfs and (eswitch or pf.num_vfs != wish.num_vfs):
        yield MakeVfs(pf=pf, count=0)
        pf = replace(pf, num_vfs=0, vfs=())
    if eswitch and wish.eswitch is not None:
        yield SetEswitch(pf=pf, mode=wish.eswitch)
    if wish.mtu is not None and pf.link is not None and pf.link.mtu != wish.mtu:
        yield SetPfMtu(pf=pf, mtu=wish.mtu)
    makes = pf.num_vfs != wish.num_vfs
    probes = bool(wish.num_vfs) if makes else probes
    if probes:
        yield from _plan_up(pf)
    if makes:
        if pf.autoprobe:
            yield SetAutoprobe(pf=pf, on=False)
        yield MakeVfs(pf=pf, count=wish.num_vfs)
        if pf.autoprobe:
            yield SetAutoprobe(pf=replace(pf, autoprobe=False), on=True)
    yield from _plan_autoprobe(pf, wish)
    if not probes and wish.up is not None and pf.link is not None and pf.link.up != wish.up:
        yield SetUp(pf=pf, up=wish.up)


def _plan_up(pf: PhysicalFunction) -> Iterator[PfStep]:
    if pf.link is not None and not pf.link.up:
        yield SetUp(pf=pf)


def _plan_autoprobe(pf: PhysicalFunction, wish: PfState) -> Iterator[PfStep]:
    if wish.autoprobe not in (None, pf.autoprobe):
        yield SetAutoprobe(pf=pf, on=not pf.autoprobe)


def _plan_vf(pf: PhysicalFunction, vf: VirtualFunction, wish: VfState, driver: Driver | None, guard: Guard,
             ) -> tuple[Sequence[VfStep], Sequence[Refusal]]:
    if guard.in_use(vf):
        # What a pod set on its VF, or the CNI for it, is theirs; only a driver that it should not have is news.
        if driver is None:
            return (), ()
        return (), (Refusal(pf=pf.address, hint="it is bound again once its pod is gone", message=(
            f"VF {vf.address} is bound to {vf.driver or 'no driver'}, its pool wants {driver}: it is in use")),)
    steps: list[VfStep] = []
    changes = None
    if guard.facts.settings is not None and wish.settings != UNCHANGED:
        current = guard.facts.settings.get(vf.address, UNCHANGED)
        if unknown := find_unknown(wish.settings, current):
            return (), (Refusal(pf=pf.address, hint="leave them out of vfMacs and of the pool's defaults", message=(
                f"cannot set {', '.join(unknown)} for VF {vf.address}: its PF's driver {pf.driver or 'none'} does "
                "not report what it enforces")),)
        changes = difference(wish.settings, current)
        if changes is not None:
            steps.append(SetVfSettings(pf=pf, vf=vf, settings=changes, before=current))
    if driver is not None:
        steps.append(BindDriver.to(vf, driver, wish.override))
    elif vf.link is not None and _needs_probe(vf.link, wish.settings.mac, changes):
        steps.append(BindDriver.to(vf, wish.driver or Driver.KERNEL, wish.override))
    elif wish.mtu is not None and vf.link is not None and vf.link.mtu != wish.mtu:
        steps.append(SetVfMtu(vf=vf, mtu=wish.mtu))
    named = "; ".join(step.describe() for step in steps)
    refused = tuple(guard.check_vf(pf, vf, steps, named))
    return ((), refused) if refused else (steps, ())


def _needs_probe(link: Link, mac: MacAddress | None, changes: VfSettings | None) -> bool:
    """Whether a VF's netdev has not the MAC that the PF wants: some drivers take that over when they probe only."""
    if changes is not None and changes.mac is not None:
        return True
    return mac not in (None, MacAddress.ZERO, link.mac)      # zero: none is set, and the driver makes one
