"""What the node needs its NICs for, read from a kernel: real stacks in namespaces of our own.

On this machine's kernel and, as it may lack kinds of links, on the lab's, which has them all.
"""

import json
import os
import subprocess

import pytest

from sriov.errors import Gone
from sriov.host.discovery import add_ties, look_for_ties
from sriov.host.routes import Route
from sriov.host.sysfs import Sysfs
from sriov.host.ties import find_ties, find_vf_ties
from tests.support import node
from tests.support.tree import Pf, Tree


@pytest.fixture(params=[pytest.param("here", marks=pytest.mark.kernel), pytest.param("lab", marks=pytest.mark.lab)])
def host(host):
    return host


@pytest.fixture
def nics(host):
    """The indices of eth0 and eth1, both up with carrier and a gateway behind each."""
    indices = []
    for n in range(2):
        indices.append(host.add_veth(f"eth{n}", f"wire{n}"))
        host.run("link", "set", f"wire{n}", "up")
        host.run("link", "set", f"eth{n}", "up")
    return indices


def ties(namespace, name="eth0"):
    links = namespace.links
    found = find_ties(links.dump(), links.dump_addresses(), links.dump_routes())
    return found.get(links.find(name).index, ())


def add_link(namespace, name, *args):
    """A link of a kind that this machine's kernel may lack; the lab's does not."""
    done = subprocess.run(["ip", "-n", namespace.name, "link", "add", name, *args], capture_output=True, text=True,
                          check=False)
    if "Unknown device type" in done.stderr and "VFPOOL_IN_LAB" not in os.environ:
        pytest.skip(f"this machine's kernel has no {args[args.index('type') + 1]}: tried in the lab")
    assert done.returncode == 0, done.stderr
    namespace.run("link", "set", name, "up")


def give_address(namespace, name, text="192.0.2.5/24"):
    namespace.run("addr", "add", text, "dev", name, *(["nodad"] if ":" in text else []))


def test_a_link_that_only_is_up(host, nics):
    assert [ties(host, name) for name in ("eth0", "eth1", "lo")] == [(), (), ()]


def test_addresses_are_what_ip_shows(host, nics):
    for text in ("192.0.2.5/24", "198.51.100.7/32", "2001:db8::5/64"):
        give_address(host, "eth0", text)
    host.run("addr", "add", "203.0.113.1", "peer", "203.0.113.2/31", "dev", "eth1")
    shown = {(link["ifindex"], f"{entry['local']}/{entry['prefixlen']}")
             for link in host.ip("addr", "show") for entry in link["addr_info"]}
    assert {(found.index, str(found.address)) for found in host.links.dump_addresses()} == shown
    assert ties(host) == ("has address 192.0.2.5/24", "has address 198.51.100.7/32", "has address 2001:db8::5/64")


def test_default_routes(host, nics):
    give_address(host, "eth0")
    give_address(host, "eth0", "2001:db8::5/64")
    assert host.links.dump_routes() == ()
    host.run("route", "add", "default", "via", "192.0.2.1")
    host.run("route", "add", "default", "dev", "eth1", "table", "1000")
    host.run("-6", "route", "add", "default", "via", "2001:db8::1")
    for other in ("10.0.0.0/8 via 192.0.2.1", "unreachable default metric 9", "0.0.0.0/1 dev eth1"):
        host.run("route", "add", *other.split())
    assert set(host.links.dump_routes()) == {
        Route(version=4, links=(nics[0],)), Route(version=4, links=(nics[1],), table=1000),
        Route(version=6, links=(nics[0],)), Route(version=4, links=(nics[0],), prefix=8),
        Route(version=4, links=(nics[1],), prefix=1)}
    assert ties(host)[:3] == ("carries the default route", "carries the IPv6 default route", "carries a route")
    assert ties(host, "eth1") == ("carries the default route of table 1000", "carries a route")


def test_a_link_without_an_address_carries_routes(host, nics):
    host.run("route", "add", "10.0.0.0/8", "dev", "eth1")
    assert ties(host, "eth1") == ("carries a route",)
    host.run("-6", "route", "add", "2001:db8::/32", "dev", "eth1")
    assert ties(host, "eth1") == ("carries 2 routes",)
    assert ties(host, "eth0") == ()


def add_multipath(host):
    for n in range(2):
        give_address(host, f"eth{n}", f"192.0.{n}.5/24")
        give_address(host, f"eth{n}", f"2001:db8:{n}::5/64")
    for family, gateways in (("-4", ("192.0.0.1", "192.0.1.1")), ("-6", ("2001:db8:0::1", "2001:db8:1::1"))):
        hops = [word for n, gateway in enumerate(gateways)
                for word in ("nexthop", "via", gateway, "dev", f"eth{n}")]
        host.run(family, "route", "add", "default", *hops)


