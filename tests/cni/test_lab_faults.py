"""A fault at every step of ADD and DEL, one after another, on real VFs: the host is as before, or all is done.

Fault.KILL_*: as kill -9 leaves it, and then an agent's start. In one process, so that every step is tried; real
kills of a real agent are in test_lab_kills.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cni.kernel import Kernel, open_kernel
from cni.protocol import Command
from sriov.errors import SriovError
from sriov.host.sysfs import Sysfs
from sriov.host.udev import Udev
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.attachments import Node, trial
from tests.support.faults import Fault, Faults, Killed, changes, counted, injected
from tests.support.node import in_netns

pytestmark = pytest.mark.lab

PFS_MAC = "02:00:00:00:03:77"
Vfs = list[VirtualFunction]
# VFs by their index: driven by igbvf, by vfio-pci, by igbvf with a MAC that the PF had set before any pod.
KERNEL, VFIO, MARKED = range(3)
KINDS = {"kernel": KERNEL, "vfio": VFIO, "marked": MARKED}


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Of one PF, the first with an altname of the admin's."""
    vfs = prepare()
    yield vfs
    clear(vfs)


def prepare() -> Vfs:
    vfs = list(node.make_vfs(node.pfs()[0], 4))
    node.run("ip", "link", "property", "add", "dev", home_name(vfs[KERNEL]), "altname", "storage-uplink")
    node.bind(vfs[VFIO], "vfio-pci")
    mark(vfs[MARKED])
    return vfs


def mark(vf: VirtualFunction) -> None:
    """Set the VF's MAC through its PF. Once a pod has had the VF, only the agent knows that this was so."""
    node.run("ip", "link", "set", node.netdev_name(node.pfs()[0]), "vf", str(vf.index), "mac", PFS_MAC)
    node.bind(vf, None)                  # it takes that MAC over


def clear(vfs: Vfs) -> None:
    node.bind(vfs[VFIO], None)
    Sysfs().write_num_vfs(vfs[VFIO].pf, 0)


def home_name(vf: VirtualFunction) -> str:
    assert vf.link is not None
    return vf.link.name


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with open_kernel(Udev().settle) as kernel:
        yield kernel


@pytest.fixture
def vf(vfs: Vfs, kind: str) -> VirtualFunction:
    """One of the kind that the test's parameters say."""
    if kind == "marked":
        mark(vfs[MARKED])
    return vfs[KINDS[kind]]


@pytest.fixture(autouse=True)
def _host(request: pytest.FixtureRequest, vfs: Vfs) -> Iterator[None]:
    """One test's failure does not become the next one's."""
    if "vf" in request.fixturenames:
        request.getfixturevalue("vf")
    before = node.snapshot()
    yield
    if node.differences(before, node.snapshot()):
        clear(vfs)
        vfs[:] = prepare()


@pytest.fixture
def faults() -> Iterator[Faults]:
    with injected() as faults:
        yield faults


def check(expected: dict[str, Any], here: Node, what: str) -> None:
    assert node.differences(expected, here.view()) == [], what


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value.replace(" ", "_"))
@pytest.mark.parametrize("command", [Command.ADD, Command.DEL])
@pytest.mark.parametrize("kind", ["kernel", "vfio", pytest.param("marked", marks=pytest.mark.long)])
def test_at_every_step(kernel: Kernel, vf: VirtualFunction, faults: Faults, tmp_path: Path, command: Command,
                       fault: Fault) -> None:
    with trial(kernel, tmp_path, vf) as here:
        before = here.view()
        steps = {Command.ADD: done(here, faults, Command.ADD)}
        attached = here.view()
        steps[Command.DEL] = done(here, faults, Command.DEL)
        check(before, here, "without a fault")
        targets = counted(steps[command], fault)
        assert len(targets) >= 4, steps
        for number, step in enumerate(targets):
            if command is Command.DEL:
                here.call(Command.ADD)
            what = f"{fault.value} step {number} of {command}: {step}"
            last = number == len(targets) - 1
            stays = {Command.ADD: fault is Fault.KILL_AFTER and last,        # the runtime was told
                     Command.DEL: fault is Fault.KILL_BEFORE and number == 0}[command]
            strike(here, faults, command, number, fault, what)
            recover(here, faults, fault, ["attached"] if stays else [], what)
            check(attached if stays else before, here, what)
            if stays:
                assert here.call(Command.ADD)["interfaces"], what
                here.call(Command.DEL)
                check(before, here, what)
            else:                          # as runtimes do; and a DEL more is none too many
                assert changes(done(here, faults, Command.DEL)) == ["host-local DEL"]
                assert here.left() == {key: before[key] for key in here.left()}, what


def done(here: Node, faults: Faults, command: Command) -> list[str]:
    """The steps of a call without a fault."""
    faults.reset()
    here.call(command)
    return list(faults.steps)


