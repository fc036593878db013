"""Routing netlink on this machine's kernel: veth pairs in namespaces of our own, iproute2 as the witness."""

import errno
import socket
import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from sriov.errors import Gone, HostError
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.host.routes import RouteOptions
from sriov.model import VfSettings
from sriov.pci import MacAddress, PciAddress

pytestmark = pytest.mark.kernel

MAC = MacAddress("02:00:00:00:00:07")
LONG_ALTNAME = "enp59s0f0npf0vf1-and-more-than-fifteen"


def witness(namespace, key):
    (link,) = namespace.ip("link", "show", key)
    return link


def check_like_witness(link, shown):
    assert (link.index, link.name, link.mac, link.mtu, link.up, link.carrier, list(link.altnames)) == (
        shown["ifindex"], shown["ifname"], shown["address"], shown["mtu"], "UP" in shown["flags"],
        "LOWER_UP" in shown["flags"], shown.get("altnames", []))


# ---- reading --------------------------------------------------------------------------------------------


def test_dump_is_what_ip_shows(host):
    host.add_veth("v0", "v1")
    host.run("link", "set", "v0", "mtu", "9000", "up")
    host.run("link", "property", "add", "dev", "v1", "altname", LONG_ALTNAME)
    links = {link.name: link for link in host.links.dump()}
    shown = {link["ifname"]: link for link in host.ip("link", "show")}
    assert links.keys() == shown.keys() >= {"lo", "v0", "v1"}
    for name, link in links.items():
        check_like_witness(link, shown[name])
        assert link.pci is None
    assert not links["v0"].carrier
    host.run("link", "set", "v1", "up")
    assert host.links.find("v0").carrier


def test_find_by_index_name_and_altname(host):
    index = host.add_veth("v0", "v1")
    for altname in ("short", LONG_ALTNAME):
        host.run("link", "property", "add", "dev", "v0", "altname", altname)
    for key in (index, "v0", "short", LONG_ALTNAME):
        link = host.links.find(key)
        assert (link.index, link.altnames) == (index, ("short", LONG_ALTNAME))


@pytest.mark.parametrize("key", [4711, "nothere", "not-here-and-longer-than-a-name"])
def test_find_nothing(host, key):
    assert host.links.find(key) is None


def test_a_veth_is_no_pci_function(host):
    host.add_veth("v0", "v1")
    assert host.links.find_pci(PciAddress("0000:3b:02.1")) is None


def test_a_dump_of_many_links(host):
    """More than one datagram."""
    commands = "\n".join(f"link add a{n} type veth peer name b{n}" for n in range(60))
    subprocess.run(["ip", "-n", host.name, "-batch", "-"], input=commands, text=True, check=True)
    assert {f"{side}{n}" for n in range(60) for side in "ab"} < {link.name for link in host.links.dump()}


def test_the_socket_stays_in_its_namespace(host, pod):
    """Whichever thread uses it, and whatever namespace that one is in."""
    host.add_veth("v0", "v1")
    with Links.open() as own:
        assert own.cookie not in (host.links.cookie, pod.links.cookie)
        assert own.find("v0") is None
    assert host.links.find("v0")
    assert pod.links.find("v0") is None


def test_cookies_name_namespaces(host, pod):
    again = Links(socket.fromfd(host.links._socket.fileno(), socket.AF_NETLINK, socket.SOCK_RAW))
    with again:
        assert host.links.cookie == again.cookie > 0
    assert pod.links.cookie != host.links.cookie


def test_no_socket_is_left_open(host):
    with Links.open() as links:
        descriptor = links._socket.fileno()
        assert descriptor > 0
    assert links._socket.fileno() == -1


# ---- changing -------------------------------------------------------------------------------------------


def test_everything_in_one_message(host, pod):
    index = host.add_veth("v0", "v1")
    host.run("link", "property", "add", "dev", "v0", "altname", "extra")
    host.links.change(index, "move v0", netns_fd=pod.fd, name="net1", mac=MAC, mtu=1400, up=True)
    assert host.links.find("v0") is None
    moved = pod.links.find("net1")
    assert (moved.mac, moved.mtu, moved.up, moved.altnames) == (MAC, 1400, True, ("extra",))
    check_like_witness(moved, witness(pod, "net1"))
    with Links.open() as own:
        assert own.find("net1") is None


