"""CNI results: golden documents of every version, what IPAM answers, and chains."""

import json
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.protocol import VERSIONS, Code
from cni.result import (
    Addresses,
    Interface,
    Ip,
    Route,
    find_previous,
    find_sandbox,
    format_result,
    join_results,
    parse_addresses,
)
from sriov.host.routes import RouteOptions
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_protocol import json_values, outcome, refusal, request

# ---- results --------------------------------------------------------------------------------------------

INTERFACE = Interface(name="net1", mac=MacAddress("02:00:00:00:00:01"), mtu=9000, sandbox="/run/netns/c1",
                      pci=PciAddress("0000:3b:02.1"))
ADDRESSES = Addresses(
    ips=(Ip(address=ip_interface("10.1.0.5/24"), gateway=ip_address("10.1.0.1")),
         Ip(address=ip_interface("fd00::5/64")),
         Ip(address=ip_interface("10.2.0.5/24"))),
    routes=(Route(to=ip_network("0.0.0.0/0"), gateway=ip_address("10.1.0.1")), Route(to=ip_network("fd01::/64"))),
    dns={"nameservers": ["10.1.0.53"], "search": ["example.com"]},
)
ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "fd01::/64"}]
DNS = {"nameservers": ["10.1.0.53"], "search": ["example.com"]}
OLDEST = {
    "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]},
    "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "fd01::/64"}]},
    "dns": DNS,
}
MIDDLE = {
    "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/c1"}],
    "ips": [{"version": "4", "interface": 0, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
            {"version": "6", "interface": 0, "address": "fd00::5/64"},
            {"version": "4", "interface": 0, "address": "10.2.0.5/24"}],
    "routes": ROUTES,
    "dns": DNS,
}
NEWEST = {
    "interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 9000, "sandbox": "/run/netns/c1",
                    "pciID": "0000:3b:02.1"}],
    "ips": [{"interface": 0, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
            {"interface": 0, "address": "fd00::5/64"},
            {"interface": 0, "address": "10.2.0.5/24"}],
    "routes": ROUTES,
    "dns": DNS,
}
GOLDEN = {"0.1.0": OLDEST, "0.2.0": OLDEST, "0.3.0": MIDDLE, "0.3.1": MIDDLE, "0.4.0": MIDDLE, "1.0.0": NEWEST,
          "1.1.0": NEWEST}


@pytest.mark.parametrize("version", VERSIONS)
def test_result(version):
    document = format_result(INTERFACE, ADDRESSES, version)
    assert json.loads(json.dumps(document)) == {"cniVersion": version, **GOLDEN[version]}


@pytest.mark.parametrize(("version", "document"), [
    ("0.1.0", {"dns": {}}),
    ("0.2.0", {"dns": {}}),
    ("0.3.0", {"interfaces": [{"name": "net1", "sandbox": "/s"}], "ips": [], "routes": [], "dns": {}}),
    ("0.4.0", {"interfaces": [{"name": "net1", "sandbox": "/s"}], "ips": [], "routes": [], "dns": {}}),
    ("1.1.0", {"interfaces": [{"name": "net1", "sandbox": "/s", "pciID": "0000:3b:02.1"}], "ips": [],
               "routes": []}),
])
def test_result_without_addresses_mac_and_mtu(version, document):
    interface = Interface(name="net1", mac=None, mtu=None, sandbox="/s", pci=PciAddress("0000:3b:02.1"))
    assert format_result(interface, Addresses(), version) == {"cniVersion": version, **document}


# ---- what IPAM answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_addresses_of_every_version(version):
    read = parse_addresses({"cniVersion": version, **GOLDEN[version]}, "static's")
    if version in ("0.1.0", "0.2.0"):       # one address of each family is all that they hold
        assert read == Addresses(ips=ADDRESSES.ips[:2], routes=ADDRESSES.routes, dns=ADDRESSES.dns)
    else:
        assert read == ADDRESSES


@pytest.mark.parametrize("document", [
    {}, {"ips": None, "routes": None, "dns": None}, {"ips": [], "dns": {}}, {"ip4": None, "ip6": None}])
def test_no_addresses(document):
    assert parse_addresses(document, "static's") == Addresses()


def test_host_bits_of_a_route_do_not_matter():
    read = parse_addresses({"routes": [{"dst": "10.1.2.3/16", "gw": ""}]}, "static's")
    assert read.routes == (Route(to=ip_network("10.1.0.0/16")),)


