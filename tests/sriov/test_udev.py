"""Waiting for udev, with a run folder of our own and a real socket where udevd's would be."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

from sriov.errors import HostError
from sriov.host.udev import Udev

PATIENCE = 10.0


@contextmanager
def udevd(run):
    """A socket that answers as udevd's control socket does."""
    run.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(str(run / "control"))
        control.listen(100)
        yield control


def write_entry(run, ifindex):
    (run / "data").mkdir(parents=True, exist_ok=True)
    (run / f"data/n{ifindex}").write_text("I:1\n")


def test_done_already(tmp_path):
    write_entry(tmp_path, 7)
    with udevd(tmp_path):
        Udev(tmp_path).settle(7, timeout=0)


@pytest.mark.parametrize("folder", ["", "never/made"])
def test_without_udevd_there_is_nobody_to_wait_for(tmp_path, folder):
    udev = Udev(tmp_path / folder)
    assert not udev.runs()
    udev.settle(7, timeout=0)


def test_the_socket_file_of_a_dead_udevd_is_nobody(tmp_path):
    with udevd(tmp_path):
        assert Udev(tmp_path).runs()
    assert (tmp_path / "control").exists()
    assert not Udev(tmp_path).runs()
    Udev(tmp_path).settle(7, timeout=0)


def test_it_returns_only_after_the_entry_came(tmp_path):
    settled, asked = threading.Event(), threading.Event()

    def wait():
        Udev(tmp_path).settle(7, timeout=PATIENCE)
        settled.set()

    with udevd(tmp_path) as control:
        write_entry(tmp_path, 8)              # another netdev's
        waiter = threading.Thread(target=wait)
        waiter.start()
        for _ in range(3):                    # each look at the control socket is a connection
            control.settimeout(PATIENCE)
            control.accept()[0].close()
            asked.set()
        assert not settled.is_set()
        write_entry(tmp_path, 7)
        assert settled.wait(PATIENCE)
        waiter.join()
    assert asked.is_set()


def test_it_stops_waiting_when_udevd_ends(tmp_path):
    settled = threading.Event()

    def wait():
        Udev(tmp_path).settle(7, timeout=PATIENCE)
        settled.set()

    with udevd(tmp_path) as control:
        waiter = threading.Thread(target=wait)
        waiter.start()
        control.settimeout(PATIENCE)
        control.accept()[0].close()
    assert settled.wait(PATIENCE)
    waiter.join()


def test_timeout(tmp_path):
    started = time.monotonic()
    with udevd(tmp_path), pytest.raises(
            HostError, match="udev is not done with the netdev of index 7 after 0 s") as caught:
        Udev(tmp_path).settle(7, timeout=0.1)
    assert 0.1 <= time.monotonic() - started < 5
    assert caught.value.hint is not None
    assert "udevadm" in caught.value.hint
