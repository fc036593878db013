"""Keeps the host as the pool file says: whenever a look at it shows that it is not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sriov.errors import SriovError
from sriov.model import Host, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.advice import warn_of_entries, warn_of_pools
from sriov.pools.assignment import PoolFile, assign
from sriov.provision.apply import Report, Terms, apply_pool_file
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.plan import plan_host
from sriov.provision.steps import BindDriver
from sriov.provision.terms import ClaimReader

log = logging.getLogger(__name__)

RETRY = 30.0       # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What provisioning knows the node by; any thread may call any of it. `look` raises HostError.

    `in_use`, `hold` and `read_claims`: as in `sriov.provision.apply.Terms`.
    """

    look: Callable[[], Host]
    executor: Executor
    ledger: Ledger
    in_use: Callable[[VirtualFunction], bool]
    hold: Callable[[PciAddress], AbstractContextManager[None]]
    read_claims: ClaimReader


class Provisioner:
    """Makes the host fit the pool file that `want` named last.

    Belongs to the event loop that it is made on, all but `look`.
    """

    def __init__(self, around: Surroundings, file: PoolFile) -> None:
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        self._report: Report | None = None
        self._trouble: str | None = None
        self._guard = threading.Lock()      # of all below: looks and provisioning are in threads of their own
        self._file = file
        # The same is not tried again in vain. None: a look does not see what PFs enforce on VFs, so the first try
        # is made whatever it finds.
        self._planned: tuple[str, ...] | None = None
        self._tended: frozenset[PciAddress] = frozenset()      # VFs that have the driver that this agent chose

    @property
    def report(self) -> Report | None:
        """What came of the last try; None before the first."""
        return self._report

    @property
    def trouble(self) -> str | None:
        """Why the last try was none: the host could not be looked at, say."""
        return self._trouble

    @property
    def fulfilled(self) -> bool:
        """Whether the last try left nothing to be wished for."""
        return self._trouble is None and self._report is not None and not self._report.problems

    def want(self, file: PoolFile) -> None:
        """Let this file count from now on. Where it wants something else, VFs get their drivers anew, whoever chose
        those that they have."""
        with self._guard:
            if file != self._file:      # or else only places in it are new
                self._planned, self._tended = None, frozenset()
            self._file = file

    def look(self) -> Host:
        """The host now; where it is not as wanted, `run` will see to it. For one thread at a time."""
        with self._guard:
            file, known = self._file, self._tended
        host = self._around.look()
        with self._guard:
            # A VF that goes and comes again is a new one. Those that came since the look are not gone.
            self._tended -= known - {vf.address for vf in host.vfs}
            tended = self._tended
        plan = plan_host(host, file.physical_functions, file.pools, self._around.in_use, tended).describe()
        with self._guard:
            if file == self._file and plan != self._planned:
                self._planned = plan
                self._loop.call_soon_threadsafe(self._due.set)
        return host

    async def run(self, tried: Callable[[PoolFile], None]) -> None:
        """Make the host fit whenever that is due, and again after RETRY where it did not; never ends.

        `tried` is called after each try, with the file that was tried.
        """
        reported: tuple[str, ...] = ()
        advised: PoolFile | None = None
        retry: asyncio.TimerHandle | None = None
        while True:
            await self._due.wait()
            self._due.clear()
            if retry is not None:
                retry.cancel()
            file = self._file
            problems: tuple[str, ...]
            try:
                report, advice = await asyncio.to_thread(self._apply, file)
            except (SriovError, OSError) as error:
                self._trouble = f"cannot make the host fit the pool file: {error}"
                problems = (self._trouble,)
            else:
                self._report, self._trouble, problems = report, None, report.problems
                for sentence in advice if advised is not file else ():
                    log.warning("%s", sentence)
                advised = file
            for problem in problems if problems != reported else ():
                log.error("%s", problem)
            reported = problems
            if problems:
                retry = self._loop.call_later(RETRY, self._due.set)
            else:
                log.info("the host is as the pool file says")
            tried(file)

    def _apply(self, file: PoolFile) -> tuple[Report, tuple[str, ...]]:
        """What came of it, and what of the file cannot have been meant for this node."""
        around, entries, pools = self._around, file.physical_functions, file.pools
        terms = Terms(in_use=around.in_use, hold=around.hold, tended=self._tended, ledger=around.ledger,
                      read_claims=around.read_claims)
        report = apply_pool_file(around.executor, file, terms, around.look())
        host = around.look()
        # A VF that is in use has the wrong driver until its pod is gone: nobody chose that one.
        plan = plan_host(host, entries, pools, lambda _: False)
        wrong = {step.vf.address for step in plan.steps if isinstance(step, BindDriver)}
        with self._guard:
            if file == self._file:
                self._tended |= {vf.address for vf in host.vfs if vf.address not in wrong}
        return report, (*warn_of_entries(entries, host), *warn_of_pools(pools, host, assign(host, pools)))