@pytest.mark.parametrize(("change", "shown"), [
    ({"name": "other"}, {"ifname": "other"}), ({"mac": MAC}, {"address": MAC}), ({"mtu": 1280}, {"mtu": 1280}),
    ({"up": True}, {"operstate": "LOWERLAYERDOWN"}), ({"up": False}, {"operstate": "DOWN"}), ({}, {})])
def test_what_is_not_given_stays(host, change, shown):
    index = host.add_veth("v0", "v1")
    before = witness(host, "v0")
    host.links.change(index, "change v0", **change)
    after = witness(host, change.get("name", "v0"))
    assert {key: after[key] for key in shown} == shown
    unrelated = ("ifname", "address", "mtu", "ifindex")
    assert {key: after[key] for key in unrelated if key not in shown} == {
        key: before[key] for key in unrelated if key not in shown}


def test_a_name_that_is_taken_there_leaves_half_a_move(host, pod):
    """The kernel moves first and renames later: it is there under its old name, with its new MAC, and down."""
    index = host.add_veth("v0", "v1")
    pod.add_veth("net1", "net2")
    taken = pod.links.find("net1")
    with pytest.raises(HostError, match="cannot move v0 to the pod: File exists") as caught:
        host.links.change(index, "move v0 to the pod", netns_fd=pod.fd, name="net1", mac=MAC, up=True)
    assert caught.value.errno == errno.EEXIST
    assert pod.links.find("net1") == taken
    assert host.links.find("v0") is None
    left = pod.links.find("v0")
    assert (left.up, left.mac) == (False, MAC)
    pod.links.change(left.index, "bring it back", netns_fd=host.fd, name="v0")
    assert host.links.find("v0")


def test_an_altname_that_is_taken_there_moves_nothing(host, pod):
    index = host.add_veth("v0", "v1")
    host.run("link", "property", "add", "dev", "v0", "altname", "extra")
    pod.add_veth("p0", "p1")
    pod.run("link", "property", "add", "dev", "p0", "altname", "extra")
    with pytest.raises(HostError) as caught:
        host.links.change(index, "move v0", netns_fd=pod.fd, name="net1")
    assert caught.value.errno == errno.EEXIST
    assert host.links.find("v0").index == index


def test_a_link_under_its_own_altname(host):
    """Why delete_altnames exists: a netdev cannot be given the name that it has as an altname."""
    index = host.add_veth("v0", "v1")
    host.run("link", "property", "add", "dev", "v0", "altname", "home")
    with pytest.raises(HostError) as caught:
        host.links.change(index, "rename v0", name="home")
    assert caught.value.errno == errno.EEXIST
    host.links.delete_altnames(index, ["home"])
    host.links.change(index, "rename v0", name="home")
    assert (host.links.find("home").index, host.links.find("home").altnames) == (index, ())


def test_errors_have_errno_and_the_kernels_own_words(host):
    index = host.add_veth("v0", "v1")
    with pytest.raises(HostError) as caught:
        host.links.change(index, "set the MTU of v0", mtu=2**31 - 1)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.message == (
        "cannot set the MTU of v0: Invalid argument (mtu greater than device maximum): EINVAL")
    with pytest.raises(HostError, match="cannot set MAC: ") as caught:
        host.links.change(index, "set MAC", mac=MacAddress("01:00:5e:00:00:01"))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(HostError, match="cannot delete the altnames 'none': ") as caught:
        host.links.delete_altnames(index, ["none"])
    assert caught.value.errno == errno.ENOENT


