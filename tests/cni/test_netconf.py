"""Network configurations: every key, who wins, and every mistake at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.fields import ENOUGH
from cni.keys import fold_case
from cni.netconf import NetConf, find_device, find_ipam, parse_netconf
from cni.protocol import CniError
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_protocol import json_values, outcome, refusal

VF = "0000:3b:02.1"
A, B, C, D = (f"02:00:00:00:00:0{digit}" for digit in "abcd")


def config(**keys):
    return {"cniVersion": "1.0.0", "name": "net", "type": "vfpool", "deviceID": VF, **keys}


def parse(cni_args=None, /, **keys):
    return parse_netconf(fold_case(config(**keys)), cni_args or {})


def problems(cni_args=None, /, **keys):
    with pytest.raises(CniError) as caught:
        parse(cni_args, **keys)
    assert caught.value.code == 7
    head, _, rest = caught.value.message.partition(": ")
    assert head == "network configuration"
    return rest.split("; ")


# ---- what each key means --------------------------------------------------------------------------------


def test_all_keys():
    assert parse(vlan=100, vlanQoS=3, vlanProto="802.1Q", mac=A, mtu=9000, spoofchk="on", trust="off",
                 link_state="enable", min_tx_rate=10, max_tx_rate=200, ipam={"type": "static"},
                 logLevel="Debug", logFile="/x", capabilities={"mac": True}, dns={}, prevResult={},
                 runtimeConfig={}, args={}, **{"cni.dev/valid-attachments": []}) == NetConf(
        network="net", device=PciAddress(VF), mtu=9000, ipam="static",
        settings=VfSettings(mac=MacAddress(A), vlan=100, vlan_qos=3, vlan_proto=0x8100, spoofchk=True, trust=False,
                            link_state=LinkState.ENABLE, min_tx_rate=10, max_tx_rate=200))


@pytest.mark.parametrize("absent", [None, ""])
def test_no_keys_leave_everything_as_it_is(absent):
    texts = dict.fromkeys(("mac", "spoofchk", "trust", "link_state", "vlanProto", "pciBusID"), absent)
    numbers = dict.fromkeys(("vlan", "vlanQoS", "mtu", "min_tx_rate", "max_tx_rate", "ipam", "runtimeConfig"))
    bare = NetConf(network="net", device=PciAddress(VF), mtu=None, ipam=None, settings=VfSettings())
    assert parse(**texts, **numbers) == parse() == bare
    assert parse(ipam={}) == parse(ipam={"type": absent}) == bare


@pytest.mark.parametrize(("key", "setting", "values"), [
    ("spoofchk", "spoofchk", {"on": True, "off": False}), ("trust", "trust", {"on": True, "off": False}),
    ("link_state", "link_state",
     {"auto": LinkState.AUTO, "enable": LinkState.ENABLE, "disable": LinkState.DISABLE})])
def test_choices(key, setting, values):
    for text, value in values.items():
        assert getattr(parse(**{key: text}).settings, setting) is value
    wrongs: tuple[object, ...] = ("On", "yes", " on", True, 1, 0, False, [], {}, ["on"])
    for wrong in wrongs:
        (problem,) = problems(**{key: wrong})
        assert problem.startswith(f"{key}: expected {' or '.join(map(repr, values))}, got ")


@pytest.mark.parametrize(("key", "low", "high"), [
    ("vlan", 0, 4094), ("mtu", 68, 65535), ("min_tx_rate", 0, 2**32 - 1), ("max_tx_rate", 0, 2**32 - 1),
    ("vlanQoS", 0, 7)])
def test_numbers(key, low, high):
    rest = {"vlan": 5} if key == "vlanQoS" else {}
    for value in (low, high):
        parse(**{key: value, **rest})
    wrongs: tuple[tuple[object, object], ...] = (
        (low - 1, low - 1), (high + 1, high + 1), (10**4000, "1" + "0" * 101 + "..."), ("5", "'5'"), (5.0, "5.0"),
        (True, "true"), ([], "a list"), ({}, "an object"), ("", "''"))
    for wrong, shown in wrongs:
        assert problems(**{key: wrong, **rest}) == [f"{key}: expected a number from {low} to {high}, got {shown}"]


def test_vlan_0_is_untagged_and_not_absent():
    assert parse(vlan=0).settings.vlan == 0
    assert parse().settings.vlan is None


@pytest.mark.parametrize("text", ["02:00:00:00:00:0A", "02-00-00-00-00-0a", "0200.0000.000a"])
def test_mac_forms(text):
    assert parse(mac=text).mac == A


@pytest.mark.parametrize("wrong", [
    "x", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01", 5, 0, False, []])
def test_mac_that_is_none(wrong):
    (problem,) = problems(mac=wrong)
    assert problem.startswith("mac: expected ")


# ---- who wins -------------------------------------------------------------------------------------------


def test_mac_sources():
    runtime, meta, args = {"mac": A}, {"cni": {"mac": D, "vlan": 7}}, {"MAC": B}
    assert parse(args, runtimeConfig=runtime, args=meta, mac=C).mac == A
    assert parse(args, args=meta, mac=C).mac == D
    assert parse(args, args={"cni": None}, mac=C).mac == B
    assert parse(mac=C).mac == C
    assert parse({"MAC": ""}, runtimeConfig={"mac": ""}, mac=C).mac == C


def test_a_bad_mac_is_named_by_its_source_and_not_passed_over():
    assert problems({"MAC": B}, runtimeConfig={"mac": "x"}) == [
        "runtimeConfig.mac: expected a MAC address like 02:00:00:00:00:01, got 'x'"]
    assert problems(args={"cni": {"mac": 5}}, mac=C) == ["args.cni.mac: expected text, got 5"]
    assert problems(mac=True) == ["mac: expected text, got true"]
    assert problems(args={"cni": []}) == ["args.cni: expected an object, got a list"]
    assert problems({"MAC": "x"}, mac=C) == [
        "CNI_ARGS.MAC: expected a MAC address like 02:00:00:00:00:01, got 'x'"]


def test_the_device_is_found_whatever_else_is_wrong():
    assert find_device({"deviceID": VF, "vlan": "x", "runtimeConfig": 5}) == VF
    assert find_device({"runtimeConfig": {"deviceID": VF}, "pciBusID": VF}) == VF
    assert [find_device(config) for config in (
        {}, {"deviceID": 5}, {"deviceID": "x"}, {"deviceID": VF, "pciBusID": "0000:99:00.1"})] == [None] * 4


def test_a_bad_mac_that_another_outweighs_is_odd_in_others_nads():
    said = "mac: expected a MAC address like 02:00:00:00:00:01, got 'x'"
    assert problems(runtimeConfig={"mac": A}, mac="x") == [said]
    others = parse(type="sriov", runtimeConfig={"mac": A}, mac="x")
    assert (others.mac, others.warnings) == (A, (said,))
    assert problems(runtimeConfig={"mac": A}, args={"cni": {"mac": 5}}) == [
        "args.cni.mac: expected a MAC address like 02:00:00:00:00:01, got '5'"]


def test_other_args_are_for_others():
    assert parse({"IgnoreUnknown": "true", "K8S_POD_NAME": "p", "IP": "10.0.0.1"}) == parse()


SOURCES = ("runtimeConfig", "deviceID", "pciBusID")


def named(**by):
    """The device, named in one or more ways."""
    runtime = {"runtimeConfig": {"deviceID": by["runtimeConfig"]}} if "runtimeConfig" in by else {}
    return {"deviceID": by.get("deviceID"), "pciBusID": by.get("pciBusID"), **runtime}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("text", [VF, "0000:3B:02.1", "3b:02.1"])
def test_the_device_by_any_name(source, text):
    assert parse(**named(**{source: text})).device == VF
    assert parse(**named(**dict.fromkeys(SOURCES, VF))).device == VF


def test_names_that_disagree():
    assert problems(**named(deviceID=VF, pciBusID="0000:3b:02.2")) == [
        f"deviceID: the VF is named in several ways that disagree: deviceID {VF}, pciBusID 0000:3b:02.2"]


@pytest.mark.parametrize("absent", [None, ""])
def test_no_device(absent):
    assert problems(**named(deviceID=absent)) == [
        "deviceID: no VF is named (Multus sets it from the NAD's annotation k8s.v1.cni.cncf.io/resourceName)"]


@pytest.mark.parametrize("wrong", ["x", "../../x", 5, 0, False, [], {}])
def test_devices_that_are_none(wrong):
    (problem,) = problems(deviceID=wrong)
    assert problem.startswith("deviceID: expected ")


# ---- combinations, other keys -----------------------------------------------------------------------------


def test_combinations():
    assert problems(vlanQoS=3) == ["vlanQoS: needs vlan, which is not set"]
    assert problems(vlan=0, vlanQoS=3) == ["vlanQoS: expected 0 for vlan 0 (untagged), got 3"]
    assert problems(min_tx_rate=200, max_tx_rate=100) == [
        "min_tx_rate: expected at most max_tx_rate (100), got 200"]
    assert parse(vlan=0, vlanQoS=0, min_tx_rate=100, max_tx_rate=0).settings.max_tx_rate == 0    # 0: unlimited
    assert problems(vlanProto="802.1q") == ["vlanProto: needs vlan, which is not set"]
    assert problems(vlan=0, vlanProto="802.1ad") == [
        "vlanProto: expected '802.1q' for vlan 0 (untagged), got '802.1ad'"]
    assert problems(vlan="x", vlanQoS=3) == ["vlan: expected a number from 0 to 4094, got 'x'"]


@pytest.mark.parametrize(("given", "proto"), [
    ({}, 0x8100), ({"vlanProto": ""}, 0x8100), ({"vlanProto": "802.1q"}, 0x8100), ({"vlanProto": "802.1Q"}, 0x8100),
    ({"vlanProto": "802.1ad"}, 0x88A8), ({"vlanProto": "802.1AD"}, 0x88A8)])
def test_vlan_protocols(given, proto):
    assert parse(vlan=5, **given).settings.vlan_proto == proto


@pytest.mark.parametrize(("wrong", "shown"), [(0, "0"), ("802.1x", "'802.1x'"), (["802.1q"], "a list")])
def test_vlan_protocols_that_are_none(wrong, shown):
    assert problems(vlan=5, vlanProto=wrong) == [f"vlanProto: expected '802.1q' or '802.1ad', got {shown}"]


# ---- what a pod asks for ----------------------------------------------------------------------------------


def asking(**runtime):
    return {"runtimeConfig": runtime}


@pytest.mark.parametrize(("bandwidth", "configured", "limit"), [
    ({"egressRate": 5_999_999}, None, 5), ({"egressRate": 1_000_000, "egressBurst": 8}, None, 1),
    ({"egressRate": 5_000_000}, 3, 3), ({"egressRate": 5_000_000}, 9, 5), ({"egressRate": 5_000_000}, 0, 5),
    ({"egressRate": 0, "ingressRate": 0, "ingressBurst": 0}, None, None), ({"egressRate": 0}, 7, 7),
    ({}, 7, 7), (None, None, None), ({"egressRate": 2**63 - 1}, None, 2**32 - 1)])
def test_a_pods_bandwidth_lowers_the_limit_and_never_raises_it(bandwidth, configured, limit):
    conf = parse(max_tx_rate=configured, **asking(bandwidth=bandwidth))
    assert conf.limited(VfSettings(max_tx_rate=0)).settings.max_tx_rate == limit


@pytest.mark.parametrize(("megabits", "now", "limit"), [
    (5, VfSettings(max_tx_rate=100), 5), (500, VfSettings(max_tx_rate=100), 100),
    (0, VfSettings(max_tx_rate=100), None), (5, VfSettings(), 5),
    (5, VfSettings(max_tx_rate=100, min_tx_rate=50), 50), (5, VfSettings(max_tx_rate=0, min_tx_rate=0), 5)])
def test_where_no_network_says_a_limit_a_pods_bandwidth_lowers_that_of_the_vf(megabits, now, limit):
    conf = parse(**asking(bandwidth={"egressRate": megabits * 1_000_000}))
    assert conf.limited(now).settings == VfSettings(max_tx_rate=limit)
    if limit is not None:
        assert parse(max_tx_rate=1, **asking(bandwidth={"egressRate": megabits * 1_000_000})).limited(
            VfSettings(max_tx_rate=100)).settings.max_tx_rate == 1


def test_addresses_that_no_plugin_gives():
    problem = "ipam.type: not set, and without a plugin there are no addresses"
    assert problems(ipam={"typ": "host-local"}) == [problem]
    parsed = parse(type="sriov", ipam={"typ": "host-local"})
    assert (parsed.warnings, parsed.ipam) == ((problem,), None)


@pytest.mark.parametrize(("bandwidth", "problem"), [
    ({"egressRate": 9_999}, "egressRate: expected 0 or at least 1000000 bit/s, a VF's smallest limit, got 9999"),
    ({"ingressRate": 1}, "ingressRate: a VF limits what its pod sends, not what it gets"),
    ({"egressBurst": 1}, "egressBurst: needs egressRate, which is not set")])
def test_bandwidth_that_no_vf_can_have(bandwidth, problem):
    path = f"runtimeConfig.bandwidth.{problem}"
    assert problems(**asking(bandwidth=bandwidth)) == [path]
    parsed = parse(type="sriov", **asking(bandwidth=bandwidth))      # sriov-cni does not look at it
    assert (parsed.warnings, parsed.settings.max_tx_rate) == ((path,), None)


def test_bandwidth_that_is_none():
    assert problems(**asking(bandwidth=5)) == ["runtimeConfig.bandwidth: expected an object, got 5"]
    assert problems(**asking(bandwidth={"egressRate": "1M", "ingressRate": -1})) == [
        f"runtimeConfig.bandwidth.{key}: expected a number from 0 to {2**63 - 1}, got {shown}"
        for key, shown in (("egressRate", "'1M'"), ("ingressRate", "-1"))]


def test_bandwidth_below_what_the_network_promises():
    asked = asking(bandwidth={"egressRate": 3_000_000})
    problem = ("runtimeConfig.bandwidth.egressRate: expected at least the network's min_tx_rate (5 Mbit/s), "
               "got 3000000")
    assert problems(min_tx_rate=5, **asked) == [problem]
    parsed = parse(type="sriov", min_tx_rate=5, max_tx_rate=9, **asked)
    assert (parsed.warnings, parsed.limited(VfSettings()).settings.max_tx_rate) == ((problem,), 5)


def test_an_mtu_of_zero_is_what_templates_leave_where_they_have_none():
    parsed = parse(type="sriov", mtu=0)
    assert (parsed.warnings, parsed.mtu) == (("mtu: 0 is taken for none",), None)
    assert problems(mtu=0) == ["mtu: expected a number from 68 to 65535, got 0"]


def test_addresses_that_a_pod_asks_for():
    ipam = {"type": "host-local"}
    assert parse(ipam=ipam, **asking(ips=["10.0.0.5/24", "fd00::5"])).ipam == "host-local"
    assert problems(ipam=ipam, **asking(ips=["10.0.0.5/33", 5])) == [
        "runtimeConfig.ips[0]: '10.0.0.5/33' is not an IP address like 10.0.0.1, 10.0.0.1/24 or fd00::1/64",
        "runtimeConfig.ips[1]: 5 is not text"]
    assert problems(ipam=ipam, **asking(ips="10.0.0.5")) == ["runtimeConfig.ips: expected a list, got '10.0.0.5'"]
    without = "runtimeConfig.ips: this network gives no addresses: it has no ipam"
    assert problems(**asking(ips=["10.0.0.5/24"])) == [without]
    assert parse(type="sriov", **asking(ips=["10.0.0.5/24"])).warnings == (without,)
    assert parse(**asking(ips=[])).warnings == ()


def test_where_and_how_much_is_logged_is_the_agents_matter():
    problem = "logLevel: expected one of panic, error, warning, info, debug, verbose, got 'much'"
    assert problems(logLevel="much") == [problem]
    assert parse(type="sriov", logLevel="much").warnings == (problem,)
    assert problems(type="sriov", logLevel=3, logFile=[]) == [
        "logFile: expected text, got a list", "logLevel: expected text, got 3"]


@pytest.mark.parametrize(("wrong", "problem"), [
    ({"type": "a/b"}, "ipam.type: expected the name of an IPAM plugin, got 'a/b'"),
    ({"type": 5}, "ipam.type: expected text, got 5"), ({"type": 0}, "ipam.type: expected text, got 0"),
    ("static", "ipam: expected an object, got 'static'"), ([], "ipam: expected an object, got a list"),
    (0, "ipam: expected an object, got 0")])
def test_ipam(wrong, problem):
    assert problems(ipam=wrong) == [problem]
    assert find_ipam(config(ipam=wrong)) is None    # an ADD never got as far, so a DEL has nothing to give back


def test_ipam_of_a_del():
    assert find_ipam(config(ipam={"type": "static", "addresses": []})) == "static"
    assert find_ipam({}) is None


def test_unknown_keys_of_our_own_nads_are_problems_and_of_others_warnings():
    assert problems(vlna=3, foo=1) == ["vlna: unknown key, did you mean vlan?", "foo: unknown key"]
    assert problems(VLAN=3) == ["VLAN: unknown key, did you mean vlan?"]
    assert problems(IPAM={}) == ["IPAM: unknown key, did you mean ipam?"]
    assert problems(**{"x\n2026": 1}) == ["x\\n2026: unknown key"]
    assert parse(type="sriov", vlna=3).warnings == ("vlna: unknown key, did you mean vlan?",)
    assert parse(type="sriov").warnings == ()


def test_keys_of_others_nads_count_in_any_case():
    """As in sriov-cni; the exact one wins."""
    found = parse(type="sriov", VLAN=5, IPAM={"Type": "static", "x": 1}, RuntimeConfig={"MAC": A}, Dns={},
                  Capabilities={"mac": True}, mtu=1400, MTU=1500)
    assert (found.settings.vlan, found.ipam, found.mac, found.mtu, found.warnings) == (5, "static", A, 1400, ())
    assert parse(type="sriov", RuntimeConfig={"mac": A}, runtimeConfig={"mac": B}).mac == B
    # Of those only libcni writes the one and reads the other, and in this case.
    assert parse(type="sriov", PrevResult={}, DisableCheck=True).warnings == (
        "PrevResult: unknown key, did you mean prevResult?",
        "DisableCheck: unknown key, did you mean disableCheck?")


def test_an_own_nad_is_one_in_any_case():
    own = {"cniVersion": "1.0.0", "name": "net", "Type": "vfpool", "deviceID": VF, "Ipam": {"type": "static"}}
    assert refusal(parse_netconf, fold_case(own), {})[1] == (
        "network configuration: Type: unknown key, did you mean type?; Ipam: unknown key, did you mean ipam?")
    assert parse(type="sriov", Type="vfpool", VLAN=3).settings.vlan == 3


def test_capabilities_are_warned_about_in_every_nad():
    """A runtime may have its own; but none passes a misspelt one, and the pod has no MAC of its own then."""
    for kind in ("sriov", "vfpool"):
        assert parse(type=kind, capabilities={"mac": True, "ips": True, "macs": True, "frobs": True}).warnings == (
            "capabilities.macs: unknown capability: few runtimes can pass it, did you mean mac?",
            "capabilities.frobs: unknown capability: few runtimes can pass it")
    assert problems(capabilities=5) == ["capabilities: expected an object, got 5"]


def test_every_problem_at_once():
    assert problems(vlan=5000, trust="yes", mac="x", deviceID="y", mtu=0, ipam=3, runtimeConfig=4, vlna=1) == [
        "runtimeConfig: expected an object, got 4",
        "deviceID: expected a PCI address like 0000:3b:02.1, got 'y'",
        "vlan: expected a number from 0 to 4094, got 5000",
        "mac: expected a MAC address like 02:00:00:00:00:01, got 'x'",
        "trust: expected 'on' or 'off', got 'yes'",
        "ipam: expected an object, got 3",
        "mtu: expected a number from 68 to 65535, got 0",
        "vlna: unknown key, did you mean vlan?"]


KEYS = ("args", "cniVersion", "name", "type", "ipam", "runtimeConfig", "deviceID", "pciBusID", "vlan", "vlanQoS",
        "vlanProto", "mac", "mtu", "spoofchk", "trust", "link_state", "min_tx_rate", "max_tx_rate")
likely = st.sampled_from([VF, A, "on", "auto", "vfpool", "802.1q", 0, 5, 100, {"mac": A}, {"type": "static"}])


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(), likely | json_values),
       st.dictionaries(st.just("MAC"), st.text() | st.just(B)))
def test_any_object_is_a_netconf_or_an_error(document, args):
    ipam = find_ipam(document)
    result = outcome(parse_netconf, document, args)
    if isinstance(result, NetConf):
        assert PciAddress.parse(result.device) == result.device
        assert result.ipam == ipam
    else:
        assert result.code == 7
        assert result.message.removeprefix("network configuration: ")


@pytest.mark.parametrize("key", ["vlan", "trust", "mac", "ipam", "vlanProto", "deviceID", "runtimeConfig"])
def test_values_of_any_depth_and_length(key):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for wrong in (deep, "x" * 1_000_000):
        (problem,) = problems(**{key: wrong})
        assert problem.startswith(f"{key}: ")


def test_no_configuration_is_worth_more_than_so_many_words_and_searches():
    """Four megabytes of them fit through the agent's socket."""
    keys = {f"vlan{number}": 5 for number in range(10_000)}
    *noted, last = problems(**keys)
    assert last == "there may be more"
    for said in (noted, parse(type="sriov", **keys).warnings):
        assert len(said) == ENOUGH
        assert sum("did you mean vlan?" in each for each in said) == 5
    assert problems(ipam={"type": "static"}, runtimeConfig={"ips": ["10.0.0.1"] * 129}) == [
        "runtimeConfig.ips: expected at most 128 addresses, got 129"]