def test_multipath(host, nics):
    add_multipath(host)
    assert set(host.links.dump_routes()) == {
        Route(version=version, links=tuple(nics)) for version in (4, 6)}
    for name in ("eth0", "eth1"):
        assert ties(host, name)[:2] == ("carries the default route", "carries the IPv6 default route")


@pytest.mark.parametrize("compatible", ["1", "0"], ids=["routes repeat their nexthops", "routes only name them"])
def test_nexthop_objects(host, nics, compatible):
    subprocess.run(["ip", "netns", "exec", host.name, "sysctl", "-qw",
                    f"net.ipv4.nexthop_compat_mode={compatible}"], check=True)
    for n in range(2):
        give_address(host, f"eth{n}", f"192.0.{n}.5/24")
        host.run("nexthop", "add", "id", str(7 + n), "via", f"192.0.{n}.1", "dev", f"eth{n}")
    host.run("nexthop", "add", "id", "20", "group", "7/8")
    host.run("route", "add", "default", "nhid", "20")
    host.run("route", "add", "default", "nhid", "8", "table", "1000")
    by_table = {route.table: set(route.links) for route in host.links.dump_routes()}
    assert by_table == {254: set(nics), 1000: {nics[1]}}
    assert ties(host)[0] == "carries the default route"


def test_a_bridge(host, nics):
    add_link(host, "br0", "type", "bridge")
    host.run("link", "set", "eth0", "master", "br0")
    give_address(host, "br0")
    host.run("route", "add", "default", "via", "192.0.2.1")
    assert ties(host) == ("port of br0 (bridge)", "carries the default route (via br0)",
                          "has address 192.0.2.5/24 (via br0)")
    assert ties(host, "eth1") == ()


@pytest.mark.parametrize("args", [
    ("macvlan", "mode", "bridge"), ("vlan", "id", "5"), ("ipvlan", "mode", "l2")], ids=lambda args: args[0])
def test_what_stands_on_a_nic(host, nics, args):
    add_link(host, "top0", "link", "eth0", "type", *args)
    assert ties(host) == ()
    give_address(host, "top0")
    host.run("route", "add", "default", "via", "192.0.2.1")
    assert ties(host) == ("carries the default route (via top0)", "has address 192.0.2.5/24 (via top0)")
    assert ties(host, "eth1") == ()


@pytest.mark.parametrize("args", [("bond",), ("team",)], ids=lambda args: args[0])
def test_a_vlan_on_a_bond(host, nics, args):
    add_link(host, "bond0", "type", *args)
    for n in range(2):
        host.run("link", "set", f"eth{n}", "down")
        host.run("link", "set", f"eth{n}", "master", "bond0")
    add_link(host, "bond0.5", "link", "bond0", "type", "vlan", "id", "5")
    host.run("route", "add", "default", "dev", "bond0.5")
    for name in ("eth0", "eth1"):
        assert ties(host, name) == (f"port of bond0 ({args[0]})", "carries the default route (via bond0.5)")


def test_a_macvlan_in_a_pod_is_the_pods(host, pod, nics):
    add_link(host, "top0", "link", "eth0", "type", "macvlan")
    host.run("link", "set", "top0", "netns", pod.name)
    give_address(pod, "top0")
    assert pod.links.find("top0").lower is None
    assert (ties(host), ties(pod, "top0")) == ((), ("has address 192.0.2.5/24",))


def vf_ties(namespace, name="eth0", *, stacked=False):
    """As an ADD asks for them; of one link or of all, it is the same."""
    links = namespace.links
    found = look_for_ties(links, links.find(name), stacked=stacked)
    every = find_vf_ties(links.dump(), links.dump_addresses(), links.dump_routes())
    assert found == every.get(links.find(name).index, ())
    return found


