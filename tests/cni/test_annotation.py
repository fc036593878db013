"""The networks annotation: both forms, every key, every mistake at once, and what Multus would make of it."""

import difflib
import json
import re
from ipaddress import ip_address, ip_interface
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cni.selection
from cni.annotation import NETWORKS, AnnotationError, format_problems, parse_networks
from cni.networkref import Bandwidth, NetworkRef, Networks, PortMapping
from sriov.pci import MacAddress
from tests.cni.test_protocol import json_values

MAC = "02:00:00:00:00:01"


def refs(text):
    """The networks of an annotation that has nothing to warn about, in a pod of namespace `pod`."""
    parsed = parse_networks(text if isinstance(text, str) else json.dumps(text), "pod")
    assert parsed.warnings == ()
    return parsed.refs


def problems(text):
    with pytest.raises(AnnotationError) as caught:
        parse_networks(text if isinstance(text, str) else json.dumps(text), "pod")
    return list(caught.value.problems)


def warnings(text):
    return list(parse_networks(text if isinstance(text, str) else json.dumps(text), "pod").warnings)


def element(**keys):
    """A JSON list with one network; underscores in keys are dashes."""
    return [{"name": "fast", **{key.replace("_", "-"): value for key, value in keys.items()}}]


# ---- the short form -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("fast", [("pod", "fast", None)]),
    ("a/fast@data0", [("a", "fast", "data0")]),
    (" fast , a / b @ eth0.100,\nc", [("pod", "fast", None), ("a", "b", "eth0.100"), ("pod", "c", None)]),
    ("fast,fast", [("pod", "fast", None), ("pod", "fast", None)]),
    ("/fast@", [("pod", "fast", None)]),
    ("null", [("pod", "null", None)]),
    ("n@fifteen-letters,n@uplink_p0,n@" + "é" * 7,
     [("pod", "n", "fifteen-letters"), ("pod", "n", "uplink_p0"), ("pod", "n", "é" * 7)]),
])
def test_short_form(text, expected):
    assert refs(text) == tuple(NetworkRef(index=index, namespace=namespace, name=name, interface=interface)
                               for index, (namespace, name, interface) in enumerate(expected))


@pytest.mark.parametrize(("text", "problem"), [
    ("a,,b", "networks[1]: the annotation has nothing before a comma, expected a network like default/fast@net1"),
    ("a,", "networks[1]: the annotation ends with a comma, expected a network like default/fast@net1"),
    (" \n", "networks[0]: the annotation is blank, expected a network like default/fast@net1"),
    ("a/b/c", 'networks[0]: "a/b/c" has more than one /, expected [NAMESPACE/]NAME[@INTERFACE]'),
    ("a@b/c", 'networks[0].namespace: "a@b" is not a namespace (a-z, 0-9, - inside; at most 63)'),
    ("a@b@c", 'networks[0]: "a@b@c" has more than one @, expected [NAMESPACE/]NAME[@INTERFACE]'),
    ("a/@x", 'networks[0].name: "" is not a name (a-z, 0-9, - inside; at most 253)'),
    ("Fast", 'networks[0].name: "Fast" is not a name (a-z, 0-9, - inside; at most 253)'),
    ("A/b", 'networks[0].namespace: "A" is not a namespace (a-z, 0-9, - inside; at most 63)'),
    ("a\0b", 'networks[0].name: "a\\u0000b" is not a name (a-z, 0-9, - inside; at most 253)'),
])
def test_short_form_problems(text, problem):
    assert problems(text) == [problem]


def test_names_that_multus_takes_in_json_only():
    assert problems("v1.net")[0].endswith("(a-z, 0-9, - inside; at most 253); a name with dots needs the JSON form")
    assert refs('[{"name": "v1.net"}]')[0].name == "v1.net"


def test_long_values_are_cut():
    assert problems("x" * 64 + "/b") == [
        f'networks[0].namespace: "{"x" * 60}"... is not a namespace (a-z, 0-9, - inside; at most 63)']


