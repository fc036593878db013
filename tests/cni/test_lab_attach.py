"""ADD and DEL on real VFs: through the executable and the agent, the host compared before and after."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni.announce import announcement
from cni.netns import call_in, open_netns
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from sriov.pci import MacAddress
from tests.support import node
from tests.support.node import (
    PATIENCE,
    POOLS,
    Agent,
    Cni,
    CniFailed,
    config,
    in_netns,
    ip,
    links,
    netns,
    ping,
    wait_for,
)

pytestmark = pytest.mark.lab

Vfs = list[VirtualFunction]
HOLDING = ("-m", "tests.support.stopping_agent")
MAC = "02:00:00:00:00:0%x"


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    """Seven VFs on each of two PFs, the first PF's first."""
    pfs = node.pfs()[:2]
    yield [vf for pf in pfs for vf in node.make_vfs(pf, 7)]
    for pf in pfs:
        Sysfs().write_num_vfs(pf.address, 0)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("node") / "agent", POOLS)
    agent.start()
    yield agent
    assert agent.stop() == 0, agent.tail()


@pytest.fixture(scope="module")
def cni(agent: Agent) -> Cni:
    return Cni(agent.socket)


@pytest.fixture
def unchanged(vfs: Vfs) -> Iterator[None]:
    """The host's links, with all that PFs enforce, are the same after the test as before."""
    node.run("udevadm", "settle")
    before = links()
    yield
    node.run("udevadm", "settle")
    changes = node.differences(before, links())
    if changes:              # one test's failure must not become the next one's
        for pf in node.pfs()[:2]:
            Sysfs().write_num_vfs(pf.address, 0)
            node.make_vfs(pf, 7)
    assert not changes


def pf_view(vf: VirtualFunction) -> dict[str, Any]:
    """What `ip link show PF` says of the VF."""
    pf = next(pf for pf in node.pfs() if pf.address == vf.pf)
    assert pf.link is not None
    view: dict[str, Any] = links()[pf.link.name]["vfinfo_list"][vf.index]
    return view


def pod_link(pod: str, name: str = "net1") -> dict[str, Any]:
    link: dict[str, Any] = ip("-n", Path(pod).name, "link", "show", name)[0]
    return link


def static(address: str) -> dict[str, Any]:
    return {"type": "static", "addresses": [{"address": address}]}


@pytest.mark.usefixtures("unchanged")
def test_add_does_what_it_is_told_and_del_undoes_it(cni: Cni, agent: Agent, vfs: Vfs) -> None:
    conf = config(vfs[0].address, vlan=100, mac=MAC % 1, spoofchk="off", trust="on", max_tx_rate=200,
                  ipam=static("10.9.0.1/24"))
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        inside, view = pod_link(pod), pf_view(vfs[0])
        assert (inside["address"], inside["flags"].count("UP")) == (MAC % 1, 1)
        assert (view["address"], view["spoofchk"], view["trust"]) == (MAC % 1, False, True)
        assert view["vlan_list"] == [{"vlan": 100}]
        assert view["rate"] == {"max_tx": 200, "min_tx": 0}
        assert result["interfaces"] == [{"name": "net1", "sandbox": pod, "mac": MAC % 1, "mtu": 1500,
                                         "pciID": vfs[0].address}]
        assert result["ips"] == [{"interface": 0, "address": "10.9.0.1/24"}]
        assert [a["local"] for a in ip("-n", Path(pod).name, "-4", "addr", "show", "net1")[0]["addr_info"]] == \
            ["10.9.0.1"]
        assert vfs[0].link is not None
        assert vfs[0].link.name not in links()
        assert len(agent.records()) == 1
        cni.delete(conf, "c1", pod)
        assert agent.records() == []


