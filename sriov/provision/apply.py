"""Make the host fit: what a pool file wants, what was reached before, or how all was before vfpool.

Each PF apart and at the same time: one that fails stops no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial

from sriov.diagnosis.causes import find_missing_capability
from sriov.errors import InputError, SriovError
from sriov.model import Host, PciFunction, PhysicalFunction
from sriov.pools.assignment import Driver, PoolFile
from sriov.provision.executor import Executor
from sriov.provision.guards import Override, Refusal, name_wish
from sriov.provision.ledger import Ledger
from sriov.provision.plan import PfPlan, Plan, find_entry
from sriov.provision.state import PfState, settle
from sriov.provision.steps import Disturbs, pf_name
from sriov.provision.terms import Failure, Job, Report, Terms, Wish, no_claims
from sriov.provision.worker import Worker

__all__ = [
    "Failure", "Job", "Report", "Terms", "always", "apply_last_good", "apply_pool_file", "find_abandoned",
    "last_good_jobs", "let_go_of_others", "plan_jobs", "pool_file_jobs", "reset", "reset_jobs", "run",
]


def pool_file_jobs(host: Host, pool_file: PoolFile) -> tuple[Job, ...]:
    """What a pool file wants of the PFs that one of its entries matches; no other PF is ever written to."""
    drivers = {pool.driver: pool.driver_place for pool in reversed(pool_file.pools)
               if pool.driver not in (None, Driver.KERNEL)}
    jobs = tuple(
        Job(pf=pf, place=entry.place, overrides=entry.force, drivers=drivers,
            wish=partial(settle, entry=entry, pools=pool_file.pools))
        for pf in host.pfs if (entry := find_entry(pf, pool_file.physical_functions)) is not None
    )
    return (*jobs, *_barred_jobs(host, pool_file))


def _barred_jobs(host: Host, pool_file: PoolFile) -> Iterator[Job]:
    """NICs that an entry names, in so many letters, whose SR-IOV is off in their firmware."""
    for other in host.others:
        facts = {each.name: getattr(other, each.name) for each in fields(PciFunction)}
        pf = PhysicalFunction(**facts, total_vfs=0, num_vfs=0)
        entry = find_entry(pf, pool_file.physical_functions)
        finding = find_missing_capability(other)
        if entry is None or finding is None or not entry.num_vfs:
            continue
        names = (pf.address, *((pf.link.name, *pf.link.altnames) if pf.link else ()))
        if {*entry.match.name, *entry.match.address} & set(names):
            named = name_wish(entry.place, f"numVfs {entry.num_vfs}", pf)
            barred = Refusal(pf=pf.address, message=f"{named}: {finding.problem}", hint=finding.action,
                             disturbs=Disturbs.REBOOT)
            yield Job(pf=pf, wish=always(PfState(num_vfs=0)), place=entry.place, barred=barred)


def last_good_jobs(host: Host, ledger: Ledger) -> tuple[Job, ...]:
    """What was wanted and reached before, without a pool file: at a boot, before the kubelet."""
    found = ((pf, record) for pf in host.pfs if (record := ledger.find(pf)) is not None)
    return tuple(Job(pf=pf, wish=always(record.last_good), overrides=record.overrides)
                 for pf, record in found if record.last_good is not None)


def reset_jobs(executor: Executor, host: Host, ledger: Ledger) -> tuple[Job, ...]:
    """Back to how each PF was before vfpool first changed it in this boot; no other PF is touched.

    Nor are VFs that somebody made in place of vfpool's, or after it had removed them.
    """
    jobs: list[Job] = []
    for pf in host.pfs:
        if (record := ledger.find_changed(pf)) is None:
            continue
        spared = bool(pf.vfs) and not ledger.owns(pf, executor.identify_vfs(pf)) and (
            record.owns_vfs or record.before.num_vfs != pf.num_vfs)
        before = replace(record.before, num_vfs=pf.num_vfs, vfs={}) if spared else record.before
        jobs.append(Job(pf=pf, wish=always(before), spared=spared))
    return tuple(jobs)


def always(state: PfState) -> Wish:
    """The same, whatever VFs there are."""
    def wish(_: PhysicalFunction) -> PfState:
        return state

    return wish


def apply_pool_file(executor: Executor, pool_file: PoolFile, terms: Terms, host: Host | None = None) -> Report:
    """Make the host fit the file; `host` is how it is now, None: look."""
    host = executor.look() if host is None else host
    if terms.ledger is not None:
        let_go_of_others(host, pool_file, terms.ledger)
    return run(executor, pool_file_jobs(host, pool_file), terms)


def let_go_of_others(host: Host, pool_file: PoolFile, ledger: Ledger) -> None:
    """PFs that no entry matches stay as they are, but no boot brings their last good state back any more."""
    for pf in _without_entry(host, pool_file):
        ledger.let_go(pf)


def find_abandoned(host: Host, pool_file: PoolFile, ledger: Ledger) -> Iterator[str]:
    """A sentence for each PF that vfpool changed since the node booted and that the file does not speak of."""
    for pf in _without_entry(host, pool_file):
        if ledger.find_changed(pf) is not None:
            name = pf.known_link.name if pf.known_link else pf.address
            yield (f"{pf_name(pf)} is as vfpool made it, and no entry matches it (hint: vfpool reset {name} undoes "
                   "that)")


def _without_entry(host: Host, pool_file: PoolFile) -> Iterator[PhysicalFunction]:
    return (pf for pf in host.pfs if find_entry(pf, pool_file.physical_functions) is None)


def apply_last_good(executor: Executor, terms: Terms, ledger: Ledger) -> Report:
    """Make the host what it last was when all was as wanted. A PF that is not there any more is a failure."""
    host = executor.look()
    report = run(executor, last_good_jobs(host, ledger), replace(terms, ledger=ledger))
    there = {pf.address for pf in host.pfs if ledger.find(pf) is not None}
    missing = tuple(
        Failure(pf=record.pf, what=f"cannot bring back PF {record.pf} ({record.vendor}:{record.device}): "
                                   "it is not there, or could not be read")
        for record in ledger.records.values() if record.last_good is not None and record.pf not in there
    )
    return replace(report, failed=(*report.failed, *missing))


def reset(executor: Executor, terms: Terms, ledger: Ledger, names: Collection[str] = ()) -> Report:
    """Undo what vfpool did, and only that; the records of PFs that are as they were are gone then.

    It removes VFs that it made, idle ones unasked: that is what it is for. `names`: netdev names or PCI addresses
    of the only PFs to undo it on, none: all. Raises InputError for one that is no PF's.
    """
    host = executor.look()
    chosen = {_find_named(host, name).address for name in names}
    jobs = [job for job in reset_jobs(executor, host, ledger) if not names or job.pf.address in chosen]
    # No ledger: what is undone is not to be noted as wanted and reached. No claims: this gives way to them.
    free = replace(terms, ledger=None, read_claims=no_claims, overrides={*terms.overrides, Override.DISTURB_VFS})
    report = run(executor, jobs, free)
    unsettled = {*(each.pf for each in report.refused), *(each.pf for each in report.failed)}
    changed = {job.pf.address for job in jobs}
    for record in ledger.records.values():
        if record.pf not in unsettled and (
                record.pf in changed or ((not names or record.pf in chosen) and not ledger.is_current(record))):
            ledger.forget(record.pf)
    return report


def _find_named(host: Host, name: str) -> PhysicalFunction:
    for pf in host.pfs:
        link = pf.known_link
        if name in (pf.address, *((link.name, *link.altnames) if link else ())):
            return pf
    raise InputError(f"expected the name or PCI address of a PF of this node, got {name!r}",
                     hint="vfpool discover lists them")


def plan_jobs(executor: Executor, jobs: Sequence[Job], terms: Terms) -> Plan:
    """What `run` would do to the VFs that there are; those of VFs that are still to be made come after them."""
    claims = terms.read_claims([job.pf for job in jobs])
    plans = [_plan_job(Worker(executor, job, terms, claims), job.pf) for job in jobs]
    return Plan(pfs=tuple(plan for plan in plans if plan.steps or plan.refused))


def _plan_job(worker: Worker, pf: PhysicalFunction) -> PfPlan:
    try:
        return worker.plan(pf)
    except SriovError as error:       # of this PF; the others have plans all the same
        return PfPlan(pf=pf, refused=(Refusal(pf=pf.address, message=f"cannot plan {pf_name(pf)}: {error}"),))


def run(executor: Executor, jobs: Sequence[Job], terms: Terms) -> Report:
    """Carry jobs out, a thread for each PF: the kernel takes a lock per PF for this, and seconds."""
    if not jobs:
        return Report()
    claims = terms.read_claims([job.pf for job in jobs])
    with ThreadPoolExecutor(len(jobs), thread_name_prefix="pf") as pool:
        reports = list(pool.map(lambda job: Worker(executor, job, terms, claims).run(), jobs))
    return Report(
        done=tuple(step for report in reports for step in report.done),
        refused=tuple(refusal for report in reports for refusal in report.refused),
        failed=tuple(failure for report in reports for failure in report.failed),
    )
