"""Every VF comes home where no DEL does: the agent runs, namespaces die, and nobody tells it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sriov.commands.status import ask_agent
from sriov.errors import HostError
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from sriov.status import BroughtHome, Problem
from tests.support import node
from tests.support.node import CNI_PATH, POOLS, Agent, Cni, CniFailed, config, ip, links, netns, wait_for

pytestmark = pytest.mark.lab

HOME_WITHIN = 10.0       # seconds from the end of a namespace: what is promised
HOLDING = ("-m", "tests.support.stopping_agent")
MAC = "02:00:00:00:01:0%x"
Vfs = list[VirtualFunction]


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Seven VFs of one PF. /run/netns is a mount that tells its slaves of what is mounted in it."""
    pf = node.pfs()[0]
    with netns():
        pass
    yield list(node.make_vfs(pf, 7))
    Sysfs().write_num_vfs(pf.address, 0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Agent, Cni]]]:
    """Starts an agent of this test; arguments as Agent's, the environment as `env`."""
    with ExitStack() as stack:
        def make(env: dict[str, str] | None = None, path: str = CNI_PATH, **arguments: Any) -> tuple[Agent, Cni]:
            agent = Agent(tmp_path / "agent", POOLS, **arguments)
            agent.start(**(env or {}))
            stack.callback(agent.kill)
            return agent, Cni(agent.socket, path=path)

        yield make


@pytest.fixture
def home(vfs: Vfs) -> Iterator[Callable[[], list[str]]]:
    """Where the host's links differ from before the test: nowhere at its end."""
    node.run("udevadm", "settle")
    before = links()

    def differences() -> list[str]:
        return node.differences(before, links())

    yield differences
    node.run("udevadm", "settle")
    changes = differences()
    if changes:              # one test's failure must not become the next one's
        Sysfs().write_num_vfs(vfs[0].pf, 0)
        node.make_vfs(node.pfs()[0], 7)
    assert not changes


@contextmanager
def taken(vf: VirtualFunction, driver: str) -> Iterator[Callable[[], list[str]]]:
    """The VF with this driver; yields where the host's links differ from how they are with it."""
    node.bind(vf, driver)
    node.run("udevadm", "settle")
    before = links()
    try:
        yield lambda: node.differences(before, links())
    finally:
        node.bind(vf, None)


def host_local(folder: Path) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(folder), "ranges": [[{"subnet": "10.9.0.0/24"}]]}


def reserved(folder: Path) -> list[str]:
    return [path.name for path in (folder / "net").iterdir() if path.name.startswith("10.")]


def remove(pod: str) -> None:
    """The namespace's end, without a DEL."""
    node.run("ip", "netns", "del", Path(pod).name)


def vlan(vf: VirtualFunction) -> Any:
    pf = next(pf for pf in node.pfs() if pf.address == vf.pf)
    return links()[node.netdev_name(pf)]["vfinfo_list"][vf.index]["vlan_list"]


def wait_for_home(agent: Agent, home: Callable[[], list[str]]) -> None:
    wait_for("no record", lambda: agent.records() == [], HOME_WITHIN)
    wait_for(f"all home: {home()}; {agent.tail()}", lambda: not home(), 1.0)


def wait_for_free(folder: Path, count: int = 0) -> None:
    """IPAM is asked apart from the VF's way home, at once."""
    wait_for(f"{count} addresses", lambda: len(reserved(folder)) == count, HOME_WITHIN)


def owed(agent: Agent) -> list[Path]:
    return list((agent.state / "ipam").glob("*.json"))


def lines(agent: Agent, words: str) -> list[str]:
    return [line for line in agent.log.read_text().splitlines() if words in line]


def wait_for_line(agent: Agent, words: str) -> str:
    """The one line with these words: the agent says what it did after its record is gone."""
    wait_for(words, lambda: lines(agent, words))
    (line,) = lines(agent, words)
    return line