@pytest.mark.usefixtures("unchanged")
def test_vlan_and_mac_on_an_untrusted_vf_carry_traffic_and_the_next_mac_too(cni: Cni, vfs: Vfs) -> None:
    """igb refuses a VF's own MAC once the PF has set one; the mark must not stay for the next pod."""
    with netns() as one, netns() as two:
        other = config(vfs[1].address, vlan=7, ipam=static("10.9.0.2/24"))
        cni.add(other, "c2", two)
        for mac in (MAC % 3, MAC % 4):
            conf = config(vfs[0].address, vlan=7, mac=mac, ipam=static("10.9.0.1/24"))
            cni.add(conf, "c1", one)
            assert pod_link(one)["address"] == pf_view(vfs[0])["address"] == mac
            assert ping(one, "10.9.0.2")
            assert mac in in_netns(two, "ip", "neigh").stdout
            cni.delete(conf, "c1", one)
        cni.delete(other, "c2", two)


@pytest.mark.usefixtures("unchanged")
def test_vlans_isolate(cni: Cni, vfs: Vfs) -> None:
    with netns() as one, netns() as two:
        for vlan, answered in ((7, True), (8, False), (7, True)):
            first = config(vfs[0].address, vlan=7, ipam=static("10.9.0.1/24"))
            second = config(vfs[1].address, vlan=vlan, ipam=static("10.9.0.2/24"))
            cni.add(first, "c1", one)
            cni.add(second, "c2", two)
            assert ping(one, "10.9.0.2") is answered
            cni.delete(first, "c1", one)
            cni.delete(second, "c2", two)


def test_vfio_vf_gets_its_settings_and_no_interface(cni: Cni, vfs: Vfs) -> None:
    vf = vfs[6]
    node.bind(vf, "vfio-pci")
    try:
        before = links()
        conf = config(vf.address, vlan=9, mac=MAC % 5, ipam=static("10.9.0.3/24"))
        with netns() as pod:
            result = cni.add(conf, "c1", pod)
            assert (pf_view(vf)["address"], pf_view(vf)["vlan_list"]) == (MAC % 5, [{"vlan": 9}])
            assert result["interfaces"] == [{"name": "net1", "sandbox": pod, "mac": MAC % 5, "mtu": 1500,
                                             "pciID": vf.address}]
            assert result["ips"] == [{"interface": 0, "address": "10.9.0.3/24"}]
            assert "net1" not in in_netns(pod, "ip", "link").stdout
            cni.delete(conf, "c1", pod)
        assert not node.differences(before, links())
    finally:
        node.bind(vf, None)