OPTIONS = {"table": 100, "priority": 7, "scope": 253, "mtu": 1400, "advmss": 1360}


@pytest.mark.parametrize("version", VERSIONS)
def test_options_of_a_route(version):
    route = {"dst": "10.50.0.0/16", **OPTIONS}
    plain = {"dst": "10.50.0.0/16"}
    read = parse_addresses({"ips": [{"address": "10.1.0.5/24"}], "routes": [route, plain]}, "static's")
    assert read.routes == (Route(to=ip_network("10.50.0.0/16"), options=RouteOptions(**OPTIONS)),
                           Route(to=ip_network("10.50.0.0/16")))
    document = format_result(INTERFACE, read, version)
    if version in ("0.1.0", "0.2.0"):
        assert document["ip4"]["routes"] == [plain, plain]
    else:
        assert document["routes"] == [route, plain]
    assert parse_addresses({"routes": [{**plain, "table": 0, "scope": 0}]}, "x").routes[0].options == RouteOptions(
        table=0, scope=0)


@pytest.mark.parametrize(("key", "wrong"), [
    ("table", -1), ("table", 2**32), ("table", "main"), ("priority", True), ("scope", 256), ("mtu", 1.5),
    ("advmss", [])])
def test_options_that_are_none(key, wrong):
    code, message = refusal(parse_addresses, {"routes": [{"dst": "10.50.0.0/16", key: wrong}]}, "static's")
    assert code == 103
    assert f"{key}: expected a number from 0 to " in message


@pytest.mark.parametrize("document", [
    {"ips": {}, "routes": [{}]}, {"ips": 3}, {"ips": "10.0.0.1/8"}, {"ips": [{}]}, {"ips": [None]},
    {"ips": ["10.0.0.1/8"]},
    {"ips": [{"address": "10.0.0.1"}]}, {"ips": [{"address": 5}]}, {"ips": [{"address": True}]},
    {"ips": [{"address": "fe80::1%eth0/64"}]}, {"ips": [{"address": "10.0.0.1/33"}]},
    {"ips": [{"address": "10.0.0.1/8", "gateway": 5}]}, {"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]},
    {"ips": [{"address": "10.0.0.1/8", "gateway": "fd00::1"}]},
    {"routes": [{"gw": "10.0.0.1"}]}, {"routes": [{"dst": 0}]}, {"routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]},
    {"ip4": "10.0.0.1/8"}, {"ip4": {}, "ip6": {"gateway": "fd00::1"}}, {"ip4": {"ip": "10.0.0.1/8", "routes": 3}},
    {"dns": "10.0.0.53"}, {"dns": ["10.0.0.53"]}])
def test_addresses_that_cannot_be_read(document):
    code, message = refusal(parse_addresses, document, "static's")
    assert code == 103
    assert message.startswith("static's cannot be read: ")
    assert refusal(parse_addresses, document, "it", Code.INVALID_CONFIG)[0] == 7


addresses = st.ip_addresses().flatmap(lambda ip: st.sampled_from([f"{ip}", f"{ip}/24", f"{ip}/64"]))
ipam_values = st.recursive(
    json_values | addresses, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["address", "gateway", "dst", "gw", "ip", "routes"]), inner, max_size=4), max_leaves=8)


@given(st.dictionaries(st.sampled_from(["ips", "ip4", "ip6", "routes", "dns", "interfaces"]), ipam_values),
       st.sampled_from(VERSIONS))
def test_any_ipam_result_is_addresses_or_an_error(document, version):
    read = outcome(parse_addresses, document, "static's")
    if isinstance(read, Addresses):
        shown = format_result(INTERFACE, read, version)
        assert json.loads(json.dumps(shown))["cniVersion"] == version


def test_a_route_without_a_gateway_takes_the_first_that_there_is():
    def gateway(to, **route):
        return Addresses(ips=(
            Ip(address=ip_interface("10.0.0.5/24")),
            Ip(address=ip_interface("fd00::5/64"), gateway=ip_address("fd00::1")),
            Ip(address=ip_interface("10.1.0.5/24"), gateway=ip_address("10.1.0.1")),
            Ip(address=ip_interface("10.2.0.5/24"), gateway=ip_address("10.2.0.1")),
        )).gateway(Route(to=ip_network(to), **route))

    assert gateway("10.99.0.0/16") == ip_address("10.1.0.1")
    assert gateway("fd99::/64") == ip_address("fd00::1")
    assert gateway("10.99.0.0/16", gateway=ip_address("10.2.0.9")) == ip_address("10.2.0.9")
    assert ADDRESSES.gateway(Route(to=ip_network("fd99::/64"))) is None


