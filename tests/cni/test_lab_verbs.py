"""CHECK, GC and STATUS on real VFs, other plugins after ours in a chain, and what sriov-cni left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.node import CNI_PATH, POOLS, Agent, Cni, CniFailed, config, in_netns, links, netns, wait_for

pytestmark = pytest.mark.lab

Vfs = list[VirtualFunction]
MAC = "02:00:00:00:03:0%x"
SRIOV_CNI = Path("/var/lib/cni/sriov")


@pytest.fixture(scope="module")
def vfs() -> Iterator[Vfs]:
    yield list(node.make_vfs(node.pfs()[0], 3))
    Sysfs().write_num_vfs(node.pfs()[0].address, 0)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("node") / "agent", POOLS)
    agent.start()
    yield agent
    assert agent.stop() == 0, agent.tail()


@pytest.fixture
def cni(agent: Agent) -> Cni:
    return Cni(agent.socket)


@pytest.fixture
def unchanged(vfs: Vfs, agent: Agent) -> Iterator[None]:
    """The host's links are the same after the test as before, and no record is left."""
    node.run("udevadm", "settle")
    before = links()
    yield
    node.run("udevadm", "settle")
    changes = [*node.differences(before, links()), *map(str, agent.records())]
    if changes:              # one test's failure must not become the next one's
        Sysfs().write_num_vfs(vfs[0].pf, 0)
        vfs[:] = node.make_vfs(node.pfs()[0], 3)
    assert not changes


def pf_name(vf: VirtualFunction) -> str:
    return node.netdev_name(next(pf for pf in node.pfs() if pf.address == vf.pf))


def set_vf(vf: VirtualFunction, *words: str) -> None:
    node.run("ip", "link", "set", pf_name(vf), "vf", str(vf.index), *words)


def vlan(vf: VirtualFunction) -> Any:
    return links()[pf_name(vf)]["vfinfo_list"][vf.index]["vlan_list"]


def within(pod: str, *words: str) -> None:
    """`ip` in the pod."""
    node.run("ip", "-n", Path(pod).name, *words)


def has(pod: str, name: str = "net1") -> bool:
    return in_netns(pod, "ip", "link", "show", name).returncode == 0


# ---- CHECK --------------------------------------------------------------------------------------------------


def difference(cni: Cni, conf: dict[str, Any], result: dict[str, Any], pod: str) -> str:
    with pytest.raises(CniFailed) as failure:
        cni.check(conf, result, "c1", pod)
    assert failure.value.code == 104
    return failure.value.msg.partition(" of network net: ")[2]


