"""sriov-network-device-plugin's configuration: the same VFs to the same pools, and no loss without a word."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sriov.model import Host
from sriov.pools.assignment import PfMatch, Pool, Selector, VfIndices, assign
from sriov.pools.documents import DocumentErrors
from sriov.pools.dpconfig import is_dp_config
from sriov.pools.jsonnodes import Number, Object, parse_json
from sriov.pools.poolfile import PoolFile, PoolFileErrors, load_pool_file, parse_pool_file
from sriov.pools.poolformat import format_pool_file
from sriov.pools.selectors import FunctionClass
from tests.sriov.test_assignment import indices, pf
from tests.sriov.test_pci import attempt

DATA = Path(__file__).parents[1] / "data/pools"
NETWORK, ACCELERATOR = (FunctionClass.NETWORK,), (FunctionClass.ACCELERATOR,)


def parse(text):
    return parse_pool_file(text, "config.json")


def parse_selectors(text, **keys):
    """One resource `a` with these selectors, written as JSON."""
    rest = "".join(f", {json.dumps(key)}: {json.dumps(value)}" for key, value in keys.items())
    return parse(f'{{"resourceList": [{{"resourceName": "a", "selectors": {text}{rest}}}]}}')


def problems(text):
    with pytest.raises(PoolFileErrors) as caught:
        parse(text)
    return [problem.removeprefix("config.json:") for problem in str(caught.value).splitlines()]


def name(text):
    return f"/(?i){text}/"


# ---- what is meant --------------------------------------------------------------------------------------


def test_as_the_operator_writes_it():
    file = load_pool_file(DATA / "operator.json")
    assert file == PoolFile(resource_prefix="intel.com", physical_functions=(), pools=(
        Pool(resource="intel.com/nic1", selectors=(Selector(
            vendor=("15b3",), device=("1018",), vfs=VfIndices.parse("0-3"), base_class=NETWORK,
            on=PfMatch(name=(name("ens1f0np0"), name("ens1f1np1")), address=("0000:3b:00.0", "0000:3b:00.1"),
                       link_type=("ether",))),)),
        Pool(resource="intel.com/dpdk", selectors=(Selector(
            vendor=("8086",), device=("154c",), vfs=VfIndices.parse("4-7"), base_class=NETWORK,
            on=PfMatch(address=("0000:5e:00.0",))),)),
    ))
    assert [warning.partition(": ")[2] for warning in file.warnings] == [
        ("resourceList[1].selectors.needVhostNet: not supported yet: pods are given neither /dev/vhost-net nor "
         "/dev/net/tun")]


def test_as_a_person_writes_it():
    file = load_pool_file(DATA / "handwritten.json")
    assert [warning.partition(": ")[2] for warning in file.warnings] == [
        "intel.com/fec gets no VF from this selector: accelerators are not handed out yet"]
    assert file.pools == (
        Pool(resource="example.com/sriov_net_A", exclude_topology=True, selectors=(
            Selector(vendor=("8086",), driver=("iavf", "vfio-pci"), vfs=VfIndices.parse("0-1,3"),
                     on=PfMatch(name=(name("ENS1F0"),)), base_class=NETWORK),
            Selector(vendor=("8086",), driver=("iavf", "vfio-pci"), on=PfMatch(name=(name("ens1f1"),)),
                     base_class=NETWORK),
            Selector(address=("0000:5e:02.0",), acpi_index=("101",), base_class=NETWORK,
                     on=PfMatch(firmware_package=("ICE OS Default Package",))))),
        Pool(resource="intel.com/fec", selectors=(Selector(device=("0d5d",), base_class=ACCELERATOR),)),
        Pool(resource="intel.com/all", selectors=(Selector(base_class=NETWORK),)),
    )
    path = DATA / "handwritten.json"
    assert [pool.place for pool in file.pools] == [f"{path}:3:3", f"{path}:12:3", f"{path}:17:3"]
    assert [selector.place for selector in file.pools[0].selectors] == [f"{path}:8:5", f"{path}:8:5", f"{path}:9:5"]


@pytest.mark.parametrize(("selectors", "expected"), [
    ("{}", [0, 1, 2, 3]),
    ('{"pfNames": ["ens1f0"]}', [0, 1, 2, 3]),
    ('{"pfNames": ["ENS1F0#1"]}', [1]),
    ('{"pfNames": ["ens1f0#0-1,3"]}', [0, 1, 3]),
    ('{"pfNames": ["ens1"]}', []),
    ('{"pfNames": ["ens1f0#0-2"], "rootDevices": ["0000:3B:00.0#2-3"]}', [2]),
    ('{"pfNames": ["ens1f0#0-2"], "rootDevices": ["0000:5e:00.0"]}', []),
    ('[{"pfNames": ["ens1f0#0"]}, {"rootDevices": ["0000:3b:00.0#3"]}]', [0, 3]),
    ('{"vendors": ["15b3", "8086"], "devices": ["10ca"]}', [0, 1, 2, 3]),
    ('{"vendors": ["8086"], "devices": ["10c9"]}', []),
    ('{"drivers": ["vfio-pci"]}', [3]),
    ('{"pciAddresses": ["0000:3b:02.1"]}', [1]),
    ('{"pciAddresses": ["0000:3b:00.0"]}', []),
    ('{"linkTypes": ["ether", "infiniband"]}', [0, 1, 2, 3]),
    ('{"linkTypes": ["infiniband"]}', []),
    ('{"isRdma": true}', []),
    ('{"vendors": [], "pfNames": [], "isRdma": false, "vdpaType": "", "pKeys": null}', [0, 1, 2, 3]),
    # What has no effect there has none here, and the last of two keys counts.
    ('{"pfName": ["eth0"]}', [0, 1, 2, 3]),
    ('{"drivers": ["igbvf"], "Drivers": ["vfio-pci"]}', [3]),
    ('{"drivers": ["igbvf"], "drivers": null}', [0, 1, 2, 3]),
    ('{"isRdma": true, "isRdma": null}', []),
    ('{"pfNames": ["ens1f0#0-1", "ens1f0#3"]}', [0, 1]),
    ('{"pfNames": ["ens1f0#0, 2"]}', [0]),
    ('{"pfNames": ["ens1f0#3-1,2"]}', [2]),
])
def test_what_a_selector_selects(selectors, expected):
    function = pf(drivers=("igbvf", "igbvf", "igbvf", "vfio-pci"))
    assignment = assign(Host(pfs=(function,)), parse_selectors(selectors).pools)
    assert indices(assignment, "intel.com/a") == expected


def test_class_of_the_devices():
    host = Host(pfs=(replace(pf(), vfs=tuple(replace(vf, pci_class=0x120000) for vf in pf().vfs)),))
    assert indices(assign(host, parse_selectors("{}").pools), "intel.com/a") == []
    accelerators = parse_selectors("{}", deviceType="accelerator").pools
    assert indices(assign(host, accelerators), "intel.com/a") == [0, 1, 2, 3]


def test_first_pool_wins():
    pools = parse('{"resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["ens1f0#1-2"]}},'
                  ' {"resourceName": "b", "selectors": {}}]}').pools
    assignment = assign(Host(pfs=(pf(),)), pools)
    assert [indices(assignment, f"intel.com/{name}") for name in "ab"] == [[1, 2], [0, 3]]


@pytest.mark.parametrize(("text", "expected"), [
    ('{"resourceList": [', True),
    (' \n{"RESOURCELIST": []}', True),
    ('\ufeff{"resourceList": []}', True),
    ('{"resourceList": [{},]}', True),
    ('{"apiVersion": "vfpool.io/v1alpha1", "kind": "PoolFile"}', False),
    ('{apiVersion: vfpool.io/v1alpha1, kind: PoolFile, resourcePrefix: "a"}', False),
    ("resourceList: []", False),
])
def test_content_decides(text, expected):
    assert is_dp_config(text) == expected


# ---- what is lost there without a word ------------------------------------------------------------------

AT = "config.json:1:"
# Column first; @ stands for the selectors' path.
LOSSES = [
    ('{"pfName": ["a"]}',
     ["55@: unknown key 'pfName' has no effect, did you mean 'pfNames'?"]),
    ('{"drivers": ["a"], "DRIVERS": ["b"]}',
     ["73@: key 'drivers' is here twice, first at config.json:1:55: the last one counts"]),
    ('{"vendors": ["8086", "0x8086", "15B3", "intel", null]}', [
        "75@.vendors[1]: '0x8086' matches nothing: ids are four lower-case hex digits, write '8086'",
        "85@.vendors[2]: '15B3' matches nothing: ids are four lower-case hex digits, write '15b3'",
        "93@.vendors[3]: 'intel' matches nothing: ids are four lower-case hex digits like 8086",
        "102@.vendors[4]: '' matches nothing: ids are four lower-case hex digits like 8086"]),
    ('{"pciAddresses": ["3B:02.1", "0000:3b:02.1", "x"]}', [
        ("72@.pciAddresses[0]: '3B:02.1' matches nothing: PCI addresses are lower case and "
         "have their domain, write '0000:3b:02.1'"),
        "99@.pciAddresses[2]: 'x' matches nothing: PCI addresses are like 0000:3b:02.1"]),
    ('{"linkTypes": ["ether", "Ethernet"]}',
     ["78@.linkTypes[1]: 'Ethernet' matches nothing: no such link type, did you mean 'ether'?"]),
    ('{"pfNames": ["a", "ens*", ""]}', [
        ("72@.pfNames[1]: 'ens*' matches nothing: there are no globs here; in a pool file of "
         "vfpool there are"),
        "80@.pfNames[2]: '' matches nothing: expected the name of a PF's netdev like ens1f0"]),
    ('{"pfNames": ["p0#0-1", "P0#4-5"]}',
     [("77@.pfNames[1]: 'P0#4-5' has no effect: only the first entry of a PF counts, here the "
       "one at config.json:1:67; write all its ranges there: P0#0-1,4-5")]),
    ('{"pfNames": ["p0#0,3-1,x,5", "p1"]}', [
        "67@.pfNames[0]: '3-1' matches nothing: it counts down",
        ("67@.pfNames[0]: 'x' is not a VF index or a range like 0-3 (no blanks): from it on "
         "nothing of #0,3-1,x,5 matches")]),
    ('{"pfNames": ["p0#0#1", "p1"]}',
     ["67@.pfNames[0]: matches nothing: expected one # only, got #0#1"]),
    ('{"vdpaType": "vhost"}', [
        ("67@.vdpaType: vDPA devices are not supported yet: no pod gets what this selector selects without that, "
         "nor does a later pool have it")]),
    ('{"pKeys": ["0x1"]}', [
        ("64@.pKeys: InfiniBand partition keys are not supported yet: no pod gets what this selector selects "
         "without that, nor does a later pool have it")]),
    ('{"isRdma": true}', [("65@.isRdma: VFs with an RDMA device are selected, but pods are not "
                           "given its device nodes yet")]),
]
LEFT_OUT = "19: resourceList[0]: this pool is left out: none of its selectors can select a VF"
DROPPED = [
    ('{"vendors": ["15B3"]}', [
        LEFT_OUT,
        "54@: selects nothing: no value of vendors can match",
        "67@.vendors[0]: '15B3' matches nothing: ids are four lower-case hex digits, write '15b3'"]),
    ('{"pfNames": ["p0#0"], "rootDevices": ["0000:3b:00.0#1"]}', [
        LEFT_OUT,
        ("54@: selects nothing: the VF ranges of pfNames and rootDevices have none in "
         "common")]),
    ("[]", ["54@: expected at least one selector: this pool is left out; to select all, write {}"]),
    ('"x"', ["54@: expected an object, got 'x': this pool is left out"]),
    ('{"vendors": "8086"}', [("66@.vendors: expected a list of texts, got '8086', write "
                              '["8086"]: this pool is left out')]),
    ('{"vendors": [8086]}', ["67@.vendors[0]: expected a text, got 8086: this pool is left out"]),
    ('[{"isRdma": "true"}, {}]',
     ["66@[0].isRdma: expected true or false, got 'true': this pool is left out"]),
    ("[{}, 7]", ["59@[1]: expected an object, got 7: this pool is left out"]),
]


@pytest.mark.parametrize(("selectors", "warnings"), LOSSES)
def test_loss_is_a_warning(selectors, warnings):
    file = parse_selectors(selectors)
    assert list(file.warnings) == [AT + warning.replace("@", ": resourceList[0].selectors") for warning in warnings]
    assert len(file.pools) == 1


@pytest.mark.parametrize(("selectors", "warnings"), DROPPED)
def test_pool_that_is_left_out_is_a_warning(selectors, warnings):
    file = parse_selectors(selectors)
    assert list(file.warnings) == [AT + warning.replace("@", ": resourceList[0].selectors") for warning in warnings]
    assert file.pools == ()


def test_a_pool_that_is_left_out_leaves_the_others():
    file = parse('{"resourceList": [{"resourceName": "a", "selectors": 7},'
                 ' {"resourceName": "b", "selectors": {}}]}')
    assert [pool.resource for pool in file.pools] == ["intel.com/b"]


@pytest.mark.parametrize(("keys", "warnings"), [
    ({"selector": {}}, ["58: resourceList[0]: unknown key 'selector' has no effect, did you mean 'selectors'?"]),
    ({"SelectorObjs": [1]}, ["74: resourceList[0].SelectorObjs: has no effect, did you mean 'selectors'?"]),
    ({"deviceType": "auxNetDevice"},
     ["72: resourceList[0].deviceType: sub-functions are not supported yet: this pool is left out"]),
    ({"additionalInfo": {"*": {"token": "x"}}},
     ["76: resourceList[0].additionalInfo: not supported yet: pods are not told"]),
    ({"additionalInfo": {}, "SelectorObj": None, "excludeTopology": None}, []),
])
def test_losses_of_a_resource(keys, warnings):
    assert list(parse_selectors("{}", **keys).warnings) == [f"{AT}{warning}" for warning in warnings]


def test_loss_beside_the_list():
    file = parse('{"resourceList": [{"resourceName": "a", "selectors": {}}], "version": 1}')
    assert file.pools[0].resource == "intel.com/a"
    assert file.warnings == (f"{AT}60: file: unknown key 'version' has no effect, expected one of resourceList",)


def test_keys_that_another_type_of_device_has():
    file = parse_selectors('{"pfNames": ["a"]}', deviceType="accelerator")
    assert file.warnings == (
        (f"{AT}55: resourceList[0].selectors: unknown key 'pfNames' has no effect, expected one of vendors, "
         "devices, drivers, pciAddresses"),
        f"{AT}54: intel.com/a gets no VF from this selector: accelerators are not handed out yet")


@pytest.mark.parametrize(("keys", "wants"), [
    ('"vdpaType": "virtio"', "vDPA devices"), ('"pKeys": ["0x1"]', "InfiniBand partition keys"),
    ('"pKeys": ["0x1"], "vdpaType": "vhost"', "vDPA devices and InfiniBand partition keys"),
])
def test_what_is_not_supported_yet_is_kept_from_later_pools(keys, wants):
    """There the first pool would have the VFs that are so; who else gets them now, would lose them then."""
    both = ('{"resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["ens1f0#0-1"]KEYS}},'
            ' {"resourceName": "b", "selectors": {}}]}')
    file = parse(both.replace("KEYS", f", {keys}"))
    members = assign(Host(pfs=(pf(),)), file.pools).members
    fault = f"its pool wants {wants}, not supported yet"
    assert [(member.vf.index, member.fault) for member in members["intel.com/a"]] == [(0, fault), (1, fault)]
    assert [(member.vf.index, member.fault) for member in members["intel.com/b"]] == [(2, None), (3, None)]
    assert file != parse(both.replace("KEYS", ""))


# ---- what is wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ('{"resourceList": [{"resourceName": "a", "selectors": {}},]}',
     ["1:58: expected a value, got ']': JSON has no trailing comma"]),
    ('{"resourceList": [], "resourceLst": 1,}',
     ["1:39: expected a key in double quotes, got '}': JSON has no trailing comma"]),
    ('{"resourceList": [] // none\n}', ["1:21: expected ',' or '}', got '/': JSON has no comments"]),
    ("{\n\t'resourceList': []}", None),
    ('{"resourceList": ["\\x"]}', ["1:20: invalid \\escape"]),
    ('{"resourceList": ["a\nb"]}', ["1:21: invalid control character"]),
    ('{"resourceList": [01]}', ["1:20: expected ',' or ']', got '1'"]),
    ('{"resourceList": [' + "[" * 40, ["1:49: nested deeper than 32 levels"]),
    ('{"resourceList": []} x', ["1:22: expected the end of the file, got 'x'"]),
    ('{"resourceList": [', ["1:19: expected a value, got the end of the file"]),
    ('{"resourceList": []}', ["1:18: resourceList: expected a list of at least one resource"]),
    ('{"resourceList": null}', ["1:1: resourceList: expected a list of at least one resource"]),
    ('{"resourceList": {}}', ["1:18: resourceList: expected a list of at least one resource"]),
    ('{"resourceList": ["a"]}', ["1:19: resourceList[0]: expected an object, got 'a'"]),
    ('{"resourceList": [{"selectors": {}}]}', [
        ("1:19: resourceList[0].resourceName: expected a resource name (1 to 63 of A-Z, a-z, 0-9, - and _, a "
         "letter or digit at both ends), got ''")]),
    ('{"resourceList": [{"resourceName": "a"}]}',
     ["1:19: resourceList[0].selectors: expected an object or a list of them; to select all, write {}"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": null}]}',
     ["1:19: resourceList[0].selectors: expected an object or a list of them; to select all, write {}"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": [null]}]}',
     ["1:55: resourceList[0].selectors[0]: expected an object, got null; to select all, write {}"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": {}, "deviceType": "netdevice"}]}',
     ["1:72: resourceList[0].deviceType: unknown type 'netdevice', did you mean 'netDevice'?"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": {}, "resourcePrefix": "../x"}]}',
     [("1:76: resourceList[0].resourcePrefix: expected a resource prefix like intel.com (a lower-case DNS name of "
       "at most 244 characters), got '../x'")]),
    ('{"resourceList": [{"resourceName": 7, "selectors": {}, "excludeTopology": "yes"}]}', [
        "1:36: resourceList[0].resourceName: expected a text, got 7",
        "1:75: resourceList[0].excludeTopology: expected true or false, got 'yes'"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": {"isRdma": true, "vdpaType": "virtio"}}]}',
     ["1:83: resourceList[0].selectors.vdpaType: a selector cannot have vdpaType and isRdma; split it in two"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": {}, "additionalInfo": {"*": {"a": 1}, "b": []}}]}', [
        "1:88: resourceList[0].additionalInfo['*']['a']: expected a text, got 1",
        "1:97: resourceList[0].additionalInfo['b']: expected an object, got a list"]),
    ('{"resourceList": [{"resourceName": "a", "selectors": {}},\n {"resourceName": "a", "selectors": {}}]}',
     ["2:2: resourceList[1].resourceName: intel.com/a is already the resource of the pool at config.json:1:19"]),
])
def test_wrong(text, expected):
    if expected is None:
        assert problems(text)
    else:
        assert problems(text) == expected


# ---- properties -----------------------------------------------------------------------------------------

hex_ids = st.text("0123456789abcdefABC", min_size=4, max_size=4)
ranges = st.text("0123-,# ", min_size=1, max_size=6).map("#{}".format)
pf_names = st.builds(
    "{}{}".format, st.sampled_from(["ens1f0", "ENS1F0", "p1", "a.b+c", "*", ""]), st.just("") | ranges)
root_devices = st.builds(
    "{}{}".format, st.sampled_from(["0000:3b:00.0", "0000:3B:00.0", "3b:00.0"]), st.just("") | ranges)
texts = st.lists(st.text(max_size=4), max_size=2)
selectors = st.fixed_dictionaries({}, optional={
    "vendors": st.lists(hex_ids, max_size=2), "Devices": st.lists(hex_ids, max_size=2), "drivers": texts,
    "pfNames": st.lists(pf_names, max_size=3), "rootDevices": st.lists(root_devices, max_size=3),
    "pciAddresses": st.lists(st.sampled_from(["0000:3b:02.0", "x"]), max_size=2), "acpiIndexes": texts,
    "linkTypes": st.lists(st.sampled_from(["ether", "x"]), max_size=2), "ddpProfiles": texts, "pKeys": texts,
    "IsRdma": st.booleans() | st.none(), "needVhostNet": st.booleans(), "vdpaType": st.sampled_from(["", "vhost"]),
    "unknown": st.just(1),
})
resources = st.fixed_dictionaries(
    {"resourceName": st.sampled_from(["a", "b_1", "C-2"]),
     "selectors": selectors | st.lists(selectors, max_size=2)},
    optional={"deviceType": st.sampled_from(["netDevice", "accelerator", "auxNetDevice"]),
              "excludeTopology": st.booleans(), "resourcePrefix": st.sampled_from(["", "x.y"]),
              "additionalInfo": st.just({"*": {"a": "b"}})})
configs = st.lists(resources, min_size=1, max_size=3, unique_by=lambda each: (each["resourceName"])).map(
    lambda found: {"resourceList": found})


def value_or_problems(text):
    result = attempt(parse, text)
    if isinstance(result, PoolFile):
        return result
    assert result.problems
    for problem in result.problems:
        assert problem.file == "config.json"
        assert 1 <= problem.line <= text.count("\n") + 1
        assert 1 <= problem.column <= len(text) + 2
    return None


@settings(deadline=None)
@given(configs, st.sampled_from([None, 1, "\t"]))
def test_any_configuration_survives_as_a_pool_file_of_ours(config, indent):
    result = value_or_problems(json.dumps(config, indent=indent))
    if result is not None:
        # Ours has no word for what is kept until it is supported.
        ours = replace(result, pools=tuple(pool for pool in result.pools
                                           if not any(selector.reserved for selector in pool.selectors)))
        assert parse_pool_file(format_pool_file(ours), "pools.yaml") == ours


@settings(deadline=None)
@given(configs, st.data())
def test_a_spoilt_configuration_is_a_pool_file_or_problems(config, data):
    text = json.dumps(config, indent=data.draw(st.sampled_from([None, 1])))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 5, len(text))))
    value_or_problems(text[:start] + data.draw(st.text('ab01 :-[]{},\n\t"\'#\\nul', max_size=6)) + text[end:])


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                      lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from([
                          "resourceName", "selectors", "vendors", "pfNames", "deviceType", "additionalInfo",
                          "isRdma",
                      ]) | st.text(max_size=3), each, max_size=3), max_leaves=10)


@settings(deadline=None)
@given(VALUES)
@example("\ud800")
@example([{"resourceName": "a", "selectors": {"pfNames": [None, "#", "a#"]}}])
def test_any_resource_list_is_a_pool_file_or_problems(value):
    value_or_problems(json.dumps({"resourceList": value}))


@given(st.text().map('{{"resourceList": [{}'.format))
def test_any_text_is_a_pool_file_or_problems(text):
    value_or_problems(text)


# ---- the JSON itself ------------------------------------------------------------------------------------


def plain(node):
    """What json.loads would give for it, numbers as they are written."""
    if isinstance(node.value, Object):
        return {key.value: plain(value) for key, value in node.value.members}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value.text if isinstance(node.value, Number) else node.value


def no_constant(text):
    raise ValueError(text)


JSON_LIKE = st.text('{}[]:,"\\ \n\t01-+.eE/bnu"truefalsn', max_size=20)


@settings(deadline=None)
@given(JSON_LIKE | st.text(max_size=8).filter(lambda text: not text.startswith("\ufeff")) | VALUES.map(json.dumps))
@example("[1.]")
@example("[-]")
@example("NaN")
@example('"\\ud83d\\ude00"')
def test_json_is_what_the_standard_library_takes(text):
    try:
        expected = json.loads(text, parse_int=str, parse_float=str, parse_constant=no_constant)
    except ValueError:
        with pytest.raises(DocumentErrors):
            parse_json(text, "f")
    else:
        assert plain(parse_json(text, "f")) == expected


def test_depth_is_that_of_nesting():
    assert plain(parse_json("[" + "[[]]," * 40 + "[]]", "f")) == [[[]]] * 40 + [[]]


def places(node):
    """Line and column of a node and of all in it, keys too, in the order of the text."""
    yield node.line, node.column
    members = node.value.members if isinstance(node.value, Object) else ()
    for inner in node.value if isinstance(node.value, list) else (each for member in members for each in member):
        yield from places(inner)


def test_places_of_json():
    text = '{\n\t"a": [true,\r\n  {"é😀": "b"}]\n}'
    assert list(places(parse_json(text, "f"))) == [(1, 1), (2, 2), (2, 7), (2, 8), (3, 3), (3, 4), (3, 10)]
