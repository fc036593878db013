from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from deviceplugin.inventory import Inventory, View
from sriov.errors import HostError
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, Member
from tests.deviceplugin.harness import RESOURCE, assign_members, make_members, make_vf, run, until, view


def faults(inventory: Inventory, resource: str = RESOURCE) -> dict[str, str | None]:
    return {member.vf.address: member.fault for member in inventory.snapshot.get_members(resource)}


def test_a_version_is_new_only_if_something_changed() -> None:
    async def scenario() -> None:
        inventory = Inventory()
        assert inventory.snapshot.version == 0
        assert inventory.publish(assign_members()).version == 1
        assert inventory.publish(assign_members(*make_members(2))).version == 2
        assert inventory.publish(assign_members(*reversed(make_members(2)))).version == 2
        assert inventory.publish(assign_members(*make_members(2, faults={1: "unbound"}))).version == 3

    run(scenario)


def test_devices_are_sorted_by_address_with_the_domain_as_a_number() -> None:
    async def scenario() -> None:
        inventory = Inventory()
        addresses = ["10000:01:00.1", "ffff:01:00.1", "0000:3b:0a.0", "0000:3b:02.0"]
        vfs = [make_vf(n, address=PciAddress(address)) for n, address in enumerate(addresses)]
        inventory.publish(assign_members(*(Member(vf=vf, fault=None) for vf in vfs)))
        assert list(faults(inventory)) == addresses[::-1]

    run(scenario)


def test_a_vf_that_is_gone_stays_listed_with_the_reason_until_it_comes_back() -> None:
    async def scenario() -> None:
        first, second, third = make_members(3)
        inventory = Inventory()
        inventory.publish(assign_members(first, second, third))
        left_out = {third.vf.address: "no pool selects it"}
        inventory.publish(assign_members(first, left_out=left_out))
        assert faults(inventory) == {
            first.vf.address: None,
            second.vf.address: "is not on the host any more",
            third.vf.address: "no pool selects it",
        }
        inventory.publish(assign_members(first, second, third))
        assert set(faults(inventory).values()) == {None}

    run(scenario)


def test_vfs_that_are_not_expected_back_leave_the_list_where_no_pod_has_them() -> None:
    async def scenario() -> None:
        first, second, third = make_members(3)
        inventory = Inventory()
        inventory.publish(assign_members(first, second, third))
        after = replace(assign_members(first), held=frozenset({first.vf.address, third.vf.address}))
        change = inventory.publish(after).change
        assert faults(inventory) == {first.vf.address: None, third.vf.address: "is not on the host any more"}
        assert change.resources[0].gone == (second.vf.address,)
        assert inventory.publish(assign_members(first)).version == 2

    run(scenario)


def test_a_vf_that_moved_to_another_pool_is_faulty_in_the_old_one() -> None:
    async def scenario() -> None:
        (member,) = make_members(1)
        inventory = Inventory()
        inventory.publish(view(Assignment(members={"a/kernel": (member,), "a/dpdk": ()}, left_out={})))
        inventory.publish(view(Assignment(members={"a/kernel": (), "a/dpdk": (member,)}, left_out={})))
        assert faults(inventory, "a/kernel") == {member.vf.address: "now belongs to a/dpdk"}
        assert faults(inventory, "a/dpdk") == {member.vf.address: None}

    run(scenario)


def test_every_waiter_gets_the_newest_and_skips_what_it_missed() -> None:
    async def scenario() -> None:
        inventory = Inventory()
        waiters = [asyncio.create_task(inventory.wait_newer(0)) for _ in range(3)]
        await asyncio.sleep(0)
        for count in (1, 2, 3):
            inventory.publish(assign_members(*make_members(count)))
        assert {(await waiter).version for waiter in waiters} == {3}
        assert (await inventory.wait_newer(2)).version == 3
        late = asyncio.create_task(inventory.wait_newer(3))
        await asyncio.sleep(0)
        assert not late.done()
        inventory.publish(assign_members())
        assert (await late).version == 4

    run(scenario)


