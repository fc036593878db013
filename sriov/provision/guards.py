"""What keeps a step from being done: who would lose something, and the name of the override that does it anyway.

Pure. Nothing here can be switched off as a whole: an override is one word for one kind of harm.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sriov.model import PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Driver
from sriov.pools.drivernames import find_likely_driver
from sriov.pools.override import Override
from sriov.provision.steps import Disturbs, MakeVfs, PfStep, SetAutoprobe, SetUp, VfStep, pf_name

__all__ = ["NO_FACTS", "Facts", "Guard", "InUse", "Override", "Refusal", "name_wish"]

InUse = Callable[[VirtualFunction], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A wish that is not carried out. `override` None: whatever anybody says. `disturbs` REBOOT: it takes one."""

    pf: PciAddress
    message: str
    hint: str | None = None
    override: Override | None = None
    disturbs: Disturbs | None = None

    def __str__(self) -> str:
        says = [self.hint] if self.hint else []
        if self.override is not None:
            says.append(f"to do it all the same: override {self.override}")
        message = self.message if self.disturbs is None else f"{self.message} [{self.disturbs}]"
        return f"{message} (hint: {'; '.join(says)})" if says else message


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a plan takes into account beside the host itself.

    settings: what PFs enforce on VFs now, by VF, as far as they report it; None: nobody asked, nothing is planned.
    claims: by PF, a sentence for each program that is configured to make its VFs.
    foreign: PFs whose VFs exist and were not made by vfpool. opened: VFs that a process has open through vfio.
    kept: VFs without a driver that somebody keeps for one, by driver_override. noiommu: vfio takes VFs that have no
    IOMMU, or may. lacking: drivers that the node has not, and the place where somebody wants each.
    """

    settings: Mapping[PciAddress, VfSettings] | None = None
    claims: Mapping[PciAddress, tuple[str, ...]] = field(default_factory=dict)
    foreign: Container[PciAddress] = ()
    opened: Container[PciAddress] = ()
    kept: Container[PciAddress] = ()
    noiommu: bool = True
    lacking: Mapping[Driver, str] = field(default_factory=dict)


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What may be done on one PF, and what not."""

    facts: Facts = NO_FACTS
    in_use: InUse = lambda vf: False
    overrides: Container[Override] = ()

    def check_pf(self, pf: PhysicalFunction, steps: Sequence[PfStep], wish: str) -> Iterator[Refusal]:
        """Why the PF's steps must not be done, all or none; `wish` names what they are for."""
        if not steps:
            return
        if _remakes(steps):
            for claim in self.facts.claims.get(pf.address, ()):
                yield from self._unless(Override.CLAIMED, pf, f"{wish}: {claim}",
                                        "let one of the two make them: take the VFs out of its configuration")
        if pf.ties and any(_interrupts(step) for step in steps):
            yield from self._unless(Override.TIED, pf, f"{wish}: the node itself needs it: "
                                    f"{', '.join(pf.ties)}", "use another PF")
        if max(step.disturbs for step in steps) == Disturbs.ALL_VFS:
            yield from self._check_vfs(pf, steps, wish)

    def leaves_to_kernel(self, pf: PhysicalFunction, vf: VirtualFunction) -> bool:
        """Whether a VF that has no driver, and that nobody has an opinion on, is to have the kernel's choice: of
        those that vfpool made, with autoprobe off meanwhile. Who unbinds a VF for a driver of his own sets
        driver_override first."""
        return vf.address not in self.facts.kept and (
            pf.address not in self.facts.foreign or Override.ADOPT in self.overrides)

    def cannot_take(self, driver: Driver, vf: VirtualFunction) -> bool:
        """Whether the driver cannot take the VF as long as this kernel runs: there is no such driver, or the VF
        came without the IOMMU group that it needs."""
        return driver in self.facts.lacking or (
            "vfio" in driver and vf.iommu_group is None and not self.facts.noiommu)

    def refuse_driver(self, pf: PhysicalFunction, vfs: Sequence[VirtualFunction], driver: Driver) -> Refusal:
        """What to say of VFs that the driver cannot take."""
        named = f"VF {vfs[0].index}" if len(vfs) == 1 else f"{len(vfs)} VFs"
        wish = f"cannot bind {named} of {pf_name(pf)} to {driver}"
        if driver in self.facts.lacking:
            place, likely = self.facts.lacking[driver], find_likely_driver(driver)
            return Refusal(
                pf=pf.address, hint="it is neither loaded nor a module of the running kernel",
                message=f"{wish}: no driver {driver} on this node{f' ({place})' if place else ''}"
                        f"{f', did you mean {likely}?' if likely else ''}")
        return Refusal(
            pf=pf.address, disturbs=Disturbs.REBOOT,
            message=f"{wish}: no IOMMU, so no IOMMU group",
            hint="turn on the IOMMU (VT-d, AMD-Vi) in the machine's firmware setup and boot without iommu=off, on "
                 "Intel machines with intel_iommu=on; for tests only, load vfio with enable_unsafe_noiommu_mode=1")

    def check_vf(self, pf: PhysicalFunction, vf: VirtualFunction, steps: Sequence[VfStep], wish: str,
                 ) -> Iterator[Refusal]:
        """Why the VF's steps must not be done, all or none."""
        if not steps:
            return
        if vf.address in self.facts.opened:       # who has it open has it in use, whatever a step would disturb
            yield Refusal(pf=pf.address, message=f"cannot {wish}: a process has it open",
                          hint="end the pod or the process that uses it")
        if pf.address in self.facts.foreign:      # one without a driver too: its maker may be about to bind it
            yield from self._unless(Override.ADOPT, pf, f"{wish}: it was not made by vfpool",
                                    "have its maker give it up")
        if max(step.disturbs for step in steps) == Disturbs.NOTHING:
            return
        if vf.ties:
            yield from self._unless(Override.TIED, pf, f"{wish}: the node itself needs it: "
                                    f"{', '.join(vf.ties)}", "leave it out of the pools")

    def _check_vfs(self, pf: PhysicalFunction, steps: Sequence[PfStep], wish: str) -> Iterator[Refusal]:
        opened = [vf.address for vf in pf.vfs if vf.address in self.facts.opened]
        used = [vf.address for vf in pf.vfs if vf.address in opened or self.in_use(vf)]
        state = f"in use are {', '.join(used)}" if used else "none in use"
        if _remakes(steps):
            why = f"it has {pf.num_vfs}, {state}, and the kernel changes the number only by removing all of them"
            hint = f"write 0 to /sys/bus/pci/devices/{pf.address}/sriov_numvfs first"
        else:
            why = f"that takes the link from its {pf.num_vfs} VFs for a moment, {state}"
            hint = "remove its VFs first"
        if opened and _remakes(steps):
            yield Refusal(pf=pf.address, message=f"{wish}: a process has {', '.join(opened)} open",
                          hint="end the pods or the processes that use them")
        if used:
            yield from self._unless(Override.IN_USE, pf, f"{wish}: {why}", "end the pods that use them first")
        elif Override.DISTURB_VFS not in self.overrides:
            yield Refusal(pf=pf.address, message=f"{wish}: {why}", hint=hint, override=Override.DISTURB_VFS)
        if pf.address in self.facts.foreign:
            yield from self._unless(Override.ADOPT, pf, f"{wish}: its {pf.num_vfs} VFs were not made by vfpool",
                                    "have their maker remove them")
        for vf in pf.vfs:
            if vf.ties:
                yield from self._unless(Override.TIED, pf, f"{wish}: the node itself needs its VF {vf.address}: "
                                        f"{', '.join(vf.ties)}", "move that to another NIC")

    def _unless(self, override: Override, pf: PhysicalFunction, message: str, hint: str) -> Iterator[Refusal]:
        if override not in self.overrides:
            yield Refusal(pf=pf.address, message=message, hint=hint, override=override)


def _interrupts(step: PfStep) -> bool:
    """Whether the PF's own packets may stop for it: many drivers reset their NIC to make VFs."""
    return not isinstance(step, SetAutoprobe) and not (isinstance(step, SetUp) and step.up)


def _remakes(steps: Sequence[PfStep]) -> bool:
    return any(isinstance(step, MakeVfs) for step in steps)


def name_wish(place: str, what: str, pf: PhysicalFunction) -> str:
    """`pools.yaml:5:5: numVfs 4 on PF ens1f0 (0000:3b:00.0)`."""
    return f"{place}: {what} on {pf_name(pf)}" if place else f"{what} on {pf_name(pf)}"
