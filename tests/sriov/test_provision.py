"""Provisioning on a node in memory: what is wanted is reached, undone again, and taken back where a step fails."""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.errors import HostError, InputError, Refused
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import (
    Job,
    Terms,
    always,
    apply_last_good,
    apply_pool_file,
    find_abandoned,
    plan_jobs,
    reset,
    run,
)
from sriov.provision.guards import Override
from sriov.provision.ledger import Ledger
from sriov.provision.state import PfState, VfState
from sriov.provision.steps import NO_DRIVER
from tests.sriov import fakenode
from tests.sriov.fakenode import Died, FakeNode, make_pf, make_vf

A, B = PciAddress("0000:01:00.0"), PciAddress("0000:21:00.0")
BOOT = "b7a3c0de"
FREE = Terms(in_use=lambda vf: vf.away)      # as the commands and the agent have it, but for pods
KERNEL, VFIO = Driver.KERNEL, Driver("vfio-pci")
MAC = MacAddress("02:00:00:00:09:01")


def node_of(*counts, **facts):
    """A node whose PFs have so many VFs, each with the kernel's driver."""
    node = FakeNode(*(make_pf(address, number, **facts)
                      for number, (address, _) in enumerate(zip((A, B), counts, strict=False), 1)))
    for address, count in zip((A, B), counts, strict=False):
        node.write_num_vfs(address, count)
    node.log.clear()
    return node


def jobs_of(node, *wishes):
    return [Job(pf=pf, wish=always(wish)) for pf, wish in zip(node.pfs.values(), wishes, strict=True)]


def provision(node, *wishes, terms=FREE):
    return run(node.executor(), jobs_of(node, *wishes), terms)


def remains(node, *wishes, terms=FREE):
    return plan_jobs(node.executor(), jobs_of(node, *wishes), terms).describe()


WISH = PfState(num_vfs=4, mtu=9000, eswitch="switchdev", vfs={
    0: VfState(driver=KERNEL, mtu=4000, settings=VfSettings(mac=MAC, trust=True)),
    1: VfState(driver=VFIO, settings=VfSettings(vlan=7, spoofchk=False, link_state=LinkState.ENABLE)),
    2: VfState(driver=KERNEL),
})


def test_all_that_can_be_wanted():
    node = node_of(0)
    node.change(100, {"up": False})
    report = provision(node, WISH)
    (pf,) = node.pfs.values()
    assert report.problems == ()
    assert (pf.num_vfs, pf.link.mtu, pf.link.up, pf.eswitch, pf.autoprobe) == (4, 9000, True, "switchdev", True)
    assert [vf.driver for vf in pf.vfs] == ["igbvf", "vfio-pci", "igbvf", "igbvf"]
    assert (pf.vfs[0].link.mac, pf.vfs[0].link.mtu, pf.vfs[2].link.mtu) == (MAC, 4000, 1500)
    assert node.settings[pf.vfs[0].address].trust is True
    assert node.settings[pf.vfs[1].address].vlan == 7
    operations = [operation for operation, _ in node.log]
    assert operations[:6] == ["eswitch", "link", "link", "autoprobe", "numvfs", "override"]
    assert operations.index("vf") < operations.index("probe")       # a driver finds its VF's MAC when it probes
    assert remains(node, WISH) == ()


def test_twice_writes_nothing_the_second_time():
    node = node_of(0)
    provision(node, WISH)
    node.log.clear()
    assert provision(node, WISH) == run(node.executor(), [], FREE)
    assert node.log == []


def test_another_mac_binds_the_kernels_driver_again():
    """Some take over what the PF has set only when they probe."""
    node = node_of(1)
    assert provision(node, PfState(num_vfs=1, vfs={0: VfState(settings=VfSettings(mac=MAC))})).problems == ()
    assert [operation for operation, _ in node.log] == ["vf", "override", "unbind", "probe"]
    assert node.pfs[A].vfs[0].link.mac == MAC


def test_a_pf_without_devlink_has_no_eswitch_mode_to_set():
    node = node_of(0, eswitch=None)
    before = node.state()
    (problem,) = provision(node, PfState(num_vfs=2, eswitch="switchdev")).problems
    assert problem == (f"cannot set eswitch mode switchdev on PF ens1 ({A}): cannot set eswitch mode switchdev of "
                       f"{A}: its driver does not register with devlink")
    assert node.state() == before


def test_a_failing_pf_stops_no_other():
    node = node_of(0, 0)
    node.pfs[A] = replace(node.pfs[A], link=None)
    report = provision(node, PfState(num_vfs=2), PfState(num_vfs=3))
    (failure,) = report.failed
    assert (failure.pf, failure.left) == (A, ())
    assert (node.pfs[A].num_vfs, node.pfs[A].autoprobe, node.pfs[B].num_vfs) == (0, True, 3)


def test_pfs_are_worked_on_at_the_same_time():
    """The kernel takes seconds for each, and a lock for each alone."""
    node = node_of(0, 0)
    both = threading.Barrier(2, timeout=30)

    class Meeting(FakeNode):
        def write_num_vfs(self, pf, count):
            both.wait()
            super().write_num_vfs(pf, count)

    meeting = Meeting(*node.pfs.values())
    assert provision(meeting, PfState(num_vfs=2), PfState(num_vfs=3)).problems == ()
    assert [pf.num_vfs for pf in meeting.pfs.values()] == [2, 3]


# ---- VFs that are in use --------------------------------------------------------------------------------


def test_a_vf_that_a_pod_gets_meanwhile_keeps_what_it_has():
    node = node_of(2)
    used = set()

    def in_use(vf):
        if ("override", (node.pfs[A].vfs[0].address, "vfio-pci")) in node.log:
            used.add(node.pfs[A].vfs[1].address)
        return vf.address in used

    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO), 1: VfState(driver=VFIO)})
    (problem,) = provision(node, wish, terms=Terms(in_use=in_use)).problems
    assert problem == f"cannot bind VF {node.pfs[A].vfs[1].address} to vfio-pci (now igbvf): it is in use"
    assert [vf.driver for vf in node.pfs[A].vfs] == ["vfio-pci", "igbvf"]