def test_a_netns_that_dies_without_del(start, home, vfs: Vfs, tmp_path: Path) -> None:
    agent, cni = start()
    ipam = tmp_path / "ipam"
    with netns() as pod:
        conf = config(vfs[0].address, vlan=5, mac=MAC % 1, trust="on", spoofchk="off", max_tx_rate=100, mtu=1400,
                      ipam=host_local(ipam))
        cni.add(conf, "c1", pod)
        assert len(reserved(ipam)) == 1
        remove(pod)
        wait_for_home(agent, home)
        wait_for_free(ipam)
        wait_for("nothing owed", lambda: not owed(agent))
        assert wait_for_line(agent, "brought home").endswith(
            f"VF {vfs[0].address}: brought home: container c1, net1 of network net: its network namespace is gone")
        wait_for_line(agent, "given back by host-local")
        told = ask_agent(agent.root / "status.sock").repairs
        assert told.brought_home == (BroughtHome(reason="its network namespace is gone", vfs=1),)
        assert (told.paid_late, told.standing) == (1, ())
        cni.delete(conf, "c1", "")           # that came too late after all


def test_one_that_a_vfio_vf_was_given_to(start, vfs: Vfs, tmp_path: Path) -> None:
    with taken(vfs[6], "vfio-pci") as home:
        agent, cni = start()
        with netns() as pod, netns() as living:
            cni.add(config(vfs[5].address, vlan=6), "c2", living)
            cni.add(config(vfs[6].address, vlan=5, mac=MAC % 1, ipam=host_local(tmp_path / "ipam")), "c1", pod)
            assert vlan(vfs[6]) == [{"vlan": 5}]
            remove(pod)
            wait_for("the other record alone", lambda: len(agent.records()) == 1, HOME_WITHIN)
            wait_for_free(tmp_path / "ipam")
            assert (vlan(vfs[6]), vlan(vfs[5])) == ([{}], [{"vlan": 6}])
            cni.delete(config(vfs[5].address), "c2", living)
        assert not home()


def test_seven_at_once(start, home, vfs: Vfs, tmp_path: Path) -> None:
    agent, cni = start()
    with ExitStack() as stack:
        pods = [stack.enter_context(netns()) for _ in vfs]
        for number, (vf, pod) in enumerate(zip(vfs, pods, strict=True)):
            cni.add(config(vf.address, vlan=5, mac=MAC % number, ipam=host_local(tmp_path)), f"c{number}", pod)
        for pod in pods:
            remove(pod)
        wait_for_home(agent, home)
        wait_for_free(tmp_path)


def test_del_during_the_repair(start, home, vfs: Vfs, tmp_path: Path) -> None:
    held = tmp_path / "held"
    agent, cni = start({"VFPOOL_HOLD_AT": "link home", "VFPOOL_HOLD_FILE": str(held)}, program=HOLDING)
    conf = config(vfs[0].address, vlan=5, mac=MAC % 1, ipam=host_local(tmp_path / "ipam"))
    with netns() as pod:
        cni.add(conf, "c1", pod)
        remove(pod)
        wait_for("the repair to be held", held.exists, HOME_WITHIN)
        delete = cni.start("DEL", conf, "c1", pod)
        with pytest.raises(subprocess.TimeoutExpired):
            delete.wait(0.5)
        held.unlink()
        cni.finish(delete)
        assert agent.records() == []
        assert reserved(tmp_path / "ipam") == []
        assert not home()


def test_repair_during_the_del(start, home, vfs: Vfs, tmp_path: Path) -> None:
    """The DEL has the VF: a namespace that dies under it is its business, and another VF's repair goes on."""
    held = tmp_path / "held"
    agent, cni = start({"VFPOOL_HOLD_AT": "link home", "VFPOOL_HOLD_FILE": str(held)}, program=HOLDING)
    with netns() as pod, netns() as other:
        cni.add(config(vfs[0].address, vlan=5), "c1", pod)
        cni.add(config(vfs[1].address, vlan=5), "c2", other)
        delete = cni.start("DEL", config(vfs[0].address), "c1", pod)
        wait_for("the DEL to be held", held.exists)
        remove(pod)
        remove(other)
        wait_for("the other VF on the host", lambda: Sysfs().find_netdev(vfs[1].address))
        held.unlink()
        cni.finish(delete)
        wait_for("the repair to be held", held.exists, HOME_WITHIN)
        assert [path.stem for path in agent.records()] == [vfs[1].address]
        held.unlink()
        wait_for_home(agent, home)
        wait_for_line(agent, "brought home")