@pytest.mark.usefixtures("unchanged")
def test_check_names_what_was_changed_by_hand(cni: Cni, vfs: Vfs) -> None:
    vf = vfs[0]
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.1/24", "gateway": "10.9.0.254"},
                                            {"address": "fd09::1/64"}], "routes": [{"dst": "10.50.0.0/16"}]}
    conf = config(vf.address, vlan=100, vlanQoS=2, mac=MAC % 1, mtu=1400, spoofchk="on", trust="off",
                  max_tx_rate=200, ipam=ipam)
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        cni.check(conf, result, "c1", pod)
        for changed, undone, words in (
                (("vlan", "101", "qos", "2"), ("vlan", "100", "qos", "2"), "VLAN: expected 100, found 101"),
                (("vlan", "100", "qos", "3"), ("vlan", "100", "qos", "2"), "VLAN priority: expected 2, found 3"),
                (("max_tx_rate", "100"), ("max_tx_rate", "200"), "max_tx_rate: expected 200, found 100"),
                (("spoofchk", "off"), ("spoofchk", "on"), "spoofchk: expected on, found off"),
                (("trust", "on"), ("trust", "off"), "trust: expected off, found on"),
                (("mac", MAC % 9), ("mac", MAC % 1), f"the PF's MAC: expected {MAC % 1}, found {MAC % 9}")):
            set_vf(vf, *changed)
            assert difference(cni, conf, result, pod) == words
            set_vf(vf, *undone)
        within(pod, "link", "set", "net1", "mtu", "1300")
        assert difference(cni, conf, result, pod) == "MTU: expected 1400, found 1300"
        within(pod, "link", "set", "net1", "mtu", "1400")
        within(pod, "route", "del", "10.50.0.0/16")
        assert difference(cni, conf, result, pod) == "route to 10.50.0.0/16 through 10.9.0.254: it is not there"
        within(pod, "route", "add", "10.50.0.0/16", "via", "10.9.0.254", "table", "100")     # as sbr does
        cni.check(conf, result, "c1", pod)
        within(pod, "addr", "del", "fd09::1/64", "dev", "net1")
        assert difference(cni, conf, result, pod) == "address fd09::1/64: it is not there"
        cni.check(conf, {**result, "ips": result["ips"][:1]}, "c1", pod)      # a later plugin took it back
        within(pod, "link", "set", "net1", "down")
        assert difference(cni, conf, result, pod) == "it is down"
        within(pod, "link", "set", "net1", "name", "fast")
        assert difference(cni, conf, result, pod) == "name: expected net1, found fast"
        within(pod, "link", "set", "fast", "netns", "1")
        assert difference(cni, conf, result, pod) == "its netdev is on the host, as fast"
        node.run("ip", "link", "set", "fast", "netns", Path(pod).name, "name", "net1")
        told = {**result, "interfaces": [{**result["interfaces"][0], "mac": MAC % 5}]}
        assert difference(cni, conf, told, pod) == f"MAC: expected {MAC % 5}, found {MAC % 1}"
        cni.delete(conf, "c1", pod)
        with pytest.raises(CniFailed, match="container c1 has no net1 of network net"):
            cni.check(conf, result, "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_check_of_what_is_not_the_runtimes(cni: Cni, vfs: Vfs) -> None:
    conf = config(vfs[0].address, vlan=5)
    with netns() as pod, netns() as other:
        result = cni.add(conf, "c1", pod)
        elsewhere = {**result, "interfaces": [{**result["interfaces"][0], "sandbox": other}]}
        for code, words, told, path in (
                (7, "prevResult: CHECK needs the result of the ADD", None, pod),
                (7, f"prevResult: it has no interface net1 in {other}", result, other),
                (104, f"it is in {pod}, not in {other}", elsewhere, other)):
            with pytest.raises(CniFailed) as failure:
                cni.check(conf, told, "c1", path)       # type: ignore[arg-type]  # None is what a runtime may forget
            assert (failure.value.code, words in failure.value.msg) == (code, True)
        assert cni.add(conf, "c1", pod) == result      # again, and nothing is changed
        for changed, path in (({**conf, "vlan": 6}, pod), (conf, other)):
            with pytest.raises(CniFailed) as failure:
                cni.add(changed, "c1", path)
            assert (failure.value.code, vlan(vfs[0]), has(pod)) == (101, [{"vlan": 5}], True)
        cni.delete(conf, "c1", pod)


def test_check_of_a_vf_that_a_program_drives(cni: Cni, vfs: Vfs) -> None:
    vf = vfs[2]
    node.bind(vf, "vfio-pci")
    try:
        conf = config(vf.address, vlan=9, mac=MAC % 2)
        before = links()
        with netns() as pod:
            result = cni.add(conf, "c1", pod)
            cni.check(conf, result, "c1", pod)
            set_vf(vf, "vlan", "10")
            assert difference(cni, conf, result, pod) == "VLAN: expected 9, found 10"
            cni.delete(conf, "c1", pod)
        assert not node.differences(before, links())
    finally:
        node.bind(vf, None)


@pytest.mark.usefixtures("unchanged")
def test_protocols_that_the_driver_does_not_know(cni: Cni, vfs: Vfs) -> None:
    with netns() as pod:
        with pytest.raises(CniFailed, match="EPROTONOSUPPORT"):
            cni.add(config(vfs[0].address, vlan=5, vlanProto="802.1ad"), "c1", pod)
        cni.delete(config(vfs[0].address), "c1", pod)


def test_a_vf_whose_driver_was_bound_anew_under_its_pod(cni: Cni, agent: Agent, vfs: Vfs) -> None:
    """Its netdev is on the host then: its pod has none, whoever asks."""
    vf, said = vfs[0], len(agent.log.read_text())
    assert vf.link is not None
    before = links()
    conf, absence = config(vf.address, vlan=100), f"its netdev is on the host, as {vf.link.name}"
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        node.bind(vf, None)
        wait_for("a word of it", lambda: f"until that is made anew: container c1, net1 of network net: {absence}"
                 in agent.log.read_text()[said:], 15.0)
        assert difference(cni, conf, result, pod) == absence
        with pytest.raises(CniFailed) as failure:
            cni.add(conf, "c1", pod)
        assert (failure.value.code, failure.value.msg) == (
            101, f"the container had VF {vf.address} as net1, but {absence}")
        cni.delete(conf, "c1", pod)
    node.run("udevadm", "settle")
    assert node.differences(before[vf.link.name].pop("ifindex"), (after := links())[vf.link.name].pop("ifindex"))
    assert not node.differences(before, after)


# ---- GC, STATUS ---------------------------------------------------------------------------------------------

# Notes each call; like plugins of the specification's 1.1.0, which the lab has none of.
PLUGIN = """\
#!/bin/sh
cat >/dev/null
echo $CNI_COMMAND $CNI_CONTAINERID >>{calls}
[ $CNI_COMMAND = ADD ] && echo '{{"cniVersion": "1.1.0", "ips": [{{"address": "10.9.0.1/24"}}]}}'
[ $CNI_COMMAND != STATUS ]
"""


@pytest.mark.usefixtures("unchanged")
def test_gc_ends_what_the_list_has_not(agent: Agent, vfs: Vfs, tmp_path: Path) -> None:
    plugin, calls = tmp_path / "bin/plugin", tmp_path / "calls"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN.format(calls=calls))
    plugin.chmod(0o755)
    cni = Cni(agent.socket, path=str(plugin.parent))
    conf = {"cniVersion": "1.1.0", "vlan": 5, "ipam": {"type": "plugin"}}
    with netns() as kept, netns() as gone, netns() as others:
        for number, (name, pod) in enumerate((("net", kept), ("net", gone), ("other", others))):
            cni.add(config(vfs[number].address, **conf, name=name), f"c{number}", pod)
        with pytest.raises(CniFailed, match="valid-attachments: expected a list, it is not there") as failure:
            cni.finish(cni.start("GC", config("", **conf), "", "", ""))
        assert failure.value.code == 7
        calls.unlink()
        cni.collect(config("", **conf), [("c0", "net1"), ("c1", "eth7")])
        assert (has(kept), has(gone), has(others)) == (True, False, True)
        assert [vlan(vf) for vf in vfs] == [[{"vlan": 5}], [{}], [{"vlan": 5}]]
        assert calls.read_text().splitlines() == ["DEL c1", "GC"]
        cni.collect(config("", **conf), [])
        cni.collect(config("", **conf), [])
        cni.collect(config("", **conf, name="other"), [])
        assert not agent.records()
        with pytest.raises(CniFailed, match="IPAM plugin plugin: STATUS failed"):
            cni.status(config("", **conf))


