"""A state folder on a disk that is full or read-only: no ADD begins, and every DEL brings its VF home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cni.away import take_away
from cni.kernel import Kernel, open_kernel
from cni.protocol import Command
from sriov.errors import HostError
from sriov.host.sysfs import Sysfs
from sriov.host.udev import Udev
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.attachments import trial
from tests.support.faults import Faults, changes, injected
from tests.support.node import POOLS, Agent, Cni, CniFailed, config, netns, wait_for

pytestmark = pytest.mark.lab

Vfs = dict[str, tuple[VirtualFunction, VirtualFunction]]


class SpoiledDisk:
    """A small file system of its own at `folder`; `spoil` makes it full, or read-only, until `mend`."""

    def __init__(self, folder: Path, how: str) -> None:
        self._folder, self._filler, self._full = folder, folder / "filler", how == "full"
        self.words = {"full": "ENOSPC", "read-only": "EROFS"}[how]

    @contextmanager
    def mounted(self) -> Iterator[None]:
        self._folder.mkdir(parents=True)
        node.run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(self._folder))
        try:
            yield
        finally:
            self.mend()
            node.run("umount", str(self._folder))

    def spoil(self) -> None:
        if self._full:
            with suppress(OSError):
                self._filler.write_bytes(bytes(1 << 20))
        else:                # a mount on top: on the one below the agent has files open
            node.run("mount", "--bind", str(self._folder), str(self._folder))
            node.run("mount", "-o", "remount,bind,ro", str(self._folder))

    def mend(self) -> None:
        if self._full:
            self._filler.unlink(missing_ok=True)
        elif not os.access(self._folder, os.W_OK):
            node.run("umount", str(self._folder))


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Two VFs of each kind."""
    made = node.make_vfs(node.pfs()[0], 4)
    for vf in made[2:]:
        node.bind(vf, "vfio-pci")
    yield {"kernel": (made[0], made[1]), "vfio": (made[2], made[3])}
    for vf in made[2:]:
        node.bind(vf, None)
    Sysfs().write_num_vfs(made[0].pf, 0)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with open_kernel(Udev().settle) as kernel:
        yield kernel


@pytest.fixture
def faults() -> Iterator[Faults]:
    """None is armed: it only tells the steps."""
    with injected() as faults:
        yield faults


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpoiledDisk]:
    """Where the state is."""
    disk = SpoiledDisk(tmp_path / "state", request.param)
    with disk.mounted():
        yield disk


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_an_add_changes_nothing_before_it_is_refused(kernel: Kernel, vfs: Vfs, faults: Faults, disk: SpoiledDisk,
                                                     tmp_path: Path, kind: str) -> None:
    with trial(kernel, tmp_path, vfs[kind][0]) as here:
        before = here.view()
        disk.spoil()
        faults.reset()
        with pytest.raises(HostError, match=f"cannot write the record .*: {disk.words}"):
            here.call(Command.ADD)
        assert changes(faults.steps) == ["write vfs: attaching"]
        assert node.differences(before, here.view()) == []


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_a_disk_that_is_spoiled_during_an_add(kernel: Kernel, vfs: Vfs, disk: SpoiledDisk, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def spoil_and_take_away(*args):
        disk.spoil()
        return take_away(*args)

    monkeypatch.setattr("cni.attach.take_away", spoil_and_take_away)
    with trial(kernel, tmp_path, vfs[kind][0]) as here:
        before = here.view()
        with pytest.raises(HostError, match=f"cannot write the record .*: {disk.words}"):
            here.call(Command.ADD)
        assert node.differences(before["host"], node.snapshot()) == []
        disk.mend()
        here.restart()
        assert node.differences(before, here.view()) == []


def host_local(folder: Path) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(folder), "ranges": [[{"subnet": "10.9.0.0/24"}]]}


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_an_agent_on_it(vfs: Vfs, disk: SpoiledDisk, tmp_path: Path, kind: str) -> None:
    agent = Agent(tmp_path, POOLS)      # its state is in tmp_path/state
    agent.start()
    cni = Cni(agent.socket)
    confs = [config(vf.address, vlan=5, mac=f"02:00:00:00:08:0{vf.index}", max_tx_rate=100,
                    ipam=host_local(tmp_path / "ipam")) for vf in vfs[kind]]

    def reserved() -> list[Path]:
        return list(tmp_path.glob("ipam/net/10.*"))

    try:
        before = node.snapshot()
        with netns() as pod, netns() as other:
            cni.add(confs[0], "c1", pod)
            owned = node.snapshot()
            disk.spoil()
            with pytest.raises(CniFailed, match=f"cannot write the record .*: {disk.words}"):
                cni.add(confs[1], "c2", other)
            cni.delete(confs[1], "c2", other)
            with pytest.raises(CniFailed, match=disk.words) as unavailable:
                cni.status({**confs[1], "cniVersion": "1.1.0"})
            assert unavailable.value.code == 50
            assert (node.differences(owned, node.snapshot()), len(reserved())) == ([], 1)
            if disk.words == "ENOSPC":
                cni.delete(confs[0], "c1", pod)
            else:                       # home, and with the record still there no success
                with pytest.raises(CniFailed, match=r"cannot delete the record .*: EROFS"):
                    cni.delete(confs[0], "c1", pod)
            assert (node.differences(before, node.snapshot()), reserved()) == ([], [])
            disk.mend()
            wait_for("no record, without another DEL", lambda: not agent.records())
            cni.add(confs[0], "c3", pod)
            cni.delete(confs[0], "c3", pod)
        assert (node.differences(before, node.snapshot()), reserved(), agent.records()) == ([], [], [])
    finally:
        assert agent.stop() == 0, agent.tail()


def test_a_del_of_a_network_that_was_changed_since_its_add(vfs: Vfs, disk: SpoiledDisk, tmp_path: Path) -> None:
    """There is no room to note what the ADD's own IPAM is owed: the record stays until that can be paid."""
    agent = Agent(tmp_path, POOLS)
    agent.start()
    cni = Cni(agent.socket)
    conf = config(vfs["kernel"][0].address, vlan=5, ipam=host_local(tmp_path / "old"))
    changed = {**conf, "ipam": host_local(tmp_path / "new")}

    def reserved() -> list[Path]:
        return list(tmp_path.glob("*/net/10.*"))

    try:
        before = node.snapshot()
        with netns() as pod:
            cni.add(conf, "c1", pod)
            disk.spoil()
            with pytest.raises(CniFailed, match=disk.words):
                cni.delete(changed, "c1", pod)
            assert node.differences(before, node.snapshot()) == []
            assert len(agent.records()) == 1
            disk.mend()
            wait_for("nothing held, without another DEL", lambda: not agent.records() and not reserved())
            cni.delete(changed, "c1", pod)
        assert (node.differences(before, node.snapshot()), reserved(), agent.records()) == ([], [], [])
    finally:
        assert agent.stop() == 0, agent.tail()
