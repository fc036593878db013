"""Whatever is wanted, on a real kernel: carried out it leaves nothing to plan, and a reset returns the start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction, VfSettings
from sriov.pci import MacAddress
from sriov.pools.assignment import Driver
from sriov.pools.override import Override
from sriov.provision.apply import Job, Terms, always, plan_jobs, reset, run
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState, VfState
from tests.sriov.test_provision_lab import state_of
from tests.support import node

pytestmark = pytest.mark.lab

MOST = 3                              # VFs: each takes the emulated CPU a quarter of a second to make
FORCED = Terms(in_use=lambda vf: False, overrides={Override.DISTURB_VFS, Override.ADOPT})

# What igb cannot do is not among them: link state, minimum rates, an eswitch.
vf_settings = st.builds(
    VfSettings, mac=st.sampled_from([None, MacAddress("02:00:00:00:09:01"), MacAddress("02:00:00:00:09:02")]),
    vlan=st.sampled_from([None, 0, 100]), vlan_qos=st.sampled_from([None, 0, 3]),
    spoofchk=st.sampled_from([None, True, False]), trust=st.sampled_from([None, True, False]),
)
vf_wishes = st.builds(VfState, driver=st.sampled_from([None, Driver.KERNEL, Driver("vfio-pci")]),
                      settings=vf_settings, mtu=st.sampled_from([None, 1500, 1400]))
pf_wishes = st.builds(PfState, num_vfs=st.integers(0, MOST), mtu=st.sampled_from([None, 1500, 2000]),
                      vfs=st.dictionaries(st.integers(0, MOST - 1), vf_wishes, max_size=MOST))
starts = st.tuples(st.integers(0, MOST), st.booleans(), st.booleans())    # VFs, up where there are none, autoprobe


@pytest.fixture(scope="module")
def pf() -> Iterator[PhysicalFunction]:
    """A PF that is then as it was."""
    pf = node.pfs()[0]
    yield pf
    prepare(pf, (0, False, True))
    assert pf.link is not None
    node.run("ip", "link", "set", pf.link.name, "mtu", str(pf.link.mtu))
    node.run("udevadm", "settle")


def prepare(pf: PhysicalFunction, start: tuple[int, bool, bool]) -> None:
    count, up, autoprobe = start
    sysfs = Sysfs()
    sysfs.write_num_vfs(pf.address, 0)
    sysfs.write_autoprobe(pf.address, True)
    if count:
        node.make_vfs(pf, count)
    else:
        node.run("ip", "link", "set", node.netdev_name(pf), "up" if up else "down")
    sysfs.write_autoprobe(pf.address, autoprobe)


# The same examples every time: a run costs a minute, and one that fails is to be had again.
@settings(max_examples=6, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(start=starts, wish=pf_wishes)
def test_plan_then_apply_reaches_the_wish_and_reset_returns_the_start(
        pf: PhysicalFunction, start: tuple[int, bool, bool], wish: PfState) -> None:
    prepare(pf, start)
    executor, before = Executor(Sysfs()), state_of(pf)
    jobs = [Job(pf=executor.look_again(pf), wish=always(wish))]
    with TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "boot")
        terms = replace(FORCED, ledger=ledger)
        assert run(executor, jobs, terms).problems == ()
        now = [replace(job, pf=executor.look_again(pf)) for job in jobs]
        assert plan_jobs(executor, now, terms).describe() == ()
        check_reached(wish, before, state_of(pf))
        assert reset(executor, FORCED, ledger).problems == ()
        assert ledger.records == {}
    assert state_of(pf) == before


def check_reached(wish: PfState, before: PfState, now: PfState) -> None:
    """What the kernel has is what was wanted; this does not ask the code that planned it."""
    assert (now.num_vfs, len(now.vfs), now.autoprobe) == (wish.num_vfs, wish.num_vfs, before.autoprobe)
    assert wish.mtu in (None, now.mtu)
    for index, wanted in wish.vfs.items():
        if index >= wish.num_vfs:
            continue
        found = now.vfs[index]
        assert wanted.driver is None or found.driver == ("igbvf" if wanted.driver == "kernel" else wanted.driver)
        assert found.driver == "vfio-pci" or wanted.mtu in (None, found.mtu)
        for name in ("mac", "vlan", "vlan_qos", "spoofchk", "trust"):
            assert getattr(wanted.settings, name) in (None, getattr(found.settings, name)), name
