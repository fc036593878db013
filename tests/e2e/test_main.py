"""`python -m tests.e2e` without a cluster: what it does while one is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.e2e.__main__ import watch
from tests.e2e.cluster import Cluster
from tests.e2e.components import Components
from tests.e2e.controlplane import ControlPlane
from tests.e2e.node import Node
from tests.e2e.process import Process
from tests.lab.errors import LabError
from tests.lab.image import CHECKOUT
from tests.support.node import wait_for

STOPPING_SLOWLY = """
import signal, sys, time
from tests.e2e import __main__ as main

def play(_):
    try:
        {work}
    finally:
        print("stopping", flush=True)
        time.sleep(0.5)
        print("stopped", flush=True)

main.keep_up = play
sys.exit(main.main(["up"]))
"""
WATCHING = "said = iter(['up']); main.watch(lambda: [print(word, flush=True) for word in said] and None or None)"
BUILDING = "print('up', flush=True); time.sleep(1000)"


@pytest.fixture
def _signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
def test_a_process_that_dies_is_told_with_its_last_words(tmp_path):
    with (
        Process("etcd", ["sh", "-c", "echo disk full; exit 3"], tmp_path) as etcd,
        pytest.raises(LabError) as caught,
    ):
        watch(etcd.find_end)
    assert str(caught.value) == (
        f"etcd ended (exit status 3), the end of {etcd.log}:\n    disk full\nthe rest was stopped")


@pytest.mark.usefixtures("_signals")
def test_an_end_by_the_same_ctrl_c_is_no_failure():
    def find_end() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "etcd ended"

    watch(find_end)


class Part:
    """Stands where the plane or the webhook does."""

    end: str | None = None

    def find_end(self) -> str | None:
        return self.end


class Vm:
    alive = True

    def console_tail(self) -> str:
        return "Kernel panic"


def test_each_part_of_a_cluster_is_watched(tmp_path):
    nothing: Any = None
    parts: Any = (Part(), Part())
    vm: Any = Vm()
    cluster = Cluster()
    cluster.plane, cluster.webhook = parts
    cluster.node = Node(nothing, nothing, nothing, tmp_path / "node")
    assert cluster.find_end() is None         # not entered: nothing runs, nothing has ended
    cluster.node._machine = vm
    assert cluster.find_end() is None
    vm.alive = False
    assert cluster.find_end() == "QEMU, the node's VM, ended, its console's last lines:\nKernel panic"
    vm.alive = True
    for part in parts:
        part.end = "it ended"
        assert cluster.find_end() == "it ended"
        part.end = None


def test_each_process_of_a_control_plane_is_watched(tmp_path):
    folder = tmp_path / "bin"
    (folder / "bin").mkdir(parents=True)
    (folder / "cni").mkdir()
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"):
        (folder / "bin" / name).write_text("#!/bin/sh\necho its last words; exit 4\n")
        (folder / "bin" / name).chmod(0o755)
    plane = ControlPlane(Components(folder), tmp_path / "plane")
    assert plane.find_end() is None
    for process in plane._processes:
        process.start()
        assert wait_for("its end", plane.find_end) == (
            f"{process.name} ended (exit status 4), the end of {process.log}:\n    its last words")
        process.kill()
        assert plane.find_end() is None       # it was stopped, as test cases do


@pytest.mark.parametrize(("work", "number", "status"), [
    (WATCHING, signal.SIGINT, 0), (WATCHING, signal.SIGTERM, 0),
    (BUILDING, signal.SIGINT, 130), (BUILDING, signal.SIGTERM, 143)])
def test_a_second_signal_does_not_break_off_the_stop(tmp_path, work, number, status):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPING_SLOWLY.format(work=work)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "VFPOOL_CACHE": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            process.send_signal(number)
            assert process.stdout.readline() == "stopping\n"
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                process.send_signal(each)
                time.sleep(0.05)
            assert process.stdout.read() == "stopped\n"
            assert process.wait(10) == status
        finally:
            process.kill()
