"""Whatever a pod with NET_ADMIN sets on its VF's netdev, the host gets it back as it was.

How each is left: by DEL, which finds the netdev in the pod; by the end of the namespace, when the kernel hands
it to the host as it is; and by kill -9 of the agent between the way home and the removal of the record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.netns import call_in, links_in, open_netns
from sriov.host.bpf import TCX, read_tcx
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.bpf import attach_tcx, load_program, make_tcx_link, make_xdp_link
from tests.support.node import POOLS, Agent, Cni, CniFailed, config, in_netns, ip, links, netns, wait_for

pytestmark = pytest.mark.lab

Vfs = list[VirtualFunction]
MAC = "02:00:00:00:02:0%x"
INGRESS, EGRESS = TCX
CONF = {"vlan": 5, "mac": MAC % 1, "trust": "on"}


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Three VFs of one PF; the first has an altname of the admin's."""
    vfs = prepare()
    yield vfs
    Sysfs().write_num_vfs(vfs[0].pf, 0)


def prepare() -> Vfs:
    vfs = list(node.make_vfs(node.pfs()[0], 3))
    node.run("ip", "link", "property", "add", "dev", home_name(vfs[0]), "altname", "storage-uplink")
    node.run("udevadm", "settle")
    return vfs


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("node") / "agent", POOLS)
    agent.start()
    yield agent
    assert agent.stop() == 0, agent.tail()


@pytest.fixture
def unchanged(vfs: Vfs) -> Iterator[Callable[[], list[str]]]:
    """Where the host's links differ from before the test; nowhere at its end."""
    before = snapshot()

    def differences() -> list[str]:
        return node.differences(before, snapshot())

    yield differences
    changes = differences()
    if changes:              # one test's failure must not become the next one's
        Sysfs().write_num_vfs(vfs[0].pf, 0)
        vfs[:] = prepare()
    assert not changes


def snapshot() -> dict[str, Any]:
    """As node.snapshot, with tcx programs, and without ifindexes: what the driver makes anew has a new one."""
    found = node.snapshot()
    shown = {name: {key: value for key, value in link.items() if key != "ifindex"}
             for name, link in found["links"].items()}
    tcx = {name: read_tcx(link["ifindex"]) for name, link in found["links"].items()}
    return {**found, "links": shown, "tcx": tcx}


@pytest.fixture(autouse=True)
def open_links() -> Iterator[contextlib.ExitStack]:
    """BPF links that somebody has open until the test is over."""
    with contextlib.ExitStack() as stack:
        OPEN.append(stack)
        yield stack
        OPEN.remove(stack)


OPEN: list[contextlib.ExitStack] = []


def attach_program(path: str, _home: str) -> None:
    """An XDP program that drops every packet, in the kernel's own mode."""
    program = load_program(verdict=1)
    try:
        with open_netns(path) as fd, links_in(fd) as pod:
            link = pod.find("net1")
            assert link is not None
            pod.attach_program(link.index, 1 << 1, program)
    finally:
        os.close(program)
    assert "xdp" in in_netns(path, "ip", "link", "show", "net1").stdout


def attach_program_by_link(path: str, _home: str) -> None:
    """The kernel lets nobody but the link's owner take it off."""
    with open_netns(path) as fd, links_in(fd) as pod:
        link = pod.find("net1")
        assert link is not None
        OPEN[-1].enter_context(make_xdp_link(fd, link.index))
    assert inspect(path).programs


def attach_tcx_program(place: int) -> Callable[[str, str], None]:
    """One that drops every packet."""
    def run(path: str, _home: str) -> None:
        with open_netns(path) as fd:
            attach_tcx(fd, index_in(fd), place)
            assert call_in(fd, lambda: read_tcx(index_in(fd)))
    return run


def attach_tcx_program_by_link(path: str, _home: str) -> None:
    with open_netns(path) as fd:
        OPEN[-1].enter_context(make_tcx_link(fd, index_in(fd), INGRESS))
        assert call_in(fd, lambda: read_tcx(index_in(fd)))


def index_in(netns_fd: int) -> int:
    """That of net1 there."""
    with links_in(netns_fd) as pod:
        link = pod.find("net1")
    assert link is not None
    return link.index


def rename(name: str) -> Callable[[str, str], None]:
    """Of a pod that gives its netdev this name, of any bytes."""
    def run(path: str, _home: str) -> None:
        with open_netns(path) as fd, links_in(fd) as pod:
            link = pod.find("net1")
            assert link is not None
            pod.change(link.index, "set it down", up=False)
            pod.change(link.index, "rename it", name=name)
    return run