def test_add_of_the_vf_to_the_next_pod(start, home, vfs: Vfs, tmp_path: Path) -> None:
    agent, cni = start()
    ipam = host_local(tmp_path)
    with netns() as living:
        for number in range(5):
            with netns() as old:
                cni.add(config(vfs[0].address, vlan=5, mac=MAC % 1, ipam=ipam), f"old{number}", old)
            cni.add(config(vfs[0].address, vlan=6, mac=MAC % 2, ipam=ipam), f"new{number}", living)
            assert vlan(vfs[0]) == [{"vlan": 6}]
            assert len(agent.records()) == 1
            wait_for_free(tmp_path, 1)
            cni.delete(config(vfs[0].address), f"old{number}", "")
            assert ip("-n", Path(living).name, "link", "show", "net1")[0]["address"] == MAC % 2
            cni.delete(config(vfs[0].address, ipam=ipam), f"new{number}", living)
    assert not home()


def test_namespace_that_a_process_holds(start, home, vfs: Vfs) -> None:
    """It lives on without its path, and the VF in it; when its last process ends the VF comes home."""
    agent, cni = start()
    with netns() as pod:
        cni.add(config(vfs[0].address, vlan=5), "c1", pod)
        held = subprocess.Popen(["ip", "netns", "exec", Path(pod).name, "sh", "-c", "echo in; exec sleep 1000"],
                                stdout=subprocess.PIPE, text=True)
        assert held.stdout is not None
        assert held.stdout.readline() == "in\n"
        remove(pod)
        wait_for("the agent to say so", lambda: lines(agent, "something holds that open still"), 20)
        (problem,) = ask_agent(agent.root / "status.sock").repairs.standing
        assert problem.message.startswith(f"VF {vfs[0].address} of container c1, net1 of network net is not home: ")
        assert problem.since is not None
        assert vlan(vfs[0]) == [{"vlan": 5}]
        with netns() as other, pytest.raises(CniFailed, match="something holds that open still"):
            cni.add(config(vfs[0].address), "c2", other)
        held.kill()
        held.communicate()
        wait_for_home(agent, home)
        wait_for("no problem", lambda: not ask_agent(agent.root / "status.sock").repairs.standing)
        assert len(lines(agent, "something holds that open still")) == 2       # the refusal's is the other one


# Mount namespaces of an agent's own, as containers have them: as unshare(1) says.
SLAVE = ("unshare", "--mount", "--propagation=slave")
PRIVATE = ("unshare", "--mount", "--propagation=private")
HIDDEN = (*PRIVATE, "sh", "-c", 'mount -t tmpfs tmpfs /run/netns && exec "$@"', "sh")
UNMOUNTED = (*PRIVATE, "sh", "-c", 'umount /run/netns/pod-* && exec "$@"', "sh")


class TestMountsOfItsOwn:
    """The agent of a DaemonSet sees the node's mounts as far as its own mounts let it."""

    def test_that_follow_the_nodes(self, start, vfs: Vfs) -> None:
        agent, cni = start(runner=SLAVE)
        with taken(vfs[6], "vfio-pci") as home, netns() as pod, netns() as living:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 1), "c1", pod)
            cni.add(config(vfs[6].address, vlan=5), "c2", pod, "net2")
            cni.add(config(vfs[1].address, vlan=5), "c3", living)
            assert lines(agent, "cannot be seen from here") == []
            remove(pod)
            wait_for("one record", lambda: len(agent.records()) == 1, HOME_WITHIN)
            assert (vlan(vfs[6]), vlan(vfs[1])) == ([{}], [{"vlan": 5}])
            cni.delete(config(vfs[1].address), "c3", living)
            assert not home()
        assert agent.stop() == 0

    @pytest.mark.parametrize(("first", "last", "seen"), [
        (PRIVATE, UNMOUNTED, False), (SLAVE, HIDDEN, True), (SLAVE, UNMOUNTED, True)],
        ids=["never", "hidden later", "unmounted later"])
    def test_that_do_not(self, start, vfs: Vfs, first: tuple[str, ...], last: tuple[str, ...], seen: bool) -> None:
        """What the agent cannot see is not dead; a netdev that is back tells more than any path."""
        agent, cni = start(runner=first)       # before the namespaces are made: what is mounted comes along
        with taken(vfs[6], "vfio-pci") as home, netns() as pod, netns() as dying:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 1), "c1", pod)
            cni.add(config(vfs[6].address, vlan=5), "c1", pod, "net2")
            cni.add(config(vfs[1].address, vlan=5), "c2", dying)
            assert len(lines(agent, "cannot be seen from here")) == (0 if seen else 3)
            agent.stop(signal.SIGKILL)
            agent, cni = start(runner=last)
            remove(dying)
            wait_for("the VF of the dead one", lambda: len(agent.records()) == 2, HOME_WITHIN)
            wait_for_line(agent, "brought home")
            assert (vlan(vfs[0]), vlan(vfs[6])) == ([{"vlan": 5}], [{"vlan": 5}])
            assert ip("-n", Path(pod).name, "link", "show", "net1")
            cni.delete(config(vfs[0].address), "c1", pod)
            cni.delete(config(vfs[6].address), "c1", pod, "net2")
            assert not home()