def test_links_that_are_gone(host):
    for call in (lambda: host.links.change(4711, "set it up", up=True),
                 lambda: host.links.delete_altnames(4711, ["x"]),
                 lambda: host.links.add_address(4711, ip_interface("10.0.0.1/24")),
                 lambda: host.links.add_route(4711, ip_network("10.0.0.0/8"), None),
                 lambda: host.links.set_vf(4711, 0, VfSettings(trust=True), "set trust"),
                 lambda: host.links.vf_settings(4711),
                 lambda: host.links.inspect_vf(4711, 0)):
        with pytest.raises(Gone, match="cannot "):
            call()


def test_the_socket_works_on_after_an_error(host):
    index = host.add_veth("v0", "v1")
    for _ in range(3):
        with pytest.raises(HostError):
            host.links.change(index, "rename", name="v1")
        assert host.links.find(index).name == "v0"


# ---- VF attributes on what has none -----------------------------------------------------------------------


def test_a_veth_has_no_vfs(host):
    index = host.add_veth("v0", "v1")
    assert host.links.vf_settings(index) == {}
    assert host.links.inspect_vf(index, 0) is None


@pytest.mark.parametrize("changes", [
    VfSettings(mac=MAC), VfSettings(vlan=5, vlan_qos=0), VfSettings(trust=True), VfSettings(spoofchk=False),
    VfSettings(max_tx_rate=100)])
def test_a_driver_without_vfs_refuses(host, changes):
    index = host.add_veth("v0", "v1")
    with pytest.raises(HostError, match="cannot set it on vf 3: Operation not supported") as caught:
        host.links.set_vf(index, 3, changes, "set it on vf 3")
    assert caught.value.errno == errno.EOPNOTSUPP


# ---- addresses and routes -------------------------------------------------------------------------------


@pytest.fixture
def pair(host):
    """The index of an end of a veth pair that is up and has carrier."""
    index = host.add_veth("v0", "v1")
    host.run("link", "set", "v1", "up")
    host.run("link", "set", "v0", "up")
    return index


def addresses(namespace):
    (link,) = namespace.ip("addr", "show", "dev", "v0")
    return {(entry["family"], f"{entry['local']}/{entry['prefixlen']}", entry.get("broadcast"), entry["scope"])
            for entry in link["addr_info"] if entry["scope"] != "link"}


def test_addresses(host, pair):
    for text in ("10.9.0.5/24", "10.9.1.5/32", "10.9.2.0/31", "fd00::5/64"):
        host.links.add_address(pair, ip_interface(text))
        host.links.add_address(pair, ip_interface(text))      # again: as a repeated ADD would
    assert addresses(host) == {
        ("inet", "10.9.0.5/24", "10.9.0.255", "global"), ("inet", "10.9.1.5/32", None, "global"),
        ("inet", "10.9.2.0/31", None, "global"), ("inet6", "fd00::5/64", None, "global")}


def test_addresses_that_the_kernel_refuses(host, pair):
    with pytest.raises(HostError, match="cannot add the address ff02::1/64: ") as caught:
        host.links.add_address(pair, ip_interface("ff02::1/64"))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def routes(namespace, family):
    return [route for route in namespace.ip(family, "route", "show", "dev", "v0")
            if route.get("protocol") not in ("kernel", "ra")]


def test_routes_v4(host, pair):
    host.links.add_address(pair, ip_interface("10.9.0.5/24"))
    gateway = ip_address("10.9.0.1")
    for to, via in (("0.0.0.0/0", gateway), ("10.50.0.0/16", gateway), ("10.60.0.0/16", None)):
        host.links.add_route(pair, ip_network(to), via)
    shown = {route["dst"]: (route.get("gateway"), route["protocol"], route.get("scope"))
             for route in routes(host, "-4")}
    assert shown == {"default": ("10.9.0.1", "static", "global"), "10.50.0.0/16": ("10.9.0.1", "static", "global"),
                     "10.60.0.0/16": (None, "static", "link")}


def test_routes_v6(host, pair):
    host.links.add_address(pair, ip_interface("fd00::5/64"))
    for to, via in (("::/0", ip_address("fd00::1")), ("fd01::/64", ip_address("fd00::1")), ("fd02::/64", None)):
        host.links.add_route(pair, ip_network(to), via)
    shown = {route["dst"]: (route.get("gateway"), route["protocol"]) for route in routes(host, "-6")}
    assert shown == {"default": ("fd00::1", "static"), "fd01::/64": ("fd00::1", "static"),
                     "fd02::/64": (None, "static")}