class Scans:
    """A scan that the test holds up; counts how many ran, and how many at the same time."""

    def __init__(self) -> None:
        self.started = 0
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()
        self.may_end = threading.Semaphore(0)

    def __call__(self) -> View:
        with self._lock:
            self.started += 1
            self._running += 1
            self.most = max(self.most, self._running)
            number = self.started
        assert self.may_end.acquire(timeout=10)
        with self._lock:
            self._running -= 1
        return assign_members(*make_members(number))


async def with_run(
    inventory: Inventory, scan: Callable[[], View], body: Callable[[], object], poll: float = 60.0
) -> None:
    running = asyncio.create_task(inventory.run(scan, poll=poll))
    try:
        await body()  # type: ignore[misc]
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_triggers_during_a_scan_cause_exactly_one_more() -> None:
    async def scenario() -> None:
        inventory, scans = Inventory(), Scans()

        async def body() -> None:
            await until(lambda: scans.started == 1)
            for _ in range(50):
                inventory.rescan()
            scans.may_end.release(2)
            await inventory.wait_newer(1)
            assert scans.started == 2
            await asyncio.sleep(0.02)
            assert scans.started == 2
            inventory.rescan()
            scans.may_end.release()
            assert (await inventory.wait_newer(2)).version == 3
            assert scans.most == 1

        await with_run(inventory, scans, body)

    run(scenario)


def test_polling_finds_what_no_trigger_told() -> None:
    async def scenario() -> None:
        inventory, scans = Inventory(), Scans()
        scans.may_end.release(3)
        await with_run(inventory, scans, lambda: inventory.wait_newer(2), poll=0.02)
        assert inventory.snapshot.version == 3

    run(scenario)


def test_scans_that_cost_much_come_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """However dear a scan is, those without a trigger use IDLE_SHARE of a processor at most."""
    monkeypatch.setattr("deviceplugin.inventory.IDLE_SHARE", 0.2)
    costs: list[float] = []

    def scan() -> View:
        begun = time.thread_time()
        while time.thread_time() < begun + 0.02:
            pass
        costs.append(time.thread_time() - begun)
        return assign_members(*make_members(len(costs)))

    async def scenario() -> None:
        inventory = Inventory()
        begun = time.monotonic()
        await with_run(inventory, scan, lambda: inventory.wait_newer(5), poll=0.0)
        assert sum(costs[:5]) <= 0.25 * (time.monotonic() - begun)

    run(scenario)


def test_a_failing_scan_keeps_the_last_view_is_logged_once_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    answers: list[View | Exception] = [
        assign_members(*make_members(1)),
        HostError("cannot read /sys", errno=5),
        HostError("cannot read /sys", errno=5),
        assign_members(*make_members(2)),
    ]

    def scan() -> View:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scenario() -> None:
        inventory = Inventory()
        await with_run(inventory, scan, lambda: inventory.wait_newer(1), poll=0.01)
        assert inventory.snapshot.version == 2

    run(scenario)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["cannot scan the host, the last view of it stays: cannot read /sys: EIO"]
    assert "the host can be scanned again" in caplog.text


def test_a_bug_in_a_scan_ends_the_agent() -> None:
    def scan() -> View:
        raise ZeroDivisionError

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            await Inventory().run(scan)

    run(scenario)


def test_changes_of_health_are_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        inventory = Inventory()
        (member,) = make_members(1)
        inventory.publish(assign_members(member))
        inventory.publish(assign_members(replace(member, fault="no driver is bound")))
        inventory.publish(assign_members(member))

    run(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        "intel.com/sriov: 1 of 1 VFs are healthy",
        "intel.com/sriov: VF 0000:3b:02.0 is unhealthy: no driver is bound",
        "intel.com/sriov: 0 of 1 VFs are healthy",
        "intel.com/sriov: VF 0000:3b:02.0 is healthy again",
        "intel.com/sriov: 1 of 1 VFs are healthy",
    ]