def commands(*lines: str) -> Callable[[str, str], None]:
    """Of a pod that runs these; {home} is the VF's name on the host."""
    def run(path: str, home: str) -> None:
        for line in lines:
            done = in_netns(path, *line.format(home=home, pf=node.netdev_name(node.pfs()[0])).split())
            assert done.returncode == 0, f"{line}: {done.stderr}"
    return run


def turn_offloads_off(path: str, _home: str) -> None:
    with open_netns(path) as fd, links_in(fd) as pod:
        before = inspect(path).features
        assert before is not None
        pod.tune("net1", LinkTraits(features=tuple(0 for _ in before)))
        assert inspect(path).features != before


def tune(path: str, _home: str) -> None:
    """Rings and coalescing, as `ethtool -G` and `-C` do."""
    with open_netns(path) as fd, links_in(fd) as pod:
        rings, coalescing = inspect(path).rings, inspect(path).coalescing
        assert rings is not None
        assert coalescing is not None
        changed = LinkTraits(rings=(rings[0] * 2, *rings[1:3], rings[3] // 2), coalescing=(125, *coalescing[1:]))
        pod.tune("net1", changed)
        assert (inspect(path).rings, inspect(path).coalescing) == (changed.rings, changed.coalescing)


def give_altname_of_no_text(path: str, _home: str) -> None:
    with open_netns(path) as fd, links_in(fd) as pod:
        link = pod.find("net1")
        assert link is not None
        pod.add_altnames(link.index, ["\udcff\udcfe"])


LEFT: dict[str, Callable[[str, str], None]] = {
    "name": commands("ip link set net1 down", "ip link set net1 name eth7"),
    "name of the PF": commands("ip link set net1 down", "ip link set net1 name {pf}"),
    "name that is no text": rename("\udcff"),
    "name that a terminal obeys": rename("a\x1b[31mX"),
    "altname": commands("ip link property add dev net1 altname hello"),
    "altname of the PF": commands("ip link property add dev net1 altname {pf}"),
    "altname of its own at home": commands("ip link property add dev net1 altname {home}"),
    "altname that is no text": give_altname_of_no_text,
    "many altnames": commands(*(f"ip link property add dev net1 altname n{n}" for n in range(20))),
    "no altnames": commands("ip link property del dev net1 altname storage-uplink"),
    "promisc": commands("ip link set net1 promisc on"),
    "allmulticast": commands("ip link set net1 allmulticast on"),
    "no multicast and no ARP": commands("ip link set net1 multicast off arp off"),
    "dynamic": commands("ip link set net1 dynamic on"),
    "alias": commands("ip link set net1 alias gone-fishing"),
    "queue length": commands("ip link set net1 txqueuelen 1"),
    "qdisc": commands("tc qdisc add dev net1 root tbf rate 8kbit burst 1540 latency 50ms",
                      "tc qdisc add dev net1 clsact"),
    "group": commands("ip link set net1 group 42"),
    "broadcast": commands("ip link set net1 broadcast 02:ff:ff:ff:ff:ff"),
    "mode": commands("ip link set net1 mode dormant"),
    "offload sizes": commands("ip link set net1 gso_max_size 2000 gso_max_segs 1 gro_max_size 3000"),
    "sysctls": commands("sysctl -qw net.ipv6.conf.net1.disable_ipv6=1 net.ipv4.conf.net1.forwarding=1"),
    "MAC and MTU": commands("ip link set net1 address 02:00:00:00:02:77 mtu 1300"),
    "bond": commands("ip link add bond0 type bond", "ip link set net1 down", "ip link set net1 master bond0",
                     "ip link set bond0 up"),
    "bridge": commands("ip link add br0 type bridge", "ip link set net1 master br0"),
    "VLAN and macvlan": commands("ip link add net1.7 link net1 type vlan id 7",
                                 "ip link add m0 link net1.7 type macvlan mode bridge",
                                 "ip link add m1 link net1 address 02:00:00:00:02:78 type macvlan mode bridge",
                                 "ip link set net1.7 up", "ip link set m0 up", "ip link set m1 up"),
    "offloads": turn_offloads_off,
    "rings and coalescing": tune,
    "XDP program": attach_program,
    "XDP program by a BPF link": attach_program_by_link,
    "tcx program for what comes in": attach_tcx_program(INGRESS),
    "tcx program for what goes out": attach_tcx_program(EGRESS),
    "tcx program by a BPF link": attach_tcx_program_by_link,
    "down": commands("ip link set net1 down"),
}


def add(agent: Agent, vf: VirtualFunction, pod: str, container: str = "c1") -> Cni:
    cni = Cni(agent.socket)
    cni.add(config(vf.address, **CONF), container, pod)
    return cni


def home_name(vf: VirtualFunction) -> str:
    assert vf.link is not None
    return vf.link.name


@pytest.mark.parametrize("left", LEFT)
def test_del_takes_it_off(agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]], left: str) -> None:
    with netns() as pod:
        cni = add(agent, vfs[0], pod)
        LEFT[left](pod, home_name(vfs[0]))
        cni.delete(config(vfs[0].address), "c1", pod)
        assert not unchanged()
        with netns() as following:        # as good as new for the next pod
            add(agent, vfs[0], following, "c2")
            traits = inspect(following)
            cni.delete(config(vfs[0].address), "c2", following)
        assert (traits.programs, traits.alias, traits.altnames) == ((), "", ("storage-uplink",))
        assert [link["ifname"] for link in ip("-n", Path(pod).name, "link", "show")
                if link.get("linkinfo", {}).get("info_kind") in ("vlan", "macvlan")] == []