@pytest.mark.usefixtures("unchanged")
class TestNames:
    """A netdev takes its altnames along, and cannot go where one of them is taken, or be called by one of them."""

    @pytest.fixture
    def altname(self, vfs: Vfs) -> Iterator[str]:
        assert vfs[0].link is not None
        node.run("ip", "link", "property", "add", "dev", vfs[0].link.name, "altname", "uplink1")
        yield "uplink1"
        node.run("ip", "link", "property", "del", "dev", vfs[0].link.name, "altname", "uplink1")

    def test_altname_that_is_the_pods_name_for_it(self, cni: Cni, vfs: Vfs, altname: str) -> None:
        before = links()
        with netns() as pod:
            cni.add(config(vfs[0].address, vlan=5), "c1", pod, altname)
            assert pod_link(pod, altname)["ifname"] == altname
            cni.delete(config(vfs[0].address), "c1", pod, altname)
        assert not node.differences(before, links())

    @pytest.mark.parametrize("kind", ["name", "altname"])
    def test_altname_that_another_interface_has(self, cni: Cni, vfs: Vfs, altname: str, kind: str) -> None:
        before = links()
        with netns() as pod:
            in_netns(pod, "ip", "link", "add", altname if kind == "name" else "other", "type", "dummy")
            if kind == "altname":
                in_netns(pod, "ip", "link", "property", "add", "dev", "other", "altname", altname)
            cni.add(config(vfs[0].address, vlan=5), "c1", pod)
            assert "altnames" not in pod_link(pod)
            cni.delete(config(vfs[0].address), "c1", pod)
        assert not node.differences(before, links())

    def test_altname_stays_where_it_is_in_nobodys_way(self, cni: Cni, vfs: Vfs, altname: str) -> None:
        with netns() as pod:
            cni.add(config(vfs[0].address), "c1", pod)
            assert pod_link(pod)["altnames"] == [altname]
            cni.delete(config(vfs[0].address), "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_mtu(cni: Cni, vfs: Vfs) -> None:
    with netns() as pod:
        conf = config(vfs[0].address, mtu=9000)
        assert cni.add(conf, "c1", pod)["interfaces"][0]["mtu"] == pod_link(pod)["mtu"] == 9000
        cni.delete(conf, "c1", pod)
        with pytest.raises(CniFailed, match="EINVAL"):
            cni.add(config(vfs[0].address, vlan=5, mtu=60000), "c1", pod)
        cni.delete(conf, "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_ipv6_is_usable_at_once_and_announced_through_its_own_interface(cni: Cni, vfs: Vfs) -> None:
    with netns() as one, netns() as two:
        for name in (one, two):
            in_netns(name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        cni.add(config(vfs[1].address, vlan=7, ipam=static("10.9.0.2/24")), "c2", two)
        heard = call_in_path(two, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        with heard:
            heard.bind(("net1", 3))
            heard.settimeout(PATIENCE)
            ipam = {"type": "static", "addresses": [{"address": "10.9.0.1/24"}, {"address": "fd00::1/64"}]}
            conf = config(vfs[0].address, vlan=7, mac=MAC % 3, ipam=ipam)
            cni.add(conf, "c1", one)
            bind = "import socket; socket.socket(socket.AF_INET6).bind(('fd00::1', 4711))"
            assert in_netns(one, sys.executable, "-c", bind).returncode == 0
            left = [announcement(MacAddress(MAC % 3), ip_address(text)) for text in ("10.9.0.1", "fd00::1")]
            while left:
                frame = heard.recv(2048)
                left = [announced for announced in left if not frame.startswith(announced)]
        for name, vf, container in ((one, vfs[0], "c1"), (two, vfs[1], "c2")):
            cni.delete(config(vf.address), container, name)


def call_in_path(path: str, work: Callable[[], socket.socket]) -> socket.socket:
    with open_netns(path) as fd:
        return call_in(fd, work)


@pytest.mark.usefixtures("unchanged")
class TestRefused:
    """Each fails with its code and words, and the host is as before."""

    def refused(self, cni: Cni, conf: dict[str, Any], pod: str, code: int, words: str) -> None:
        with pytest.raises(CniFailed) as failure:
            cni.add(conf, "c1", pod)
        assert failure.value.code == code
        assert words in failure.value.msg
        assert "undo failed" not in str(failure.value)
        cni.delete(conf, "c1", pod)      # as runtimes do

    def test_vf_in_a_pod(self, cni: Cni, vfs: Vfs, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pod is told as the kubelet named it."""
        with netns() as one, netns() as two:
            with monkeypatch.context() as kubelet:
                kubelet.setenv("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0")
                cni.add(config(vfs[0].address), "owner", one)
            self.refused(cni, config(vfs[0].address), two, 101,
                         f"VF {vfs[0].address} is in use: pod shop/cart-0, container owner")
            assert pod_link(one)["operstate"]
            cni.delete(config(vfs[0].address), "owner", one)

    def test_netns_that_is_not_there(self, cni: Cni, vfs: Vfs) -> None:
        self.refused(cni, config(vfs[0].address), "/run/netns/nowhere", 4, "CNI_NETNS: /run/netns/nowhere is not")

    def test_path_that_is_no_netns(self, cni: Cni, vfs: Vfs, tmp_path: Path) -> None:
        self.refused(cni, config(vfs[0].address), str(tmp_path), 4, "is not a network namespace")

    def test_netns_of_the_host(self, cni: Cni, vfs: Vfs) -> None:
        self.refused(cni, config(vfs[0].address), "/proc/self/ns/net", 4, "/proc/self/ns/net is the host's own")

    def test_interface_name_taken_in_the_pod(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            in_netns(pod, "ip", "link", "add", "net1", "type", "dummy")
            self.refused(cni, config(vfs[0].address, vlan=5), pod, 101, "already has an interface net1")
            assert pod_link(pod)["linkinfo"]["info_kind"] == "dummy"

    def test_vlan_out_of_range_and_all_other_problems_at_once(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            self.refused(cni, config(vfs[0].address, vlan=5000, trust="yes", vlna=3), pod, 7,
                         "vlan: expected a number from 0 to 4094, got 5000; trust: expected 'on' or 'off', got "
                         "'yes'; vlna: unknown key, did you mean vlan?")

    def test_max_tx_rate_while_the_pf_is_down(self, cni: Cni, vfs: Vfs) -> None:
        pf = next(pf for pf in node.pfs() if pf.address == vfs[0].pf)
        node.run("ip", "link", "set", node.netdev_name(pf), "down")
        try:
            with netns() as pod:
                self.refused(cni, config(vfs[0].address, vlan=5, max_tx_rate=100), pod, 100, "EINVAL")
        finally:
            node.run("ip", "link", "set", node.netdev_name(pf), "up")
            node.wait_for_carrier(pf)

    def test_mac_while_the_pf_is_down(self, cni: Cni, vfs: Vfs) -> None:
        pf = next(pf for pf in node.pfs() if pf.address == vfs[0].pf)
        node.run("ip", "link", "set", node.netdev_name(pf), "down")
        try:
            with netns() as pod:
                conf = config(vfs[0].address, vlan=5, mac=MAC % 2, max_tx_rate=100)
                self.refused(cni, conf, pod, 100, "its PF is down")
        finally:
            node.run("ip", "link", "set", node.netdev_name(pf), "up")
            node.wait_for_carrier(pf)

    def test_mac_after_the_pf_was_reset(self, cni: Cni, vfs: Vfs) -> None:
        """igb forgets its VFs' handshake when it goes down: a VF that is down may not even set its MAC then."""
        pf = next(pf for pf in node.pfs() if pf.address == vfs[0].pf)
        for state in ("down", "up"):
            node.run("ip", "link", "set", node.netdev_name(pf), state)
        node.wait_for_carrier(pf)
        conf = config(vfs[0].address, mac=MAC % 2)
        with netns() as pod:
            cni.add(conf, "c1", pod)
            assert pod_link(pod)["address"] == MAC % 2
            cni.delete(conf, "c1", pod)

    def test_min_tx_rate(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            self.refused(cni, config(vfs[0].address, vlan=5, min_tx_rate=100), pod, 100, f"on VF {vfs[0].address}")

    def test_ipam_that_fails(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            self.refused_by_ipam(cni, vfs, pod)

    def refused_by_ipam(self, cni: Cni, vfs: Vfs, pod: str) -> None:
        with pytest.raises(CniFailed, match="IPAM plugin static: ADD failed"):
            cni.add(config(vfs[0].address, ipam=static("10.9.0.1")), "c1", pod)

    def test_vf_that_does_not_exist(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            self.refused(cni, config("0000:ff:1f.7"), pod, 102, "there is no such PCI device")

    def test_pf_instead_of_vf(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            self.refused(cni, config(vfs[0].pf), pod, 7, "is not a VF")


@pytest.mark.usefixtures("unchanged")
class TestDel:
    def test_twice(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 6), "c1", pod)
            cni.delete(config(vfs[0].address), "c1", pod)
            cni.delete(config(vfs[0].address), "c1", pod)

    def test_unknown_container(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as pod:
            cni.add(config(vfs[0].address, vlan=5), "c1", pod)
            cni.delete(config(vfs[0].address), "stranger", pod)
            assert pod_link(pod)
            assert pf_view(vfs[0])["vlan_list"] == [{"vlan": 5}]
            cni.delete(config(vfs[0].address), "c1", pod)

    @pytest.mark.parametrize("path", ["", "/run/netns/gone"], ids=["empty CNI_NETNS", "dead path"])
    def test_after_the_netns_is_gone(self, cni: Cni, vfs: Vfs, path: str) -> None:
        conf = config(vfs[0].address, vlan=5, mac=MAC % 7)
        with netns() as pod:
            cni.add(conf, "c1", pod)
        cni.delete(conf, "c1", path)

    def test_two_vfs_whose_netns_is_gone_come_back_under_clashing_names(self, cni: Cni, vfs: Vfs) -> None:
        with netns() as one, netns() as two:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 7), "c1", one)
            cni.add(config(vfs[1].address, vlan=5, mac=MAC % 8), "c2", two)
        wait_for("the kernel to hand both back", lambda: all(Sysfs().find_netdev(vf.address) for vf in vfs[:2]))
        node.run("udevadm", "settle")      # udev gives them their old names as altnames
        cni.delete(config(vfs[0].address), "c1", "")
        cni.delete(config(vfs[1].address), "c2", "")

    def test_while_the_pf_is_down(self, cni: Cni, vfs: Vfs) -> None:
        """The VF comes home all the same; the PF learns its MAC when both are up."""
        pf = next(pf for pf in node.pfs() if pf.address == vfs[0].pf)
        conf = config(vfs[0].address, vlan=5, mac=MAC % 7)
        with netns() as pod:
            cni.add(conf, "c1", pod)
            node.run("ip", "link", "set", node.netdev_name(pf), "down")
            try:
                cni.delete(conf, "c1", pod)
                assert pf_view(vfs[0])["vlan_list"] == [{}]
            finally:
                node.run("ip", "link", "set", node.netdev_name(pf), "up")
                node.wait_for_carrier(pf)
            assert vfs[0].link is not None
            for state in ("up", "down"):
                node.run("ip", "link", "set", vfs[0].link.name, state)

    def test_ip_addresses_are_given_back(self, cni: Cni, vfs: Vfs, tmp_path: Path) -> None:
        ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.9.1.0/29"}]],
                "routes": [{"dst": "10.50.0.0/16"}]}
        conf = config(vfs[0].address, ipam=ipam)
        for _ in range(8):                 # more often than there are addresses
            with netns() as pod:
                result = cni.add(conf, "c1", pod)
                assert result["routes"] == [{"dst": "10.50.0.0/16"}]
                assert "10.50.0.0/16 via 10.9.1.1 dev net1" in in_netns(pod, "ip", "route").stdout
                cni.delete(conf, "c1", pod)
        assert [path.name for path in (tmp_path / "net").iterdir() if path.name.startswith("10.")] == []


@pytest.mark.usefixtures("unchanged")
def test_killed_while_a_pod_has_its_vf_and_the_netns_dies_meanwhile(tmp_path: Path, vfs: Vfs) -> None:
    agent = Agent(tmp_path / "agent", POOLS)
    agent.start()
    cni = Cni(agent.socket)
    with netns() as pod, netns() as living:
        cni.add(config(vfs[0].address, vlan=5, mac=MAC % 9), "c1", pod)
        cni.add(config(vfs[1].address, vlan=5), "c2", living)
        agent.stop(signal.SIGKILL)
        node.run("ip", "netns", "del", Path(pod).name)
        agent.start()
        assert [path.stem for path in agent.records()] == [vfs[1].address]
        assert pf_view(vfs[0])["vlan_list"] == [{}]
        assert pod_link(living)
        cni.delete(config(vfs[1].address), "c2", living)
    agent.stop()


@pytest.mark.usefixtures("unchanged")
class TestOverlapping:
    def held(self, tmp_path: Path, step: str) -> tuple[Agent, Cni, Path]:
        """An agent that holds at `step` until the file is removed."""
        agent = Agent(tmp_path / "agent", POOLS, HOLDING)
        file = tmp_path / "held"
        agent.start(VFPOOL_HOLD_AT=step, VFPOOL_HOLD_FILE=str(file))
        return agent, Cni(agent.socket), file

    def test_caller_that_goes_away_in_add(self, tmp_path: Path, vfs: Vfs) -> None:
        agent, cni, file = self.held(tmp_path, "move")
        before = links()
        with netns() as pod:
            process = cni.start("ADD", config(vfs[0].address, vlan=5, mac=MAC % 9), "c1", pod)
            wait_for("the ADD to be held", file.exists)
            process.kill()
            process.communicate()
            file.unlink()
            wait_for("the undo", lambda: not agent.records())
            node.run("udevadm", "settle")
            assert not node.differences(before, links())
        agent.stop()

    def test_del_waits_for_the_add_of_the_same_container(self, tmp_path: Path, vfs: Vfs) -> None:
        agent, cni, file = self.held(tmp_path, "move")
        conf = config(vfs[0].address, vlan=5)
        with netns() as pod:
            add = cni.start("ADD", conf, "c1", pod)
            wait_for("the ADD to be held", file.exists)
            delete = cni.start("DEL", conf, "c1", pod)
            with pytest.raises(subprocess.TimeoutExpired):
                delete.wait(0.5)
            file.unlink()
            assert cni.finish(add)["interfaces"]
            cni.finish(delete)
            assert "net1" not in in_netns(pod, "ip", "link").stdout
        assert agent.records() == []
        agent.stop()

    def test_add_waits_for_the_old_owners_del(self, tmp_path: Path, vfs: Vfs) -> None:
        agent, cni, file = self.held(tmp_path, "link home")
        conf = config(vfs[0].address, vlan=5)
        with netns() as old, netns() as new:
            cni.add(conf, "old", old)
            delete = cni.start("DEL", conf, "old", old)
            wait_for("the DEL to be held", file.exists)
            add = cni.start("ADD", conf, "new", new)
            with pytest.raises(subprocess.TimeoutExpired):
                add.wait(0.5)
            file.unlink()
            cni.finish(delete)
            assert cni.finish(add)["interfaces"][0]["sandbox"] == new
            delete = cni.start("DEL", conf, "new", new)
            wait_for("the DEL to be held", file.exists)
            file.unlink()
            cni.finish(delete)
        agent.stop()


    def test_del_of_a_dead_pod_that_waited_for_the_next_owners_add(self, tmp_path: Path, vfs: Vfs) -> None:
        agent, cni, file = self.held(tmp_path, "home")
        with netns() as old:
            cni.add(config(vfs[0].address, vlan=5), "old", old)
        with netns() as new:
            add = cni.start("ADD", config(vfs[0].address, vlan=6), "new", new)
            wait_for("the ADD to bring the VF of the dead pod home", file.exists)
            delete = cni.start("DEL", config(vfs[0].address), "old", "")
            with pytest.raises(subprocess.TimeoutExpired):
                delete.wait(0.5)
            file.unlink()
            cni.finish(add)
            cni.finish(delete)
            assert pod_link(new)
            assert pf_view(vfs[0])["vlan_list"] == [{"vlan": 6}]
            assert len(agent.records()) == 1
            delete = cni.start("DEL", config(vfs[0].address), "new", new)
            wait_for("the DEL to be held", file.exists)
            file.unlink()
            cni.finish(delete)
        agent.stop()


VERSIONS = [None, "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("plugin", ["static", "host-local"])
def test_every_version_with_real_ipam_plugins(cni: Cni, vfs: Vfs, tmp_path: Path, plugin: str,
                                              version: str | None) -> None:
    ipam = {"static": static("10.9.0.1/24"),
            "host-local": {"type": "host-local", "dataDir": str(tmp_path),
                           "ranges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.1"}]]}}[plugin]
    conf = config(vfs[0].address, mac=MAC % 2, ipam=ipam)
    del conf["cniVersion"]
    if version is not None:
        conf["cniVersion"] = version
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        assert result["cniVersion"] == version or version is None
        address = result["ip4"]["ip"] if version in (None, "0.1.0", "0.2.0") else result["ips"][0]["address"]
        assert address.startswith("10.9.0.")
        assert in_netns(pod, "ip", "addr").stdout.count(address) == 1
        cni.delete(conf, "c1", pod)


@pytest.mark.usefixtures("unchanged")
class TestPythonModule:
    """`python -m cni` does the same, with an agent and without."""

    ARGV = (sys.executable, "-m", "cni")

    def test_through_the_agent(self, agent: Agent, vfs: Vfs) -> None:
        cni = Cni(agent.socket, self.ARGV)
        with netns() as pod:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 2), "c1", pod)
            assert len(agent.records()) == 1
            cni.delete(config(vfs[0].address), "c1", pod)

    def test_without_one(self, tmp_path: Path, vfs: Vfs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VFPOOL_STATE", str(tmp_path / "state"))
        cni = Cni(tmp_path / "no.sock", self.ARGV)
        with netns() as pod:
            cni.add(config(vfs[0].address, vlan=5, mac=MAC % 2), "c1", pod)
            assert pod_link(pod)["address"] == MAC % 2
            cni.delete(config(vfs[0].address), "c1", pod)


@pytest.mark.parametrize("rounds", [5, pytest.param(20, marks=pytest.mark.long)])
def test_fourteen_at_once(cni: Cni, agent: Agent, vfs: Vfs, rounds: int) -> None:
    """VLAN and MAC on untrusted VFs under a running udev: none fails, and traffic proves both."""
    node.run("udevadm", "settle")
    before = links()
    with ExitStack() as stack:
        pods = [stack.enter_context(netns()) for _ in vfs]
        for number in range(rounds):
            confs = [config(vf.address, vlan=10 + n % 2, mac=f"02:00:00:00:{number:02x}:{n:02x}",
                            ipam=static(f"10.9.0.{n + 1}/24")) for n, vf in enumerate(vfs)]
            calls = [(conf, f"c{n}", pod) for n, (conf, pod) in enumerate(zip(confs, pods, strict=True))]
            adds = [cni.start("ADD", *call) for call in calls]
            for add, conf in zip(adds, confs, strict=True):
                assert cni.finish(add)["interfaces"][0]["mac"] == conf["mac"]
            for n in range(0, 12, 2):      # over both PFs, a different pair each round
                a, b = n, (n + 2 * (1 + number % 6)) % 14
                if a != b:
                    # A link that just went up may lose its first packets; one that stays silent fails.
                    wait_for(f"round {number}: an answer from pod {b} to pod {a}",
                             lambda: ping(pods[a], f"10.9.0.{b + 1}", 1))     # noqa: B023 - called at once
                    assert confs[b]["mac"] in in_netns(pods[a], "ip", "neigh").stdout
            assert not ping(pods[0], "10.9.0.2", 1), "VLAN 10 reaches VLAN 11"
            for delete in [cni.start("DEL", *call) for call in calls]:
                cni.finish(delete)
            assert agent.records() == []
    node.run("udevadm", "settle")
    assert not node.differences(before, links())


def test_state_folder_of_a_second_agent_is_refused(agent: Agent) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deviceplugin", "--pool-file", str(agent.root / "pools.yaml"), "--state-dir",
         str(agent.state), "--socket", str(agent.root / "other.sock")],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another process has it open" in done.stderr


def test_executable_is_there() -> None:
    assert shutil.which(str(node.SHIM)), "build it with `make shim`"