@pytest.mark.parametrize(("address", "to", "family"), [
    ("10.9.0.5/24", "10.50.0.0/16", "-4"), ("fd00::5/64", "fd01::/64", "-6")], ids=["v4", "v6"])
def test_a_route_with_all_options(host, pair, address, to, family):
    host.links.add_address(pair, ip_interface(address))
    gateway = ip_interface(address).network[1]
    for table in (100, 1000, 0):
        options = RouteOptions(table=table, priority=7, scope=0, mtu=1400, advmss=1300)
        host.links.add_route(pair, ip_network(to), gateway, options)
        (shown,) = [route for route in host.ip(family, "route", "show", "table", str(table or 254))
                    if route["dst"] == to]
        assert (shown["gateway"], shown["metric"]) == (str(gateway), 7)
        assert shown["metrics"] == [{"mtu": 1400, "advmss": 1300}]
    found = [route for route in host.links.dump_link_routes() if str(route.to) == to]
    assert [(route.link, route.gateway) for route in found] == [(pair, gateway)] * 3


def test_routes_that_were_read(host, pair):
    """Those of several ways are several, and what carries no packets is none."""
    host.run("address", "add", "10.9.0.5/24", "dev", "v0")
    host.run("-6", "address", "add", "fd00::5/64", "dev", "v0", "nodad")
    host.run("route", "add", "10.50.0.0/16", "nexthop", "via", "10.9.0.1", "nexthop", "via", "10.9.0.2")
    host.run("-6", "route", "add", "fd01::/64", "nexthop", "via", "fd00::1", "nexthop", "via", "fd00::2")
    host.run("route", "add", "default", "via", "10.9.0.1")
    host.run("route", "add", "blackhole", "10.60.0.0/16")
    found = {(str(route.to), str(route.gateway)) for route in host.links.dump_link_routes() if route.link == pair}
    assert {("10.50.0.0/16", "10.9.0.1"), ("10.50.0.0/16", "10.9.0.2"), ("fd01::/64", "fd00::1"),
            ("fd01::/64", "fd00::2"), ("0.0.0.0/0", "10.9.0.1"), ("10.9.0.0/24", "None")} <= found
    assert not [to for to, _ in found if to == "10.60.0.0/16"]


def test_a_route_through_nowhere(host, pair):
    with pytest.raises(HostError, match=r"cannot add a route to 10\.50\.0\.0/16 through 10\.9\.0\.1: ") as caught:
        host.links.add_route(pair, ip_network("10.50.0.0/16"), ip_address("10.9.0.1"))
    assert caught.value.errno == errno.ENETUNREACH
    assert "Nexthop has invalid gateway" in caught.value.message


# ---- events ---------------------------------------------------------------------------------------------


LISTENER = """\
import select, sys
%s
events.drain()
assert select.select([events], [], [], 0)[0] == []
print("ready", flush=True)
assert select.select([events], [], [], 10)[0] or not concerns
sys.stdin.readline()
assert events.drain() == concerns
assert select.select([events], [], [], 0)[0] == []
"""
LINKS = """
from sriov.host.linkevents import LinkEvents
events, concerns = LinkEvents(), True
"""
UEVENTS = """
from sriov.host.udev import Udev, Uevents
events, concerns = Uevents("net"), True
"""
OTHERS = """
from sriov.host.udev import Uevents
events, concerns = Uevents("pci"), False
"""
WITHOUT_UDEVD = f"{UEVENTS}assert not Udev().runs()\n"
EMPTY_RUN = "unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"


@pytest.mark.parametrize(("source", "prefix"), [
    (LINKS, ()), (UEVENTS, ()), (WITHOUT_UDEVD, EMPTY_RUN), (OTHERS, ()), (OTHERS, EMPTY_RUN)],
    ids=["netlink", "uevents", "uevents as in a container, without udevd", "uevents of another subsystem",
         "those in a container"])
