"""One PF's way from how it is to what is wanted: plan, carry out, verify, and take back what failed.

A PF whose own steps fail is made what it was; so is a VF, and the PF's other VFs go on.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from sriov.errors import HostError, Refused, SriovError
from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver
from sriov.provision.executor import Choose, Executor, choose_none
from sriov.provision.guards import Facts, Guard, Override, Refusal
from sriov.provision.plan import PfPlan, foresee, plan_pf
from sriov.provision.state import ANY_VF, UNCHANGED, PfState, find_differences, observe
from sriov.provision.steps import BindDriver, Disturbs, MakeVfs, SetEswitch, Step, VfStep
from sriov.provision.terms import Failure, Job, Report, Terms

log = logging.getLogger(__name__)

# VFs are made, get their drivers, their netdevs what only a netdev can have, and the PF may be set down again.
_ROUNDS = 4


class Worker:
    """One PF's way from how it is to what is wanted."""

    def __init__(self, executor: Executor, job: Job, terms: Terms,
                 claims: Mapping[PciAddress, tuple[str, ...]]) -> None:
        self._executor = executor
        self._job = job
        self._terms = terms
        self._claims = claims
        self._overrides = {*terms.overrides, *job.overrides}
        self._done: list[Step] = []
        self._failed: list[Failure] = []
        self._given_up: set[PciAddress] = set()     # VFs, for now
        self._bound: set[PciAddress] = set()        # VFs, by this run
        # What tells VFs from others: those that are vfpool's, and those that were there or that this run made.
        self._own: set[int | None] = set()
        self._familiar: set[int | None] = set()

    def run(self) -> Report:
        refused: tuple[Refusal, ...] = ()
        try:
            refused = self._work()
        except SriovError as error:
            self._fail(f"cannot make PF {self._job.pf.address} what it should be: {error}")
        except Exception as error:      # a bug, or what no driver should say: other PFs have reports all the same
            log.exception("PF %s", self._job.pf.address)
            self._fail(f"cannot make PF {self._job.pf.address} what it should be: {error!r}",
                       ("what it was in the middle of",))
        return Report(done=tuple(self._done), refused=refused, failed=tuple(self._failed))

    def plan(self, pf: PhysicalFunction) -> PfPlan:
        if self._job.barred is not None:
            return PfPlan(pf=pf, refused=(self._job.barred,))
        terms, wish = self._terms, self._wish(pf)
        wants_settings = any(vf.settings != UNCHANGED for vf in wish.vfs.values())
        facts = Facts(
            settings=self._executor.read_settings(pf) if wants_settings else None,
            claims=self._claims,
            foreign=(pf.address,) if self._is_foreign(pf) else (),
            opened=self._executor.find_opened(pf),
            kept=self._executor.find_kept(pf),
            noiommu=self._executor.may_lack_iommu(),
            lacking={driver: place for driver, place in self._job.drivers.items()
                     if self._executor.lacks_driver(driver)},
        )
        guard = Guard(facts=facts, in_use=terms.in_use, overrides=self._overrides)
        tended = {vf.address for vf in pf.vfs} if self._job.spared else terms.tended
        return foresee(plan_pf(pf, wish, guard, tended, self._job.place), self._job.wish, guard)

    def _wish(self, pf: PhysicalFunction) -> PfState:
        """What is wanted; of autoprobe, that it is what it was before a run which began and did not end."""
        wish, ledger = self._job.wish(pf), self._terms.ledger
        unfinished = ledger.find_unfinished(pf) if ledger is not None else None
        return wish if unfinished is None or wish.autoprobe is not None else replace(
            wish, autoprobe=unfinished.autoprobe)

    def _is_foreign(self, pf: PhysicalFunction) -> bool:
        """Whether somebody else made its VFs, as far as anybody keeps account of that."""
        ledger = self._terms.ledger
        return ledger is not None and bool(pf.vfs) and not ledger.owns(pf, self._executor.identify_vfs(pf))

    def _work(self) -> tuple[Refusal, ...]:
        pf = self._job.pf
        plan = self.plan(pf)
        self._familiar.add(self._executor.identify_vfs(pf))
        if plan.steps or (Override.ADOPT in self._overrides and self._is_foreign(pf)):      # adopted for good
            self._note_before(pf, plan)
        refused: tuple[Refusal, ...] | None = None
        for _ in range(_ROUNDS):
            if plan.pf_steps:
                done = self._attempt(pf, plan.pf_steps, self._observe(pf))
                pf = self._executor.look_again(pf)
                self._note_owned(pf)
                if not done:
                    self._note_end(pf)
                    return plan.refused
                plan = self.plan(pf)
            refused = plan.refused if refused is None else refused
            if not self._bring(pf, plan.vf_steps):
                break
            pf = self._executor.look_again(pf)
            plan = self.plan(pf)
        if refused is None or not self._failed:      # who gave up a VF may be refused it now
            refused = plan.refused
        for step in plan.steps:
            if not (isinstance(step, VfStep) and step.vf.address in self._given_up):
                self._fail(f"cannot {step.describe()}: it was done, and is not so")
        if self._terms.ledger is not None and not refused and not self._failed:
            self._terms.ledger.settle(pf, self._job.wish(pf), self._overrides)
        self._note_end(pf)
        return refused

    def _note_before(self, pf: PhysicalFunction, plan: PfPlan) -> None:
        if self._terms.ledger is None:
            return
        counts = tuple(step.count for step in plan.pf_steps if isinstance(step, MakeVfs) and step.count)
        if counts and pf.num_vfs:
            counts += (pf.num_vfs,)      # what takes a failure back makes as many as there were
        if pf.vfs and (Override.ADOPT in self._overrides or not self._is_foreign(pf)):
            self._own.add(self._executor.identify_vfs(pf))
        self._terms.ledger.begin(pf, self._observe(pf), vfs=next(iter(self._own), None), counts=counts)

    def _note_owned(self, pf: PhysicalFunction) -> None:
        if self._terms.ledger is not None:
            vfs = self._executor.identify_vfs(pf)
            self._terms.ledger.own(pf, vfs if vfs in self._own else None)

    def _note_end(self, pf: PhysicalFunction) -> None:
        if self._terms.ledger is not None:
            self._terms.ledger.end(pf)

    def _bring(self, pf: PhysicalFunction, steps: Sequence[VfStep]) -> bool:
        """Carry out what VFs want, each VF apart; whether there was anything to do."""
        by_vf: dict[PciAddress, list[VfStep]] = {}
        for step in steps:
            if isinstance(step, BindDriver) and step.vf.address in self._bound:
                self._give_up(step)      # bound after it got its MAC, it took none over: nor would it the next time
        for step in steps:
            if step.vf.address not in self._given_up:
                by_vf.setdefault(step.vf.address, []).append(step)
        before = self._observe(pf) if by_vf else None
        for address, own in by_vf.items():
            index = own[0].vf.index
            if before is not None and not self._attempt(
                    pf, own, PfState(num_vfs=before.num_vfs, autoprobe=before.autoprobe,
                                     vfs={index: before.vfs[index]})):
                self._given_up.add(address)
            elif any(isinstance(step, BindDriver) for step in own):
                self._bound.add(address)
        return bool(by_vf)

    def _give_up(self, step: BindDriver) -> None:
        if step.vf.address not in self._given_up:
            has = f"; its netdev has MAC {step.vf.link.mac}" if step.vf.link is not None else ""
            self._fail(f"cannot {step.describe()}: it was bound once, and that would be so again{has}")
            self._given_up.add(step.vf.address)

    def _attempt(self, pf: PhysicalFunction, steps: Sequence[Step], before: PfState) -> bool:
        """All of the steps or none of them; whether they are done."""
        undo: list[tuple[Step, ...]] = []
        due = deque(steps)
        done: list[Step] = []
        with ExitStack() as holds:      # taking back disturbs whom the steps disturbed
            held: set[PciAddress] = set()
            while due:
                step = due.popleft()
                back: tuple[Step, ...] = ()
                try:
                    for vf in _touched(pf, step):
                        if vf not in held:
                            holds.enter_context(self._terms.hold(vf))
                            held.add(vf)
                    self._check_idle(pf, step)
                    back = self._executor.prepare(step)
                    self._do(step, self._choose)
                    if isinstance(step, SetEswitch):
                        due = deque(self._plan_rest(pf, before))
                except SriovError as error:
                    if (later := _defer(step, error, due)) is not None:
                        due = later
                        continue
                    if not isinstance(error, Refused):      # else it changed nothing
                        undo.append(back)
                    self._fail(f"cannot {step.describe()}: {error}", self._take_back(pf, before, undo))
                    return False
                undo.append(back)
                done.append(step)
                log.info("done: %s", step.describe())
        self._done.extend(done)
        return True

    def _plan_rest(self, pf: PhysicalFunction, before: PfState) -> Sequence[Step]:
        """What is still to be done to a PF itself after its eswitch mode was set."""
        # mlx5_core may have made it a new netdev for that, down and with the MTU that every new one has. What the
        # file does not ask for is to be as it was.
        now = self._executor.look_again(pf)
        wish = self._wish(now)
        wish = replace(wish, mtu=before.mtu if wish.mtu is None else wish.mtu,
                       up=before.up or None if wish.up is None else wish.up,      # down only where that is wanted
                       autoprobe=before.autoprobe if wish.autoprobe is None else wish.autoprobe)
        return plan_pf(now, wish, Guard(overrides=set(Override))).pf_steps

    def _do(self, step: Step, choose: Choose = choose_none) -> None:
        """Carry it out, and remember which VFs it made, all or some of them."""
        try:
            self._executor.do(step, choose)
        except Refused:
            raise
        except SriovError:
            with suppress(SriovError):
                self._remember_made(step)
            raise
        self._remember_made(step)

    def _remember_made(self, step: Step) -> None:
        if isinstance(step, MakeVfs) and step.count:
            vfs = self._executor.identify_vfs(self._executor.look_again(step.pf))
            self._own.add(vfs)
            self._familiar.add(vfs)

    def _check_idle(self, pf: PhysicalFunction, step: Step) -> None:
        """Pods may have got VFs since the plan was made, and until these were held."""
        if isinstance(step, VfStep):
            if self._terms.in_use(step.vf):
                raise Refused("it is in use")
        elif step.disturbs is Disturbs.ALL_VFS and Override.IN_USE not in self._overrides:
            used = [vf.address for vf in pf.vfs if self._terms.in_use(vf)]
            if used:
                raise Refused(f"in use are {', '.join(used)}")

    def _take_back(self, pf: PhysicalFunction, before: PfState, undo: Sequence[Sequence[Step]]) -> tuple[str, ...]:
        """Make it what it was, the last first; what is not so afterwards."""
        troubles = self._do_all([step for steps in reversed(undo) for step in steps])
        try:
            for _ in range(_ROUNDS):      # what no step's undo brings back: a new netdev's MTU, a new VF's settings
                steps = self._plan_back(pf, before)
                if not steps or troubles:
                    break
                troubles = self._do_all(steps)
            now = self._executor.look_again(pf)
            left = tuple(find_differences(self._spare(now, before), self._observe(now)))
        except SriovError as error:
            return (*troubles, f"not known how it is: {error}")
        return (*left, *troubles) if left else ()

    def _plan_back(self, pf: PhysicalFunction, before: PfState) -> Sequence[Step]:
        now = self._executor.look_again(pf)
        before = self._spare(now, before)
        if next(find_differences(before, self._observe(now)), None) is None:
            return ()
        facts = Facts(settings=self._executor.read_settings(now))
        plan = plan_pf(now, before, Guard(facts=facts, overrides=set(Override)))
        return (*plan.pf_steps, *(step for step in plan.vf_steps if step.vf.index in before.vfs))

    def _spare(self, now: PhysicalFunction, before: PfState) -> PfState:
        """`before` but for VFs that somebody made meanwhile: nobody is to take those away."""
        strange = bool(now.vfs) and self._executor.identify_vfs(now) not in self._familiar
        return replace(before, num_vfs=now.num_vfs, vfs={}) if strange else before

    def _do_all(self, steps: Sequence[Step]) -> list[str]:
        """What each step that failed said."""
        troubles: list[str] = []
        for step in steps:
            try:
                self._do(step)
            except SriovError as error:
                troubles.append(f"cannot {step.describe()}: {error}")
        return troubles

    def _choose(self, made: PhysicalFunction) -> Mapping[PciAddress, Driver]:
        wish = self._job.wish(made)
        drivers = {vf.address: wish.vfs.get(vf.index, ANY_VF).driver for vf in made.vfs}
        return {address: driver for address, driver in drivers.items() if driver}      # NO_DRIVER is empty

    def _observe(self, pf: PhysicalFunction) -> PfState:
        return observe(pf, self._executor.read_settings(pf), self._executor.read_overrides(pf))

    def _fail(self, what: str, left: tuple[str, ...] = ()) -> None:
        self._failed.append(Failure(pf=self._job.pf.address, what=what, left=left))


def _defer(step: Step, error: SriovError, due: Iterable[Step]) -> deque[Step] | None:
    """What is due, an eswitch mode that the driver refuses without VFs moved to after they are made; None: no such.

    bnxt_en before Linux 6.4 answers EPERM then (bnxt_dl_eswitch_mode_set).
    """
    if not isinstance(step, SetEswitch) or not isinstance(error, HostError) or error.errno != errno.EPERM:
        return None
    rest = deque(due)
    made = next((number for number, each in enumerate(rest) if isinstance(each, MakeVfs) and each.count), None)
    if made is None:
        return None
    rest.insert(made + 1, step)
    return rest


def _touched(pf: PhysicalFunction, step: Step) -> tuple[PciAddress, ...]:
    """The VFs that must not come to a pod, or come home from one, while the step is done."""
    if isinstance(step, VfStep):
        return (step.vf.address,)
    return tuple(vf.address for vf in pf.vfs) if step.disturbs is Disturbs.ALL_VFS else ()
