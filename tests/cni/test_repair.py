"""When repair looks, tries and speaks, on a clock of the tests' own; and what a namespace's path tells."""

import dataclasses
import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from contextlib import contextmanager

import pytest

from cni import custody as custody_module
from cni import repair
from cni.custody import _TRUSTED, HANDED_BACK, Custody, Loss
from cni.locks import Busy
from cni.netns import Sight, find_file_system, look_at, netns_cookie, open_netns
from cni.owners import describe_repairs
from cni.protocol import Code
from cni.record import Phase
from cni.repair import INTERVAL, LONGEST_REST, START_BUDGET, Repair
from cni.store import Store
from sriov.clock import moment
from sriov.errors import HostError
from sriov.status import BroughtHome, Repairs
from tests.cni.test_ipam import NOW, kernel
from tests.cni.test_record import record
from tests.support.node import netns, run, wait_for

ONE, TWO = record("0000:3b:02.1", "c1"), record("0000:3b:02.2", "c2")


@pytest.fixture
def clock(monkeypatch):
    """The seconds that repair sees; set `now`."""
    clock = types.SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(repair, "time", clock)
    return clock


class Fake(Custody):
    """Custody whose VFs are lost and settled as the test says; `tried` are the VFs of all tries, in order."""

    def __init__(self, store):
        super().__init__(kernel(), store)
        self.losses, self.failures, self.busy, self.tried = {}, {}, set(), []
        self._records = store

    def find_loss(self, record, *, exact=True):
        loss = self.losses.get(record.vf)
        if isinstance(loss, Exception):
            raise loss
        return loss

    @contextmanager
    def hold(self, vf, deadline):
        if vf in self.busy:
            raise Busy(Code.TRY_AGAIN_LATER, "busy")
        yield

    def settle(self, record, deadline, *, anew=False):
        self.tried.append(record.vf)
        if record.vf in self.failures:
            raise self.failures[record.vf]
        self._records.delete(record)
        return True


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path)
    store.write(ONE)
    store.write(TWO)
    yield store
    store.close()


@pytest.fixture
def custody(store):
    return Fake(store)


def test_what_a_living_pod_lost_is_told_until_it_is_over(store, custody, clock, caplog, monkeypatch):
    absent = {ONE.vf: "it has no driver any more"}
    monkeypatch.setattr(custody, "find_absence", lambda record: absent.get(record.vf))
    made = Repair(custody, store)
    for _ in range(3):
        made.reconcile()
        clock.now += INTERVAL
    reason = f"VF {ONE.vf} is of no use to its pod, until that is made anew: {ONE.owner}: it has no driver any more"
    assert messages(caplog) == [reason]
    assert [(failure.reason, failure.age) for failure in made.failures] == [(reason, 3 * INTERVAL)]
    assert (made.find_stuck(), custody.tried, len(list(store))) == ({}, [], 2)
    absent.clear()
    made.reconcile()
    assert made.failures == []


@pytest.mark.parametrize(("link", "driver", "netdev", "absence"), [
    (True, "igbvf", None, None), (False, "vfio-pci", None, None), (False, "igb_uio", ("x", 1), None),
    (True, None, None, "it has no driver any more"), (False, None, None, "it has no driver any more"),
    (True, "vfio-pci", None, "it is bound to vfio-pci now"), (False, "igbvf", ("x", 1), "it is bound to igbvf now"),
    (True, "igbvf", ("eth\x1b", 5), "its netdev is on the host, as eth\\x1b")])
def test_what_a_pod_has_not_any_more(store, link, driver, netdev, absence):
    node = kernel(driver=driver)
    node.sysfs.identify, node.sysfs.find_netdev = lambda vf: 7, lambda vf: netdev
    made = record()
    if not link:
        made = dataclasses.replace(made, baseline=dataclasses.replace(made.baseline, link=None))
    assert Custody(node, store).find_absence(made) == absence
    assert Custody(kernel(driver=driver), store).find_absence(made) is None       # there is no such VF