class Holds:
    """Keeps pods off VFs as an agent does; notes in the node's log when, and refuses those that a call is at."""

    def __init__(self, node, busy=()):
        self._node, self._busy = node, busy
        self.now = set()

    @contextmanager
    def __call__(self, vf):
        if vf in self._busy:
            raise Refused(f"VF {vf} is on its way")
        assert vf not in self.now
        self.now.add(vf)
        try:
            yield
        finally:
            self.now.discard(vf)

    def watch(self):
        """Before each write of the node: which VFs are held."""
        held, write = [], self._node.write

        def noting(operation, value, effect):
            held.append((operation, value, frozenset(self.now)))
            return write(operation, value, effect)

        self._node.write = noting
        return held


def test_a_bug_of_one_pf_hides_no_other_s_report(monkeypatch, caplog):
    node = node_of(0, 0)
    first, second = node.pfs

    def fail(self, address, count, write=FakeNode.write_num_vfs):
        if address == first:
            raise ValueError("7 is not a valid LinkState")
        write(self, address, count)

    monkeypatch.setattr(FakeNode, "write_num_vfs", fail)
    report = provision(node, PfState(num_vfs=2), PfState(num_vfs=2))
    assert [(each.pf, each.what) for each in report.failed] == [
        (first, f"cannot make PF {first} what it should be: ValueError('7 is not a valid LinkState')")]
    assert report.failed[0].left == ("what it was in the middle of",)
    assert node.pfs[second].num_vfs == 2
    assert "Traceback" in caplog.text


def test_a_vf_is_held_while_it_is_changed_and_no_other():
    node = node_of(2)
    first, second = (vf.address for vf in node.pfs[A].vfs)
    holds = Holds(node)
    held = holds.watch()
    asked = set()

    def in_use(vf):
        asked.add((vf.address, frozenset(holds.now)))
        return False

    terms = Terms(in_use=in_use, hold=holds)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO), 1: VfState(driver=VFIO)})
    assert provision(node, wish, terms=terms).problems == ()
    of = {operation: [(value if operation != "override" else value[0], now) for each, value, now in held
                      if each == operation] for operation in ("override", "unbind", "probe")}
    assert list(of.values()) == [[(first, {first}), (second, {second})]] * 3
    assert {(first, frozenset({first})), (second, frozenset({second}))} <= asked      # again, once held
    assert holds.now == set()


def test_all_vfs_of_a_pf_are_held_until_it_has_others():
    node = node_of(2)
    before = frozenset(vf.address for vf in node.pfs[A].vfs)
    holds = Holds(node)
    held = holds.watch()
    terms = Terms(in_use=lambda vf: False, hold=holds, overrides={Override.DISTURB_VFS})
    assert provision(node, PfState(num_vfs=4), terms=terms).problems == ()
    assert [now for operation, _, now in held if operation in ("numvfs", "autoprobe")] == [before] * 4
    assert holds.now == set()


def test_what_a_failed_step_disturbed_is_held_until_it_is_taken_back():
    node = node_of(1)
    vf = node.pfs[A].vfs[0].address
    before, holds = node.state(), Holds(node)
    held = holds.watch()
    node.fail_at = 1                                          # the unbind, after driver_override
    wish = PfState(num_vfs=1, vfs={0: VfState(driver=VFIO)})
    (problem,) = provision(node, wish, terms=Terms(in_use=lambda vf: False, hold=holds)).problems
    assert "unbind failed: EIO" in problem
    assert node.state() == before
    assert len(held) > 2
    assert {now for _, _, now in held} == {frozenset({vf})}


@pytest.mark.parametrize("wish", [
    PfState(num_vfs=4), PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)})], ids=["the number", "a driver"])
def test_a_vf_that_a_call_is_at_counts_as_in_use(wish):
    node = node_of(2)
    before, vf = node.state(), node.pfs[A].vfs[0].address
    terms = Terms(in_use=lambda vf: False, hold=Holds(node, busy={vf}), overrides=set(Override))
    (problem,) = provision(node, wish, terms=terms).problems
    assert problem.endswith(f": VF {vf} is on its way")
    assert node.state() == before
    assert node.log == []


def test_a_busy_vf_stops_no_other():
    node = node_of(3)
    vf = node.pfs[A].vfs[1].address
    wish = PfState(num_vfs=3, vfs=dict.fromkeys(range(3), VfState(driver=VFIO)))
    holds = Holds(node, busy={vf})
    assert len(provision(node, wish, terms=Terms(in_use=lambda vf: False, hold=holds)).problems) == 1
    assert [each.driver for each in node.pfs[A].vfs] == ["vfio-pci", "igbvf", "vfio-pci"]
    assert holds.now == set()


def test_vfs_are_not_removed_while_a_process_has_one_open():
    node = node_of(0)
    provision(node, PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)}))
    node.opened = {node.pfs[A].vfs[0].address}
    before = node.state()
    forced = replace(FREE, overrides=set(Override))
    for wish in (PfState(num_vfs=3), PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL)})):
        (problem,) = provision(node, wish, terms=forced).problems
        assert "a process has " in problem
        assert node.state() == before


@pytest.mark.parametrize("change", [
    VfState(driver=VFIO, settings=VfSettings(vlan=7, mac=MAC)), VfState(driver=KERNEL),
], ids=["settings", "a driver"])
def test_nothing_is_changed_of_a_vf_that_a_process_has_open(change):
    """A virtual machine, say, whose VLAN and MAC would change under it; plan says so as apply does."""
    node = node_of(0)
    assert provision(node, PfState(num_vfs=1, vfs={0: VfState(driver=VFIO)})).problems == ()
    node.opened = {node.pfs[A].vfs[0].address}
    node.log.clear()
    wish = PfState(num_vfs=1, vfs={0: change})
    forced = replace(FREE, overrides=set(Override))
    (refused,) = provision(node, wish, terms=forced).refused
    assert (refused.override, remains(node, wish, terms=forced)) == (None, (str(refused),))
    assert ": a process has it open (hint: " in str(refused)
    assert node.log == []