ASKS_INSIDE = """#!/bin/sh
# As the DHCP client does: nothing without the interface, neither a lease nor its end.
nsenter --net="$CNI_NETNS" ip link show "$CNI_IFNAME" >&2 || exit 1
echo "$CNI_COMMAND" >> {calls}
[ "$CNI_COMMAND" = DEL ] || echo '{{"ips": [{{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}}]}}'
"""


@pytest.mark.usefixtures("unchanged")
def test_an_ipam_plugin_that_asks_through_the_interface(agent: Agent, vfs: Vfs, tmp_path: Path) -> None:
    plugin, calls = tmp_path / "bin/dhcp", tmp_path / "calls"
    plugin.parent.mkdir()
    plugin.write_text(ASKS_INSIDE.format(calls=calls))
    plugin.chmod(0o755)
    cni = Cni(agent.socket, path=str(plugin.parent))
    conf = config(vfs[0].address, vlan=5, ipam={"type": "dhcp"})
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        assert [ip["address"] for ip in result["ips"]] == ["10.9.0.5/24"]
        assert "10.9.0.5/24" in in_netns(pod, "ip", "-br", "addr", "show", "net1").stdout
        cni.delete(conf, "c1", pod)
    assert calls.read_text().split() == ["ADD", "DEL"]
    assert not agent.records()