def test_events(host, source, prefix):
    """In a process of its own: a subscription is for the namespace of its thread. Many, since one may hide more."""
    with subprocess.Popen(["ip", "netns", "exec", host.name, *prefix, sys.executable, "-c",
                           LISTENER % source],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdin is not None
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        for number in range(20):
            host.add_veth(f"v{number}", f"w{number}")
        listener.stdin.write("\n")
        listener.stdin.flush()
        assert listener.wait(30) == 0


# ---- what stays on a netdev when it moves ------------------------------------------------------------------

SET = ("alias gone-fishing", "promisc on", "allmulticast on", "multicast off", "arp off", "dynamic on",
       "txqueuelen 7", "group 42", "broadcast 02:ff:ff:ff:ff:ff", "mode dormant",
       "gso_max_size 2000 gso_max_segs 3", "gro_max_size 3000")


@pytest.mark.parametrize("words", SET)
def test_a_trait_stays_over_a_move_and_can_be_taken_back(host, pod, words):
    index = host.add_veth("v0", "v1")
    shown = witness(host, "v0")
    _, before = host.links.inspect(index)
    host.run("link", "set", "v0", *words.split())
    changed = before.missing_in(host.links.inspect(index)[1])
    assert changed != LinkTraits()
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    moved, traits = pod.links.inspect("net1")
    assert before.missing_in(traits) == changed
    pod.links.change(moved.index, "move back", netns_fd=host.fd, name="v0", traits=changed)
    again, traits = host.links.inspect("v0")
    assert traits == before
    assert without_counters(witness(host, again.name)) == without_counters(shown)


def without_counters(shown):
    counted = ("link_index", "operstate", "qdisc", "link_netnsid")
    return {key: value for key, value in shown.items() if key not in counted}


def test_offloads_that_are_turned_off_can_be_turned_on_again(host, pod):
    index = host.add_veth("v0", "v1")
    _, before = host.links.inspect(index)
    assert any(before.features)
    host.links.tune("v0", LinkTraits(features=tuple(0 for _ in before.features)))
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    moved, traits = pod.links.inspect("net1")
    assert before.missing_in(traits).features == before.features
    pod.links.tune(moved.name, LinkTraits(features=before.features))
    assert pod.links.inspect("net1")[1].features == before.features
    with pytest.raises(Gone, match="cannot read the offloads of none"):
        pod.links.tune("none", LinkTraits(features=before.features))


def test_coalescing_that_was_changed_can_be_set_back(host, pod):
    host.run("tuntap", "add", "t0", "mode", "tap")
    index = host.links.find("t0").index
    _, before = host.links.inspect(index)
    assert before.rings is None           # a tap has none
    changed = (0, 16, *before.coalescing[2:])
    host.links.tune("t0", LinkTraits(coalescing=changed))
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    _, traits = pod.links.inspect("net1")
    assert (traits.coalescing, before.missing_in(traits).coalescing) == (changed, before.coalescing)
    pod.links.tune("net1", LinkTraits(coalescing=before.coalescing))
    assert pod.links.inspect("net1")[1].coalescing == before.coalescing
    with pytest.raises(HostError, match="cannot set the coalescing of net1: E"):
        pod.links.tune("net1", LinkTraits(coalescing=(7, *before.coalescing[1:])))
    with pytest.raises(HostError, match="cannot set the ring sizes of net1: E"):
        pod.links.tune("net1", LinkTraits(rings=(1, 0, 0, 1)))


def test_channels_that_were_changed_can_be_set_back(host, pod):
    host.run("link", "add", "v0", "numtxqueues", "4", "numrxqueues", "3", "type", "veth", "peer", "name", "v1")
    index = host.links.find("v0").index
    _, before = host.links.inspect(index)
    assert before.channels == (3, 4, 0, 0)
    host.links.tune("v0", LinkTraits(channels=(1, 2, 0, 0)))
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    _, traits = pod.links.inspect("net1")
    assert (traits.channels, before.missing_in(traits)) == ((1, 2, 0, 0), LinkTraits(channels=(3, 4, 0, 0)))
    pod.links.tune("net1", LinkTraits(channels=before.channels))
    assert pod.links.inspect("net1")[1].channels == before.channels
    with pytest.raises(HostError, match="cannot set the channels of net1: EINVAL"):
        pod.links.tune("net1", LinkTraits(channels=(4, 4, 0, 0)))


def test_altnames_of_any_bytes_come_and_go_in_one_message(host):
    index = host.add_veth("v0", "v1")
    names = ("short", LONG_ALTNAME, "\udcff\udcfe")
    host.links.add_altnames(index, names)
    assert host.links.inspect(index)[1].altnames == names
    with pytest.raises(HostError) as caught:
        host.links.add_altnames(index, ("more", "short"))
    assert caught.value.errno == errno.EEXIST
    host.links.delete_altnames(index, (*names, "more"))
    assert host.links.inspect(index)[1].altnames == ()


def test_a_link_leaves_its_bridge_and_what_stands_on_it_can_be_deleted(host):
    index = host.add_veth("v0", "v1")
    host.run("link", "add", "br0", "type", "bridge")
    host.run("link", "set", "v0", "master", "br0")
    host.links.change(index, "leave", master=0)
    assert host.links.find(index).master is None
    host.run("link", "add", "m0", "link", "v0", "type", "macvlan")
    above = host.links.find("m0")
    assert (above.lower, above.software) == (index, "macvlan")
    host.links.delete(above.index, "delete m0")
    assert host.links.find("m0") is None
    assert host.links.inspect("m0") is None


@pytest.mark.parametrize("name", ["\udcff", "a\x1b[31mX", "x\u2028y", "\udcff\udcfe.7"])
def test_a_link_of_any_name_is_the_link(host, pod, name):
    """The kernel takes any bytes but blanks, slash and colon."""
    index = host.add_veth("v0", "v1")
    before = host.links.inspect(index)[1]
    host.links.change(index, "rename", name=name)
    link, traits = host.links.inspect(index)
    assert link.name == name
    assert (traits.features, host.links.find(name).index) == (before.features, index)
    assert [each.name for each in host.links.dump() if each.index == index] == [name]
    host.links.tune(name, LinkTraits(features=tuple(0 for _ in before.features)))
    assert host.links.inspect(name)[1].features != before.features
    host.links.change(index, "move", netns_fd=pod.fd)
    assert pod.links.find(name).mac == link.mac


def test_messages_show_such_names_as_escapes(host):
    with pytest.raises(Gone, match=r"^cannot read the offloads of a\\x1b\[31mX\\u2028\\udcff$"):
        host.links.tune("a\x1b[31mX\u2028\udcff", LinkTraits(features=(0,)))
    with pytest.raises(HostError, match=r"^cannot delete the altnames '\\u2028': "):
        host.links.delete_altnames(1, ["\u2028"])


def test_a_link_whose_offloads_cannot_be_read_is_there_all_the_same(host, monkeypatch):
    """Somebody renames it between the two questions."""
    index = host.add_veth("v0", "v1")

    def fail(socket, name):
        raise Gone(f"there is no {name}")

    monkeypatch.setattr("sriov.host.ethtool.read_features", fail)
    link, traits = host.links.inspect(index)
    assert (link.name, traits.features) == ("v0", None)


def test_namespaces_that_one_knows(host, pod, new_netns):
    """By what an ADD does the pod's knows the host's only; by a link that the pod moves on, that one, too."""
    index = host.add_veth("v0", "v1")
    host.run("link", "add", "ve", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    pod.ip("link", "show")
    assert pod.links.find_peers(host.fd) == ()
    assert host.links.find_peers(pod.fd) == ()
    nested = new_netns()
    assert pod.links.find_peers(nested.fd) == host_ids(pod)
    pod.run("link", "add", "m0", "link", "net1", "type", "macvlan")
    pod.run("link", "set", "m0", "netns", nested.name)
    assert len(pod.links.find_peers(host.fd)) == 1


def host_ids(pod):
    return tuple(each["nsid"] for each in pod.ip("netns", "list-id"))
