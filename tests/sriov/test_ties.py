"""What ties a NIC down, in tables of links, addresses and routes; then joined with a synthetic host."""

from dataclasses import replace
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.errors import HostError
from sriov.host.discovery import add_devlink, add_ties
from sriov.host.routes import MAIN_TABLE, Address, Route
from sriov.host.sysfs import Sysfs
from sriov.host.ties import find_ties
from sriov.model import Link
from sriov.pci import MacAddress, PciAddress
from tests.support.nics import nic
from tests.support.tree import Pf, Tree

PF = PciAddress("0000:3b:00.0")
NIC, NIC2, UPPER, TOP = 2, 3, 10, 11


def link(index, name, **fields):
    return Link(index=index, name=name, mac=MacAddress.ZERO, mtu=1500, up=True, carrier=True, **fields)


def address(index, text):
    return Address(index=index, address=ip_interface(text))


def route(*links, version=4, table=MAIN_TABLE, prefix=0):
    return Route(version=version, links=links, table=table, prefix=prefix)


def bond(**fields):
    return link(UPPER, "bond0", software="bond", **fields)


# ---- sentences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("links", "addresses", "routes", "ties"), [
    pytest.param([link(NIC, "eth0")], [], [], (), id="nothing"),
    pytest.param([link(NIC, "eth0")], [address(NIC, "192.0.2.1/24")], [route(NIC)],
                 ("carries the default route", "has address 192.0.2.1/24"), id="its own"),
    pytest.param([link(NIC, "eth0")], [], [route(NIC, version=6)], ("carries the IPv6 default route",), id="IPv6"),
    pytest.param([link(NIC, "eth0")], [], [route(NIC), route(NIC, version=6), route(NIC)],
                 ("carries the default route", "carries the IPv6 default route"), id="two metrics say one thing"),
    pytest.param([link(NIC, "eth0")], [], [route(NIC, table=100)], ("carries the default route of table 100",),
                 id="policy routing"),
    pytest.param([link(NIC, "eth0"), link(NIC2, "eth1")], [], [route(NIC, NIC2, prefix=24), route(NIC2, prefix=8)],
                 ("carries a route",), id="a route to somewhere"),
    pytest.param([link(NIC, "eth0")], [], [route(NIC), *[route(NIC, prefix=24)] * 3],
                 ("carries the default route", "carries 3 routes"), id="routes to somewhere"),
    pytest.param([link(NIC, "eth0"), link(NIC2, "eth1")], [], [route(NIC2, NIC)], ("carries the default route",),
                 id="multipath"),
    pytest.param([link(NIC, "eth0"), link(NIC2, "eth1")], [address(NIC2, "192.0.2.1/24")], [route(NIC2)], (),
                 id="another's"),
    pytest.param([link(NIC, "eth0")], [address(NIC, "fe80::1/64"), address(NIC, "169.254.3.4/16")], [],
                 ("has address 169.254.3.4/16",), id="every link has a link-local IPv6 address"),
    pytest.param([link(NIC, "eth0"), link(UPPER, "eth0.5", software="vlan", lower=NIC)], [], [], (),
                 id="a VLAN that nobody uses"),
    pytest.param([link(NIC, "eth0"), link(UPPER, "eth0.5", software="vlan", lower=NIC)],
                 [address(UPPER, "2001:db8::1/64")], [route(UPPER, version=6)],
                 ("carries the IPv6 default route (via eth0.5)", "has address 2001:db8::1/64 (via eth0.5)"),
                 id="a VLAN's"),
    pytest.param([link(NIC, "eth0", master=UPPER), bond()], [address(UPPER, "192.0.2.1/24")], [route(UPPER)],
                 ("port of bond0 (bond)", "carries the default route (via bond0)",
                  "has address 192.0.2.1/24 (via bond0)"), id="a bond's"),
    pytest.param([link(NIC, "eth0", master=UPPER), bond(master=TOP), link(TOP, "br0", software="bridge")],
                 [], [route(TOP)],
                 ("port of bond0 (bond)", "port of br0 (bridge) (via bond0)",
                  "carries the default route (via br0)"), id="a bridge over a bond"),
    pytest.param([link(NIC, "eth0", master=UPPER), bond(),
                  link(TOP, "bond0.7", software="vlan", lower=UPPER)], [], [route(TOP)],
                 ("port of bond0 (bond)", "carries the default route (via bond0.7)"), id="a VLAN over a bond"),
    pytest.param([link(NIC, "eth0", master=UPPER), link(UPPER, "ovs-system", software="openvswitch")], [], [],
                 ("port of ovs-system (Open vSwitch)",), id="Open vSwitch"),
    pytest.param([link(NIC, "eth0", master=UPPER), link(UPPER, "team0", software="team")], [], [],
                 ("port of team0 (team)",), id="team"),
    pytest.param([link(NIC, "eth0"), link(UPPER, "macvtap0", software="macvtap", lower=NIC)], [], [],
                 ("carries macvtap0 (macvtap)",), id="a VM's"),
    pytest.param([link(NIC, "eth0", master=UPPER), bond(),
                  link(TOP, "macvtap0", software="macvtap", lower=UPPER)], [], [],
                 ("port of bond0 (bond)", "carries macvtap0 (macvtap) (via bond0)"), id="a VM's over a bond"),
    pytest.param([link(NIC, "eth1", master=UPPER), link(UPPER, "eth0")], [], [route(UPPER)],
                 ("port of eth0", "carries the default route (via eth0)"), id="a driver's own pair of NICs"),
    pytest.param([link(NIC, "eth0", master=UPPER)], [], [], ("port of link 10",), id="a master nobody sees"),
    pytest.param([link(NIC, "veth0", software="veth", lower=NIC2), link(NIC2, "veth1", software="veth", lower=NIC)],
                 [address(NIC2, "192.0.2.1/24")], [route(NIC2)], (), id="the other end of a pair"),
    pytest.param([link(NIC, "eth0", master=UPPER), link(UPPER, "a", software="bond", master=TOP),
                  link(TOP, "b", software="bridge", master=UPPER)], [], [],
                 ("port of a (bond)", "port of b (bridge) (via a)", "port of a (bond) (via b)"), id="a loop ends"),
])
def test_ties_of_eth0(links, addresses, routes, ties):
    assert find_ties(links, addresses, routes).get(NIC, ()) == ties