def test_a_vf_that_a_process_opens_after_the_plan_was_made():
    node = node_of(0)
    assert provision(node, PfState(num_vfs=1, vfs={0: VfState(driver=VFIO)})).problems == ()
    node.log.clear()
    vf = node.pfs[A].vfs[0].address
    asked = []

    def in_use(vf):
        asked.append(vf.address)
        node.opened.update(asked[1:])           # for the plan it was asked once, and then before the step
        return False

    wish = PfState(num_vfs=1, vfs={0: VfState(driver=KERNEL)})
    (problem,) = provision(node, wish, terms=Terms(in_use=in_use)).problems
    assert problem.startswith(f"cannot bind VF {vf} to kernel (now vfio-pci): a process has it open through ")
    assert node.log == []


def test_other_vfs_by_force_are_told_apart_from_failure():
    node = node_of(2)
    assert provision(node, PfState(num_vfs=4)).problems[0].endswith("override disturb-vfs)")
    assert node.log == []
    forced = replace(FREE, overrides={Override.DISTURB_VFS})
    assert provision(node, PfState(num_vfs=4), terms=forced).problems == ()
    assert [value for operation, value in node.log if operation == "numvfs"] == [(A, 0), (A, 4)]


def test_who_else_makes_its_vfs_is_asked_for_all_pfs_at_once():
    node = node_of(0, 0)
    terms = replace(FREE, read_claims=lambda pfs: {pfs[1].address: ("netplan makes its VFs: /etc/netplan/x",)})
    report = provision(node, PfState(num_vfs=2), PfState(num_vfs=2), terms=terms)
    assert [(refusal.pf, refusal.override) for refusal in report.refused] == [(B, Override.CLAIMED)]
    assert (node.pfs[A].num_vfs, node.pfs[B].num_vfs) == (2, 0)


def test_a_pf_that_cannot_be_read_has_no_plan_and_the_others_have(monkeypatch):
    node = node_of(1, 0)
    own = fakenode.Links.vf_settings

    def read(links, index):
        if index == 100:
            raise HostError("cannot read it")
        return own(links, index)

    monkeypatch.setattr(fakenode.Links, "vf_settings", read)
    wishes = PfState(num_vfs=1, vfs={0: VfState(settings=VfSettings(vlan=1))}), PfState(num_vfs=0, mtu=9000)
    assert remains(node, *wishes) == (
        f"set MTU 9000 on PF ens2 ({B}) (now 1500)", f"cannot plan PF ens1 ({A}): cannot read it")
    assert provision(node, *wishes).problems == (f"cannot make PF {A} what it should be: cannot read it",)
    link = node.pfs[B].link
    assert link is not None
    assert link.mtu == 9000


def test_a_vf_that_may_be_open_is_not_removed_and_stops_no_other(monkeypatch):
    node = node_of(0)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO), 1: VfState(driver=VFIO)})
    assert provision(node, wish).problems == ()
    first = node.pfs[A].vfs[0].address

    def fail(address):
        if address == first:
            raise HostError("cannot read it")
        return False

    monkeypatch.setattr(node, "is_enabled", fail)
    assert any(f"a process has {first} open" in problem
               for problem in provision(node, PfState(num_vfs=0), terms=FORCED).problems)
    (problem,) = provision(node, PfState(num_vfs=2, vfs=dict.fromkeys((0, 1), VfState(driver=KERNEL)))).problems
    assert problem == (f"cannot bind VF {first} to kernel (now vfio-pci): a process has it open (hint: end the pod "
                       "or the process that uses it)")
    assert [vf.driver for vf in node.pfs[A].vfs] == ["vfio-pci", "igbvf"]


# ---- whatever is wanted: reached, and undone ------------------------------------------------------------


macs = st.sampled_from([None, MAC, MacAddress("02:00:00:00:09:02")])
vf_settings = st.builds(
    VfSettings, mac=macs, vlan=st.sampled_from([None, 0, 100]), vlan_qos=st.sampled_from([None, 0, 3]),
    spoofchk=st.sampled_from([None, True, False]), trust=st.sampled_from([None, True, False]),
    max_tx_rate=st.sampled_from([None, 0, 200]), link_state=st.sampled_from([None, *LinkState]),
)
vf_wishes = st.builds(VfState, driver=st.sampled_from([None, KERNEL, VFIO]), settings=vf_settings,
                      mtu=st.sampled_from([None, 1500, 9000]))
pf_wishes = st.builds(
    PfState, num_vfs=st.integers(0, 4), mtu=st.sampled_from([None, 1400, 1500, 9000]),
    eswitch=st.sampled_from([None, "legacy", "switchdev"]),
    vfs=st.dictionaries(st.integers(0, 3), vf_wishes, max_size=4),
)
starts = st.tuples(st.integers(0, 3), st.booleans(), st.booleans())     # VFs, up, autoprobe


def start(facts):
    count, up, autoprobe = facts
    node = node_of(count)
    node.change(100, {"up": up})
    node.pfs[A] = replace(node.pfs[A], autoprobe=autoprobe)
    return node


FORCED = replace(FREE, overrides={Override.DISTURB_VFS, Override.ADOPT})


@settings(max_examples=150, deadline=None)
@given(starts, pf_wishes)
def test_plan_then_apply_reaches_the_wish_and_reset_returns_the_start(facts, wish):
    node = start(facts)
    before = node.state()
    with TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), BOOT)
        terms = replace(FORCED, ledger=ledger)
        assert provision(node, wish, terms=terms).problems == ()
        assert remains(node, wish, terms=terms) == ()
        assert node.pfs[A].num_vfs == wish.num_vfs
        assert node.pfs[A].autoprobe == facts[2]
        changed = node.state() != before
        assert (ledger.records != {}) == (node.log != [] or facts[0] > 0)      # VFs that are adopted are noted
        assert changed <= (node.log != [])
        again = Ledger(Path(folder), BOOT)
        assert (again.records, again.damaged) == (ledger.records, [])
        assert reset(node.executor(), FREE, again).problems == ()
        assert node.state() == before
        assert Ledger(Path(folder), BOOT).records == {}