@pytest.mark.parametrize("name", ["sixteen-letters-", ".", "..", "a:b", "a b", "é" * 8, "a\0"])
def test_interface_names_that_the_kernel_refuses(name):
    for text in (f"n@{name}", element(interface=name), element(interfaceRequest=name)):
        (problem,) = problems(text)
        assert problem.startswith("networks[0].interface")
        assert problem.endswith("is not an interface name: 1 to 15 bytes, "
                                "no slash, colon, percent sign or white space")


def test_interface_names_that_are_taken():
    assert problems("a@lo") == ['networks[0].interface: "lo" is every pod\'s loopback interface']
    assert problems("a@eth0") == [
        'networks[0].interface: "eth0" is every pod\'s interface in the cluster\'s network']
    assert problems("a@x,b@x,c@x") == [
        'networks[1].interface: "x" is the interface of networks[0] already',
        'networks[2].interface: "x" is the interface of networks[0] already']
    assert warnings("a@net2,b,c@net3,d@net1") == [
        'networks[0].interface: "net2" is what networks[1] is called, as it has no interface of its own']


def test_an_empty_annotation_attaches_nothing():
    assert parse_networks("", "pod") == Networks(
        warnings=(f"annotation {NETWORKS} is empty, so no network is attached",))
    assert refs("[]") == ()


# ---- the JSON form --------------------------------------------------------------------------------------


def test_all_keys():
    (ref,) = refs([{
        "name": "v1.fast", "namespace": "net", "interface": "data0", "mac": "02-00-00-00-00-01",
        "ips": ["10.0.0.1", "10.0.0.2/24", "fd00::1/64"], "infiniband-guid": "02:00:00:00:00:00:00:01",
        "cni-args": {"a": {"b": 1}}, "default-route": ["10.0.0.254", "fd00::ff"],
        "portMappings": [{"hostPort": 80, "containerPort": 65535},
                         {"hostPort": 1, "containerPort": 1, "protocol": "sctp", "hostIP": "10.1.1.1"}],
        "bandwidth": {"ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4},
        "org.example.own": [1]}])
    assert ref == NetworkRef(
        index=0, namespace="net", name="v1.fast", interface="data0", mac=MacAddress(MAC),
        ips=(ip_address("10.0.0.1"), ip_interface("10.0.0.2/24"), ip_interface("fd00::1/64")),
        guid="02:00:00:00:00:00:00:01", cni_args={"a": {"b": 1}},
        default_route=(ip_address("10.0.0.254"), ip_address("fd00::ff")),
        port_mappings=(PortMapping(host_port=80, container_port=65535),
                       PortMapping(host_port=1, container_port=1, protocol="SCTP", host_ip=ip_address("10.1.1.1"))),
        bandwidth=Bandwidth(ingress_rate=1, ingress_burst=2, egress_rate=3, egress_burst=4))
    assert ref.path == "networks[0]"
    assert refs(element(ipam_claim_reference="mine"))[0].ipam_claim == "mine"
    assert refs(element(default_route=[]))[0].default_route == ()


def test_what_templates_leave_is_absent():
    bare = refs('[{"name": "fast"}]')
    keys = ("namespace", "interface", "mac", "infiniband-guid", "ipam-claim-reference", "interfaceRequest",
            "deviceID")
    assert refs([{"name": "fast", **dict.fromkeys(keys, "")}]) == bare
    others = ("ips", "cni-args", "default-route", "portMappings", "bandwidth")
    assert refs([{"name": "fast", **dict.fromkeys((*keys, *others))}]) == bare
    assert refs(element(bandwidth={"ingressRate": 0}))[0].bandwidth == Bandwidth()


def test_content_decides_on_the_form():
    assert problems('"fast"') == ['expected a list like [{"name": "fast"}], got "fast"']
    assert problems('{"name": "fast"}') == ['expected a list like [{"name": "fast"}], got an object']
    assert problems("fast[0]") == ['not JSON: 1:1: Expecting value, at "fast[0]"']
    assert problems('["fast", null, 3, [], {"name": "a/b"}, {}]') == [
        'networks[0]: expected an object, like {"name": "fast"}, got "fast"',
        "networks[1]: expected an object, got null",
        "networks[2]: expected an object, got 3",
        "networks[3]: expected an object, got a list",
        'networks[4].name: "a/b" is not a name, write "namespace": "a", "name": "b"',
        "networks[5].name: missing, expected the name of a NetworkAttachmentDefinition"]


@pytest.mark.parametrize(("text", "problem"), [
    ('[\n  {"name": "a"}\n  {"b": 1}\n]', 'not JSON: 3:3: Expecting \',\' delimiter, at "{\\"b\\": 1}"'),
    ("[{'name': 'a'}]", 'not JSON: 1:3: Expecting property name enclosed in double quotes, at "\'name\': \'a\'}]"'),
    ('[{"name": "a"}', "not JSON: 1:15: Expecting ',' delimiter, at the end of the line"),
    ("[NaN]", "not JSON: NaN is no number in JSON"),
    ("[" * 100_000, "not JSON: nested too deeply"),
])
def test_what_is_not_json(text, problem):
    assert problems(text) == [problem]


def test_a_trailing_comma():
    (problem,) = problems('[{"name": "a",}]')      # newer Pythons point at the comma itself
    assert re.fullmatch(r'not JSON: 1:1[45]: .*, at ",?}]"', problem)


@pytest.mark.parametrize(("key", "values", "problem"), [
    ("mac", ["aa:bb", f"{MAC}:00:00", f" {MAC}", "x"], "is not a 6-byte MAC address like 02:00:00:00:00:01"),
    ("mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00"], "is not a unicast MAC address, no interface may have it"),
    ("mac", [5, [], {}, True], "is not text"),
    ("infiniband-guid", [MAC, "x", f"{MAC}-00-01"], "is not an 8-byte GUID like 02:00:00:00:00:00:00:01"),
    ("ips", ["10.0.0.1", {}, 5], "is not a list"),
    ("default-route", ["10.0.0.1", {}, 5], "is not a list"),
    ("cni-args", ["x", [], 5], "is not an object"),
    ("bandwidth", ["x", [], 5], "is not an object"),
    ("portMappings", ["x", {}, 5], "is not a list"),
    ("name", ["A", "a b", "-a", "a..b", "x" * 254], "is not a name (a-z, 0-9, - and . inside; at most 253)"),
    ("namespace", ["A", "a.b", "x" * 64], "is not a namespace (a-z, 0-9, - inside; at most 63)"),
    ("deviceID", ["0000:3b:02.1", 5, []], "must not be chosen here, the kubelet chooses the device"),
])
def test_wrong_values(key, values, problem):
    for value in values:
        (got,) = problems([{"name": "fast", key: value}])
        assert got.startswith(f"networks[0].{key}: ")
        assert got.endswith(problem)


