"""The queue for kernel changes: first come, first served; one at a time; whoever fails, fails alone."""

import threading

import pytest

from cni.kernel import QUEUE_WIDTH, ChangeQueue
from tests.support.node import wait_for


@pytest.fixture
def queue():
    queue = ChangeQueue()
    yield queue
    queue.close()


def test_first_come_first_served_whoever_has_many(queue):
    """Also for one that comes between two of another's: nobody's changes go ahead of an earlier caller's."""
    release, callers = threading.Event(), []
    order: list[int] = []
    callers.append(threading.Thread(target=queue.run, args=(release.wait,)))
    callers[0].start()
    wait_for("the first to be at work", lambda: queue._pool._work_queue.qsize() == 0)
    for number in range(20):
        callers.append(threading.Thread(target=queue.run, args=(order.append, number)))
        callers[-1].start()
        wait_for("it to wait", lambda: queue._pool._work_queue.qsize() == number + 1)     # noqa: B023 - at once
    release.set()
    for caller in callers:
        caller.join()
    assert order == list(range(20))


def test_no_more_than_its_width_at_a_time(queue):
    at_work: list[None] = []
    most: list[int] = []

    def change():
        at_work.append(None)
        most.append(len(at_work))
        at_work.pop()

    callers = [threading.Thread(target=lambda: [queue.run(change) for _ in range(50)]) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (len(most), max(most)) == (400, QUEUE_WIDTH)


def test_a_change_that_fails_is_its_callers_own(queue):
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 / 0)
    assert queue.run(lambda: 5) == 5