def test_vfs_made_anew_while_one_is_in_a_pod(start, vfs: Vfs, tmp_path: Path) -> None:
    agent, cni = start()
    pf = node.pfs()[0]
    conf = config(vfs[0].address, vlan=5, ipam=host_local(tmp_path / "ipam"))
    with netns() as pod:
        cni.add(conf, "c1", pod)
        Sysfs().write_num_vfs(pf.address, 0)
        vfs[:] = node.make_vfs(pf, 7)
        before = links()
        wait_for("no record", lambda: agent.records() == [], HOME_WITHIN)
        wait_for_free(tmp_path / "ipam")
        wait_for_line(agent, "the VF is gone or was made anew")
        cni.add(conf, "c2", pod)
        cni.delete(conf, "c1", pod, "net2")
        cni.delete(conf, "c2", pod)
        node.run("udevadm", "settle")
        assert not node.differences(before, links())


def test_records_of_an_earlier_boot(start, home, vfs: Vfs, tmp_path: Path) -> None:
    agent, cni = start()
    with netns() as pod:
        conf = config(vfs[0].address, vlan=5, ipam=host_local(tmp_path / "ipam"))
        cni.add(conf, "c1", pod)
        (path,), (name,) = agent.records(), reserved(tmp_path / "ipam")
        address = tmp_path / "ipam/net" / name
        record, taken = json.loads(path.read_text()), address.read_bytes()
        cni.delete(conf, "c1", pod)
    agent.stop()
    address.write_bytes(taken)
    path.write_text(json.dumps({**record, "boot_id": "another"}))
    agent, _ = start()
    assert agent.records() == []
    wait_for_free(tmp_path / "ipam")


def test_del_that_failed_is_done_all_the_same(start, vfs: Vfs) -> None:
    """Its pod lives on, and no other DEL comes. A VF that no driver takes is not home."""
    agent, cni = start()
    sysfs, before = Sysfs(), links()

    def differences() -> list[str]:
        """But for the index of a netdev that was made anew."""
        return [each for each in node.differences(before, links()) if ".ifindex: " not in each]

    with netns() as pod:
        cni.add(config(vfs[0].address, vlan=5, mac=MAC % 1), "c1", pod)
        sysfs.set_driver_override(vfs[0].address, "none-such")
        sysfs.unbind(vfs[0].address)
        try:
            for _ in range(2):
                with pytest.raises(CniFailed, match="its driver none-such does not take it any more"):
                    cni.delete(config(vfs[0].address), "c1", pod)
            wait_for("a try in vain", lambda: lines(agent, "is not home"))
        finally:
            sysfs.set_driver_override(vfs[0].address, None)
        wait_for("no record", lambda: agent.records() == [], 2 * HOME_WITHIN)
        assert sysfs.read_driver(vfs[0].address) == "igbvf"
        assert not differences()
        assert len(lines(agent, "is not home")) == 1
        wait_for_line(agent, "its ADD or DEL was never finished")