# ---- chains -----------------------------------------------------------------------------------------------


def previous(**keys):
    return {"cniVersion": "1.0.0", "interfaces": [{"name": "eth9", "sandbox": "/s"}],
            "ips": [{"address": "10.8.0.1/24", "interface": 0}], "routes": [{"dst": "10.8.0.0/16"}], **keys}


def own(version="1.0.0"):
    return format_result(INTERFACE, ADDRESSES, version)


def test_the_first_of_a_chain_answers_its_own():
    assert join_results(None, own()) == join_results({}, own()) == own()


def test_a_later_one_adds_to_what_there_is():
    joined = join_results(previous(dns={"nameservers": ["10.8.0.53"]}, other=1), own())
    assert [each["name"] for each in joined["interfaces"]] == ["eth9", "net1"]
    assert [(ip["address"], ip["interface"]) for ip in joined["ips"]] == [
        ("10.8.0.1/24", 0), ("10.1.0.5/24", 1), ("fd00::5/64", 1), ("10.2.0.5/24", 1)]
    assert joined["routes"] == [{"dst": "10.8.0.0/16"}, *ROUTES]
    assert (joined["dns"], joined["other"], joined["cniVersion"]) == (DNS, 1, "1.0.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_stands_in_no_ones_way_is_kept_in_every_version(version):
    bare = format_result(INTERFACE, Addresses(), version)
    before = {"cniVersion": version, **GOLDEN[version]}
    joined = join_results(before, bare)
    assert joined["dns"] == DNS
    if version in ("0.1.0", "0.2.0"):
        assert (joined["ip4"], joined["ip6"]) == (OLDEST["ip4"], OLDEST["ip6"])
    else:
        assert (joined["ips"], len(joined["interfaces"])) == (before["ips"], 2)


@pytest.mark.parametrize("absent", [{}, {"prevResult": None}])
def test_no_previous_result(absent):
    assert find_previous(absent, "1.0.0") is None


def test_previous_result():
    empty = previous(cniVersion=None, interfaces=None, ips=None, routes=None, dns=None)
    for made in (previous(), empty, dict[str, object]()):
        assert find_previous({"prevResult": made}, "1.0.0") == made


@pytest.mark.parametrize(("made", "problem"), [
    ([], ": expected an object, got a list"), ("x", ": expected an object, got 'x'"),
    (previous(cniVersion="0.4.0"), ".cniVersion: expected 1.0.0 as in the configuration, got '0.4.0'"),
    (previous(interfaces={}), ".interfaces: expected a list of objects"),
    (previous(interfaces=["eth9"]), ".interfaces: expected a list of objects"),
    (previous(ips=3), ".ips: expected a list of objects"),
    (previous(routes=[None]), ".routes: expected a list of objects"),
    (previous(dns=["x"]), ".dns: expected an object, got a list"),
    (previous(dns={"domain": "x" * 2**20}), ": expected at most 1048576 bytes, got 1048762"),
    (previous(ips=[{"interface": "0"}]), ".ips[0].interface: expected a number, got '0'"),
    (previous(ips=[{}, {"interface": True}]), ".ips[1].interface: expected a number, got true")])
def test_previous_results_that_are_none(made, problem):
    assert refusal(find_previous, {"prevResult": made}, "1.0.0") == (
        7, f"network configuration: prevResult{problem}")


@given(json_values, st.sampled_from(VERSIONS))
def test_any_previous_result_is_joined_or_an_error(made, version):
    config = {"prevResult": made}
    found = outcome(find_previous, config, version)
    if isinstance(found, dict):
        json.dumps(join_results(found, own(version)))
    sandbox = find_sandbox(request(CNI_COMMAND="DEL", config={"cniVersion": version, "name": "net", **config}))
    assert isinstance(sandbox, str)


def test_the_sandbox_of_a_del_whose_namespace_has_no_path_any_more():
    asked = {"cniVersion": "1.0.0", "name": "net", "prevResult": own()}
    assert find_sandbox(request(asked, CNI_COMMAND="DEL", CNI_NETNS="")) == "/run/netns/c1"
    assert find_sandbox(request({**asked, "prevResult": previous()}, CNI_COMMAND="DEL")) == ""
