"""Single changes to a node's PFs and VFs as values: what each does, whom it disturbs, and what takes it back.

Pure: `sriov.provision.executor` carries them out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeAlias

from sriov.model import PhysicalFunction, VfSettings, VirtualFunction, is_userspace, show_setting
from sriov.pools.assignment import Driver

NO_DRIVER = Driver("")


class Disturbs(IntEnum):
    """Who notices a step, from nobody to all: of a VF only what has it now, of a PF's VFs each.

    No step needs a reboot: a wish that cannot be fulfilled without one is refused, with what has to be done first.
    """

    NOTHING = 0
    VF = 1
    ALL_VFS = 2
    REBOOT = 3

    def __str__(self) -> str:
        return ("disturbs nothing", "disturbs this VF", "disturbs all VFs of the PF", "needs a reboot")[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """Set a PF's netdev up or down: VFs ask their PF while they are probed, and igb's answers only when up."""

    pf: PhysicalFunction
    up: bool = True

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NOTHING if self.up else _all_of(self.pf)

    def describe(self) -> str:
        return f"set {pf_name(self.pf)} {'up' if self.up else 'down'}"

    def undo(self) -> tuple[Step, ...]:
        link = self.pf.link
        return (replace(self, up=link.up),) if link is not None and link.up != self.up else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPfMtu:
    """Exactly this MTU, higher or lower than now. Drivers take their link down for it, their VFs' with it."""

    pf: PhysicalFunction
    mtu: int

    @property
    def disturbs(self) -> Disturbs:
        return _all_of(self.pf)

    def describe(self) -> str:
        return f"set MTU {self.mtu} on {pf_name(self.pf)}{_now(self.pf.link and self.pf.link.mtu)}"

    def undo(self) -> tuple[Step, ...]:
        return (replace(self, mtu=self.pf.link.mtu),) if self.pf.link is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEswitch:
    """legacy or switchdev: ice wants a PF without VFs, mlx5 VFs that no driver has, old bnxt_en a PF with VFs."""

    pf: PhysicalFunction
    mode: str

    @property
    def disturbs(self) -> Disturbs:
        return _all_of(self.pf)

    def describe(self) -> str:
        return f"set eswitch mode {self.mode} on {pf_name(self.pf)}{_now(self.pf.eswitch)}"

    def undo(self) -> tuple[Step, ...]:
        return (replace(self, mode=self.pf.eswitch),) if self.pf.eswitch is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAutoprobe:
    """Whether drivers probe VFs that are made from now on, as the kernel otherwise lets them."""

    pf: PhysicalFunction
    on: bool

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NOTHING

    def describe(self) -> str:
        return f"{'let drivers probe' if self.on else 'keep drivers from probing'} new VFs of {pf_name(self.pf)}"

    def undo(self) -> tuple[Step, ...]:
        return (replace(self, on=self.pf.autoprobe),) if self.pf.autoprobe != self.on else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVfs:
    """Make `count` VFs where there are none, or, 0, remove those that there are.

    To a new VF no driver may bind that its pool would take off it again.
    """

    pf: PhysicalFunction
    count: int

    @property
    def disturbs(self) -> Disturbs:
        return _all_of(self.pf)

    def describe(self) -> str:
        if self.count == 0:
            return f"remove the {self.pf.num_vfs} VFs of {pf_name(self.pf)}"
        return f"make {self.count} VFs on {pf_name(self.pf)}"

    def undo(self) -> tuple[Step, ...]:
        """VFs that had to go are made again, each with the driver that it had."""
        return (
            MakeVfs(pf=replace(self.pf, num_vfs=self.count, vfs=()), count=self.pf.num_vfs),
            *(BindDriver(vf=replace(vf, driver=None), driver=Driver(vf.driver), override=_override(vf.driver))
              for vf in self.pf.vfs if vf.driver is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVfSettings:
    """What the PF enforces on a VF; `before` is how it was, as far as `settings` changes it."""

    pf: PhysicalFunction
    vf: VirtualFunction
    settings: VfSettings
    before: VfSettings

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NOTHING if self.vf.driver is None else Disturbs.VF

    def describe(self) -> str:
        return f"set {', '.join(say_settings(self.settings))} for VF {self.vf.address}"

    def undo(self) -> tuple[Step, ...]:
        changed = {field.name: getattr(self.before, field.name) for field in dataclasses.fields(VfSettings)
                   if getattr(self.settings, field.name) is not None}
        if "vlan" in changed:      # with which a protocol that is not said becomes 802.1Q
            changed["vlan_proto"] = self.before.vlan_proto
        back = VfSettings(**changed)
        if back == VfSettings():
            return ()
        step = replace(self, settings=back, before=self.settings)
        if self.settings.mac is None or self.vf.driver is None or is_userspace(self.vf.driver):
            return (step,)
        # The netdev may have taken the MAC over; its driver asks for it again when it probes.
        return step, BindDriver(vf=self.vf, driver=Driver(self.vf.driver))


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDriver:
    """Give a VF this driver, or NO_DRIVER; `override` is what driver_override says from then on."""

    vf: VirtualFunction
    driver: Driver
    override: str | None = None

    @classmethod
    def to(cls, vf: VirtualFunction, driver: Driver, override: str | None = None) -> BindDriver:
        """`override` None: what keeps any other driver off."""
        if override is None:
            override = "" if driver in (Driver.KERNEL, NO_DRIVER) else str(driver)
        return cls(vf=vf, driver=driver, override=override or None)

    @property
    def probes(self) -> bool:
        """Whether a driver will ask the PF for what it is to be."""
        return self.driver != NO_DRIVER and not is_userspace(self.driver)

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NOTHING if self.vf.driver is None else Disturbs.VF

    def describe(self) -> str:
        if self.driver == NO_DRIVER:
            return f"unbind VF {self.vf.address} (now {self.vf.driver or 'none'})"
        return f"bind VF {self.vf.address} to {self.driver} (now {self.vf.driver or 'none'})"

    def undo(self) -> tuple[Step, ...]:
        before = self.vf.driver
        return (BindDriver(vf=replace(self.vf, driver=self.driver or None), override=_override(before),
                           driver=NO_DRIVER if before is None else Driver(before)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVfMtu:
    """The MTU of a VF's netdev on the host."""

    vf: VirtualFunction
    mtu: int

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.VF

    def describe(self) -> str:
        return f"set MTU {self.mtu} on VF {self.vf.address}{_now(self.vf.link and self.vf.link.mtu)}"

    def undo(self) -> tuple[Step, ...]:
        return (replace(self, mtu=self.vf.link.mtu),) if self.vf.link is not None else ()


PfStep: TypeAlias = SetUp | SetPfMtu | SetEswitch | SetAutoprobe | MakeVfs
VfStep: TypeAlias = SetVfSettings | BindDriver | SetVfMtu
Step: TypeAlias = PfStep | VfStep


def pf_name(pf: PhysicalFunction) -> str:
    return f"PF {pf.link.name} ({pf.address})" if pf.link else f"PF {pf.address}"


def say_settings(settings: VfSettings) -> tuple[str, ...]:
    """`vlan 100`, `trust on`: a phrase for each that is said."""
    return tuple(f"{field.name.replace('_', ' ')} {show_setting(field.name, value)}"
                 for field in dataclasses.fields(VfSettings)
                 if (value := getattr(settings, field.name)) is not None)


def _override(driver: str | None) -> str | None:
    """What driver_override most likely is with this driver; `sriov.provision.executor` reads what it really was."""
    return driver if driver is not None and is_userspace(driver) else None


def _all_of(pf: PhysicalFunction) -> Disturbs:
    return Disturbs.ALL_VFS if pf.num_vfs else Disturbs.NOTHING


def _now(value: object) -> str:
    return "" if value is None else f" (now {value})"