@pytest.mark.parametrize("left", LEFT)
def test_the_namespaces_end_leaves_it_and_repair_takes_it_off(
        agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]], left: str) -> None:
    with netns() as pod:
        add(agent, vfs[0], pod)
        LEFT[left](pod, home_name(vfs[0]))
    wait_for("no record", lambda: not agent.records(), 20)
    assert not unchanged()


def inspect(pod: str) -> LinkTraits:
    with open_netns(pod) as fd, links_in(fd) as inside:
        found = inside.inspect("net1")
        assert found is not None
        return found[1]


def test_an_altname_that_is_another_vfs_name_at_home(agent: Agent, vfs: Vfs,
                                                     unchanged: Callable[[], list[str]]) -> None:
    """While the other VF is away its name is free on the host, and a dead pod's altname takes it."""
    with netns() as pod, netns() as other:
        cni = add(agent, vfs[0], pod)
        add(agent, vfs[1], other, "c2")
        assert in_netns(pod, "ip", "link", "property", "add", "dev", "net1", "altname",
                        home_name(vfs[1])).returncode == 0
        cni.delete(config(vfs[0].address), "c1", pod)
        cni.delete(config(vfs[1].address), "c2", other)
    assert not unchanged()
    with netns() as pod, netns() as other:
        add(agent, vfs[0], pod)
        add(agent, vfs[1], other, "c2")
        in_netns(pod, "ip", "link", "property", "add", "dev", "net1", "altname", home_name(vfs[1]))
        agent.stop(signal.SIGKILL)        # nobody repairs what comes back now
        node.run("ip", "netns", "del", Path(pod).name)
        wait_for("the kernel to hand it back", lambda: Sysfs().find_netdev(vfs[0].address))
        with Links.open() as host:
            taken = host.find(home_name(vfs[1]))
        assert taken is not None
        assert taken.pci == vfs[0].address
        agent.start()
        cni.delete(config(vfs[1].address), "c2", other)
        wait_for("no record", lambda: not agent.records(), 20)


def give_altname(vf: VirtualFunction, name: str) -> None:
    node.run("ip", "link", "property", "add", "dev", home_name(vf), "altname", name)


def test_a_name_that_a_vf_on_the_host_got_as_an_altname_meanwhile(
        agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]]) -> None:
    """That one has no record by which anybody would take it off: the VF whose name it was needs it."""
    with netns() as pod:
        cni = add(agent, vfs[0], pod)
        give_altname(vfs[1], home_name(vfs[0]))
        give_altname(vfs[1], "storage-uplink")
        cni.delete(config(vfs[0].address), "c1", pod)
        assert not unchanged()


def test_an_altname_that_is_another_vfs_name_when_its_own_vf_comes_home(
        agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]]) -> None:
    """It was there before the pod, but the name is the other one's, and was before."""
    with netns() as pod, netns() as other:
        cni = add(agent, vfs[1], pod)
        give_altname(vfs[0], home_name(vfs[1]))
        add(agent, vfs[0], other, "c2")
        cni.delete(config(vfs[1].address), "c1", pod)
        cni.delete(config(vfs[0].address), "c2", other)
        assert not unchanged()
        add(agent, vfs[1], pod)
        give_altname(vfs[0], home_name(vfs[1]))
        add(agent, vfs[0], other, "c2")
    wait_for("no record", lambda: not agent.records(), 20)
    assert not unchanged()


