"""Locks by key: one at a time for a key, no waiting between keys, nothing left behind."""

import threading
import time

import pytest

from cni.locks import KeyedLocks
from cni.protocol import CniError

PATIENCE = 10.0


def soon():
    return time.monotonic() + PATIENCE


def test_one_at_a_time_for_a_key_and_every_increment_counts():
    locks = KeyedLocks()
    inside, most, total = (dict.fromkeys("ab", 0) for _ in range(3))

    def work(key):
        for _ in range(200):
            with locks.hold(key, key, soon()):
                inside[key] += 1
                most[key] = max(most[key], inside[key])
                seen = total[key]
                time.sleep(0)
                total[key] = seen + 1
                inside[key] -= 1

    threads = [threading.Thread(target=work, args=(key,)) for key in "ababab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (most, total) == ({"a": 1, "b": 1}, {"a": 600, "b": 600})


def test_other_keys_do_not_wait():
    locks = KeyedLocks()
    with locks.hold("a", "a", soon()), locks.hold(("a", "b"), "b", time.monotonic()):
        pass


@pytest.mark.parametrize("wait", [-1.0, 0.0, 0.05])
def test_busy_until_the_deadline(wait):
    locks = KeyedLocks()
    with locks.hold("vf", "VF 0000:3b:02.1", soon()):
        with (pytest.raises(CniError, match=r"VF 0000:3b:02\.1 is busy with another call") as caught,
              locks.hold("vf", "VF 0000:3b:02.1", time.monotonic() + wait)):
            pytest.fail("two hold it")
        assert caught.value.code == 11
    with locks.hold("vf", "vf", time.monotonic()):
        pass


def test_it_is_let_go_when_the_block_raises():
    locks = KeyedLocks()
    with pytest.raises(ZeroDivisionError), locks.hold("a", "a", soon()):
        raise ZeroDivisionError
    with locks.hold("a", "a", time.monotonic()):
        pass


def test_a_waiter_gets_it():
    locks, got = KeyedLocks(), threading.Event()

    def wait():
        with locks.hold("a", "a", soon()):
            got.set()

    with locks.hold("a", "a", soon()):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.is_set()
    assert got.wait(PATIENCE)
    thread.join()


def test_a_node_that_runs_for_years_keeps_no_lock_of_a_gone_pod():
    locks = KeyedLocks()
    for number in range(100):
        with (locks.hold(("container", number), "x", soon()), pytest.raises(CniError),
              locks.hold(("container", number), "x", 0.0)):
            pytest.fail("two hold it")
    assert locks._locks == {}
