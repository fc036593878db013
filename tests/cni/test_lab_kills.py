"""kill -9 of a real agent after each step of ADD, DEL and repair, which is before the next one.

By its start alone the next agent makes the node as it was, or as the call wanted it where that was done.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.node import POOLS, Agent, Cni, CniFailed, config, netns

pytestmark = pytest.mark.lab

MAC = "02:00:00:00:07:01"
# What cni/ traces. After the last step of ADD it is the runtime's to end the attachment; the first one of DEL
# decides that it ends.
STEPS = {
    ("kernel", "ADD"): ["record", "ipam", "settings", "move", "mac", "addresses", "done"],
    ("vfio", "ADD"): ["record", "ipam", "settings", "done"],
    ("kernel", "DEL"): ["detaching", "link home", "home", "free", "forgotten"],
    ("vfio", "DEL"): ["detaching", "home", "free", "forgotten"],
    ("kernel", "repair"): ["owed", "link home", "home", "forgotten", "paid"],
    ("vfio", "repair"): ["owed", "home", "forgotten", "paid"],
}
CALLS = [(*case, step) for case, steps in STEPS.items() if case[1] != "repair" for step in steps]
REPAIRS = [(kind, step) for (kind, what), steps in STEPS.items() if what == "repair" for step in steps]


@pytest.fixture(scope="module")
def vfs() -> Iterator[dict[str, VirtualFunction]]:
    """Two VFs of one PF, each driven by what it is called."""
    kernel, vfio = node.make_vfs(node.pfs()[0], 2)
    node.bind(vfio, "vfio-pci")
    yield {"kernel": kernel, "vfio": vfio}
    node.bind(vfio, None)
    Sysfs().write_num_vfs(kernel.pf, 0)


class Stopping(Agent):
    """An agent that dies at the step that is written into `killing`, and writes all of them to `traced`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, POOLS, ("-m", "tests.support.stopping_agent"))
        self.killing, self.traced, self.ipam = root / "killing", root / "traced", root / "ipam"

    def start(self, **env: str) -> None:
        super().start(VFPOOL_KILL_FILE=str(self.killing), VFPOOL_TRACE_FILE=str(self.traced), **env)

    def left(self) -> dict[str, list[str]]:
        return {"records": [path.name for path in self.records()],
                "owed": [path.name for path in self.state.glob("ipam/*.json")],
                "reserved": [path.name for path in self.ipam.glob("net/10.*")]}

    def view(self) -> dict[str, Any]:
        return {"host": node.snapshot(), **self.left()}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopping]:
    agent = Stopping(tmp_path_factory.mktemp("node") / "agent")
    agent.start()
    yield agent
    assert agent.stop() == 0, agent.tail()


def conf_of(vf: VirtualFunction, agent: Stopping) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(agent.ipam), "routes": [{"dst": "10.50.0.0/16"}],
            "ranges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.5"}]]}
    return config(vf.address, vlan=5, mac=MAC, trust="off", max_tx_rate=100, ipam=ipam)


@pytest.mark.parametrize(("kind", "command", "step"), CALLS, ids=["-".join(case) for case in CALLS])
def test_killed_after(agent: Stopping, vfs: dict[str, VirtualFunction], kind: str, command: str, step: str) -> None:
    """The last step of a DEL is the record's end: only the answer was missing."""
    conf, cni = conf_of(vfs[kind], agent), Cni(agent.socket)
    before = agent.view()
    with netns() as pod:
        if command == "DEL":
            cni.add(conf, "c1", pod)
        agent.killing.write_text(step)
        with pytest.raises(CniFailed) as failure:
            cni.finish(cni.start(command, conf, "c1", pod))
        assert failure.value.code == 11
        assert agent.wait() == -signal.SIGKILL
        agent.start()
        if step == "done":                 # the pod may have been told of its interface: it keeps it until DEL
            assert agent.left() == {"records": [f"{vfs[kind].address}.json"], "owed": [], "reserved": ["10.9.0.5"]}
            cni.check(conf, cni.add(conf, "c1", pod), "c1", pod)
            cni.delete(conf, "c1", pod)
        node.wait_for("addresses to be given back", lambda: not agent.left()["owed"])
        assert node.differences(before, agent.view()) == []
        cni.delete(conf, "c1", pod)        # as runtimes do
        cni.add(conf, "c2", pod)
        cni.delete(conf, "c2", pod)
        assert node.differences(before, agent.view()) == []


@pytest.mark.parametrize(("kind", "step"), REPAIRS, ids=["-".join(case) for case in REPAIRS])
def test_killed_during_repair_after(agent: Stopping, vfs: dict[str, VirtualFunction], kind: str, step: str) -> None:
    before = agent.view()
    with netns() as pod:
        Cni(agent.socket).add(conf_of(vfs[kind], agent), "c1", pod)
        agent.killing.write_text(step)
    assert agent.wait() == -signal.SIGKILL
    agent.start()
    node.wait_for("all to be done", lambda: not any(agent.left().values()))
    assert node.differences(before, agent.view()) == []


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_these_are_all_steps(agent: Stopping, vfs: dict[str, VirtualFunction], kind: str) -> None:
    conf, cni = conf_of(vfs[kind], agent), Cni(agent.socket)
    agent.traced.write_text("")
    with netns() as pod:
        cni.add(conf, "c1", pod)
        cni.delete(conf, "c1", pod)
        cni.add(conf, "c2", pod)
    node.wait_for("all to be done", lambda: not any(agent.left().values()))
    expected = [step for what in ("ADD", "DEL", "ADD", "repair") for step in STEPS[kind, what]]
    node.wait_for("the last step", lambda: agent.traced.read_text().count("\n") >= len(expected))
    traced = agent.traced.read_text().splitlines()
    # Addresses are given back by a thread of its own: it may look just when they are owed, and be done before.
    assert traced.index("owed") < traced.index("paid")
    assert sorted(traced) == sorted(expected)
    assert [step for step in traced if step != "paid"] == [step for step in expected if step != "paid"]


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
@pytest.mark.parametrize("path", ["", "/run/netns/gone", "its own"])
def test_a_late_del_of_a_dead_pod(agent: Stopping, vfs: dict[str, VirtualFunction], kind: str, path: str) -> None:
    """Its VF is another pod's by then, and so may be the path of its namespace."""
    conf, cni = conf_of(vfs[kind], agent), Cni(agent.socket)
    before = agent.view()
    with netns() as old:
        cni.add(conf, "old", old)
    with netns() as new:
        result = cni.add({**conf, "vlan": 6}, "new", new)
        owned, record = agent.view(), [path.read_text() for path in agent.records()]
        cni.delete(conf, "old", new if path == "its own" else path)
        assert node.differences(owned, agent.view()) == []
        assert [path.read_text() for path in agent.records()] == record
        cni.check({**conf, "vlan": 6}, result, "new", new)
        cni.delete(conf, "new", new)
    assert node.differences(before, agent.view()) == []