# Longer than an agent's start, or a VF on its way home, waits for an IPAM plugin.
PLUGIN = """\
#!/bin/sh
if [ $CNI_COMMAND = DEL -a -e {folder}/broken ]; then
    echo '{{"code": 11, "msg": "no answer from the server"}}'
    exit 1
fi
[ $CNI_COMMAND = DEL ] && sleep 3
exec {real} "$@"
"""


def test_ipam_that_fails_is_asked_again_whatever_becomes_of_vf_and_agent(start, home, vfs: Vfs,
                                                                         tmp_path: Path) -> None:
    plugin = tmp_path / "bin/host-local"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN.format(folder=tmp_path, real=f"{CNI_PATH}/host-local"))
    plugin.chmod(0o755)
    agent, cni = start(path=str(plugin.parent))
    ipam = tmp_path / "ipam"
    conf = config(vfs[0].address, vlan=5, ipam=host_local(ipam))
    (tmp_path / "broken").touch()
    with netns() as dead, netns() as deleted:
        cni.add(conf, "c1", dead)
        cni.add({**conf, "deviceID": vfs[1].address}, "c2", deleted)
        remove(dead)
        with pytest.raises(CniFailed, match="no answer from the server"):
            cni.delete({**conf, "deviceID": vfs[1].address}, "c2", deleted)
        wait_for_home(agent, home)
        wait_for("two tries", lambda: len(lines(agent, "still reserved: IPAM plugin host-local: DEL failed")) == 2)
        assert len(owed(agent)) == len(reserved(ipam)) == 2
        with netns() as other:             # a VF that is home does not wait for another network's IPAM
            cni.add(config(vfs[1].address, vlan=6), "c3", other)
            cni.delete(config(vfs[1].address), "c3", other)
        assert len(owed(agent)) == 2
        assert len(lines(agent, "still reserved")) == 2
        agent.stop(signal.SIGKILL)
        (tmp_path / "broken").unlink()
        agent, cni = start(path=str(plugin.parent))
        wait_for("nothing owed", lambda: not owed(agent), 30)
        assert reserved(ipam) == []
        cni.delete(conf, "c2", "")


def standing(agent: Agent) -> tuple[Problem, ...]:
    """What stands by the agent's status; nothing as long as the socket is the killed one's."""
    try:
        return ask_agent(agent.root / "status.sock").repairs.standing
    except HostError:
        return ()


def test_a_damaged_record_holds_nobody_up(start, home, vfs: Vfs) -> None:
    """Its VF stays where it is, and nobody else gets it; the admin is told."""
    agent, cni = start()
    with netns() as pod, netns() as dying:
        cni.add(config(vfs[0].address, vlan=5), "c1", pod)
        cni.add(config(vfs[1].address, vlan=5), "c2", dying)
        agent.stop(signal.SIGKILL)
        damaged, _ = agent.records()
        text = damaged.read_text()
        damaged.write_text(text[:-20])
        remove(dying)
        agent, cni = start()
        wait_for("the other VF", lambda: agent.records() == [], HOME_WITHIN)
        wait_for_line(agent, "brought home")
        (problem,) = wait_for("the status", lambda: standing(agent))
        aside = damaged.with_suffix(".damaged")
        assert problem.message.startswith(f"set aside a damaged record: {aside}: not a record: ")
        assert ip("-n", Path(pod).name, "link", "show", "net1")
        assert vlan(vfs[0]) == [{"vlan": 5}]
        with netns() as other, pytest.raises(CniFailed, match="is not known any more"):
            cni.add(config(vfs[0].address), "c3", other)
        cni.delete(config(vfs[0].address), "c1", pod)          # which does not claim that it is home
        wait_for_line(agent, f"VF {vfs[0].address} is in its network namespace, as net1, and no record says how")
        assert ip("-n", Path(pod).name, "link", "show", "net1")
        agent.stop()
        damaged.write_text(text)             # mended by hand
        agent, cni = start()
        cni.delete(config(vfs[0].address), "c1", pod)
        assert not home()
    with netns() as pod:
        with pytest.raises(CniFailed, match="is not known any more"):
            cni.add(config(vfs[0].address), "c4", pod)
        aside.unlink()
        cni.add(config(vfs[0].address), "c4", pod)
        cni.delete(config(vfs[0].address), "c4", pod)
    assert not home()