INDEX = st.integers(1, 6)


@given(st.lists(st.tuples(st.none() | INDEX, st.none() | INDEX, st.sampled_from([None, "vlan", "veth", "bond"])),
                min_size=1, max_size=6), st.lists(st.lists(INDEX, max_size=3)))
def test_any_stack_of_links_ends(stack, routes):
    """Whatever stands on whatever: it ends, no sentence twice, and a route's own link is always tied."""
    links = [link(n + 1, f"l{n + 1}", master=master, lower=lower, software=software)
             for n, (master, lower, software) in enumerate(stack)]
    ties = find_ties(links, [], [route(*indices) for indices in routes])
    for index, sentences in ties.items():
        assert len(set(sentences)) == len(sentences)
        assert 1 <= index <= len(links)
    for index in {index for indices in routes for index in indices if index <= len(links)}:
        assert "carries the default route" in ties[index]


# ---- joined with a host -------------------------------------------------------------------------------------


class Tables:
    """What a dump of addresses and routes gives; `error` instead of routes."""

    def __init__(self, addresses=(), routes=(), error=None):
        self.addresses, self.routes, self.error = tuple(addresses), tuple(routes), error

    def dump_addresses(self):
        return self.addresses

    def dump_routes(self):
        if self.error:
            raise self.error
        return self.routes


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "sys")


def look(tree, tables, links=()):
    every = (*tree.links, *links)
    return add_ties(Sysfs(tree.root).scan(every), every, tables)


def index_of(tree, name):
    (found,) = [link.index for link in tree.links if link.name == name]
    return found


def test_ties_of_pfs_vfs_and_plain_nics(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=3)).add(Pf("0000:5e:00.0", "ens2f0", num_vfs=1))
    tree.add_other("0000:00:03.0", "020000", netdev="eth0", driver="virtio-pci")
    host = look(tree, Tables([address(index_of(tree, "ens1f0"), "192.0.2.1/24")],
                             [route(index_of(tree, "ens1f0v1")), route(index_of(tree, "eth0"), version=6)]))
    assert [function.ties for function in (*host.pfs, *host.vfs, *host.others)] == [
        ("has address 192.0.2.1/24",), (), (), ("carries the default route",), (), (),
        ("carries the IPv6 default route",)]
    assert host.unreadable == ()