@settings(max_examples=60, deadline=None)
@given(starts, pf_wishes)
def test_each_step_has_an_undo_that_returns_the_start(facts, wish):
    node = start(facts)
    executor = node.executor()
    plan = plan_jobs(executor, jobs_of(node, wish), FORCED)
    before = node.state()
    undo = []
    for step in plan.steps:
        undo.append(executor.prepare(step))
        executor.do(step)
    for back in reversed(undo):
        for step in back:
            executor.do(step)
    assert node.state() == before


# ---- each write fails -----------------------------------------------------------------------------------


CHANGE = PfState(num_vfs=3, mtu=9000, vfs={0: VfState(driver=VFIO), 1: VfState(driver=KERNEL, mtu=2000),
                                           2: VfState(settings=VfSettings(vlan=5, trust=True))})


def writes_of(count):
    node = node_of(count)
    assert provision(node, CHANGE, terms=FORCED).problems == ()
    return len(node.log)


CASES = [(count, number) for count in (0, 2, 3) for number in range(writes_of(count))]


@pytest.mark.parametrize("late", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize(("count", "number"), CASES)
def test_one_write_fails(count, number, late):
    """Each PF and each VF is then as it was or as it should be, or the report has what is not so."""
    node = node_of(count)
    before = node.pfs[A]
    start_state = node.state()
    node.fail_at, node.late = number, late
    report = provision(node, CHANGE, terms=FORCED)
    pf = node.pfs[A]
    assert pf.autoprobe
    if report.failed:
        (failure,) = report.failed
        assert failure.what.startswith("cannot ")
        assert "EIO" in failure.what
    assert all(failure.left == () for failure in report.failed)      # what undoes one failed write works
    if pf.link.mtu == before.link.mtu and report.failed:       # it comes before all that VFs get
        assert node.state() == start_state
        return
    given_up = [vf.index for vf in pf.vfs if any(vf.address in failure.what for failure in report.failed)]
    assert len(given_up) == len(report.failed)
    assert pf.num_vfs == 3
    wanted = {0: "vfio-pci", 1: "igbvf", 2: "igbvf"}
    assert all(vf.driver == wanted[vf.index] for vf in pf.vfs if vf.index not in given_up)
    assert (node.settings[pf.vfs[2].address].vlan == 5) == (2 not in given_up)


@pytest.mark.parametrize(("count", "number"), CASES)
def test_from_one_write_on_all_fail(count, number):
    """Nothing can be taken back: the report says exactly what is left."""
    node = node_of(count)
    before = node.pfs[A]
    node.fail_at, node.fail_all = number, True
    report = provision(node, CHANGE, terms=FORCED)
    assert report.failed
    now = node.pfs[A]
    said = " ".join(part for failure in report.failed for part in failure.left)
    own = any(step for failure in report.failed for step in failure.left if not step.startswith(("VF ", "cannot ")))
    if now.num_vfs != before.num_vfs and not any(vf.address in str(report.failed[0]) for vf in now.vfs):
        assert f"num vfs {now.num_vfs}, was {before.num_vfs}" in said
        assert own
    for vf, was in zip(now.vfs, before.vfs, strict=False):
        if now.num_vfs == before.num_vfs and vf.driver != was.driver and vf.driver != {0: "vfio-pci"}.get(vf.index):
            assert f"VF {vf.index}: driver {vf.driver or 'none'}, was {was.driver}" in said
    if not now.autoprobe:
        assert "autoprobe off, was on" in said


class OnDisk(Ledger):
    """Its writes are among the node's, and fail or are the last as those do."""

    def __init__(self, state, node):
        super().__init__(state, BOOT)
        self._node = node

    def _write(self, record):
        self._node.write("record", record, lambda: Ledger._write(self, record))


def begin(count, autoprobe, up=True):
    node = node_of(count)
    node.pfs[A] = replace(node.pfs[A], autoprobe=autoprobe)
    node.change(100, {"up": up})
    return node


def count_writes(count, autoprobe):
    node = begin(count, autoprobe)
    with TemporaryDirectory() as folder:
        assert provision(node, CHANGE, terms=replace(FORCED, ledger=OnDisk(Path(folder), node))).problems == ()
    return len(node.log)


LIVES = [(count, autoprobe, number) for count, autoprobe in ((0, True), (0, False), (2, True))
         for number in range(count_writes(count, autoprobe))]


@pytest.mark.parametrize("late", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize(("count", "autoprobe", "number"), LIVES)
def test_the_process_dies_at_one_write(tmp_path, count, autoprobe, number, late):
    """Nothing cleans up. The next one reaches what is wanted, autoprobe is as it was, and all can be undone."""
    node = begin(count, autoprobe)
    before = node.state()
    node.die_at, node.late = number, late
    with pytest.raises(Died):
        provision(node, CHANGE, terms=replace(FORCED, ledger=OnDisk(tmp_path, node)))
    assert len(node.log) <= number + late                    # not even what would clean up
    node.revive()
    ledger = Ledger(tmp_path, BOOT)
    # What somebody else made stays adopted; of PFs that had none, nobody has to be asked.
    terms = replace(FORCED if count else FREE, ledger=ledger)
    assert provision(node, CHANGE, terms=terms).problems == ()
    assert remains(node, CHANGE, terms=terms) == ()
    pf = node.pfs[A]
    assert (pf.num_vfs, pf.autoprobe, pf.vfs[0].driver, pf.vfs[1].driver) == (3, autoprobe, "vfio-pci", "igbvf")
    assert ledger.find_unfinished(pf) is None
    assert reset(node.executor(), FREE, Ledger(tmp_path, BOOT)).problems == ()
    assert node.state() == before


def test_autoprobe_that_is_off_is_no_dead_end():
    """A udev rule may have set it so: such a host's VFs are bound all the same, and it is off again then."""
    node = begin(0, autoprobe=False)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL), 1: VfState(driver=VFIO)})
    assert provision(node, wish).problems == ()
    assert [vf.driver for vf in node.pfs[A].vfs] == ["igbvf", "vfio-pci"]
    assert not node.pfs[A].autoprobe
    assert [value for operation, value in node.log if operation == "autoprobe"] == [(A, True), (A, False)]