@pytest.mark.parametrize("text", [
    "10.0.0.256", "10.0.0.1/33", "10.0.0.1/255.0.0.0", "fe80::1%eth0", "10.0.0.1/", "", 5])
def test_wrong_addresses(text):
    (problem,) = problems(element(ips=["10.0.0.1", text]))
    assert problem.startswith("networks[0].ips[1]: ")
    (problem,) = problems(element(default_route=[text]))
    assert problem.startswith("networks[0].default-route[0]: ")


def test_a_value_is_shown_as_it_stands_there():
    assert problems(element(mac="aa:bb")) == [
        'networks[0].mac: "aa:bb" is not a 6-byte MAC address like 02:00:00:00:00:01']
    assert problems('[{"name": "a", "mac": 1' + "0" * 4000 + "}]")[0].startswith("networks[0].mac: 1000000000")
    assert problems('[{"name": "a", "mac": "\\ud800"}]')[0].startswith('networks[0].mac: "\\ud800" is not')


def test_ports_and_bandwidth():
    wrong = {"hostPort": 1, "containerPort": 1, "protocol": "ICMP", "hostIP": "x"}
    ports = [None, {"hostPort": 0}, {"hostPort": "1", "containerPort": 1.0}, wrong]
    assert problems(element(portMappings=ports)) == [
        "networks[0].portMappings[0]: null is not an object",
        "networks[0].portMappings[1].hostPort: 0 is not a number from 1 to 65535",
        "networks[0].portMappings[1].containerPort: missing, expected a number from 1 to 65535",
        'networks[0].portMappings[2].hostPort: "1" is not a number from 1 to 65535',
        "networks[0].portMappings[2].containerPort: 1.0 is not a number from 1 to 65535",
        'networks[0].portMappings[3].protocol: "ICMP" is not one of TCP, UDP, SCTP',
        'networks[0].portMappings[3].hostIP: "x" is not an IP address like 10.0.0.1 or fd00::1']
    assert problems(element(bandwidth={"ingressRate": -1, "egressBurst": 5})) == [
        "networks[0].bandwidth.ingressRate: -1 is not a number from 0 to 9223372036854775807",
        "networks[0].bandwidth.egressBurst: needs egressRate, which is not set"]
    assert warnings(element(bandwidth={"ingresRate": 1})) == [
        "networks[0].bandwidth.ingresRate: unknown key, did you mean ingressRate?"]


