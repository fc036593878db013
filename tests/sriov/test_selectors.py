"""Patterns, ranges, and the keys of selectors against values of PFs and VFs. No files."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.errors import InputError
from sriov.model import Host, RdmaDevice
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import MAX_VFS, PfEntry, PfMatch, Pool, PoolFile, Selector, VfIndices, assign, for_node
from sriov.pools.overlap import Earlier, covers, crosses
from sriov.pools.patterns import check_pattern, exactly, is_literal, matches
from sriov.pools.ranges import SpeedRange
from sriov.pools.selectors import FunctionClass
from tests.sriov.test_assignment import pf, spans
from tests.sriov.test_pci import attempt

# ---- patterns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "text", "expected"), [
    ("ens1f0", "ens1f0", True),
    ("ens1f0", "ENS1F0", False),
    ("ens1*", "ens1f0", True),
    ("ens1?0", "ens1f0", True),
    ("ens[!1]f0", "ens1f0", False),
    ("/ens[12]f0/", "ens2f0", True),
    ("/ens[12]f0/", "ens2f0np0", False),                 # the whole name
    ("/a|ab/", "ab", True),
    ("/(?i)ens1f0/", "ENS1F0", True),
    ("/x", "/x", True),                                  # one slash makes no expression
    ("ens1", "ens1f0", False),
    ("a.c", "abc", False),
])
def test_pattern(pattern, text, expected):
    assert matches(pattern, text) == expected


@pytest.mark.parametrize("pattern", ["0000:3B:*", "/0000:3B:.*/", "0000:3B:00.0"])
def test_pattern_that_ignores_case(pattern):
    assert not matches(pattern, "0000:3b:00.0")
    assert matches(pattern, "0000:3b:00.0", ignore_case=True)


@given(st.text(min_size=1, max_size=10), st.text(max_size=10))
def test_exactly_matches_this_text_and_no_other(text, other):
    assert matches(exactly(text), text)
    assert matches(exactly(text), other) == (text == other)
    assert matches(exactly(text, ignore_case=True), text)


EXPRESSIONS = st.text("ab/[]()*+?{}|^$.\\-&~1", max_size=12).map("/{}/".format)


@given(st.text(max_size=10) | EXPRESSIONS, st.text(max_size=8))
def test_any_text_is_a_pattern_or_an_input_error(pattern, text):
    result = attempt(check_pattern, pattern)
    if isinstance(result, InputError):
        assert repr(pattern) in result.message
    else:
        assert matches(pattern, text) in (True, False)
        assert not is_literal(pattern) or matches(pattern, text) == (pattern == text)


# ---- index ranges ---------------------------------------------------------------------------------------


@given(spans)
def test_indices_survive_formatting(pairs):
    value = VfIndices.merge(pairs)
    assert VfIndices.parse(str(value)) == value
    assert VfIndices.parse(",".join(f"{first}-{last}" for first, last in pairs)) == value


@given(spans, st.integers(0, MAX_VFS))
def test_indices_hold_what_their_spans_hold(pairs, index):
    assert (index in VfIndices.merge(pairs)) == any(first <= index <= last for first, last in pairs)


@given(spans, spans)
def test_indices_that_two_have(some, others):
    one, other = VfIndices.merge(some), VfIndices.merge(others)
    ends = {end + step for span in (*some, *others) for end in span for step in (-1, 0, 1)}
    assert all((index in one & other) == (index in one and index in other) for index in ends)
    assert one & other == other & one == VfIndices.merge((one & other).spans)
    assert one.meets(other) == bool((one & other).spans)
    assert one.covers(one & other)
    assert one.covers(other) == all(index in one for index in ends if index in other)


@given(st.one_of(st.text(), st.text("0123456789-, ", max_size=12)))
def test_any_text_is_indices_or_an_input_error(text):
    result = attempt(VfIndices.parse, text)
    if isinstance(result, InputError):
        assert repr(text) in result.message
    else:
        assert VfIndices.parse(str(result)) == result


@pytest.mark.parametrize(("text", "message"), [
    ("0-", "expected an index range like 0-3, got '0-'"),
    ("-1", "expected an index range like 0-3, got '-1'"),
    ("", "expected an index range like 0-3, got ''"),
    ("0-3,,6", "expected an index range like 0-3, got '0-3,,6'"),
    ("٣", "expected an index range like 0-3, got '٣'"),
    ("3-0", "expected an index range like 0-3, got '3-0': it counts down"),
    ("0-65536", "expected VF indices up to 65535, got '0-65536'"),
])
def test_bad_indices(text, message):
    with pytest.raises(InputError) as caught:
        VfIndices.parse(text)
    assert caught.value.message == message


# ---- speeds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "inside", "outside"), [
    ("25000", [25000], [24999, 25001]),
    ("25G", [25000], [24999, 25001]),
    (">=25G", [25000, 400000], [24999]),
    ("<= 10000", [10, 10000], [10001]),
])
def test_speeds(text, inside, outside):
    speeds = SpeedRange.parse(text)
    assert SpeedRange.parse(str(speeds)) == speeds
    assert [speed in speeds for speed in (*inside, *outside)] == [True] * len(inside) + [False] * len(outside)


@given(st.one_of(st.text(), st.text("0123456789G<>= ", max_size=9)))
def test_any_text_is_a_speed_or_an_input_error(text):
    result = attempt(SpeedRange.parse, text)
    if isinstance(result, InputError):
        assert repr(text) in result.message
    else:
        assert SpeedRange.parse(str(result)) == result


# ---- keys of a PF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "mismatches"), [
    ({"name": ("ens*",)}, []),
    ({"name": ("uplink",), "address": ("0000:3b:00.0",), "driver": ("igb",)}, []),
    ({"name": ("0000:3b:00.0",)}, ["name 0000:3b:00.0 is not ens1f0"]),
    ({"name": ("eth0", "eth1"), "device": ("1572",)},
     ["name eth0 or eth1 is not ens1f0", "device 1572 is not 10c9"]),
    ({"mac": ("02:ff:ff:ff:ff:ff",), "numa_node": (0,)},
     ["mac 02:ff:ff:ff:ff:ff is not {mac}", "numaNode 0 is not 1"]),
])
def test_pf_match(keys, mismatches):
    function = pf(numa_node=1, altnames=("uplink",))
    expected = [text.format(mac=function.link.mac) for text in mismatches]
    assert list(PfMatch(**keys).mismatches(function)) == expected
    assert PfMatch(**keys).matches(function) == (not mismatches)


def test_pf_match_without_netdev():
    phrases = list(PfMatch(name=("ens*",), mac=(MacAddress("02:00:00:00:00:01"),)).mismatches(pf(name=None)))
    assert phrases == ["name ens* is not known: the PF has no netdev here",
                       "mac 02:00:00:00:00:01 is not known: the PF has no netdev here"]


def rich(**changes):
    """A PF with all that can be known of it, and a VF likewise."""
    function = pf(numa_node=1, altnames=("uplink",))
    path = (PciAddress("0000:00:01.0"), function.address)
    vf = replace(function.vfs[0], path=(path[0], function.vfs[0].address), acpi_index="101",
                 rdma=(RdmaDevice(name="mlx5_2"),))
    return replace(function, path=path, acpi_index="100", rdma=(RdmaDevice(name="mlx5_0"),), speed=25000,
                   firmware_package="ICE OS Default Package", vfs=(vf, *function.vfs[1:]), **changes)


PF_KEYS = [
    ({"speed": (SpeedRange(least=10000),)}, []),
    ({"speed": (SpeedRange.parse("<=10G"), SpeedRange.parse("100G"))}, ["speed <=10000 or 100000 is not 25000"]),
    ({"link_type": ("ether",)}, []),
    ({"link_type": ("infiniband",)}, ["linkType infiniband is not ether"]),
    ({"firmware_package": ("ICE OS*",)}, []),
    ({"firmware_package": ("ICE COMMS Package",)},
     ["firmwarePackage ICE COMMS Package is not ICE OS Default Package"]),
    ({"mac": ("02:*",)}, []),
    ({"name": ("/ens[12]f0/",)}, []),
    ({"name": ("/UP.*/",)}, ["name /UP.*/ is not ens1f0"]),
    ({"path": ("0000:00:01.*",)}, []),
    ({"path": ("0000:3B:00.0",)}, []),
    ({"path": ("0000:00:02.0",)}, ["path 0000:00:02.0 is not 0000:00:01.0 > 0000:3b:00.0"]),
    ({"acpi_index": ("100",)}, []),
    ({"acpi_index": ("101",)}, ["acpiIndex 101 is not 100"]),
    ({"base_class": (FunctionClass.NETWORK,)}, []),
    ({"base_class": (FunctionClass.ACCELERATOR,)}, ["class accelerator is not network"]),
    ({"rdma": True}, []),
    ({"rdma": False}, ["rdma false is not so: it has mlx5_0"]),
    ({"node": ("a", "b*")}, ["node a or b* is not known to be this one"]),
]


@pytest.mark.parametrize(("keys", "mismatches"), PF_KEYS)
def test_pf_keys(keys, mismatches):
    assert list(PfMatch(**keys).mismatches(rich())) == mismatches


@pytest.mark.parametrize(("keys", "mismatches"), PF_KEYS[:-1])
def test_pf_keys_of_a_selector(keys, mismatches):
    function = rich()
    expected = [f"pf's {phrase}" for phrase in mismatches]
    assert list(Selector(on=PfMatch(**keys)).mismatches(function, function.vfs[0])) == expected


def test_excluded_pf():
    match = PfMatch(name=("ens*",), exclude=(PfMatch(mac=("03:*",)), PfMatch(speed=(SpeedRange(),), place="p:7:9")))
    assert list(match.mismatches(rich())) == ["exclude takes it out, at p:7:9"]
    assert match.matches(pf())


def test_what_is_not_known_does_not_match():
    keys = PfMatch(speed=(SpeedRange(),), firmware_package=("*",), acpi_index=("*",), link_type=("ether",),
                   rdma=True)
    assert list(keys.mismatches(pf(name=None))) == [
        "linkType ether is not known: the PF has no netdev here",
        "speed >=0 is not known: no carrier, or the driver does not say",
        "firmwarePackage * is not known: the driver does not say",
        "acpiIndex * is not known: the firmware gives none",
        "rdma true is not so: it has no RDMA device",
    ]


def test_pf_in_another_namespace_is_known_by_what_it_was():
    function = pf()
    away = replace(function, link=None, last_link=function.link)
    assert PfMatch(name=("ens1f0",), mac=(function.link.mac,)).matches(away)
    assert Selector(pf=("ens1f0",)).selects(away, away.vfs[0])


# ---- keys of a VF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "expected"), [
    ({"pf": ("/ens1f[01]/",)}, [0, 1, 2, 3]),
    ({"pf": ("0000:3B:*",)}, [0, 1, 2, 3]),
    ({"address": ("0000:3b:02.[12]",)}, [1, 2]),
    ({"address": ("/.*[.]3/", "0000:3b:02.0")}, [0, 3]),
    ({"vendor": ("80*",), "device": ("10CA",)}, [0, 1, 2, 3]),
    ({"driver": ("igb*",)}, [0, 1, 2, 3]),
    ({"rdma": True}, [0]),
    ({"rdma": False}, [1, 2, 3]),
    ({"acpi_index": ("101",)}, [0]),
    ({"path": ("0000:00:01.0",)}, [0]),
    ({"path": ("0000:3b:02.1",)}, [1]),
    ({"base_class": (FunctionClass.NETWORK,)}, [0, 1, 2, 3]),
    ({"base_class": (FunctionClass.ACCELERATOR,)}, []),
    ({"on": PfMatch(numa_node=(1,), speed=(SpeedRange(least=1),)), "vfs": VfIndices.parse("2")}, [2]),
    ({"node": ("worker-1",)}, []),                       # not before `for_node`
])
def test_vf_keys(keys, expected):
    function = rich()
    assert [vf.index for vf in function.vfs if Selector(**keys).selects(function, vf)] == expected


@pytest.mark.parametrize("keys", [
    {"rdma": True}, {"pf": ("ens1f0",)}, {"on": PfMatch(mac=("02:*",))}, {"acpi_index": ("101",)},
    {"driver": ("igbvf",)},
])
def test_a_vf_in_a_pod_is_selected_as_before(keys):
    function = rich()
    away = replace(function.vfs[0], link=None)
    assert Selector(**keys).selects(function, function.vfs[0])
    assert Selector(**keys).selects(function, away)


# ---- exclude --------------------------------------------------------------------------------------------


def excluding(*exclude, place="p:4:5"):
    return Pool(resource="a/b", selectors=(Selector(pf=("ens*",), place="p:5:9"),), exclude=exclude, place=place)


def test_exclude_takes_out_and_says_so():
    pools = [excluding(Selector(vfs=VfIndices.parse("0-1"), place="p:7:9"), Selector(address=("0000:3b:02.3",)))]
    assignment = assign(Host(pfs=(pf(),)), pools)
    assert [member.vf.index for member in assignment.members["a/b"]] == [2]
    reason = "no pool selects it; a/b at p:5:9 would, but for its exclude"
    assert assignment.left_out == {
        "0000:3b:02.0": f"{reason} at p:7:9", "0000:3b:02.1": f"{reason} at p:7:9", "0000:3b:02.3": reason}


def test_what_one_pool_excludes_the_next_may_have():
    later = Pool(resource="a/c", selectors=(Selector(pf=("*",)),))
    pools = [excluding(Selector(vfs=VfIndices.parse("0-1"))), later]
    assignment = assign(Host(pfs=(pf(),)), pools)
    assert [member.vf.index for member in assignment.members["a/c"]] == [0, 1]


# ---- one file for many nodes ----------------------------------------------------------------------------


def entry(**keys):
    return PfEntry(match=PfMatch(**keys), num_vfs=4)


def test_for_node():
    file = PoolFile(
        resource_prefix="intel.com", warnings=("w",),
        physical_functions=(entry(name=("a",), node=("worker-1",)), entry(name=("b",), node=("gpu-*", "worker-2")),
                            entry(name=("c",))),
        pools=(
            Pool(resource="i/one", selectors=(Selector(pf=("a",), node=("/worker-[12]/",)), Selector(pf=("b",))),
                 exclude=(Selector(pf=("x",), node=("gpu-1",)), Selector(pf=("y",)))),
            Pool(resource="i/two", selectors=(Selector(pf=("a",), node=("gpu-1",)),)),
        ))
    assert for_node(file, "worker-1") == PoolFile(
        resource_prefix="intel.com", physical_functions=(entry(name=("a",)), entry(name=("c",))),
        pools=(Pool(resource="i/one", selectors=(Selector(pf=("a",)), Selector(pf=("b",))),
                    exclude=(Selector(pf=("y",)),)),))
    assert [pool.resource for pool in for_node(file, "gpu-1").pools] == ["i/one", "i/two"]
    assert for_node(file, "gpu-1").pools[0].exclude == (Selector(pf=("x",)), Selector(pf=("y",)))
    assert for_node(file, "elsewhere").physical_functions == (entry(name=("c",)),)
    assert for_node(file, "elsewhere").warnings == ("w",)


def test_before_the_node_is_known_what_is_for_some_nodes_takes_nothing():
    host = Host(pfs=(pf(),))
    pools = [Pool(resource="a/b", selectors=(Selector(pf=("*",), node=("*",)),))]
    assert assign(host, pools).members["a/b"] == ()
    assert "node * is not known to be this one" in assign(host, pools).left_out[host.pfs[0].vfs[0].address]
    assert not PfMatch(name=("*",), node=("*",)).matches(host.pfs[0])
    assert assign(host, [excluding(Selector(pf=("*",), node=("other",)))]).members["a/b"] == ()


# ---- what one selector takes of another's ---------------------------------------------------------------


def some(*values):
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


some_vfs = st.none() | st.sampled_from(["0", "0-1", "1-2", "0-3", "0,2-3"]).map(VfIndices.parse)
some_selectors = st.builds(
    Selector, pf=some("ens1f0", "ens1f*", "*", "/ens[12]f0/", "0000:3B:00.0", "ens2f0"), vfs=some_vfs,
    on=st.builds(PfMatch, name=some("ens1f0", "uplink", "*"), mac=some("02:*", "/.*/"),
                 vendor=some("8086", "80*", "15b3"), speed=some(SpeedRange(least=10000), SpeedRange.parse("25G"))),
    address=some("0000:3b:02.1", "0000:3b:*", "*"), device=some("10ca", "10CA", "10c*"), numa_node=some(0, 1),
    rdma=st.none() | st.booleans(), driver=some("igbvf", "igb*"))


@given(some_selectors, some_selectors)
def test_what_covers_another_selects_all_that_it_does(one, other):
    function = rich()
    taken, also = ({vf.index for vf in function.vfs if each.selects(function, vf)} for each in (one, other))
    if covers(one, other):
        assert also <= taken
    if crosses(one, other):
        assert not covers(one, other)
        assert not covers(other, one)
        assert one.vfs
        assert {index for index in also if index in one.vfs} <= taken


@settings(deadline=None)
@given(st.lists(some_selectors, max_size=6), some_selectors)
def test_none_that_covers_or_crosses_is_forgotten(selectors, later):
    earlier = Earlier()
    for selector in selectors:
        earlier.add(selector)
    near = earlier.near(later)
    assert near == sorted(set(near))
    related = {number for number, each in enumerate(selectors) if covers(each, later) or crosses(each, later)}
    assert related <= set(near)


@given(some_selectors)
def test_every_selector_covers_itself(selector):
    assert covers(selector, selector)
    assert covers(Selector(), selector)