def test_autoprobe_that_a_dead_agent_left_off_is_on_again(tmp_path):
    node = node_of(0)
    node.die_at = 2
    with pytest.raises(Died):
        provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=OnDisk(tmp_path, node)))
    node.revive()
    assert not node.pfs[A].autoprobe
    terms = replace(FREE, ledger=Ledger(tmp_path, BOOT))
    assert remains(node, PfState(num_vfs=0), terms=terms) == (f"let drivers probe new VFs of PF ens1 ({A})",)
    assert provision(node, PfState(num_vfs=0), terms=terms).problems == ()
    assert node.pfs[A].autoprobe
    node.write_autoprobe(A, False)                          # from here on it is somebody else's wish
    assert provision(node, PfState(num_vfs=0), terms=terms).done == ()
    assert not node.pfs[A].autoprobe


@pytest.mark.parametrize("late", [False, True])
def test_a_record_that_cannot_be_written_keeps_the_pf_as_it_is(tmp_path, late):
    node = node_of(0)
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    (tmp_path / "pfs").write_text("a file where the folder should be")
    (problem,) = provision(node, CHANGE, terms=replace(FORCED, ledger=ledger)).problems
    assert problem.startswith(f"cannot make PF {A} what it should be: cannot write the record {tmp_path}/pfs/{A}")
    assert (node.state(), node.log) == (before, [])


# ---- over boots -----------------------------------------------------------------------------------------


def test_the_last_good_state_comes_back_after_a_boot(tmp_path):
    node = node_of(0)
    provision(node, WISH, terms=replace(FREE, ledger=Ledger(tmp_path, BOOT)))
    after = node.state()
    booted = node_of(0)
    ledger = Ledger(tmp_path, "another boot")
    assert apply_last_good(booted.executor(), FREE, ledger).problems == ()
    assert booted.state() == after
    assert ledger.records[A].before.num_vfs == 0


def test_an_override_of_the_last_good_state_is_one_of_the_next_boot(tmp_path):
    def tied():
        node = node_of(0)
        node.pfs[A] = replace(node.pfs[A], ties=("has address 192.0.2.1/24",))
        return node

    node = tied()
    terms = replace(FREE, ledger=Ledger(tmp_path, BOOT))
    job = replace(jobs_of(node, PfState(num_vfs=2))[0], overrides=[Override.TIED])
    assert run(node.executor(), [job], replace(terms, overrides={Override.IN_USE})).problems == ()
    ledger = Ledger(tmp_path, "another boot")
    assert ledger.records[A].overrides == (Override.TIED,)
    booted = tied()
    assert apply_last_good(booted.executor(), FREE, ledger).problems == ()
    assert booted.pfs[A].num_vfs == 2


def test_what_failed_is_not_the_last_good_state(tmp_path):
    node = node_of(0)
    ledger = Ledger(tmp_path, BOOT)
    provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=ledger))
    node.fail_at, node.fail_all = len(node.log), True
    assert provision(node, CHANGE, terms=replace(FORCED, ledger=ledger)).failed
    assert ledger.records[A].last_good == PfState(num_vfs=2)


def test_after_a_boot_the_vfs_that_are_there_are_not_ours(tmp_path):
    node = node_of(0)
    provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=Ledger(tmp_path, BOOT)))
    booted = node_of(2)
    ledger = Ledger(tmp_path, "another boot")
    assert not ledger.owns(booted.pfs[A], booted.made)
    before = booted.state()
    assert reset(booted.executor(), FREE, ledger).problems == ()
    assert booted.state() == before
    assert ledger.records == {}                    # nothing of it comes back at the next boot


def test_vfs_of_another_maker_are_taken_over_by_name_only(tmp_path):
    node = node_of(2)
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FREE, ledger=ledger)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)})
    (refused,) = provision(node, wish, terms=terms).refused
    assert refused.override == Override.ADOPT
    assert (node.state(), ledger.records) == (before, {})
    assert provision(node, wish, terms=replace(terms, overrides={Override.ADOPT})).problems == ()
    assert provision(node, PfState(num_vfs=2, vfs={1: VfState(driver=VFIO)}), terms=terms).problems == ()
    assert reset(node.executor(), FREE, ledger).problems == ()
    assert node.state() == before


def test_vfs_that_somebody_made_in_place_of_ours_are_theirs(tmp_path):
    node = node_of(0)
    terms = replace(FREE, ledger=Ledger(tmp_path, BOOT))
    assert provision(node, PfState(num_vfs=2), terms=terms).problems == ()
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)})
    assert provision(node, wish, terms=replace(FREE, ledger=Ledger(tmp_path, BOOT))).problems == ()
    for count in (0, 2):
        node.write_num_vfs(A, count)
    (refused,) = provision(node, wish, terms=terms).refused
    assert refused.override == Override.ADOPT
    assert provision(node, PfState(num_vfs=0, mtu=9000), terms=replace(FORCED, ledger=terms.ledger)).problems == ()
    node.write_num_vfs(A, 2)
    (refused,) = provision(node, wish, terms=terms).refused
    assert refused.override == Override.ADOPT


@pytest.mark.parametrize("owned", [2, 0])
def test_reset_spares_vfs_that_somebody_made_since(tmp_path, owned):
    node = node_of(0)
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FORCED, ledger=ledger)
    for count in (2, owned):
        assert provision(node, PfState(num_vfs=count, mtu=9000), terms=terms).problems == ()
    node.write_num_vfs(A, 0)
    node.write_autoprobe(A, False)
    node.write_num_vfs(A, 3)
    node.write_autoprobe(A, True)
    vfs = node.pfs[A].vfs
    assert reset(node.executor(), FORCED, ledger).problems == ()
    link = node.pfs[A].link
    assert link is not None
    assert (node.pfs[A].vfs, link.mtu, ledger.records) == (vfs, 1500, {})