def test_default_routes():
    document = [{"name": "a", "default-route": []}, {"name": "b"}, {"name": "c", "default-route": ["10.0.0.1"]}]
    assert problems(document) == [
        "networks[2].default-route: networks[0] has one already, expected one at most"]
    assert problems(element(default_route=["10.0.0.1", "10.0.0.2"])) == [
        "networks[0].default-route: names more than one IPv4 gateway, expected one at most"]


def test_claims_hold_the_addresses():
    assert problems(element(ipam_claim_reference="c", ips=["10.0.0.1"])) == [
        "networks[0].ipam-claim-reference: excludes ips, the claim holds the addresses"]


# ---- keys as Go's decoder takes them --------------------------------------------------------------------


def test_unknown_keys():
    assert warnings(element(interfcae="x", foo=1, **{"org.example.x": 1, "a b": 1})) == [
        "networks[0].interfcae: unknown key, did you mean interface?",
        "networks[0].foo: unknown key",
        'networks[0]."a b": unknown key']


def test_keys_in_another_case_count_as_they_do_in_multus():
    text = '[{"Name": "fast", "MAC": "' + MAC + '", "ip\u017f": ["10.0.0.1"]}]'
    (ref,) = parse_networks(text, "pod").refs
    assert (ref.name, ref.mac, ref.ips) == ("fast", MAC, (ip_address("10.0.0.1"),))
    assert warnings(text) == [
        "networks[0].Name: Multus reads it as name, write name",
        "networks[0].MAC: Multus reads it as mac, write mac",
        'networks[0]."ip\u017f": Multus reads it as ips, write ips']
    assert problems(element(DeviceId="0000:3b:02.1")) == [
        'networks[0].deviceID: "0000:3b:02.1" must not be chosen here, the kubelet chooses the device']


def test_of_a_repeated_key_the_last_counts():
    text = '[{"name": "a", "mac": "x", "name": "b", "MAC": "' + MAC + '", "name": null}]'
    (ref,) = parse_networks(text, "pod").refs
    assert (ref.name, ref.mac) == ("b", MAC)
    assert warnings(text) == [
        'networks[0].name: stands there more than once, Multus takes the last: "b"',
        f'networks[0].mac: stands there more than once, Multus takes the last: "{MAC}"',
        "networks[0].name: stands there more than once, Multus takes the last: null"]


def test_the_deprecated_alias():
    assert parse_networks('[{"name": "a", "interfaceRequest": "x"}]', "pod").refs[0].interface == "x"
    text = [{"name": "a", "interfaceRequest": "x", "interface": "y"}]
    assert parse_networks(json.dumps(text), "pod").refs[0].interface == "y"
    assert warnings(text) == ["networks[0].interfaceRequest: deprecated, write interface"]


# ---- the whole -------------------------------------------------------------------------------------------


def test_every_problem_at_once_and_the_warnings_with_them():
    with pytest.raises(AnnotationError) as caught:
        parse_networks('[{"name": "A", "mac": "x", "mcc": 1}, {"name": "b", "ips": 5}]', "pod")
    assert caught.value.message == f"""annotation {NETWORKS} has 3 problems:
- networks[0].name: "A" is not a name (a-z, 0-9, - and . inside; at most 253)
- networks[0].mac: "x" is not a 6-byte MAC address like 02:00:00:00:00:01
- networks[1].ips: 5 is not a list"""
    assert caught.value.warnings == ("networks[0].mcc: unknown key, did you mean mac?",)
    assert str(AnnotationError(["networks[0]: x"])) == f"annotation {NETWORKS}: networks[0]: x"