def test_what_counts_of_a_vf(host, nics):
    """Not what every link has that is up, what was given for a while, or ways to somewhere; nor another's."""
    give_address(host, "eth1")
    host.run("route", "add", "default", "via", "192.0.2.1")
    host.run("addr", "add", "198.51.100.9/24", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
    host.run("route", "add", "10.0.0.0/8", "via", "198.51.100.1")
    assert [found.address.is_link_local for found in host.links.dump_addresses(nics[0])] == [False, True]
    assert vf_ties(host) == ()
    give_address(host, "eth0", "2001:db8::5/64")
    host.run("route", "add", "default", "dev", "eth0", "table", "1000")
    host.run("-6", "route", "add", "default", "via", "2001:db8::1")
    assert vf_ties(host) == ("carries the default route of table 1000", "carries the IPv6 default route",
                             "has address 2001:db8::5/64")
    for command in ("addr flush dev eth0", "route flush table 1000", "-6 route flush dev eth0"):
        host.run(*command.split())
    assert vf_ties(host) == ()


@pytest.mark.parametrize("compatible", ["1", "0"], ids=["routes repeat their nexthops", "routes only name them"])
def test_a_vf_among_several_nexthops(host, nics, compatible):
    subprocess.run(["ip", "netns", "exec", host.name, "sysctl", "-qw",
                    f"net.ipv4.nexthop_compat_mode={compatible}"], check=True)
    for n in range(2):
        host.run("nexthop", "add", "id", str(7 + n), "dev", f"eth{n}")
    host.run("nexthop", "add", "id", "20", "group", "7/8")
    host.run("route", "add", "default", "nhid", "20")
    assert vf_ties(host) == vf_ties(host, "eth1") == ("carries the default route",)


def test_a_vf_among_several_ways(host, nics):
    add_multipath(host)
    for name in ("eth0", "eth1"):
        assert vf_ties(host, name)[:2] == ("carries the default route", "carries the IPv6 default route")


def test_what_stands_on_a_vf(host, nics):
    add_link(host, "top0", "link", "eth0", "type", "macvlan")
    assert vf_ties(host, stacked=True) == ()
    give_address(host, "top0")
    assert vf_ties(host, stacked=True) == ("has address 192.0.2.5/24 (via top0)",)
    add_link(host, "br0", "type", "bridge")
    host.run("link", "set", "eth1", "master", "br0")
    assert vf_ties(host, "eth1") == ("port of br0 (bridge)",)


def test_one_of_many_routes(host, nics):
    """The kernel sends what is asked for, not the node's tables."""
    batch = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev eth1\n"
                    f"addr add 172.16.{n >> 8}.{n & 255}/32 dev eth1\n" for n in range(1000))
    subprocess.run(["ip", "-n", host.name, "-batch", "-"], input=batch, text=True, check=True)
    give_address(host, "eth0")
    host.run("route", "add", "default", "via", "192.0.2.1")
    host.run("route", "add", "198.51.100.0/24", "via", "192.0.2.1")
    assert {found.index for found in host.links.dump_addresses(nics[0])} == {nics[0]}
    assert set(host.links.dump_routes(nics[0])) == {
        Route(version=4, links=(nics[0],)), Route(version=4, links=(nics[0],), prefix=24)}
    assert len(host.links.dump_addresses()) > 1000         # the next dump is of all again
    assert len(host.links.dump_routes()) == 1002
    with pytest.raises(Gone):
        host.links.dump_routes(9999)


def test_a_host_on_real_links_and_routes(host, nics, tmp_path):
    """Two NICs of a synthetic sysfs, whose netdevs are this namespace's."""
    tree = Tree(tmp_path / "sys").add(Pf("0000:3b:00.0", "eth0")).add(Pf("0000:5e:00.0", "eth1"))
    add_link(host, "br0", "type", "bridge")
    host.run("link", "set", "eth1", "master", "br0")
    host.run("route", "add", "default", "dev", "br0")
    dumped = host.links.dump()
    found = add_ties(Sysfs(tree.root).scan(dumped), dumped, host.links)
    assert [(pf.link and pf.link.index, pf.ties) for pf in found.pfs] == [
        (nics[0], ()), (nics[1], ("port of br0 (bridge)", "carries the default route (via br0)"))]
    assert found.unreadable == ()


def test_links_say_what_they_are(host, nics):
    """Beside what ip shows: the kind of hardware and of software, the master, and what it stands on."""
    add_link(host, "br0", "type", "bridge")
    add_link(host, "top0", "link", "eth1", "type", "macvlan")
    host.run("link", "set", "eth0", "master", "br0")
    shown = {link["ifname"]: link for link in node.ip("-n", host.name, "link", "show")}
    index = {name: link["ifindex"] for name, link in shown.items()}
    for link in host.links.dump():
        witness = shown[link.name]
        lower = witness.get("link_index") or index.get(witness.get("link"))
        assert (link.kind, link.software, link.master, link.lower, link.port) == (
            witness["link_type"], witness.get("linkinfo", {}).get("info_kind"),
            index.get(witness.get("master")), lower, None), json.dumps(witness)
