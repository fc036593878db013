"""A fault at every step of ADD and DEL, one after another, on real VFs: the host is as before, or all is done.

Fault.KILL_*: as kill -9 leaves it, and then an agent's start. In one process, so that every step is tried; real
kills of a real agent are in test_lab_attach.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni.attach import Attachments
from cni.invocation import Invocation
from cni.kernel import Kernel, open_kernel
from cni.protocol import Command, parse_request
from cni.record import Phase
from cni.store import Store
from sriov.errors import SriovError
from sriov.host.sysfs import Sysfs
from sriov.host.udev import Udev
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.faults import Fault, Faults, Killed, injected
from tests.support.node import CNI_PATH, config, links, netns

pytestmark = pytest.mark.lab

MAC = "02:00:00:00:03:01"
Vfs = list[VirtualFunction]


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Two VFs of one PF; the second is driven by vfio-pci."""
    pf = node.pfs()[0]
    vfs = prepare()
    yield vfs
    node.bind(vfs[1], None)
    Sysfs().write_num_vfs(pf.address, 0)


def prepare() -> Vfs:
    vfs = list(node.make_vfs(node.pfs()[0], 2))
    assert vfs[0].link is not None
    node.run("ip", "link", "property", "add", "dev", vfs[0].link.name, "altname", "storage-uplink")
    node.bind(vfs[1], "vfio-pci")
    return vfs


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with open_kernel(Udev().settle) as kernel:
        yield kernel


@pytest.fixture
def host(vfs: Vfs) -> Iterator[dict[str, Any]]:
    """How the host's links are; one test's failure does not become the next one's."""
    before = snapshot()
    yield before
    if node.differences(before, snapshot()):
        node.bind(vfs[1], None)
        Sysfs().write_num_vfs(vfs[0].pf, 0)
        vfs[:] = prepare()


@pytest.fixture
def faults() -> Iterator[Faults]:
    with injected() as faults:
        yield faults