def test_what_nobody_gave_a_vf_for_good_does_not_tie_it(tree):
    """A DHCP server's address, and a route to somewhere; a PF is tied by those all the same."""
    tree.add(Pf(PF, "ens1f0", num_vfs=2))
    names = ("ens1f0", "ens1f0v0", "ens1f0v1")
    given = [replace(address(index_of(tree, name), f"192.0.2.{n}/24"), lasting=name == "ens1f0v1")
             for n, name in enumerate(names)]
    host = look(tree, Tables(given, [route(index_of(tree, name), prefix=16) for name in names[:2]]))
    assert [function.ties for function in (*host.pfs, *host.vfs)] == [
        ("carries a route", "has address 192.0.2.0/24"), (), ("has address 192.0.2.2/24",)]


def test_a_representor_ties_its_pf_not(tree):
    tree.add(nic("mlx5 switchdev", PF, "ens1f0np0", num_vfs=2))
    ovs = link(99, "ovs-system", software="openvswitch")
    links = tuple(
        link(each.index, each.name, pci=each.pci, port=each.port, master=99 if each.port == "pf0vf1" else None)
        for each in tree.links)
    host = add_ties(Sysfs(tree.root).scan(links), (*links, ovs), Tables())
    assert host.pfs[0].ties == ()


def test_a_second_netdev_of_a_pf_ties_it(tree):
    """A NIC with two ports on one PCI function."""
    tree.add(Pf(PF, "ens1"))
    second = link(50, "ens1d1", pci=PF)
    host = look(tree, Tables(routes=[route(50)]), [second])
    assert host.pfs[0].link is not None
    assert (host.pfs[0].link.name, host.pfs[0].ties) == ("ens1", ("carries the default route",))


def test_ties_where_the_kernel_tells_no_parents(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=1))
    links = tree.links_without_parent
    host = add_ties(Sysfs(tree.root).scan(links), links, Tables(routes=[route(index_of(tree, "ens1f0v0"))]))
    assert [function.ties for function in (*host.pfs, *host.vfs)] == [(), ("carries the default route",)]


def test_routes_that_cannot_be_read_are_not_no_routes(tree):
    tree.add(Pf(PF, "ens1f0", num_vfs=2, away={1})).add(Pf("0000:5e:00.0", None))
    host = look(tree, Tables(error=HostError("cannot list routes: no", errno=5)))
    doubt = ("may carry the node's addresses and routes: cannot list routes: no: EIO",)
    assert [function.ties for function in (*host.pfs, *host.vfs)] == [doubt, (), doubt, ()]
    assert host.unreadable == ("cannot list routes: no: EIO",)


# ---- devlink, joined ----------------------------------------------------------------------------------------


class Drivers:
    """What devlink answers: a value or an error for each PF."""

    def __init__(self, modes, packages=None):
        self.modes, self.packages, self.asked = modes, packages or {}, []

    def eswitch_mode(self, address):
        self.asked.append(address)
        return self._say(self.modes, address)

    def firmware_package(self, address):
        return self._say(self.packages, address)

    @staticmethod
    def _say(answers, address):
        answer = answers.get(address)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_devlink_of_each_pf(tree):
    pfs = [PciAddress(f"0000:{bus}:00.0") for bus in ("3b", "5e", "86", "af")]
    tree.add(nic("mlx5 switchdev", pfs[0], "a", num_vfs=1)).add(nic("ice", pfs[1], "b"))
    tree.add(nic("igb", pfs[2], "c")).add(Pf(pfs[3], None, driver="vfio-pci"))
    modes = {pfs[0]: "switchdev", pfs[1]: HostError("cannot read it", errno=1)}
    drivers = Drivers(modes, {pfs[1]: "ICE OS Default"})
    host = add_devlink(Sysfs(tree.root).scan(tree.links), drivers)
    assert [(pf.eswitch, pf.firmware_package) for pf in host.pfs] == [
        ("switchdev", None), (None, "ICE OS Default"), (None, None), (None, None)]
    assert host.unreadable == ("cannot read it: EPERM",)
    assert drivers.asked == pfs[:3]