def test_a_message_has_an_end():
    lines = format_problems([f"networks[{n}]: x" for n in range(1000)]).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "- and 980 more"


# ---- large texts ----------------------------------------------------------------------------------------


def test_the_number_of_networks_has_a_limit():
    assert len(refs(",".join(["fast"] * 64))) == len(refs([{"name": "fast"}] * 64)) == 64
    for text in (",".join(["fast"] * 65), [{"name": "fast"}] * 65):
        assert problems(text) == ["65 networks, expected at most 64"]


def test_the_number_of_addresses_has_a_limit():
    assert len(refs(element(ips=["fd00::1"] * 128))[0].ips) == 128
    assert problems(element(ips=["fd00::1"] * 129)) == ["networks[0].ips: 129 entries, expected at most 128"]


def test_a_text_that_no_object_can_have_is_not_read():
    assert problems("x" * (1 + (256 << 10))) == ["262145 characters, expected at most 262144"]
    assert problems("[" + " " * (256 << 10)) == ["262145 characters, expected at most 262144"]


def test_reading_ends_when_there_are_enough_problems(monkeypatch):
    read = Mock()
    monkeypatch.setattr(cni.selection, "parse_interface_address", read)
    text = json.dumps([{"name": "a", "portMappings": [5] * 200}, {"name": "b", "ips": ["10.0.0.1"]}])
    with pytest.raises(AnnotationError) as caught:
        parse_networks(text, "pod")
    assert len(caught.value.problems) == 100
    read.assert_not_called()
    lines = caught.value.message.splitlines()
    assert lines[0] == f"annotation {NETWORKS} has 100 or more problems:"
    assert (len(lines), lines[-1]) == (22, "- and 80 more")


def test_warnings_and_searches_have_an_end(monkeypatch):
    search = Mock(wraps=difflib.get_close_matches)
    monkeypatch.setattr(difflib, "get_close_matches", search)
    found = warnings(element(**{f"nane{n}": 1 for n in range(10_000)}, **{"y" * 10_000: 1}))
    assert len(found) == 100
    assert found[4:6] == ["networks[0].nane4: unknown key, did you mean name?", "networks[0].nane5: unknown key"]
    assert search.call_count == 5


# ---- properties -----------------------------------------------------------------------------------------


LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
REFS = st.lists(st.tuples(LABELS, LABELS, st.from_regex(r"i[a-z0-9_.-]{0,10}", fullmatch=True)),
                max_size=5, unique_by=lambda ref: ref[2])


@given(REFS)
def test_both_forms_say_the_same(items):
    short = ",".join(f"{namespace}/{name}@{interface}" for namespace, name, interface in items)
    document = [dict(zip(("namespace", "name", "interface"), item, strict=True)) for item in items]
    assert not items or refs(short) == refs(document)
    assert [(ref.namespace, ref.name, ref.interface) for ref in refs(document)] == items


def outcome(text):
    """How many networks, or the error; no other exception."""
    try:
        return len(parse_networks(text, "pod").refs)
    except AnnotationError as error:
        return error


@given(st.text())
@example('[{"name": "\ud800"}]')
@example("[1e999]")
def test_any_text_is_read_or_refused(text):
    read = outcome(text)
    assert str(read).startswith(f"annotation {NETWORKS}") if isinstance(read, AnnotationError) else read >= 0


KEYS = st.sampled_from([
    "name", "namespace", "interface", "mac", "ips", "infiniband-guid", "cni-args", "default-route", "portMappings",
    "bandwidth", "ipam-claim-reference", "interfaceRequest", "deviceID", "Name", "hostPort", "ingressRate"])


@given(st.lists(st.dictionaries(KEYS, json_values) | json_values))
def test_any_json_is_read_or_refused(document):
    read = outcome(json.dumps(document))
    assert read.problems if isinstance(read, AnnotationError) else read == len(document)