@pytest.mark.parametrize(("count", "mine"), [(2, True), (3, False)])
def test_as_many_as_an_agent_was_making_when_it_died_are_its_own(tmp_path, count, mine):
    node = node_of(0)
    Ledger(tmp_path, BOOT).begin(node.pfs[A], PfState(num_vfs=0), counts=(2,))
    node.write_num_vfs(A, count)
    wish = PfState(num_vfs=count, vfs={0: VfState(driver=VFIO)})
    ledger = Ledger(tmp_path, BOOT)
    refused = provision(node, wish, terms=replace(FREE, ledger=ledger)).refused
    assert [each.override for each in refused] == ([] if mine else [Override.ADOPT])
    assert ledger.owns(node.pfs[A], node.made) is mine


@pytest.mark.parametrize("late", [False, True])
def test_vfs_that_somebody_makes_after_a_failure_are_theirs(tmp_path, late):
    node = node_of(0)
    ledger = Ledger(tmp_path, BOOT)
    node.fail_at, node.late = 1, late                 # as ENOSPC does: the number of VFs cannot be set
    assert len(provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=ledger)).failed) == 1
    node.fail_at = None
    node.write_num_vfs(A, 2)
    before = node.state()
    again = Ledger(tmp_path, BOOT)
    (refused,) = provision(node, PfState(num_vfs=3), terms=replace(
        FREE, overrides={Override.DISTURB_VFS}, ledger=again)).refused
    assert refused.override == Override.ADOPT
    assert reset(node.executor(), FORCED, again).problems == ()
    assert (node.state(), again.records) == (before, {})


def test_vfs_that_somebody_makes_meanwhile_are_not_removed(tmp_path):
    node = node_of(0)
    write = node.write_autoprobe

    def make(pf, enabled):
        write(pf, enabled)
        if not enabled:
            node.write_num_vfs(A, 3)

    node.write_autoprobe = make
    ledger = Ledger(tmp_path, BOOT)
    (problem,) = provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=ledger)).problems
    assert problem.startswith(f"cannot make 2 VFs on PF ens1 ({A}): somebody made 3 meanwhile (hint: let one of ")
    assert (node.pfs[A].num_vfs, node.pfs[A].autoprobe) == (3, True)
    assert not ledger.owns(node.pfs[A], node.made)


@pytest.mark.parametrize("number", [2, 3])
def test_vfs_that_could_not_be_taken_back_are_ours(tmp_path, number):
    node = node_of(0)
    ledger = Ledger(tmp_path, BOOT)
    node.fail_at, node.fail_all = number, True        # all writes after those that make them
    failures = provision(node, PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)}),
                         terms=replace(FREE, ledger=ledger)).failed
    assert any(failure.left for failure in failures)
    assert node.pfs[A].num_vfs == 2
    assert ledger.owns(node.pfs[A], node.made)


def test_reset_leaves_vfs_that_pods_have(tmp_path):
    node = node_of(0)
    ledger = Ledger(tmp_path, BOOT)
    provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=ledger))
    before, records = node.state(), ledger.records
    used = Terms(in_use=lambda vf: vf.index == 1)
    (refused,) = reset(node.executor(), used, ledger).refused
    assert refused.override == Override.IN_USE
    assert (node.state(), ledger.records) == (before, records)


def test_another_card_in_the_slot_has_no_record(tmp_path):
    node = node_of(0)
    provision(node, PfState(num_vfs=2), terms=replace(FREE, ledger=Ledger(tmp_path, BOOT)))
    other = node_of(0, device="1572")
    ledger = Ledger(tmp_path, BOOT)
    assert ledger.find(other.pfs[A]) is None
    report = apply_last_good(other.executor(), FREE, ledger)
    assert (report.done, report.problems) == ((), (
        f"cannot bring back PF {A} (8086:10c9): it is not there, or could not be read",))


def test_a_vf_that_had_no_driver_has_none_after_reset(tmp_path):
    node = FakeNode(replace(make_pf(A, 1), num_vfs=1, vfs=(make_vf(make_pf(A, 1), 0),)))
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FREE, ledger=ledger, overrides={Override.ADOPT})
    assert provision(node, PfState(num_vfs=1), terms=terms).problems == ()
    assert node.pfs[A].vfs[0].driver == "igbvf"
    assert ledger.records[A].before.vfs[0].driver == NO_DRIVER
    assert reset(node.executor(), FREE, ledger).problems == ()
    assert node.pfs[A].vfs[0].driver is None


def test_a_foreign_vf_in_the_middle_of_its_makers_rebinding_is_left_alone(tmp_path):
    node = FakeNode(replace(make_pf(A, 1), num_vfs=1, vfs=(make_vf(make_pf(A, 1), 0),)))
    vf = node.pfs[A].vfs[0].address
    node.overrides[vf] = "vfio-pci"
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    assert provision(node, PfState(num_vfs=1), terms=replace(FREE, ledger=ledger)).problems == ()
    wish = PfState(num_vfs=1, vfs={0: VfState(settings=VfSettings(trust=True, vlan=9))})
    (refused,) = provision(node, wish, terms=replace(FREE, ledger=ledger)).refused
    assert refused.override == Override.ADOPT
    assert (node.state(), node.log, ledger.records) == (before, [], {})


# ---- drivers that tell less, and take less over -----------------------------------------------------------


@pytest.mark.parametrize(("reported", "unknown"), [((), "mac, vlan, trust"), (("mac", "vlan"), "trust")])
def test_attributes_that_the_pf_does_not_report_are_refused(tmp_path, reported, unknown):
    node = node_of(0)
    node.reported = frozenset(reported)
    ledger = Ledger(tmp_path, BOOT)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL, settings=VfSettings(mac=MAC, vlan=5, trust=True)),
                                   1: VfState(driver=VFIO)})
    terms = replace(FREE, ledger=ledger)
    for _ in range(3):
        (refused,) = provision(node, wish, terms=terms).refused
        assert refused.message == (f"cannot set {unknown} for VF {node.pfs[A].vfs[0].address}: its PF's driver igb "
                                   "does not report what it enforces")
        assert refused.override is None
    assert [vf.driver for vf in node.pfs[A].vfs] == [None, "vfio-pci"]       # not handed out without its VLAN
    assert sum(operation in ("probe", "unbind") for operation, _ in node.log) == 1
    assert ledger.records[A].last_good is None