RESERVES_AND_FAILS = """#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND = ADD ] && touch {folder}/lease
[ $CNI_COMMAND = DEL -a -e {folder}/works ] && exec rm -f {folder}/lease
echo "panic: runtime error" >&2
exit 2
"""


@pytest.mark.usefixtures("unchanged")
def test_an_ipam_plugin_that_reserves_and_fails(agent: Agent, vfs: Vfs, tmp_path: Path) -> None:
    plugin, lease = tmp_path / "bin/plugin", tmp_path / "lease"
    plugin.parent.mkdir()
    plugin.write_text(RESERVES_AND_FAILS.format(folder=tmp_path))
    plugin.chmod(0o755)
    cni = Cni(agent.socket, path=str(plugin.parent))
    conf = config(vfs[0].address, vlan=5, ipam={"type": "plugin"})

    def owed() -> list[Path]:
        return list((agent.state / "ipam").glob("*.json"))

    with netns() as pod:
        with pytest.raises(CniFailed, match="IPAM plugin plugin: ADD failed: panic: runtime error"):
            cni.add(conf, "c1", pod)
        for changed in (conf, config(vfs[0].address, vlan=5)):
            with pytest.raises(CniFailed, match="IPAM plugin plugin: DEL failed: panic: runtime error"):
                cni.delete(changed, "c1", pod)
        assert (vlan(vfs[0]), agent.records(), len(owed()), lease.exists()) == ([{}], [], 1, True)
        (tmp_path / "works").touch()
        cni.delete(conf, "c1", pod)
        assert (owed(), lease.exists()) == ([], False)


def test_status(cni: Cni, vfs: Vfs) -> None:
    conf = config("", cniVersion="1.1.0")
    pf = node.pfs()[0]
    cni.status(conf)
    node.run("ip", "link", "set", node.netdev_name(pf), "down")
    with pytest.raises(CniFailed, match=f"no PF with VFs has a carrier: {node.netdev_name(pf)}") as limited:
        cni.status(conf)
    node.run("ip", "link", "set", node.netdev_name(pf), "up")
    node.wait_for_carrier(pf)
    Sysfs().write_num_vfs(pf.address, 0)
    with pytest.raises(CniFailed, match="this node has no VF") as unavailable:
        cni.status(conf)
    vfs[:] = node.make_vfs(pf, 3)
    assert (limited.value.code, unavailable.value.code) == (51, 50)


# ---- chains -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("later", [
    {"type": "tuning", "mtu": 1300, "mac": MAC % 7, "sysctl": {"net.ipv4.conf.net1.arp_filter": "1"}},
    {"type": "sbr"}, {"type": "vrf", "vrfname": "blue"}], ids=lambda later: later["type"])
