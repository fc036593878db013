"""The rules that the node in memory plays, held to the kernel; and on it, what other rules once hid."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sriov.errors import HostError
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction, VfSettings
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver
from sriov.pools.override import Override
from sriov.provision.apply import Job, Report, Terms, always, reset, run
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState, VfState
from sriov.provision.steps import SetUp, SetVfSettings
from tests.sriov.fakenode import Died, FakeNode, make_pf
from tests.support import node

pytestmark = pytest.mark.lab

FREE = Terms(in_use=lambda vf: vf.away)
KERNEL, VFIO = Driver.KERNEL, Driver("vfio-pci")
MAC = MacAddress("02:00:00:00:09:0c")


@pytest.fixture
def pf() -> Iterator[PhysicalFunction]:
    """A PF without VFs, up with autoprobe on and its VFs' drivers loaded, and then as it was."""
    for driver in ("igbvf", "vfio-pci"):
        node.run("modprobe", driver)
    pf = node.pfs()[0]
    assert pf.link is not None
    node.run("ip", "link", "set", pf.link.name, "up")
    yield pf
    Sysfs().write_num_vfs(pf.address, 0)
    Sysfs().write_autoprobe(pf.address, True)
    node.run("ip", "link", "set", pf.link.name, "up" if pf.link.up else "down")
    node.run("udevadm", "settle")


def play(sysfs: Sysfs, executor: Executor, pf: PhysicalFunction) -> dict[str, object]:
    """What a node answers to what provisioning does to it, and to what it must not rely on."""
    seen: dict[str, object] = {}

    def now() -> PhysicalFunction:
        return executor.look_again(pf)

    def driver() -> str | None:
        return now().vfs[0].driver

    def refusal(write: Callable[[], None]) -> object:
        with pytest.raises(HostError) as caught:
            write()
        return errno.errorcode[caught.value.errno]

    def mac() -> object:
        link = now().vfs[0].link
        return link and ("the PF's" if link.mac == MAC else "its own")

    sysfs.write_autoprobe(pf.address, False)
    sysfs.write_num_vfs(pf.address, 2)
    vf = now().vfs[0].address
    seen["made with autoprobe off"] = driver()
    sysfs.probe(vf)
    seen["probed with autoprobe off"] = driver()
    sysfs.set_driver_override(vf, "vfio-pci")
    sysfs.probe(vf)
    seen["probed with autoprobe off, by an override"] = driver()
    sysfs.unbind(vf)
    sysfs.set_driver_override(vf, None)
    sysfs.write_autoprobe(pf.address, True)
    seen["autoprobe on again, nobody probes"] = driver()
    sysfs.probe(vf)
    seen["probed with autoprobe on"] = driver(), mac()
    seen["another number of VFs"] = refusal(lambda: sysfs.write_num_vfs(pf.address, 1))
    executor.do(SetVfSettings(pf=pf, vf=now().vfs[0], settings=VfSettings(mac=MAC, vlan=5), before=VfSettings()))
    seen["a MAC that the PF gives a bound VF"] = mac()
    sysfs.unbind(vf)
    sysfs.probe(vf)
    seen["bound anew"] = mac()
    executor.do(SetUp(pf=pf, up=False))
    sysfs.unbind(vf)
    sysfs.probe(vf)
    seen["bound anew while the PF is down"] = driver(), mac()
    executor.do(SetUp(pf=pf, up=True))
    sysfs.set_driver_override(vf, "vfio-pci")
    first = sysfs.identify(vf)
    sysfs.write_num_vfs(pf.address, 0)
    sysfs.write_num_vfs(pf.address, 1)
    settings = executor.read_settings(now())[vf]
    seen["made anew"] = (driver(), sysfs.read_driver_override(vf), sysfs.identify(vf) == first,
                         settings.mac == MAC, settings.vlan, settings.vlan_proto)
    sysfs.write_num_vfs(pf.address, 0)
    seen["too many VFs"] = refusal(lambda: sysfs.write_num_vfs(pf.address, pf.total_vfs + 1))
    return seen


