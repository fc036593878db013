"""Pool files that an editor, a template or a habit of YAML's has made nasty: what is said of them, and where."""

import pytest

from sriov.pools.poolfile import PoolFileErrors, parse_pool_file

HEAD = "apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"
NETDEV = "expected a netdev name like ens1f0, a glob like ens1f* or a regular expression like /ens[12]f0/"
NAME = "expected a resource name (1 to 63 of A-Z, a-z, 0-9, - and _, a letter or digit at both ends), got"
POOL_KEYS = "resource, select, resourcePrefix, driver, excludeTopology, exclude, defaults"
COLON = "a ':' that ends no key: quote text that has one, or look for a missing ':' or a wrong indentation above"
ALIASES = "anchors and aliases are not supported; quote text that starts with * or &"
TAGS = "tags are not supported; quote text that starts with !"
TAB = "a tab, where YAML has spaces only"
VFS = "expected an index range like 0-3, got 'x'"
FLOW = "expected ',' or '}' in what begins at pools.yaml:"
NO_COLON = "expected a key, a ':' and a space, got no such ':'"
SELECT = "    select: [{pf: eth0, vfs: x}]"


def unfit(line, column):
    return f"this fits nothing in what begins at pools.yaml:{line}:{column}: check indentation, '-' and quotes"


# What is below `pools:`, the third line.
BELOW_POOLS = [
    # flow mappings and lists: places in the middle of lines, and over several
    ("""\
  - {resource: a,
     select: [{pf: eth0,
               vfs: x},
              {pf: [b,
                    'a/b']}]}""",
     [f"6:21: pools[0].select[0].vfs: {VFS}", f"8:21: pools[0].select[1].pf[1]: {NETDEV}, got 'a/b'"]),
    ("  - {resource: a, # note\n     select: [{pf: eth0, # }\n       vfs: x}]}",
     [f"6:13: pools[0].select[0].vfs: {VFS}"]),
    ("  - {resource: '\N{GRINNING FACE}', select: [{pf: eth0, vfs: x}]}",
     [f"4:16: pools[0].resource: {NAME} '\N{GRINNING FACE}'", f"4:46: pools[0].select[0].vfs: {VFS}"]),
    ("  - {resource: a, select: [{pf: eth0}]\n  - {resource: b}", [f"5:3: {FLOW}4:5"]),
    ("  - resource: a\n    select: [{pf: eth0}", ["5:13: nothing closes this bracket"]),
    ("  - {resource: a select: []}", [f"4:24: {FLOW}4:5"]),
    ("  - {resource: a,, select: []}", ["4:18: expected a value, got ','"]),
    ("  - {resource: a, select: [{pf: /ens[12]f0/}]}", [f"4:37: {FLOW}4:28; quote text that has a bracket in it"]),
    ("  - {resource, select: [{pf: eth0}]}", ["4:14: pools[0].resource: expected a single value, got nothing"]),
    ("  - {resource: a, select: [{pf: eth0, [a]: b}]}", ["4:39: pools[0].select[0]: expected a key, got a list"]),
    # tabs
    ("\t- resource: a", [f"4:1: {TAB}"]),
    ("  - resource: a\n  \t  select: []", [f"5:3: {TAB}"]),
    ("  - resource:\ta", [f"4:14: {TAB}"]),
    (f"  - resource: a\t\n{SELECT}", [f"4:16: {TAB}"]),
    (f"  - resource: 'a\tb'\n{SELECT}",
     [f"4:15: pools[0].resource: {NAME} 'a\\tb'", f"5:30: pools[0].select[0].vfs: {VFS}"]),
    # anchors, merge keys, tags
    ("  - &base {resource: a}\n  - <<: *base", [f"4:5: {ALIASES}"]),
    ("  - resource: &n a", [f"4:15: {ALIASES}"]),
    ("  - resource: a\n    <<: *base", [f"5:9: {ALIASES}"]),
    ("  - resource: a\n    select: [{pf: *}]", [f"5:19: {ALIASES}"]),
    (f"  - <<: {{driver: kernel}}\n    resource: a\n{SELECT}",
     ["4:5: pools[0]: merge keys are not supported; write the keys here themselves",
      f"6:30: pools[0].select[0].vfs: {VFS}"]),
    ("  - resource: !!str a", [f"4:15: {TAGS}"]),
    ("  - resource: a\n    select: [{pf: !eth0}]", [f"5:19: {TAGS}"]),
    # keys that are there twice
    ("  - {resource: a, 'resource': b, \"resource\": c, select: [{pf: a, pf: b}]}",
     ["4:19: pools[0]: key 'resource' is here twice, first at pools.yaml:4:6",
      "4:34: pools[0]: key 'resource' is here twice, first at pools.yaml:4:6",
      "4:66: pools[0].select[0]: key 'pf' is here twice, first at pools.yaml:4:59"]),
    (f"  - resource: a\n{SELECT}\npools: []",
     [f"5:30: pools[0].select[0].vfs: {VFS}", "6:1: key 'pools' is here twice, first at pools.yaml:3:1"]),
    # indentation, dashes, colons
    ("  - resource: a\n   select: []", [f"5:4: {unfit(4, 3)}"]),
    ("  - resource: a\n     select: []", [f"5:12: {COLON}"]),
    ("  - resource: a\n    - resource: b", [f"5:5: {unfit(4, 5)}"]),
    ("  - resource: a: b", [f"4:16: {COLON}"]),
    ("  - resource: 'a' b", [f"4:19: {unfit(4, 5)}"]),
    ("  - resource: a\nfoo", [f"5:1: {NO_COLON}"]),
    ("kind:PoolFile\npools: []", [f"4:1: {NO_COLON}"]),
    ("  - - resource: a", [f"4:5: pools[0]: expected a mapping with {POOL_KEYS}, got a list"]),
    # quotes and characters
    (f"  - resource: 'a\n{SELECT}", ["4:15: nothing closes this quote"]),
    ("  - resource: @a", ["4:15: text cannot start with @ here: quote it"]),
    ("  - resource: `a`", ["4:15: text cannot start with ` here: quote it"]),
    (f"  - resource: a\N{LINE SEPARATOR}{SELECT}",
     ["4:16: character U+2028 ends a line for YAML, but not for editors: write an escape"]),
    # several documents
    ("  - resource: a\n...\nfoo", ["6:1: expected the one document to begin with --- here, or the file to end"]),
    ("  - resource: a\n---\nfoo", ["5:1: expected one document, got another"]),
]