def messages(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_living_pods_are_let_be(store, custody, clock):
    Repair(custody, store).reconcile()
    assert (custody.tried, list(store)) == ([], [ONE, TWO])


def test_lost_ones_are_settled_and_one_failure_is_its_own(store, custody, clock):
    custody.losses = {ONE.vf: Loss.NETNS_GONE, TWO.vf: Loss.UNFINISHED}
    custody.failures = {ONE.vf: HostError("no", errno=22)}
    Repair(custody, store).reconcile()
    assert list(store) == [ONE]


@pytest.mark.parametrize("failure", [HostError("no", errno=22), KeyError("a bug")])
def test_a_failure_rests_longer_each_time_and_is_said_once(store, custody, clock, caplog, failure):
    custody.losses = {ONE.vf: Loss.NETNS_GONE}
    custody.failures = {ONE.vf: failure}
    made, tries = Repair(custody, store), []
    for _ in range(400):
        before = len(custody.tried)
        made.reconcile()
        if len(custody.tried) > before:
            tries.append(clock.now)
        clock.now += 1
    rests = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert rests[:6] == [INTERVAL, 2 * INTERVAL, 4 * INTERVAL, 8 * INTERVAL, 16 * INTERVAL, LONGEST_REST]
    assert set(rests[5:]) == {LONGEST_REST}
    assert len(messages(caplog)) == 1
    assert "VF 0000:3b:02.1 of container c1, net1 of network net is not home: " in messages(caplog)[0]
    custody.failures = {ONE.vf: HostError("another reason")}
    clock.now += LONGEST_REST
    made.reconcile()
    assert len(messages(caplog)) == 2


@pytest.mark.parametrize("failure", [HostError("too many open files"), OSError(24, "Too many open files")])
def test_a_look_in_vain_is_said_once_as_what_it_is_and_done_again_at_once(store, custody, clock, caplog, failure):
    custody.losses = {ONE.vf: failure}
    made = Repair(custody, store)
    for _ in range(50):
        made.reconcile()
        clock.now += INTERVAL
    (message,) = messages(caplog)
    assert message.startswith("cannot tell whether container c1, net1 of network net still has VF 0000:3b:02.1: ")
    assert "oo many open files" in message
    custody.losses = {ONE.vf: Loss.NETNS_GONE}
    made.reconcile()
    assert list(store) == [TWO]


def test_the_next_owner_of_a_vf_does_not_wait_for_the_rest_of_the_one_before(store, custody, clock):
    custody.losses = {ONE.vf: Loss.NETNS_GONE}
    custody.failures = {ONE.vf: HostError("no")}
    made = Repair(custody, store)
    made.reconcile()
    store.write(record("0000:3b:02.1", "c3"))
    made.reconcile()
    assert custody.tried == [ONE.vf, ONE.vf]
    store.write(record("0000:3b:02.1", "c3").detaching())     # the same owner's
    made.reconcile()
    assert custody.tried == [ONE.vf, ONE.vf]


def test_a_vf_whose_lock_another_call_has_is_looked_at_again(store, custody, clock, caplog):
    custody.losses, custody.busy = {ONE.vf: Loss.UNFINISHED}, {ONE.vf}
    made = Repair(custody, store)
    made.reconcile()
    assert (custody.tried, messages(caplog)) == ([], [])
    custody.busy.clear()
    made.reconcile()
    assert list(store) == [TWO]


def test_a_namespace_that_is_held_is_said_once_and_not_at_once(store, custody, clock, caplog):
    custody.losses = {ONE.vf: Loss.HELD}
    made = Repair(custody, store)
    for _ in range(100):
        made.reconcile()
        assert len(messages(caplog)) == (1 if clock.now >= 1000 + HANDED_BACK else 0)
        clock.now += 1
    assert custody.tried == []
    custody.losses = {ONE.vf: Loss.NETNS_GONE}
    made.reconcile()
    assert list(store) == [TWO]


def test_a_start_does_not_wait_for_all(store, custody, clock, caplog):
    custody.losses = {ONE.vf: Loss.NETNS_GONE, TWO.vf: Loss.NETNS_GONE}
    settle = custody.settle

    def slowly(record, deadline, *, anew):
        clock.now += START_BUDGET + 1
        return settle(record, deadline, anew=anew)

    custody.settle = slowly
    made = Repair(custody, store)
    made.reconcile()
    assert list(store) == [TWO]
    assert messages(caplog) == ["1 of 2 records are left for later"]
    made.reconcile()
    assert list(store) == []


def test_the_thread_looks_by_itself_and_at_a_hint_and_ends(store, custody, monkeypatch):
    monkeypatch.setattr(repair, "INTERVAL", 0.01)
    made, threads = Repair(custody, store), threading.active_count()
    with made.running():
        custody.losses = {ONE.vf: Loss.NETNS_GONE}
        wait_for("the first", lambda: list(store) == [TWO])
        monkeypatch.setattr(repair, "INTERVAL", 3600)
        custody.losses = {TWO.vf: Loss.NETNS_GONE}
        made.hint()
        wait_for("the second", lambda: list(store) == [])
    assert threading.active_count() == threads


# ---- what an admin is told ----------------------------------------------------------------------------------


def test_what_stands_is_told_with_its_age_until_it_is_over(store, custody, clock):
    custody.losses = {ONE.vf: Loss.NETNS_GONE, TWO.vf: Loss.HELD}
    custody.failures = {ONE.vf: HostError("no")}
    made = Repair(custody, store)
    assert made.failures == []
    made.reconcile()
    (failure,) = made.failures                       # the kernel may need a moment for the other one
    assert failure.reason == "VF 0000:3b:02.1 of container c1, net1 of network net is not home: no"
    clock.now += HANDED_BACK
    made.reconcile()
    assert [(failure.reason.partition(" of ")[0], failure.age) for failure in made.failures] == [
        ("VF 0000:3b:02.1", HANDED_BACK), ("VF 0000:3b:02.2", HANDED_BACK)]
    assert made.failures[1].reason.endswith(f"is not home: {Loss.HELD}")
    custody.losses, custody.failures = {ONE.vf: Loss.NETNS_GONE}, {}
    clock.now += LONGEST_REST
    made.reconcile()
    assert made.failures == []


def test_a_vf_is_stuck_after_more_than_one_try_until_it_is_home(store, custody, clock):
    custody.losses, custody.failures = {ONE.vf: Loss.NETNS_GONE}, {ONE.vf: HostError("no")}
    made = Repair(custody, store)
    made.reconcile()
    assert made.find_stuck() == {}                   # the kernel may hand it back at any moment
    clock.now += INTERVAL
    made.reconcile()
    told = {ONE.vf: "VF 0000:3b:02.1 of container c1, net1 of network net is not home: no"}
    assert made.find_stuck() == told
    custody.busy = {ONE.vf}                          # its DEL is at it
    clock.now += LONGEST_REST
    made.reconcile()
    assert made.find_stuck() == told
    store.delete(ONE)                                # and done
    assert made.find_stuck() == {}
    store.write(record(ONE.vf, "c3"))
    assert made.find_stuck() == {}


@pytest.mark.parametrize("loss", [None, HostError("too many open files")])
def test_a_vf_that_a_living_pod_has_or_may_have_is_not_stuck(store, custody, clock, loss):
    custody.losses = {ONE.vf: loss}
    made = Repair(custody, store)
    for _ in range(20):
        made.reconcile()
        clock.now += INTERVAL
    assert made.find_stuck() == {}


def test_a_vf_in_a_namespace_that_something_holds_open_is_stuck(store, custody, clock):
    custody.losses = {ONE.vf: Loss.HELD}
    made = Repair(custody, store)
    made.reconcile()
    assert made.find_stuck() == {}
    clock.now += HANDED_BACK
    made.reconcile()
    assert list(made.find_stuck()) == [ONE.vf]
    custody.losses = {}
    made.reconcile()
    assert made.find_stuck() == {}


def test_a_failure_is_told_while_the_next_try_is_under_way(store, custody, clock):
    custody.losses, custody.failures = {ONE.vf: Loss.NETNS_GONE}, {ONE.vf: HostError("no")}
    made, seen = Repair(custody, store), []
    made.reconcile()
    settle = custody.settle

    def look(record, deadline, *, anew):
        seen.append(made.failures)
        return settle(record, deadline, anew=anew)

    custody.settle = look
    clock.now += INTERVAL
    made.reconcile()
    assert [len(failures) for failures in seen] == [1]


def test_a_failure_whose_del_came_is_told_no_more(store, custody, clock, monkeypatch):
    monkeypatch.setattr(repair, "INTERVAL", 0.01)
    custody.losses, custody.failures = {ONE.vf: Loss.UNFINISHED}, {ONE.vf: HostError("no")}
    made = Repair(custody, store)
    with made.running():
        wait_for("the failure", lambda: made.failures)
        store.delete(ONE)
        wait_for("its end", lambda: not made.failures)


def test_counts(store, lost, counted, done):
    """By what each VF was lost; addresses that a plugin takes back late count when it has."""
    counted(status=1)
    store.write(lost("c1", vf=ONE.vf))
    store.write(lost("c2", vf=TWO.vf))
    made = Repair(Custody(NOW, store), store)
    assert describe_repairs(made) == Repairs()
    before = time.time()
    made.reconcile()
    told = describe_repairs(made)
    assert told.brought_home == (BroughtHome(reason=Loss.REBOOTED, vfs=2),)
    assert (told.paid_late, told.set_aside, len(told.standing)) == (0, 0, 2)
    assert told.last == f"VF {TWO.vf}: nothing to bring home: container c2, net1 of network net: {Loss.REBOOTED}"
    assert all("are still reserved: IPAM plugin fake" in problem.message for problem in told.standing)
    assert {problem.since for problem in told.standing} | {told.last_at} <= {
        moment(seconds) for seconds in range(int(before), int(time.time()) + 1)}
    counted()
    made = Repair(Custody(NOW, store), store)
    made.reconcile()
    told = describe_repairs(made)
    assert (told.brought_home, told.paid_late, told.standing) == ((), 2, ())
    assert told.last == "the addresses of container c2, net1 of network net: given back by fake"
    assert sorted(done()) == ["c1", "c2"]


def test_a_damaged_record_is_set_aside_and_told(tmp_path, caplog):
    Store.open(tmp_path).close()
    (tmp_path / "vfs/0000:3b:02.3.json").write_text("{")
    store = Store.open(tmp_path)
    try:
        made = Repair(Fake(store), store)
        made.reconcile()
        told = describe_repairs(made)
    finally:
        store.close()
    assert told.set_aside == 1
    (problem,) = told.standing
    aside = tmp_path / "vfs/0000:3b:02.3.damaged"
    assert problem.message.startswith(f"set aside a damaged record: {aside}: not a record")
    assert messages(caplog) == [problem.message]


def test_a_folder_that_takes_no_record_is_told(tmp_path):
    store = Store.open(tmp_path)
    try:
        made = Repair(Fake(store), store)
        shutil.rmtree(tmp_path / "vfs")
        (problem,) = describe_repairs(made).standing
    finally:
        store.close()
    assert problem.message == f"no ADD can begin: cannot write records in {tmp_path}/vfs: ENOENT"


# ---- what a path tells --------------------------------------------------------------------------------------


@pytest.mark.kernel
class TestSight:
    @pytest.fixture
    def pod(self):
        with netns() as path:
            yield path

    def seen(self, path):
        """Cookie and file system, as an ADD writes them down."""
        with open_netns(path) as fd:
            return netns_cookie(path), find_file_system(path, fd)

    def test_alive_then_dead(self, pod):
        seen = self.seen(pod)
        assert seen[1] == os.stat("/run/netns").st_dev
        assert look_at(pod, *seen) is Sight.ALIVE
        run("ip", "netns", "del", os.path.basename(pod))
        assert look_at(pod, *seen) is Sight.DEAD
        run("ip", "netns", "add", os.path.basename(pod))
        assert look_at(pod, *seen) is Sight.DEAD

    def test_path_that_was_never_visible(self, pod):
        cookie, _ = self.seen(pod)
        assert look_at(pod, cookie, None) is Sight.ALIVE
        assert look_at(f"{pod}-not", cookie, None) is Sight.UNSEEN

    def test_file_where_a_mount_did_not_come_through(self, pod):
        seen = self.seen(pod)
        run("umount", pod)
        assert look_at(pod, *seen) is Sight.UNSEEN

    def test_folder_that_is_not_mounted_here(self, pod, tmp_path):
        cookie, file_system = self.seen(pod)
        assert look_at("/proc/none/x", cookie, file_system) is Sight.UNSEEN
        with netns() as other:      # what is there in a container of its own proves nothing either
            assert look_at(other, cookie, file_system + 1) is Sight.UNSEEN

    def test_namespace_of_a_process(self, pod):
        code = "print(open('/proc/self/stat').read().split()[0], flush=True); input()"
        with subprocess.Popen(["ip", "netns", "exec", os.path.basename(pod), sys.executable, "-c", code],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            path = f"/proc/{process.stdout.readline().strip()}/ns/net"
            seen = self.seen(path)
            assert seen == (netns_cookie(pod), os.stat("/proc").st_dev)
            assert look_at(path, *seen) is Sight.ALIVE
            process.stdin.close()
            process.wait()
            assert look_at(path, *seen) is Sight.DEAD

    def test_a_cheap_look_asks_for_the_cookie_where_the_path_leads_elsewhere_and_now_and_then(
            self, pod, monkeypatch, clock, store):
        cookie, file_system = self.seen(pod)
        made = record(phase=Phase.ATTACHED)
        owner = dataclasses.replace(made.owner, netns=pod, cookie=cookie, file_system=file_system)
        made, looks = dataclasses.replace(made, owner=owner), []

        def look(*seen):
            looks.append(seen)
            return look_at(*seen)

        monkeypatch.setattr(custody_module, "look_at", look)
        monkeypatch.setattr(custody_module, "time", clock)
        custody = Custody(kernel(driver="vfio-pci"), store)
        for seconds, expected in ((0, 1), (_TRUSTED - 1, 1), (_TRUSTED, 2), (_TRUSTED + 1, 2)):
            clock.now = 1000 + seconds
            assert custody.find_loss(made, exact=False) is None
            assert len(looks) == expected
        assert custody.find_loss(made) is None
        assert len(looks) == 3
        other = dataclasses.replace(made, owner=dataclasses.replace(owner, cookie=cookie + 1))
        assert custody.find_loss(other, exact=False) is Loss.NETNS_GONE       # another owner's look is not trusted
        assert len(looks) == 4
        with netns() as next_one:
            run("umount", pod)
            run("mount", "--bind", next_one, pod)
            assert custody.find_loss(made, exact=False) is Loss.NETNS_GONE
            run("umount", pod)
        run("ip", "netns", "del", os.path.basename(pod))
        assert custody.find_loss(made, exact=False) is Loss.NETNS_GONE

    def test_descriptor_of_another_namespace(self, pod):
        with netns() as other, open_netns(other) as fd:
            assert find_file_system(pod, fd) is None
            assert find_file_system(f"{pod}-not", fd) is None