def strike(here: Node, faults: Faults, command: Command, number: int, fault: Fault, what: str) -> None:
    faults.arm(number, fault)
    failure: BaseException | None = None
    try:
        here.call(command)
    except (Killed, SriovError) as error:
        failure = error
    assert failure is not None or command is Command.DEL, what      # a DEL does without some


def recover(here: Node, faults: Faults, fault: Fault, records: list[str], what: str) -> None:
    """What the agent, or the next one, does after a fault by itself until it has these records and owes nothing."""
    assert faults.struck, f"{what}: got to {faults.steps}"
    faults.reset()
    if fault.kills:
        here.restart()

    def settled() -> bool:
        here.attachments.repair.reconcile()      # as its next look does; a plugin may be late for one
        return (here.left()["records"], here.left()["owed"]) == (records, [])

    node.wait_for(f"{what}: {here.left()} to end", settled, every=0.2)


@pytest.mark.long
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value.replace(" ", "_"))
@pytest.mark.parametrize("kind", ["kernel", "vfio", "marked"])
def test_at_every_step_of_a_repair(kernel: Kernel, vf: VirtualFunction, faults: Faults, tmp_path: Path,
                                   fault: Fault) -> None:
    """Its pod is gone, and no DEL comes. What fails is tried again by the same agent."""
    before = node.snapshot()
    with orphaned(kernel, tmp_path, vf) as here:
        faults.reset()
        here.attachments.repair.reconcile()
        steps, nothing = list(faults.steps), here.left()
        assert node.differences(before, node.snapshot()) == []
    for number, step in enumerate(counted(steps, fault)):
        what = f"{fault.value} step {number} of a repair: {step}"
        with orphaned(kernel, tmp_path, vf) as here:
            faults.arm(number, fault)
            with suppress(Killed):
                here.attachments.repair.reconcile()
            recover(here, faults, fault, [], what)
            assert (node.differences(before, node.snapshot()), here.left()) == ([], nothing), what


@contextmanager
def orphaned(kernel: Kernel, root: Path, vf: VirtualFunction) -> Iterator[Node]:
    """An attachment whose pod ended while no agent ran."""
    with trial(kernel, root, vf) as here:
        here.call(Command.ADD)
    if Sysfs().read_driver(vf.address) == "igbvf":
        node.wait_for("the kernel to hand the VF back", lambda: Sysfs().find_netdev(vf.address))
    node.run("udevadm", "settle")
    here.reopen()
    try:
        yield here
    finally:
        here.store.close()


@pytest.mark.parametrize("kind", ["marked"])
def test_what_a_pf_had_set_is_set_again_by_the_next_agent_too(kernel: Kernel, vf: VirtualFunction,
                                                              tmp_path: Path) -> None:
    """An administrator's MAC: igb refuses the VF's own change of it, after each pod and each start."""
    with trial(kernel, tmp_path, vf) as here:
        before = here.view()
        for _ in range(3):
            here.call(Command.ADD)
            here.call(Command.DEL)
            here.restart()
            check(before, here, "after a pod")
            name = home_name(vf)
            with pytest.raises(AssertionError, match="Cannot assign requested address"):
                node.run("ip", "link", "set", name, "up", "address", "02:00:00:00:03:78")
            node.run("ip", "link", "set", name, "down")


def test_a_late_del_of_a_dead_pod_leaves_the_next_owner_alone(kernel: Kernel, vfs: Vfs, faults: Faults,
                                                              tmp_path: Path) -> None:
    with trial(kernel, tmp_path, vfs[KERNEL]) as here:
        before = here.view()
        here.call(Command.ADD)
        owned, (record,) = here.view(), here.store
        faults.reset()
        here.call(Command.DEL, "dead")        # by the same path: runtimes use a name again
        assert changes(faults.steps) == ["host-local DEL"]
        check(owned, here, "after the late DEL")
        assert list(here.store) == [record]
        here.call(Command.DEL)
        check(before, here, "after all")


def test_a_name_that_another_vf_came_back_with(kernel: Kernel, vfs: Vfs, tmp_path: Path) -> None:
    """A dead pod's altname is the home name of a VF whose DEL comes before that one's repair."""
    before = node.snapshot()
    with ExitStack() as stack:
        here = stack.enter_context(trial(kernel, tmp_path / "one", vfs[KERNEL]))
        with trial(kernel, tmp_path / "dead", vfs[3]) as other:
            other.call(Command.ADD, mac="02:00:00:00:03:02")
            here.call(Command.ADD)
            added = in_netns(other.pod, "ip", "link", "property", "add", "dev", "net1", "altname",
                             home_name(vfs[KERNEL]))
            assert added.returncode == 0, added.stderr
        node.wait_for("the kernel to hand it back", lambda: Sysfs().find_netdev(vfs[3].address))
        node.run("udevadm", "settle")
        assert home_name(vfs[KERNEL]) in node.links()["net1"]["altnames"]
        here.call(Command.DEL)
        other.restart()
        assert (here.left()["records"], other.left()["records"]) == ([], [])
        other.store.close()
    assert node.differences(before, node.snapshot()) == []