def test_a_driver_that_takes_no_mac_over_is_bound_once(tmp_path):
    node = node_of(1)
    node.takes_mac = False
    before = node.pfs[A].vfs
    (problem,) = provision(node, PfState(num_vfs=1, vfs={0: VfState(settings=VfSettings(mac=MAC))})).problems
    assert problem == (f"cannot bind VF {before[0].address} to kernel (now igbvf): it was bound once, and that "
                       f"would be so again; its netdev has MAC {before[0].link.mac}")
    assert [operation for operation, _ in node.log] == ["vf", "override", "unbind", "probe"]
    assert node.pfs[A].vfs == before


def test_a_netdev_that_comes_after_its_driver_probed(tmp_path):
    """It is waited for: without it the VF looks like one in a pod, that nothing is done to."""
    node = node_of(0)
    node.netdevs_come = "late"
    ledger = Ledger(tmp_path, BOOT)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL, mtu=9000, settings=VfSettings(mac=MAC, vlan=5)),
                                   1: VfState(driver=VFIO)})
    assert provision(node, wish, terms=replace(FREE, ledger=ledger)).problems == ()
    link = node.pfs[A].vfs[0].link
    assert link is not None
    assert (link.mtu, link.mac, ledger.records[A].last_good) == (9000, MAC, wish)
    assert remains(node, wish) == ()


def test_a_netdev_that_never_comes_is_named_and_stops_no_other(tmp_path):
    node = node_of(0)
    node.netdevs_come = "never"
    ledger = Ledger(tmp_path, BOOT)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=KERNEL), 1: VfState(driver=VFIO)})
    (problem,) = provision(node, wish, terms=replace(FREE, ledger=ledger)).problems
    assert problem.startswith(f"cannot bind VF {node.pfs[A].vfs[0].address} to kernel (now none): igbvf has it, "
                              "but made no netdev in 0 s (hint: ")
    assert [vf.driver for vf in node.pfs[A].vfs] == [None, "vfio-pci"]
    assert ledger.records[A].last_good is None


def test_a_pf_that_is_down_is_set_up_before_its_vfs_are_probed(tmp_path):
    """Not only new ones; and a reset sets it down again, after their drivers have asked it."""
    node = node_of(2)
    node.settings[node.pfs[A].vfs[0].address] = replace(node.settings[node.pfs[A].vfs[0].address], mac=MAC)
    node.unbind(node.pfs[A].vfs[0].address)
    node.probe(node.pfs[A].vfs[0].address)
    node.change(100, {"up": False})
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FORCED, ledger=ledger)
    wish = PfState(num_vfs=2, vfs={1: VfState(settings=VfSettings(mac=MacAddress("02:00:00:00:09:02")))})
    assert remains(node, wish, terms=terms)[0] == f"set PF ens1 ({A}) up"
    assert provision(node, wish, terms=terms).problems == ()
    assert node.pfs[A].vfs[1].link.mac == "02:00:00:00:09:02"
    assert provision(node, PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)}), terms=terms).problems == ()
    assert reset(node.executor(), FREE, ledger).problems == ()
    assert node.state() == before


def test_vfs_for_user_space_need_no_pf_that_is_up():
    node = node_of(2)
    node.change(100, {"up": False})
    assert provision(node, PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)})).problems == ()
    assert not node.pfs[A].link.up


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("wish", [PfState(num_vfs=2, mtu=9000, eswitch="switchdev"),
                                  PfState(num_vfs=0, mtu=4000, eswitch="switchdev"),
                                  PfState(num_vfs=2, eswitch="switchdev")])
def test_an_eswitch_mode_that_comes_with_another_netdev(tmp_path, wish, count):
    """Its MTU is as wanted, or as it was, and it is up as it was; also after a reset, and where a step fails."""
    def begin():
        node = node_of(count)
        node.change(100, {"mtu": 9000})
        node.eswitch = "no VFs, another netdev"
        return node, replace(node.pfs[A].link, index=0)

    node, before = begin()
    ledger = Ledger(tmp_path, BOOT)
    assert provision(node, wish, terms=replace(FORCED, ledger=ledger)).problems == ()
    link = node.pfs[A].link
    assert (node.pfs[A].num_vfs, node.pfs[A].eswitch) == (wish.num_vfs, "switchdev")
    assert (link.mtu, link.up) == (wish.mtu or 9000, True)
    writes = len(node.log)
    assert provision(node, wish, terms=replace(FORCED, ledger=ledger)).done == ()
    assert reset(node.executor(), FREE, ledger).problems == ()
    pf = node.pfs[A]
    assert (replace(pf.link, index=0), pf.eswitch, pf.num_vfs) == (before, "legacy", count)
    for number in range(writes):
        node, before = begin()
        node.fail_at = number
        report = provision(node, wish, terms=FORCED)
        assert all(failure.left == () for failure in report.failed)
        if node.pfs[A].eswitch == "legacy":
            assert (replace(node.pfs[A].link, index=0), node.pfs[A].num_vfs) == (before, count)


@pytest.mark.parametrize("autoprobe", [True, False])
def test_a_driver_that_wants_vfs_before_another_eswitch_mode(autoprobe):
    node = begin(0, autoprobe)
    node.eswitch = "VFs"
    wish = PfState(num_vfs=2, eswitch="switchdev", vfs={0: VfState(driver=KERNEL), 1: VfState(driver=VFIO)})
    report = provision(node, wish)
    assert report.problems == ()
    assert [operation for operation, _ in node.log if operation in ("numvfs", "eswitch", "probe")] == [
        "numvfs", "eswitch", "probe", "probe"]
    pf = node.pfs[A]
    assert (pf.eswitch, pf.autoprobe) == ("switchdev", autoprobe)
    assert [vf.driver for vf in pf.vfs] == ["igbvf", "vfio-pci"]
    node = begin(0, autoprobe)
    node.eswitch = "VFs"
    before = node.state()
    (problem,) = provision(node, PfState(num_vfs=0, eswitch="switchdev")).problems
    assert problem == f"cannot set eswitch mode switchdev on PF ens1 ({A}) (now legacy): eswitch: EPERM"
    assert node.state() == before