class Node:
    """An agent's attachments in this process; `restart` gives what the next agent's would make of the state."""

    def __init__(self, kernel: Kernel, root: Path, vf: VirtualFunction, pod: str, faults: Faults) -> None:
        self._kernel, self._root, self._pod, self._faults = kernel, root, pod, faults
        ipam = {"type": "host-local", "dataDir": str(root / "ipam"), "ranges": [
            [{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.5"}],
            [{"subnet": "fd00::/64", "rangeStart": "fd00::5", "rangeEnd": "fd00::5"}]],
            "routes": [{"dst": "10.50.0.0/16"}]}
        rate = {"max_tx_rate": 100, "spoofchk": "off"}
        self._config = json.dumps(config(vf.address, vlan=5, mac=MAC, mtu=1400, ipam=ipam, **rate)).encode()
        self.store = Store.open(root / "state")
        self.attachments = Attachments(kernel, self.store)

    def restart(self) -> None:
        self.store.close()
        self.store = Store.open(self._root / "state")
        self.attachments = Attachments(self._kernel, self.store)
        self.attachments.repair.reconcile()

    def call(self, command: Command) -> Any:
        environment = {"CNI_COMMAND": command.value, "CNI_CONTAINERID": "c1", "CNI_NETNS": self._pod,
                       "CNI_IFNAME": "net1", "CNI_PATH": CNI_PATH}
        fd = os.open(self._pod, os.O_RDONLY)
        try:
            return self.attachments.handle(Invocation(
                request=parse_request(environment, self._config), netns_fd=fd, gone=lambda: False,
                deadline=time.monotonic() + 50))
        finally:
            os.close(fd)

    def left(self) -> list[str]:
        """What of an attachment there still is, beside the host's links."""
        reserved = [path.name for path in (self._root / "ipam").glob("net/*") if path.name[0] in "1f"]
        return [*(f"record {record.phase}" for record in self.store), *(f"address {name}" for name in reserved),
                *(f"owed {record.attachment}" for record in self.store.owed)]


@contextmanager
def trial(kernel: Kernel, faults: Faults, root: Path, vf: VirtualFunction) -> Iterator[Node]:
    root.mkdir()
    with netns() as pod:
        made = Node(kernel, root, vf, pod, faults)
        try:
            yield made
        finally:
            faults.reset()
            made.store.close()


def finished(here: Node) -> bool:
    return [record.phase for record in here.store] == [Phase.ATTACHED]


def snapshot() -> dict[str, Any]:
    node.run("udevadm", "settle")
    return links()


def check_as_before(before: dict[str, Any], here: Node, what: str) -> None:
    assert (node.differences(before, snapshot()), here.left()) == ([], []), what


KINDS = {"kernel": 0, "vfio": 1}


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value.replace(" ", "_"))
@pytest.mark.parametrize("command", [Command.ADD, Command.DEL])
@pytest.mark.parametrize("kind", KINDS)
def test_at_every_step(kernel: Kernel, vfs: Vfs, host: dict[str, Any], faults: Faults, tmp_path: Path, kind: str,
                       command: Command, fault: Fault) -> None:
    vf = vfs[KINDS[kind]]
    with trial(kernel, faults, tmp_path / "none", vf) as here:
        steps = all_steps(here, faults, command)
        if command is Command.ADD:
            here.call(Command.DEL)
        check_as_before(host, here, "without a fault")
    # A read changes nothing: to die before it is to die after the step that was before it.
    numbers = [number for number, step in enumerate(steps)
               if fault is Fault.FAIL_BEFORE or not step.startswith("read: ")]
    assert len(numbers) >= (3 if kind == "vfio" else 6), steps
    for number in numbers:
        with trial(kernel, faults, tmp_path / str(number), vf) as here:
            if command is Command.DEL:
                here.call(Command.ADD)
            faults.arm(number, fault)
            failure: BaseException | None = None
            try:
                here.call(command)
            except (Killed, SriovError) as error:
                failure = error
            assert faults.struck, f"{faults.steps} instead of {steps}"
            faults.reset()
            what = f"{fault.value} step {number} of {command}, {steps[number]}: {failure!r}"
            check_end(command, fault, host, here, what)
            here.call(Command.DEL)       # as runtimes do; and a DEL more is none too many
            check_as_before(host, here, what)


def all_steps(here: Node, faults: Faults, command: Command) -> list[str]:
    if command is Command.DEL:
        here.call(Command.ADD)
    faults.reset()
    here.call(command)
    return list(faults.steps)


def check_end(command: Command, fault: Fault, before: dict[str, Any], here: Node, what: str) -> None:
    """After the fault and what the agent does by itself: as before, or as the call wanted it."""
    if fault.kills:
        here.restart()

    def settled() -> bool:
        here.attachments.repair.reconcile()      # as its next look does; a plugin may be late for one
        return finished(here) or not here.left()

    node.wait_for(f"{what}: {here.left()} to end", settled, every=0.5)
    if command is Command.ADD and finished(here):
        assert here.call(Command.ADD)["interfaces"], what
    elif command is Command.ADD or not finished(here):
        check_as_before(before, here, what)


def test_what_a_pf_had_set_is_set_again_by_the_next_agent_too(kernel: Kernel, vfs: Vfs, faults: Faults,
                                                              tmp_path: Path) -> None:
    """An administrator's MAC: igb refuses the VF's own change of it, after each pod and each start."""
    pf = node.netdev_name(node.pfs()[0])
    own = "02:00:00:00:03:77"
    node.run("ip", "link", "set", pf, "vf", str(vfs[0].index), "mac", own)
    node.bind(vfs[0], None)
    try:
        node.run("udevadm", "settle")
        before = snapshot()
        with ExitStack() as stack:
            here = stack.enter_context(trial(kernel, faults, tmp_path / "node", vfs[0]))
            for _ in range(3):
                here.call(Command.ADD)
                here.call(Command.DEL)
                here.restart()
                check_as_before(before, here, "after a pod")
                netdev = Sysfs().find_netdev(vfs[0].address)
                assert netdev is not None
                with pytest.raises(AssertionError, match="Cannot assign requested address"):
                    node.run("ip", "link", "set", netdev[0], "up", "address", "02:00:00:00:03:78")
                node.run("ip", "link", "set", netdev[0], "down")
    finally:
        Sysfs().write_num_vfs(vfs[0].pf, 0)
        vfs[:] = prepare()


def test_a_late_del_of_a_dead_pod_leaves_the_next_owner_alone(kernel: Kernel, vfs: Vfs, faults: Faults,
                                                              tmp_path: Path) -> None:
    before = snapshot()
    with trial(kernel, faults, tmp_path / "node", vfs[0]) as here:
        here.call(Command.ADD)
        owned = snapshot()
        (record,) = here.store
        environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "dead", "CNI_NETNS": "", "CNI_IFNAME": "net1",
                       "CNI_PATH": CNI_PATH}
        late = parse_request(environment, json.dumps(config(vfs[0].address, vlan=5)).encode())
        faults.reset()
        here.attachments.handle(Invocation(request=late, netns_fd=None, gone=lambda: False,
                                           deadline=time.monotonic() + 50))
        assert [step for step in faults.steps if not step.startswith("read: ")] == []
        assert (list(here.store), node.differences(owned, snapshot())) == ([record], [])
        here.call(Command.DEL)
        check_as_before(before, here, "after all")