def problems_of(text):
    with pytest.raises(PoolFileErrors) as caught:
        parse_pool_file(text, "pools.yaml")
    return [line.removeprefix("pools.yaml:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(("pools", "expected"), BELOW_POOLS)
def test_what_is_said_and_where(pools, expected):
    assert problems_of(f"{HEAD}pools:\n{pools}\n") == expected
    # Lines that end as on Windows, and a byte order mark, move no place.
    assert problems_of("\ufeff" + f"{HEAD}pools:\n{pools}\n".replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("kind PoolFile\npools: []\n", f"2:6: {COLON}"),
    (HEAD + "pools: - resource: a\n", "3:8: the '-' of a list's item has to begin a line"),
    (HEAD + "pools: [{resource: a}]]\n", f"3:23: {unfit(1, 1)}"),
    ("%YAML 1.2\n" + HEAD, "2:1: expected the one document to begin with --- here, or the file to end"),
    ("%YAML 2.0\n---\n" + HEAD, "1:1: found incompatible YAML document (version 1.* is required)"),
    ("a: b: c", f"1:5: {COLON}"),
    ("kind: PoolFile\n\tapiVersion: x", f"2:1: {TAB}"),
])
def test_of_a_whole_file(text, expected):
    assert problems_of(text) == [expected]


@pytest.mark.parametrize("text", [
    HEAD + "pools: [{resource: a, select: [{pf: eth0},],},]\n",
    HEAD + "pools:\n- resource: a\n  select:\n  - pf: eth0\n",
    "%YAML 1.2\n---\n" + HEAD + "pools:\n  - ? resource\n    : a\n    ? select\n    : [{pf: eth0}]\n...\n",
    HEAD + "pools:\n  # 1\n  - resource: a # 2\n  # 3\n    select: # 4\n      - pf: >-\n          eth0\n",
])
def test_what_is_odd_and_right(text):
    (pool,) = parse_pool_file(text, "pools.yaml").pools
    assert (pool.resource, [selector.pf for selector in pool.selectors]) == ("intel.com/a", [("eth0",)])


@pytest.mark.parametrize("text", [
    f"{HEAD}pools:\n  - resource: {'a' * 100_000}\n    select: [{{pf: eth0}}]\n",
    f"{HEAD}pools:\n  - resource: a\n    ? {'k' * 100_000}\n    : b\n    select: [{{pf: eth0}}]\n",
])
def test_a_value_as_long_as_the_file_is_cut(text):
    (problem,) = problems_of(text)
    assert len(problem) < 600
    assert problem.endswith("...")