@pytest.mark.parametrize(("times", "fails"), [(3, False), (1000, True)])
def test_a_vf_that_is_still_in_its_reset_is_waited_for(monkeypatch, times, fails):
    monkeypatch.setattr("sriov.provision.executor._RESET_PATIENCE", 0.2)
    monkeypatch.setattr("sriov.provision.executor._RESET_PAUSE", 0.001)
    node = node_of(1)
    node.in_reset = times
    report = provision(node, PfState(num_vfs=1, vfs={0: VfState(settings=VfSettings(vlan=5))}))
    assert bool(report.problems) == fails
    assert (node.settings[node.pfs[A].vfs[0].address].vlan == 5) != fails


def test_vfs_are_adopted_once_for_this_boot_though_nothing_is_to_be_changed(tmp_path):
    node = node_of(2)
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    adopting = replace(FREE, ledger=ledger, overrides={Override.ADOPT})
    assert provision(node, PfState(num_vfs=2), terms=adopting).done == ()
    assert (node.state(), node.log) == (before, [])
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO)})
    assert provision(node, wish, terms=replace(FREE, ledger=Ledger(tmp_path, BOOT))).problems == ()
    assert reset(node.executor(), FREE, Ledger(tmp_path, BOOT)).problems == ()
    assert node.state() == before
    assert Ledger(tmp_path, BOOT).records == {}


@pytest.mark.parametrize(("driver", "made"), [("pci-pf-stub", 2), ("igb", 0)])
def test_a_pf_that_never_has_a_netdev(driver, made):
    """Of another driver's PF without one, the netdev is in a pod, where VFs would interrupt it."""
    node = node_of(0, driver=driver, eswitch=None, link=None)
    wish = PfState(num_vfs=2, vfs={0: VfState(driver=VFIO), 1: VfState(driver=KERNEL)})
    problems = provision(node, wish).problems
    assert node.pfs[A].num_vfs == made
    assert [vf.driver for vf in node.pfs[A].vfs] == ["vfio-pci", "igbvf"][:made]
    assert bool(problems) == (made == 0)


def test_what_only_a_netdev_has_is_refused_where_there_is_none():
    node = node_of(0, driver="pci-pf-stub", eswitch=None, link=None)
    (refused,) = provision(node, PfState(num_vfs=2, mtu=9000)).refused
    assert refused.message == f"mtu 9000 on PF {A}: it has no netdev on the host"
    assert node.pfs[A].num_vfs == 2


AD = 0x88A8


@pytest.mark.parametrize("wish", [
    VfState(settings=each) for each in (
        VfSettings(vlan=9), VfSettings(vlan=0), VfSettings(vlan_qos=3), VfSettings(vlan=5, vlan_proto=0x8100),
        VfSettings(trust=True))])
def test_a_tag_of_a_provider_comes_back_as_it_was(tmp_path, wish):
    """802.1ad: after a reset, and where VFs that had to go are made again."""
    node = node_of(1)
    vf = node.pfs[A].vfs[0].address
    node.settings[vf] = replace(node.settings[vf], vlan=5, vlan_proto=AD)
    before = node.state()
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FORCED, ledger=ledger)
    assert provision(node, PfState(num_vfs=1, vfs={0: wish}), terms=terms).problems == ()
    wanted = wish.settings
    kept = wanted.vlan is None
    assert node.settings[vf].vlan == (5 if kept else wanted.vlan)
    assert node.settings[vf].vlan_proto == (AD if kept else 0x8100)
    assert reset(node.executor(), FREE, ledger).problems == ()
    assert node.state() == before
    node.fail_at = len(node.log) + 3
    (failure,) = provision(node, PfState(num_vfs=2), terms=FORCED).failed
    assert failure.left == ()
    assert node.settings[vf] == replace(fakenode.FRESH, vlan=5, vlan_proto=AD)


# ---- PFs that a file does not speak of any more -----------------------------------------------------------


def pool_file(*numbers):
    entries = "".join(f"  - {{match: {{name: ens{number}}}, numVfs: 2}}\n" for number in numbers)
    return parse_pool_file(f"apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"
                           f"physicalFunctions:\n{entries}", "pools.yaml")


def test_a_pf_that_left_the_file_is_told_of_and_comes_back_at_no_boot(tmp_path):
    node = node_of(0, 0)
    ledger = Ledger(tmp_path, BOOT)
    terms = replace(FREE, ledger=ledger)
    assert apply_pool_file(node.executor(), pool_file(1, 2), terms).problems == ()
    assert list(find_abandoned(node.host(), pool_file(1, 2), ledger)) == []
    after = node.state()
    assert apply_pool_file(node.executor(), pool_file(1), terms).problems == ()
    assert node.state() == after                                # nobody asked for its VFs to go
    assert list(find_abandoned(node.host(), pool_file(1), Ledger(tmp_path, BOOT))) == [
        f"PF ens2 ({B}) is as vfpool made it, and no entry matches it (hint: vfpool reset ens2 undoes that)"]
    booted = node_of(0, 0)
    assert apply_last_good(booted.executor(), FREE, Ledger(tmp_path, BOOT)).problems == ()
    assert [pf.num_vfs for pf in booted.pfs.values()] == [2, 0]
    assert reset(node.executor(), FREE, Ledger(tmp_path, BOOT), ["ens2"]).problems == ()
    assert [pf.num_vfs for pf in node.pfs.values()] == [2, 0]
    assert set(Ledger(tmp_path, BOOT).records) == {A}
    with pytest.raises(InputError, match="got 'ens3'"):
        reset(node.executor(), FREE, Ledger(tmp_path, BOOT), ["ens3"])


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_vfs_that_there_is_no_room_for(number):
    node = node_of(0)

    def fail(pf, count):
        raise HostError(f"cannot set {count} VFs", errno=number)

    node.write_num_vfs = fail
    before = node.state()
    (problem,) = provision(node, PfState(num_vfs=2)).problems
    assert problem == (f"cannot make 2 VFs on PF ens1 ({A}): cannot set 2 VFs: {errno.errorcode[number]} (hint: "
                       "bus numbers or addresses (MMIO) are short: vfpool explain says which, and what to do)")
    assert node.state() == before