def test_the_node_in_memory_answers_as_the_kernel_does(pf: PhysicalFunction) -> None:
    fake = FakeNode(replace(make_pf("0000:01:00.0", 1), total_vfs=pf.total_vfs, eswitch=None))
    (own,) = fake.pfs.values()
    assert play(Sysfs(), Executor(Sysfs()), pf) == play(fake, fake.executor(), own)


def test_igb_knows_no_provider_tags(pf: PhysicalFunction) -> None:
    """The kernel takes the message for what it is meant to be, and hands it to the driver (igb_ndo_set_vf_vlan)."""
    Sysfs().write_num_vfs(pf.address, 1)
    assert pf.link is not None
    with Links.open() as links, pytest.raises(HostError) as caught:
        links.set_vf(pf.link.index, 0, VfSettings(vlan=5, vlan_proto=0x88A8), "set it")
    assert caught.value.errno == errno.EPROTONOSUPPORT


# ---- provisioning -----------------------------------------------------------------------------------------


WISH = PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL, settings=VfSettings(mac=MAC)), 1: VfState(driver=VFIO)})


def provision(executor: Executor, wish: PfState, terms: Terms) -> Report:
    return run(executor, [Job(pf=pf, wish=always(wish)) for pf in executor.look().pfs[:1]], terms)


def drivers(pf: PhysicalFunction) -> list[str | None]:
    return [vf.driver for vf in Executor(Sysfs()).look_again(pf).vfs]


def test_autoprobe_that_is_off_is_no_dead_end(pf: PhysicalFunction) -> None:
    Sysfs().write_autoprobe(pf.address, False)
    assert provision(Executor(Sysfs()), WISH, FREE).problems == ()
    assert drivers(pf) == ["igbvf", "vfio-pci"]
    assert not Sysfs().read_autoprobe(pf.address)


class Full(Sysfs):
    """A bus without room for VFs."""

    def write_num_vfs(self, pf: PciAddress, count: int) -> None:
        if count:
            raise HostError(f"cannot set {count} VFs", errno=errno.ENOSPC)
        super().write_num_vfs(pf, count)


def test_vfs_that_somebody_makes_after_a_failure_are_theirs(pf: PhysicalFunction, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "boot")
    assert "ENOSPC" in provision(Executor(Full()), WISH, replace(FREE, ledger=ledger)).problems[0]
    Sysfs().write_num_vfs(pf.address, 3)
    assert reset(Executor(Sysfs()), replace(FREE, overrides=set(Override)), Ledger(tmp_path, "boot")).problems == ()
    assert len(drivers(pf)) == 3


class Dying(Sysfs):
    """The process dies at the write of this number, before it or after."""

    def __init__(self, at: int, *, late: bool) -> None:
        super().__init__()
        self.count, self._at, self._late = 0, at, late

    def _write(self, operation: str, address: PciAddress, file: str, text: str) -> None:
        self.count += 1
        if self.count > self._at and not (self._late and self.count == self._at + 1):
            raise Died
        super()._write(operation, address, file, text)
        if self.count > self._at:
            raise Died


@pytest.mark.parametrize("late", [False, True], ids=["before its effect", "after its effect"])
def test_the_process_dies_at_one_write_to_sysfs(pf: PhysicalFunction, tmp_path: Path, late: bool) -> None:
    """Nothing cleans up; the next process reaches what is wanted, and can undo it."""
    whole = Dying(1000, late=late)
    before = Executor(Sysfs()).look_again(pf)
    assert provision(Executor(whole), WISH, FREE).problems == ()
    Sysfs().write_num_vfs(pf.address, 0)
    assert whole.count >= 8
    for number in range(whole.count):
        state = tmp_path / str(number)
        with pytest.raises(Died):
            provision(Executor(Dying(number, late=late)), WISH, replace(FREE, ledger=Ledger(state, "boot")))
        ledger = Ledger(state, "boot")
        assert provision(Executor(Sysfs()), WISH, replace(FREE, ledger=ledger)).problems == (), number
        assert (drivers(pf), Sysfs().read_autoprobe(pf.address)) == (["igbvf", "vfio-pci"], True), number
        assert reset(Executor(Sysfs()), FREE, ledger).problems == (), number
        now = Executor(Sysfs()).look_again(pf)       # igb starts anew with each numVfs: its link needs a while
        assert replace(now, link=before.link, speed=before.speed) == before, number