@pytest.mark.parametrize("dies", [False, True], ids=["DEL", "dead namespace"])
@pytest.mark.parametrize("kind", ["name", "altname"])
def test_a_name_that_another_netdev_has_is_not_taken_from_it(
        agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]], kind: str, dies: bool) -> None:
    name = home_name(vfs[0])
    with netns() as pod:
        cni = add(agent, vfs[0], pod)
        other = name if kind == "name" else "dummy7"
        node.run("ip", "link", "add", other, "type", "dummy")
        try:
            if kind == "altname":
                node.run("ip", "link", "property", "add", "dev", other, "altname", name)
            if dies:
                node.run("ip", "netns", "del", Path(pod).name)
            else:
                cni.delete(config(vfs[0].address), "c1", pod)
            wait_for("no record", lambda: not agent.records(), 20)
            assert "dev0" in links()
            assert f"comes home as dev0: {name}, which it was called, is" in agent.log.read_text()
        finally:
            node.run("ip", "link", "del", other)
    node.run("ip", "link", "set", "dev0", "name", name)
    assert not unchanged()


def test_a_pod_that_fights_for_its_altname(agent: Agent, vfs: Vfs, unchanged: Callable[[], list[str]]) -> None:
    """It puts the name of the PF on its netdev again and again while a DEL takes that home."""
    pf = node.netdev_name(node.pfs()[0])
    with netns() as pod:
        cni = add(agent, vfs[0], pod)
        script = f"while :; do ip link property add dev net1 altname {pf} 2>/dev/null; done"
        with subprocess.Popen(["ip", "netns", "exec", Path(pod).name, "sh", "-c", script]) as fighter:
            try:
                with contextlib.suppress(CniFailed):      # it won for now: the agent goes on
                    cni.delete(config(vfs[0].address), "c1", pod)
            finally:
                fighter.kill()
        wait_for("no record", lambda: not agent.records(), 20)
    assert not unchanged()


def test_what_stands_on_it_in_a_namespace_of_the_pods_own(agent: Agent, vfs: Vfs,
                                                          unchanged: Callable[[], list[str]]) -> None:
    """It would go on sending through the VF when that is home, and through the next pod's."""
    with netns() as pod, netns() as nested:
        cni = add(agent, vfs[0], pod)
        inner = Path(nested).name
        for number, kind in enumerate(("macvlan mode bridge", "vlan id 7")):
            assert in_netns(pod, *f"ip link add u{number} link net1 type {kind}".split()).returncode == 0
            assert in_netns(pod, "ip", "link", "set", f"u{number}", "netns", inner).returncode == 0
            node.run("ip", "-n", inner, "link", "set", f"u{number}", "up")
        cni.delete(config(vfs[0].address), "c1", pod)
        assert [link["ifname"] for link in ip("-n", inner, "link", "show")] == ["lo"]
        assert not unchanged()
        # The driver made the netdev anew; whose MAC it is has not changed by that.
        assert not Sysfs().has_permanent_mac(vfs[0].address)
        with netns() as following:
            add(agent, vfs[0], following, "c2")
            cni.delete(config(vfs[0].address), "c2", following)


def test_a_pod_that_moves_it_into_a_namespace_of_its_own(agent: Agent, vfs: Vfs,
                                                         unchanged: Callable[[], list[str]]) -> None:
    with netns() as pod, netns() as nested:
        cni = add(agent, vfs[0], pod)
        assert in_netns(pod, "ip", "link", "set", "net1", "netns", Path(nested).name).returncode == 0
        cni.delete(config(vfs[0].address), "c1", pod)
        assert not agent.records()
        assert not unchanged()


def test_an_ordinary_pods_netdev_comes_back_itself(agent: Agent, vfs: Vfs) -> None:
    """With the runtime's own interface beside it: what its namespace knows of others is not held against it."""
    with netns() as pod:
        node.run("ip", "link", "add", "cali1", "type", "veth", "peer", "name", "eth0", "netns", Path(pod).name)
        before = Sysfs().find_netdev(vfs[0].address)
        cni = add(agent, vfs[0], pod)
        in_netns(pod, "ip", "-d", "link", "show")
        cni.delete(config(vfs[0].address), "c1", pod)
        assert Sysfs().find_netdev(vfs[0].address) == before
