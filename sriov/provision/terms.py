"""What provisioning is asked to do to a PF, on what terms, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

from sriov.model import PhysicalFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver
from sriov.provision.guards import InUse, Override, Refusal
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState
from sriov.provision.steps import Step

Wish: TypeAlias = Callable[[PhysicalFunction], PfState]
ClaimReader: TypeAlias = Callable[[Sequence[PhysicalFunction]], Mapping[PciAddress, tuple[str, ...]]]
Hold: TypeAlias = Callable[[PciAddress], AbstractContextManager[None]]


def no_claims(_: Sequence[PhysicalFunction]) -> Mapping[PciAddress, tuple[str, ...]]:
    """Nobody else is asked."""
    return {}


def hold_nothing(_: PciAddress) -> AbstractContextManager[None]:
    """Nobody else is there that would take a VF meanwhile."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that could not be done, or was done in vain. `left` is what is not as it was before."""

    pf: PciAddress
    what: str                         # "cannot make 4 VFs on PF ens1f0 (0000:3b:00.0): ..."
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}; left behind: {', '.join(self.left)}" if self.left else self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    done: tuple[Step, ...] = ()
    refused: tuple[Refusal, ...] = ()
    failed: tuple[Failure, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each wish that is not fulfilled; () is all done."""
        return (*map(str, self.refused), *map(str, self.failed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A PF, what is wanted of it as it is then, and where that was written. `spared`: its VFs stay as they are.
    `barred`: why nothing of it can be done. `drivers`: where each driver that it may want by name was written."""

    pf: PhysicalFunction
    wish: Wish
    place: str = ""
    overrides: Collection[Override] = ()
    spared: bool = False
    barred: Refusal | None = None
    drivers: Mapping[Driver, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms hosts are changed. Without a ledger nothing is known, or kept, of who made what.

    `in_use`: VFs that pods have. `hold`: keeps pods from getting a VF for as long as its context lasts, or raises
    Refused, at once, where somebody is giving it to one. `tended`: VFs that had their driver chosen before.
    `read_claims`: says for each PF who else is configured to make its VFs.
    """

    in_use: InUse
    hold: Hold = hold_nothing
    tended: Container[PciAddress] = ()
    overrides: Collection[Override] = ()
    read_claims: ClaimReader = no_claims
    ledger: Ledger | None = None