def test_a_plugin_after_ours(cni: Cni, vfs: Vfs, agent: Agent, later: dict[str, Any]) -> None:
    if later["type"] == "vrf":
        node.run("modprobe", "vrf")
    second = Cni(agent.socket, (f"{CNI_PATH}/{later['type']}",))
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.1/24", "gateway": "10.9.0.254"}],
            "routes": [] if later["type"] == "vrf" else [{"dst": "10.50.0.0/16"}]}      # this vrf loses routes
    conf = config(vfs[0].address, vlan=5, trust="on", ipam=ipam)
    with netns() as pod:
        if later["type"] == "vrf":
            # It adds again what it saw go, and fails where the kernel made the link-local address just before it.
            in_netns(pod, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode").check_returncode()
        result = cni.add(conf, "c1", pod)
        conf2 = {"cniVersion": "1.0.0", "name": "net", **later}
        final = second.add({**conf2, "prevResult": result}, "c1", pod)
        assert final["interfaces"][0]["name"] == "net1"
        cni.check(conf, final, "c1", pod)
        second.check(conf2, final, "c1", pod)
        second.delete({**conf2, "prevResult": final}, "c1", pod)
        cni.delete({**conf, "prevResult": final}, "c1", pod)
        if later["type"] == "vrf":
            assert not has(pod, "blue")


@pytest.mark.usefixtures("unchanged")
def test_the_bandwidth_plugin_after_ours_says_why_not(cni: Cni, vfs: Vfs, agent: Agent) -> None:
    conf = config(vfs[0].address, runtimeConfig={"bandwidth": {"egressRate": 50_000_000, "egressBurst": 9}})
    with netns() as pod:
        result = cni.add(conf, "c1", pod)
        assert links()[pf_name(vfs[0])]["vfinfo_list"][vfs[0].index]["rate"] == {"max_tx": 50, "min_tx": 0}
        limits = {"egressRate": 50_000_000, "egressBurst": 9, "ingressRate": 50_000_000, "ingressBurst": 9}
        conf2 = {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", **limits, "prevResult": result}
        with pytest.raises(CniFailed, match="veth"):
            Cni(agent.socket, (f"{CNI_PATH}/bandwidth",)).add(conf2, "c1", pod)
        cni.delete(conf, "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_a_plugin_before_ours(cni: Cni, vfs: Vfs) -> None:
    before = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth9", "sandbox": "/s"}],
              "ips": [{"address": "10.8.0.1/24", "interface": 0}], "routes": [{"dst": "10.8.0.0/16"}]}
    conf = config(vfs[0].address, ipam={"type": "static", "addresses": [{"address": "10.9.0.1/24"}]})
    with netns() as pod:
        result = cni.add({**conf, "prevResult": before}, "c1", pod)
        assert [each["name"] for each in result["interfaces"]] == ["eth9", "net1"]
        assert [each["interface"] for each in result["ips"]] == [0, 1]
        cni.check(conf, result, "c1", pod)
        cni.delete(conf, "c1", pod)


# ---- what sriov-cni left ------------------------------------------------------------------------------------


def attach_as_sriov_cni(vf: VirtualFunction, container: str, pod: str) -> dict[str, Any]:
    """Its ADD with VLAN, trust and MAC: what it changes, and its files; the network configuration of its DEL."""
    assert vf.link is not None
    was = links()[pf_name(vf)]["vfinfo_list"][vf.index]
    conf = {"cniVersion": "1.0.0", "name": "old", "type": "sriov", "deviceID": vf.address, "vlan": 77,
            "trust": "on", "mac": MAC % 8, "spoofchk": "off"}
    state = {"HostIFName": vf.link.name, "SpoofChk": was["spoofchk"], "Trust": was["trust"],
             "AdminMAC": was["address"], "EffectiveMAC": vf.link.mac, "Vlan": 0, "VlanQoS": 0, "VlanProto": 33024,
             "MinTxRate": 0, "MaxTxRate": 0, "LinkState": 0, "MTU": vf.link.mtu}
    cache = {**conf, "ipam": {"type": ""}, "dns": {}, "OrigVfState": state, "Master": pf_name(vf), "VFID": vf.index,
             "MAC": MAC % 8, "MTU": vf.link.mtu, "vlanQoS": 0, "vlanProto": "802.1q", "min_tx_rate": None,
             "max_tx_rate": None, "runtimeConfig": {}}
    set_vf(vf, "vlan", "77")
    set_vf(vf, "mac", MAC % 8)
    set_vf(vf, "spoofchk", "off")
    set_vf(vf, "trust", "on")
    node.run("ip", "link", "set", vf.link.name, "netns", Path(pod).name, "name", "net1")
    within(pod, "link", "set", "net1", "address", MAC % 8)
    within(pod, "link", "set", "net1", "up")
    (SRIOV_CNI / "pci").mkdir(parents=True, exist_ok=True)
    (SRIOV_CNI / f"{container}-net1").write_text(json.dumps(cache))
    (SRIOV_CNI / "pci" / vf.address).write_text(pod)
    return conf


def left() -> list[str]:
    return [path.name for path in SRIOV_CNI.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_del_of_what_sriov_cni_attached(cni: Cni, vfs: Vfs, dead: bool) -> None:
    with netns() as pod:
        conf = attach_as_sriov_cni(vfs[0], "c1", pod)
        if dead:
            node.run("ip", "netns", "del", Path(pod).name)
            wait_for("the kernel to hand it back", lambda: Sysfs().find_netdev(vfs[0].address))
        cni.delete(conf, "another", pod)
        assert vlan(vfs[0]) == [{"vlan": 77}]
        cni.delete(conf, "c1", "" if dead else pod)
        assert (left(), vlan(vfs[0])) == ([], [{}])
        cni.delete(conf, "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_late_del_of_what_sriov_cni_gave_to_another_pod_since(cni: Cni, vfs: Vfs) -> None:
    with netns() as old, netns() as new:
        conf = attach_as_sriov_cni(vfs[0], "new", new)
        (SRIOV_CNI / "old-net1").write_bytes((SRIOV_CNI / "new-net1").read_bytes())
        cni.delete(conf, "old", old)
        (SRIOV_CNI / "old-net1").write_bytes((SRIOV_CNI / "new-net1").read_bytes())
        cni.delete(conf, "old", "")
        assert (vlan(vfs[0]), has(new), sorted(left())) == ([{"vlan": 77}], True, [vfs[0].address, "new-net1"])
        cni.delete(conf, "new", new)
        assert left() == []


@pytest.mark.usefixtures("unchanged")
def test_gc_of_what_sriov_cni_attached(cni: Cni, vfs: Vfs) -> None:
    with netns() as kept, netns() as gone:
        conf = {**attach_as_sriov_cni(vfs[0], "c0", kept), "cniVersion": "1.1.0"}
        attach_as_sriov_cni(vfs[1], "c1", gone)
        cni.collect({**conf, "name": "other"}, [])
        assert (has(kept), has(gone)) == (True, True)
        cni.collect(conf, [("c0", "net1")])
        assert (has(kept), has(gone), sorted(left())) == (True, False, [vfs[0].address, "c0-net1"])
        cni.delete(conf, "c0", kept)


@pytest.mark.usefixtures("unchanged")
def test_a_vf_that_another_pod_of_ours_has_is_not_sriov_cnis(cni: Cni, vfs: Vfs) -> None:
    with netns() as pod:
        cni.add(config(vfs[0].address, vlan=5), "c1", pod)
        (SRIOV_CNI / "pci").mkdir(parents=True, exist_ok=True)
        stale = {"name": "old", "deviceID": vfs[0].address, "MAC": "", "OrigVfState": {
            "HostIFName": "stale0", "AdminMAC": "", "EffectiveMAC": MAC % 4, "MTU": 1500}}
        (SRIOV_CNI / "c0-net1").write_text(json.dumps(stale))
        (SRIOV_CNI / "pci" / vfs[0].address).write_text("/run/netns/dead")
        cni.delete(config(vfs[0].address), "c0", "/run/netns/dead")
        assert (vlan(vfs[0]), has(pod), left()) == ([{"vlan": 5}], True, [])
        cni.delete(config(vfs[0].address), "c1", pod)


@pytest.mark.usefixtures("unchanged")
def test_add_of_a_vf_that_a_pod_of_sriov_cnis_had(cni: Cni, vfs: Vfs) -> None:
    with netns() as old, netns() as new:
        attach_as_sriov_cni(vfs[0], "old", old)
        conf = config(vfs[0].address, vlan=5)
        with pytest.raises(CniFailed, match=f"is in use: sriov-cni gave it to {old}"):
            cni.add(conf, "new", new)
        node.run("ip", "netns", "del", Path(old).name)
        wait_for("the kernel to hand it back", lambda: Sysfs().find_netdev(vfs[0].address))
        cni.add(conf, "new", new)
        assert (left(), vlan(vfs[0])) == ([], [{"vlan": 5}])
        cni.delete(conf, "new", new)
