"""The queue for kernel changes: the call that came first goes first; one at a time; whoever fails, fails alone."""

import threading
import time

import pytest

from cni.locks import Busy
from cni.queue import QUEUE_WIDTH, FairQueue
from tests.support.node import wait_for


class Caller:
    """A call in a thread of its own, which makes so many changes; `line` gets its name at each."""

    def __init__(self, queue, name, changes, line):
        self.ready, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(queue, name, changes, line))
        self._thread.start()
        assert self.ready.wait(10)

    def _run(self, queue, name, changes, line):
        with queue.turn():
            self.ready.set()
            self._go.wait(10)
            for _ in range(changes):
                queue.run(line.append, name)

    def go(self):
        self._go.set()
        return self

    def join(self):
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def queue():
    return FairQueue()


@pytest.fixture
def blocked(queue):
    """The queue is held by somebody's change until this is called."""
    release = threading.Event()
    holder = threading.Thread(target=queue.run, args=(release.wait,))
    holder.start()
    wait_for("the holder to be at work", lambda: queue._free == 0)
    yield release.set
    release.set()
    holder.join()


def test_the_call_that_came_first_goes_first_whoever_asks_first(queue, blocked):
    line: list[str] = []
    callers = [Caller(queue, name, 3, line) for name in "abc"]
    for number, caller in enumerate(reversed(callers)):
        caller.go()
        wait_for("it to wait", lambda: len(queue._waiting) == number + 1)      # noqa: B023 - called at once
    blocked()
    for caller in callers:
        caller.join()
    # Between two changes of its own a call is not in line: another may have that place, and only that.
    assert sorted(line) == sorted("aaabbbccc")
    assert line[0] == "a"
    assert [line.index(name) for name in "abc"] == sorted(line.index(name) for name in "abc")
    assert [line[::-1].index(name) for name in "cba"] == sorted(line[::-1].index(name) for name in "cba")


def test_changes_outside_of_any_turn_are_in_the_order_in_which_they_came(queue, blocked):
    line: list[int] = []
    callers = []
    for number in range(20):
        callers.append(threading.Thread(target=queue.run, args=(line.append, number)))
        callers[-1].start()
        wait_for("it to wait", lambda: len(queue._waiting) == number + 1)      # noqa: B023 - called at once
    blocked()
    for caller in callers:
        caller.join()
    assert line == list(range(20))


def test_a_turn_within_a_turn_is_the_same_one(queue):
    with queue.turn():
        first = queue._turn
        with queue.turn():
            assert queue._turn == first
        assert queue._turn == first
    assert queue._turn is None
    with queue.turn():
        assert queue._turn > first


@pytest.mark.parametrize("width", [QUEUE_WIDTH, 3])
def test_no_more_than_its_width_at_a_time(width):
    queue = FairQueue(width)
    at_work: list[None] = []
    most: list[int] = []

    def change():
        at_work.append(None)
        most.append(len(at_work))
        time.sleep(0.0005)                # others get a turn of the interpreter meanwhile
        at_work.pop()

    callers = [threading.Thread(target=lambda: [queue.run(change) for _ in range(50)]) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(most) == 400
    assert max(most) == width
    assert (queue._free, queue._waiting) == (width, [])


def test_a_turn_that_is_over_waits_no_more(queue, blocked):
    with queue.turn(time.monotonic() + 0.05), pytest.raises(Busy, match="one of them hangs"):
        queue.run(lambda: 1 / 0)
    assert queue._waiting == []
    blocked()
    assert queue.run(lambda: 5) == 5


def test_who_steps_aside_lets_another_have_the_place_and_gets_it_again(queue):
    line: list[str] = []
    with queue.place():
        other = threading.Thread(target=queue.run, args=(line.append, "other"))
        other.start()
        wait_for("it to wait", lambda: len(queue._waiting) == 1)
        with queue.aside():
            other.join(10)
        line.append("own")
        assert queue._free == 0
    assert (line, queue._free) == (["other", "own"], 1)


def test_who_finds_no_place_again_has_none_to_give_back(queue):
    release = threading.Event()
    holder = threading.Thread(target=queue.run, args=(release.wait,))

    def lose() -> None:
        with queue.turn(time.monotonic() + 0.2), queue.place(), queue.aside():
            holder.start()
            wait_for("the holder to be at work", lambda: queue._free == 0)

    with pytest.raises(Busy):
        lose()
    assert queue._free == 0
    release.set()
    holder.join()
    assert queue._free == 1


def test_aside_of_no_place_is_nothing(queue):
    with queue.aside():
        assert queue._free == 1


def test_a_change_that_fails_is_its_callers_own(queue):
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 / 0)
    assert queue.run(lambda: 5) == 5
