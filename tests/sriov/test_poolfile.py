"""Pool files: every problem with its place, values as written, and never anything but a value or PoolFileErrors."""

import re
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sriov.errors import InputError
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver, PfEntry, PfMatch, Pool, Selector, VfIndices
from sriov.pools.override import LASTING, Override
from sriov.pools.poolfile import PoolFile, PoolFileErrors, load_pool_file, parse_pool_file
from sriov.pools.poolformat import format_pool_file
from sriov.pools.ranges import SpeedRange
from sriov.pools.selectors import FunctionClass
from tests.sriov.test_assignment import spans
from tests.sriov.test_pci import attempt, macs, pci_addresses

HEAD = "apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"
EXAMPLE = Path(__file__).parents[2] / "deploy/examples/pools.yaml"


def parse(body):
    return parse_pool_file(HEAD + body, "pools.yaml")


def problems(text):
    with pytest.raises(PoolFileErrors) as caught:
        parse_pool_file(text, "pools.yaml")
    return str(caught.value).splitlines()


# ---- good files -----------------------------------------------------------------------------------------


def test_all_keys():
    file = parse("""\
resourcePrefix: example.com
physicalFunctions:
  - match: {name: [ens1f0, "ens2*"], address: 0000:03:00.0, vendor: 8086, device: 10C9, driver: igb,
            mac: 10:11:22:33:44:55, numaNode: [0, -1]}
    numVfs: 8
    mtu: 9000
pools:
  - resource: sriov
    select:
      - {pf: ens1f0, vfs: 0-3, address: [0000:03:10.0, 03:10.2], vendor: "0x8086", device: 10ca,
         driver: [igbvf, vfio-pci], numaNode: 1}
      - pf: 03:00.0
        vfs: [4, 6-7]
    driver: kernel
    excludeTopology: true
  - resource: sriov
    resourcePrefix: other.example.com
    select: [{pf: "*"}]
""")
    assert file == PoolFile(
        resource_prefix="example.com",
        physical_functions=(PfEntry(
            match=PfMatch(name=("ens1f0", "ens2*"), address=(PciAddress("0000:03:00.0"),), vendor=("8086",),
                          device=("10c9",), driver=("igb",), mac=(MacAddress("10:11:22:33:44:55"),),
                          numa_node=(0, -1)),
            num_vfs=8, mtu=9000),),
        pools=(
            Pool(resource="example.com/sriov", driver=Driver.KERNEL, exclude_topology=True, selectors=(
                Selector(pf=("ens1f0",), vfs=VfIndices(((0, 3),)),
                         address=(PciAddress("0000:03:10.0"), PciAddress("0000:03:10.2")), vendor=("8086",),
                         device=("10ca",), driver=("igbvf", "vfio-pci"), numa_node=(1,)),
                Selector(pf=("0000:03:00.0",), vfs=VfIndices(((4, 4), (6, 7)))))),
            Pool(resource="other.example.com/sriov", selectors=(Selector(pf=("*",)),)),
        ))
    assert file.physical_functions[0].place == "pools.yaml:5:5"
    assert [pool.place for pool in file.pools] == ["pools.yaml:10:5", "pools.yaml:18:5"]
    assert [selector.place for selector in file.pools[0].selectors] == ["pools.yaml:12:9", "pools.yaml:14:9"]


def test_keys_of_a_pf_and_patterns():
    file = parse("""\
physicalFunctions:
  - match: {name: "/ens[12]f0/", mac: "b8:59:9F:*", speed: [">=25G", 10000], linkType: ether, rdma: true,
            firmwarePackage: ICE OS Default Package, path: 0000:00:01.0, acpiIndex: 101, class: network,
            node: [worker-1, "gpu-*"]}
    exclude: [{mac: b8:59:9f:00:00:01}]
    numVfs: 8
pools:
  - resource: sriov
    select:
      - {pf: {address: 03:00.0, speed: <=10G}, vfs: 0-3, node: "/worker-[0-9]+/"}
      - {vfs: 6, address: "0000:03:1?.*", rdma: false}
    exclude:
      - {driver: "mlx5*"}
""")
    assert file.physical_functions == (PfEntry(num_vfs=8, match=PfMatch(
        name=("/ens[12]f0/",), mac=("b8:59:9F:*",),
        speed=(SpeedRange(least=25000), SpeedRange(least=10000, most=10000)),
        link_type=("ether",), rdma=True, firmware_package=("ICE OS Default Package",), path=("0000:00:01.0",),
        acpi_index=("101",), base_class=(FunctionClass.NETWORK,), node=("worker-1", "gpu-*"),
        exclude=(PfMatch(mac=("b8:59:9f:00:00:01",)),))),)
    assert file.pools == (Pool(
        resource="intel.com/sriov", exclude=(Selector(driver=("mlx5*",)),), selectors=(
            Selector(on=PfMatch(address=("0000:03:00.0",), speed=(SpeedRange(most=10000),)),
                     vfs=VfIndices(((0, 3),)), node=("/worker-[0-9]+/",)),
            Selector(vfs=VfIndices(((6, 6),)), address=("0000:03:1?.*",), rdma=False))),)


def test_the_least():
    assert parse("") == PoolFile(resource_prefix="intel.com", physical_functions=(), pools=())
    assert parse("pools: []\nphysicalFunctions: []") == parse("")
    assert parse_pool_file("\ufeff" + HEAD, "pools.yaml") == parse("")


def test_json_is_yaml():
    text = ('{"apiVersion": "vfpool.io/v1alpha1", "kind": "PoolFile",\n'
            ' "pools": [{"resource": "a", "select": [{"vendor": "8086"}]}]}')
    assert parse_pool_file(text, "p").pools[0].resource == "intel.com/a"


def test_example_file_names_every_key():
    text = EXAMPLE.read_text()
    keys = {*PF_KEYS.split(", "), *FUNCTION_KEYS.split(", "), "pf", "vfs", "node", "exclude", "excludeTopology"}
    assert not {key for key in keys if not re.search(rf"[# `]{key}\b", text)}


def test_example_file_is_valid_and_gives_no_warning():
    file = load_pool_file(EXAMPLE)
    assert [pool.resource for pool in file.pools] == ["intel.com/sriov", "intel.com/sriov_dpdk"]
    assert file.warnings == ()


FUNCTION_KEYS = "address, path, vendor, device, driver, numaNode, acpiIndex, class, rdma"
PF_KEYS = f"name, {FUNCTION_KEYS}, mac, linkType, speed, firmwarePackage"
NETDEV = "expected a netdev name like ens1f0, a glob like ens1f* or a regular expression like /ens[12]f0/"

# ---- bad files ------------------------------------------------------------------------------------------

TABLE = [
    ("", "1:1: expected a document, the file is empty"),
    ("# nothing\n", "1:1: expected a document, the file is empty"),
    ("a: [", "1:5: expected a value, got the end of the file"),
    ("a: 1\n---\nb: 2\n", "2:1: expected one document, got another"),
    ("a: &x 1\nb: *x\n", "1:4: anchors and aliases are not supported; quote text that starts with * or &"),
    ("pf: *\n", "1:5: anchors and aliases are not supported; quote text that starts with * or &"),
    ("pf: *?f0\n", "1:5: anchors and aliases are not supported; quote text that starts with * or &"),
    ("a: !!binary aGk=\n", "1:4: tags are not supported; quote text that starts with !"),
    ('a: "\\UFFFFFFFF"\n', "1:7: a number here is out of range"),
    ("a: x\0y\n", "1:5: character U+0000 is not allowed in YAML"),
    ("[" * 5000, "1:33: nested deeper than 32 levels"),
    ("- a\n", ("1:1: expected a mapping with apiVersion, kind, resourcePrefix, physicalFunctions, pools, "
              "got a list")),
    ("just text\n", ("1:1: expected a mapping with apiVersion, kind, resourcePrefix, physicalFunctions, pools, "
                    "got 'just text'")),
    (HEAD + "pool: []\n", "3:1: unknown key 'pool', did you mean 'pools'?"),
    (HEAD + "wibble: []\n", ("3:1: unknown key 'wibble', expected one of apiVersion, kind, resourcePrefix, "
                            "physicalFunctions, pools")),
    (HEAD + "? [a, b]\n: c\n", "3:3: expected a key, got a list"),
    (HEAD + "pools: []\nkind: PoolFile\n", "4:1: key 'kind' is here twice, first at pools.yaml:2:1"),
    ("apiVersion: vfpool.io/v1alpha1\nkind: Poolfile\n",
     "2:7: kind: expected PoolFile, got 'Poolfile': mind the capital letters"),
    ("apiVersion: v1\ndata:\n  pools.yaml: |\n    kind: PoolFile\nkind: ConfigMap\nmetadata: {name: vfpool}\n",
     "1:1: this is a ConfigMap: check what is below data.pools.yaml (line 3)"),
    ("apiVersion: v1\nkind: ConfigMap\n", "1:1: this is a ConfigMap, expected a PoolFile"),
    ("apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetworkNodePolicy\nspec: {numVfs: 8}\n",
     "1:1: this is a SriovNetworkNodePolicy, expected a PoolFile"),
    ("resourceList:\n- resourceName: a\n  selectors: {pfNames: [ens1f0]}\n",
     "2:1: resourceList: sriov-network-device-plugin is configured by JSON, this is YAML"),
    (HEAD + "pools:\n", "3:7: pools: expected a list, got nothing"),
    (HEAD + "pools: {resource: sriov}\n", "3:8: pools: expected a list, got a mapping"),
    (HEAD + "resourcePrefix: Intel.com\n",
     ("3:17: resourcePrefix: expected a resource prefix like intel.com (a lower-case DNS name of at most 244 "
     "characters), got 'Intel.com'")),
    (HEAD + "resourcePrefix: ../intel.com\n",
     ("3:17: resourcePrefix: expected a resource prefix like intel.com (a lower-case DNS name of at most 244 "
     "characters), got '../intel.com'")),
    (HEAD + "resourcePrefix: node.kubernetes.io\n",
     ("3:17: resourcePrefix: expected a resource prefix of your own, kubernetes.io and requests. belong to "
     "Kubernetes, got 'node.kubernetes.io'")),
]

ENTRIES = [
    ("{numVfs: 8}", "4:5: physicalFunctions[0]: key 'match' is missing"),
    ("{match: {name: a}, numVfs: 1, exclude: [{}]}",
     (f"4:45: physicalFunctions[0].exclude[0]: expected at least one of {PF_KEYS}; to take all PFs, address: \"*\" "
      "matches every one")),
    ("{match: {name: a}}", "4:5: physicalFunctions[0]: key 'numVfs' is missing"),
    ("{match: {}, numVfs: 8}",
     (f"4:13: physicalFunctions[0].match: expected at least one of {PF_KEYS}, node; to take all PFs, "
      "address: \"*\" matches every one")),
    ("{match: {nmae: a}, numVfs: 8}", "4:14: physicalFunctions[0].match: unknown key 'nmae', did you mean 'name'?"),
    ("{match: {Name: a}, numVfs: 8}", "4:14: physicalFunctions[0].match: unknown key 'Name', did you mean 'name'?"),
    ("{match: ens1f0, numVfs: 8}",
     (f"4:13: physicalFunctions[0].match: expected a mapping with {PF_KEYS}, node, got 'ens1f0'")),
    ("{match: {name: []}, numVfs: 8}",
     "4:20: physicalFunctions[0].match.name: expected at least one item, got an empty list"),
    ("{match: {name: [a, ~]}, numVfs: 8}",
     "4:24: physicalFunctions[0].match.name[1]: expected a single value, got nothing"),
    ("{match: {name: a b}, numVfs: 8}",
     f"4:20: physicalFunctions[0].match.name: {NETDEV}, got 'a b'"),
    ("{match: {mac: 10:11:22:33:44:5}, numVfs: 8}",
     "4:19: physicalFunctions[0].match.mac: expected a MAC address like 02:00:00:00:00:01, got '10:11:22:33:44:5'"),
    ("{match: {address: 0000:03:00.9}, numVfs: 8}",
     "4:23: physicalFunctions[0].match.address: expected a PCI address like 0000:3b:02.1, got '0000:03:00.9'"),
    ("{match: {vendor: intel}, numVfs: 8}",
     "4:22: physicalFunctions[0].match.vendor: expected a PCI id of four hex digits like 8086, got 'intel'"),
    ("{match: {driver: kernel}, numVfs: 8}",
     "4:22: physicalFunctions[0].match.driver: expected the name of a driver like igbvf, got 'kernel'"),
    ("{match: {numaNode: -2}, numVfs: 8}",
     ("4:24: physicalFunctions[0].match.numaNode: expected a NUMA node like 0, or -1 where the platform does not "
     "say, got '-2'")),
    *((f"{{match: {{name: a}}, numVfs: {text}}}",
       f"4:32: physicalFunctions[0].numVfs: expected a whole number from 0 to 65535, got {text!r}")
      for text in ("on", "08", "0x8", "8.0", "-1", "1_0", "65536", "99999999999")),
    ("{match: {name: a}, numVfs: 8, mtu: 67}",
     "4:40: physicalFunctions[0].mtu: expected a whole number from 68 to 65535, got '67'"),
]

MATCHES = [
    ("{speed: fast}", "{}.speed: expected a link speed in Mbit/s like 25000 or 25G, >=25G or <=25G, got 'fast'"),
    ("{speed: 0}", "{}.speed: expected a link speed in Mbit/s like 25000 or 25G, >=25G or <=25G, got '0'"),
    ("{linkType: ethernet}", "{}.linkType: unknown link type 'ethernet', did you mean 'ether'?"),
    ("{linkType: x}", "{}.linkType: unknown link type 'x', expected one of ether, infiniband"),
    ("{class: netwrok}", "{}.class: unknown class 'netwrok', did you mean 'network'?"),
    ("{rdma: yes}", "{}.rdma: expected true or false, got 'yes'"),
    ("{path: 03:00}", "{}.path: expected a PCI address like 0000:3b:02.1, got '03:00'"),
    ("{acpiIndex: a b}", "{}.acpiIndex: expected an ACPI index like 101, got 'a b'"),
    ("{firmwarePackage: ' '}",
     "{}.firmwarePackage: expected the name of a firmware package like ICE OS Default Package, got ' '"),
    ("{name: '/ens[/'}", ("{}.name: expected a regular expression in slashes, got '/ens[/': unterminated "
                          "character set at position 3")),
    ("{name: '/[[a]/'}", ("{}.name: expected a regular expression in slashes, got '/[[a]/': Possible nested set "
                          "at position 1")),
    ("{name: //}", "{}.name: expected a regular expression in slashes, got '//': it is empty"),
    ("{name: /ens1}", f"{{}}.name: {NETDEV}, got '/ens1'"),
    ("{driver: a b}", "{}.driver: expected the name of a driver like igbvf, got 'a b'"),
    ("{mac: 'b8:59:9f'}", "{}.mac: expected a MAC address like 02:00:00:00:00:01, got 'b8:59:9f'"),
]

POOLS = [
    ("{resource: a, select: [{pf: a}], exclude: []}",
     "4:47: pools[0].exclude: expected at least one item, got an empty list"),
    ("{resource: a, select: [{pf: a}], exclude: [{pfs: a}]}",
     "4:49: pools[0].exclude[0]: unknown key 'pfs', did you mean 'pf'?"),
    ("{resource: a, select: [{pf: {}}]}",
     (f"4:33: pools[0].select[0].pf: expected at least one of {PF_KEYS}; to take all PFs, address: \"*\" matches "
      "every one")),
    ("{resource: a, select: [{pf: {nmae: a}}]}",
     "4:34: pools[0].select[0].pf: unknown key 'nmae', did you mean 'name'?"),
    ("{resource: a, select: [{pf: a, node: worker_1}]}",
     ("4:42: pools[0].select[0].node: expected the name of a Kubernetes node like worker-1, or a glob like worker-*"
      ", got 'worker_1'")),
    ("{resource: a, select: [{pf: a, linkType: ether}]}",
     "4:36: pools[0].select[0]: unknown key 'linkType', did you mean 'pf: {linkType: ...}'?"),
    ("{select: [{pf: a}]}", "4:5: pools[0]: key 'resource' is missing"),
    ("{resource: a}", "4:5: pools[0]: key 'select' is missing"),
    ("{resource: a, select: []}", "4:27: pools[0].select: expected at least one item, got an empty list"),
    ("{resource: a, select: {pf: a}}", "4:27: pools[0].select: expected a list, got a mapping"),
    ("{resource: a, select: [{}]}",
     (f"4:28: pools[0].select[0]: expected at least one of pf, vfs, {FUNCTION_KEYS}, node; to take all VFs, "
      "pf: \"*\" selects every one")),
    ("{resource: a, select: [{pfName: a}]}", "4:29: pools[0].select[0]: unknown key 'pfName', did you mean 'pf'?"),
    ("{resource: a, select: [{pf: a, vfs: 0-}]}",
     "4:41: pools[0].select[0].vfs: expected an index range like 0-3, got '0-'"),
    ("{resource: a, select: [{pf: a, vfs: [0, 3-1]}]}",
     "4:45: pools[0].select[0].vfs[1]: expected an index range like 0-3, got '3-1': it counts down"),
    ("{resource: a, select: [{pf: a, pf: b}]}",
     "4:36: pools[0].select[0]: key 'pf' is here twice, first at pools.yaml:4:29"),
    ("{resource: a, select: [{pf: ''}]}",
     f"4:33: pools[0].select[0].pf: {NETDEV}, got ''"),
    ("{resource: a, select: [{pf: a}], driver: ../x}",
     "4:46: pools[0].driver: expected kernel or the name of a driver like vfio-pci, got '../x'"),
    *((f"{{resource: a, select: [{{pf: a}}], excludeTopology: {text}}}",
       f"4:55: pools[0].excludeTopology: expected true or false, got {text!r}")
      for text in ("on", "yes", "True", "1")),
    *((f"{{resource: {text}, select: [{{pf: a}}]}}",
       ("4:16: pools[0].resource: expected a resource name (1 to 63 of A-Z, a-z, 0-9, - and _, a letter or digit "
       f"at both ends), got {text!r}")) for text in ("-a", "a_", "a.b", "a/b", "a" * 64)),
    ("{resource: example.com/a, select: [{pf: a}]}",
     ("4:16: pools[0].resource: expected a resource name without its prefix, got 'example.com/a': write "
      "resource: a and resourcePrefix: example.com")),
    *((f"{{resource: a, select: [{{pf: {text}}}]}}",
       (f"4:{column}: pools[0].select[0].pf{key}: expected a PF without VF indices, got '{got}': in a pool's "
        f"select write {{pf: {instead}}}"))
      for text, column, key, got, instead in (
          ('"ens1f0#0-3"', 33, "", "ens1f0#0-3", "ens1f0, vfs: 0-3"),
          ('"ens1f*#0,2"', 33, "", "ens1f*#0,2", 'ens1f*, vfs: "0,2"'),
          ('{name: "ens1f0#6"}', 40, ".name", "ens1f0#6", "ens1f0, vfs: 6"))),
    ("{resource: a, select: [{pf: a, vfs: 0,1,4-5}]}",
     "4:41: pools[0].select[0].vfs: a ',' ends a value within braces: write vfs: [0, 1, 4-5]"),
]


def locate(text, before, path, expected):
    """A problem of the value of a flow mapping's only key, which begins after `before` characters of line 4."""
    column = before + text.index(": ") + 3
    return f"4:{column}: {expected.format(path)}"


@pytest.mark.parametrize(("text", "expected"), [
    *TABLE,
    *((f"{HEAD}physicalFunctions:\n  - {text}\n", expected) for text, expected in ENTRIES),
    *((f"{HEAD}pools:\n  - {text}\n", expected) for text, expected in POOLS),
    *((f"{HEAD}physicalFunctions:\n  - {{numVfs: 8, match: {text}}}\n",
       locate(text, 23, "physicalFunctions[0].match", expected)) for text, expected in MATCHES),
    *((f"{HEAD}pools:\n  - {{resource: a, select: [{{pf: {text}}}]}}\n",
       locate(text, 32, "pools[0].select[0].pf", expected)) for text, expected in MATCHES),
])
def test_bad_file(text, expected):
    assert problems(text) == [f"pools.yaml:{expected}"]


def test_every_problem_at_once_in_order():
    text = """\
apiVersion: v1
pools:
  - resource: sriov
    select:
      - {pf: ens1f0, vfs: 0-}
  - resource: sriov
    select: [{pf: ens1f0}]
physicalFunctions:
  - match: {name: ens1f0}
    numVfs: many
"""
    assert problems(text) == [
        "pools.yaml:1:1: key 'kind' is missing",
        "pools.yaml:1:13: apiVersion: expected vfpool.io/v1alpha1, got 'v1'",
        "pools.yaml:5:27: pools[0].select[0].vfs: expected an index range like 0-3, got '0-'",
        "pools.yaml:6:15: pools[1].resource: intel.com/sriov is already the resource of the pool at pools.yaml:3:5",
        "pools.yaml:10:13: physicalFunctions[0].numVfs: expected a whole number from 0 to 65535, got 'many'",
    ]


def test_what_is_below_a_mistyped_key_is_found_too():
    assert problems(HEAD + "Pools:\n  - {resource: a, select: [{pf: a, vf: 0-}]}\n") == [
        "pools.yaml:3:1: unknown key 'Pools', did you mean 'pools'?",
        "pools.yaml:4:36: pools[0].select[0]: unknown key 'vf', did you mean 'vfs'?",
        "pools.yaml:4:40: pools[0].select[0].vfs: expected an index range like 0-3, got '0-'"]


def test_of_very_many_problems_the_first_are_said():
    found = problems(HEAD + "pools:\n" + "  - {resource: a/}\n" * 30)
    assert (len(found), found[-1]) == (51, "and 10 more")


def test_message_stays_on_one_line():
    assert problems(HEAD + 'resourcePrefix: "a\\nb"\n') == [
        ("pools.yaml:3:17: resourcePrefix: expected a resource prefix like intel.com (a lower-case DNS name of at "
        "most 244 characters), got 'a\\nb'")]


@pytest.mark.parametrize(("data", "expected"), [
    (b"kind: PoolFile\na: \xc3\xa9\xff\n", "2:5: expected UTF-8 text, got byte 0xff"),
    (HEAD.encode("utf-16"), "1:1: expected UTF-8 text, got UTF-16: save it as UTF-8"),
])
def test_not_utf8(tmp_path, data, expected):
    path = tmp_path / "pools.yaml"
    path.write_bytes(data)
    with pytest.raises(PoolFileErrors) as caught:
        load_pool_file(path)
    assert str(caught.value) == f"{path}:{expected}"


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError) as missing:
        load_pool_file(tmp_path / "none.yaml")
    assert str(missing.value) == f"cannot read pool file {tmp_path}/none.yaml: No such file or directory"
    with pytest.raises(InputError, match="Is a directory"):
        load_pool_file(tmp_path)


# ---- warnings -------------------------------------------------------------------------------------------


def test_indices_that_no_entry_makes():
    file = parse("""\
physicalFunctions:
  - {match: {name: ens1f0}, numVfs: 4}
pools:
  - {resource: a, select: [{pf: ens1f0, vfs: 0-3}, {pf: ens1f0, vfs: 4-7}, {pf: ens1f1, vfs: 4-7}]}
""")
    assert file.warnings == (
        "pools.yaml:6:52: vfs 4-7 reaches VF 7 of ens1f0, but the entry at pools.yaml:4:5 makes 4",)


@pytest.mark.parametrize(("entry", "selector", "warns"), [
    ("", "", True), ("", ", node: a", True), (", node: a", ", node: a", True),
    (", node: a", "", False), (", node: a", ", node: b", False),
])
def test_indices_that_no_entry_of_that_node_makes(entry, selector, warns):
    file = parse(f"""\
physicalFunctions:
  - {{match: {{name: ens1f0{entry}}}, numVfs: 4}}
pools:
  - {{resource: a, select: [{{pf: {{name: ens1f0}}, vfs: 4-7{selector}}}]}}
""")
    assert bool(file.warnings) == warns


NEVER = "pools.yaml:5:28: intel.com/b never gets a VF from this selector: the one at pools.yaml:4:28"


@pytest.mark.parametrize(("first", "second", "warning"), [
    ("{pf: x}", "{pf: x}", f"{NEVER} is the same and comes first"),
    ("{pf: x}", "{pf: x, vfs: 0-3}", f"{NEVER} selects all that it does and comes first"),
    ("{pf: x*}", "{pf: [x1, x2]}", f"{NEVER} selects all that it does and comes first"),
    ("{pf: '*'}", "{vfs: 0-3}", f"{NEVER} selects all that it does and comes first"),
    ("{pf: x, vfs: 0-7}", "{pf: x, vfs: '1,4-5', driver: iavf}",
     f"{NEVER} selects all that it does and comes first"),
    ("{pf: {name: x, speed: '>=10G'}}", "{pf: {name: x, speed: 25G}}",
     f"{NEVER} selects all that it does and comes first"),
    ("{vendor: '15B*'}", "{vendor: 15b3}", f"{NEVER} selects all that it does and comes first"),
    ("{pf: x, vfs: 0-4}", "{pf: x, vfs: 3-7}",
     ("pools.yaml:5:28: intel.com/b does not get vfs 3-4 of this selector: they belong to intel.com/a at "
      "pools.yaml:4:28, which comes first")),
    ("{pf: x*, vfs: 0-4}", "{pf: x1, vfs: 3-7, driver: iavf}",
     ("pools.yaml:5:28: intel.com/b does not get vfs 3-4 of this selector: they belong to intel.com/a at "
      "pools.yaml:4:28, which comes first")),
    ("{pf: x, vfs: 0-3}", "{pf: x, vfs: 4-7}", None),
    ("{pf: x, vfs: 0-3}", "{pf: y, vfs: 0-3}", None),
    ("{pf: x, vfs: 0-3}", "{pf: x}", None),                         # the exception, then the rule
    ("{pf: [x1, x2]}", "{pf: x*}", None),
    ("{pf: x, vfs: 0-4, driver: iavf}", "{pf: x, vfs: 3-7, driver: vfio-pci}", None),
    ("{pf: x, node: a}", "{pf: x, node: b}", None),
    ("{pf: x, node: a}", "{pf: x}", None),
    ("{pf: x, node: 'a*'}", "{pf: x, node: a1}", f"{NEVER} selects all that it does and comes first"),
    ("{pf: {name: '*'}}", "{vfs: 0}", None),                        # a PF may have no netdev, a VF no driver
    ("{driver: '*'}", "{vfs: 0}", None),
    ("{pf: x, vfs: 0-4, driver: iavf}", "{pf: x, vfs: 3-7}", None),
    ("{pf: x1, vfs: 0-4}", "{pf: x*, vfs: 3-7}", None),             # only the node knows what else x* means
    ("{rdma: true}", "{rdma: false}", None),
    ("{pf: {speed: 25G}}", "{pf: {speed: '>=10G'}}", None),
])
def test_selector_that_meets_an_earlier_one(first, second, warning):
    file = parse(f"pools:\n  - {{resource: a, select: [{first}]}}\n  - {{resource: b, select: [{second}]}}\n")
    assert file.warnings == ((warning,) if warning else ())


def test_what_a_pool_excludes_a_later_one_may_get():
    file = parse("pools:\n  - {resource: a, select: [{pf: x}], exclude: [{vfs: 0}]}\n"
                 "  - {resource: b, select: [{pf: x, vfs: 0}]}\n")
    assert file.warnings == ()


def test_exclude_that_takes_out_a_whole_selector():
    file = parse("pools:\n  - {resource: a, select: [{pf: x, vfs: 0}, {pf: y}], exclude: [{vfs: 0-3}]}\n")
    assert file.warnings == (
        ("pools.yaml:4:28: intel.com/a never gets a VF from this selector: the exclude at pools.yaml:4:65 takes "
         "out all that it selects"),)


@pytest.mark.parametrize(("first", "second", "dead"), [
    ("x", "x", True), ("x, y", "x", False), ("x", "x, y", False), (None, "x", True), ("x", None, False),
])
def test_entry_with_exclude(first, second, dead):
    keys = ["" if names is None else f", exclude: [{{name: [{names}]}}]" for names in (first, second)]
    entries = "".join(f"  - {{match: {{vendor: 8086}}, numVfs: 4{key}}}\n" for key in keys)
    file = parse(f"physicalFunctions:\n{entries}")
    assert bool(file.warnings) == dead


def test_entry_that_is_never_used():
    file = parse("physicalFunctions:\n  - {match: {name: x*}, numVfs: 4}\n  - {match: {name: x1}, numVfs: 8}\n"
                 "  - {match: {name: [x1, y]}, numVfs: 8}\n")
    assert file.warnings == (
        ("pools.yaml:5:5: this entry is never used: the one at pools.yaml:4:5 matches all the PFs that it does, "
         "and comes first"),)


@pytest.mark.parametrize(("driver", "warns"), [
    ("vfio-pci", True), ("igbvf", False), ("kernel", False),
])
def test_selector_that_the_pool_s_own_driver_undoes(driver, warns):
    file = parse(f"pools:\n  - resource: a\n    driver: {driver}\n    select: [{{driver: igbvf}}]\n")
    warning = ("pools.yaml:6:14: selects only VFs bound to igbvf, but intel.com/a binds its VFs to vfio-pci: they "
               "would leave the pool")
    assert file.warnings == ((warning,) if warns else ())


# ---- what PFs and VFs get ------------------------------------------------------------------------------


def test_provisioning_keys():
    file = parse("""\
physicalFunctions:
  - match: {name: ens1}
    numVfs: 2
    eswitch: switchdev
    vfMacs: [02:00:00:00:00:01, 02-00-00-00-00-02]
    force: [adopt, tied]
  - {match: {name: ens2}, numVfs: 2, vfMacs: derived, force: disturb-vfs}
pools:
  - resource: a
    select: [{pf: ens1}]
    defaults: {mtu: 9000, vlan: 100, vlanQoS: 3, trust: on, spoofchk: off, linkState: enable, minTxRate: 100,
               maxTxRate: 100000}
""")
    first, second = file.physical_functions
    assert (first.eswitch, first.derive_macs) == ("switchdev", False)
    assert first.vf_macs == (MacAddress("02:00:00:00:00:01"), MacAddress("02:00:00:00:00:02"))
    assert first.force == (Override.ADOPT, Override.TIED)
    assert (second.vf_macs, second.derive_macs, second.force) == ((), True, (Override.DISTURB_VFS,))
    (pool,) = file.pools
    assert pool.vf_mtu == 9000
    assert pool.vf_settings == VfSettings(vlan=100, vlan_qos=3, trust=True, spoofchk=False, min_tx_rate=100,
                                          max_tx_rate=100000, link_state=LinkState.ENABLE)


@pytest.mark.parametrize(("key", "problem"), [
    ("eswitch: switch", "eswitch: unknown eswitch mode 'switch', did you mean 'switchdev'?"),
    ("vfMacs: [derived, 02:00:00:00:00:01]", "vfMacs: expected derived, or a list of MAC addresses"),
    ("vfMacs: [derived, derived]", "vfMacs: expected derived, or a list of MAC addresses"),
    ("vfMacs: [02:00:00:00:00:01, 02:00:00:00:00:01]", "vfMacs: expected a MAC address of its own for each VF"),
    ("vfMacs: 03:00:00:00:00:01", "vfMacs: expected a unicast MAC address, got '03:00:00:00:00:01'"),
    ("force: in-use", "force: in-use is not for a file: what is in use would be taken away again and again"),
    ("force: [addopt]", "force[0]: unknown override 'addopt', did you mean 'adopt'?"),
])
def test_wrong_provisioning_key_of_an_entry(key, problem):
    (found,) = problems(f"{HEAD}physicalFunctions:\n  - {{match: {{name: a}}, numVfs: 2, {key}}}\n")
    assert found.partition(" ")[2] == f"physicalFunctions[0].{problem}"


@pytest.mark.parametrize(("keys", "problem"), [
    ("vlan: 4095", "vlan: expected a whole number from 0 to 4094, got '4095'"),
    ("vlan: 5, vlanQos: 3", "unknown key 'vlanQos', did you mean 'vlanQoS'?"),
    ("trust: true", "trust: expected on or off, got 'true'"),
    ("linkState: up", ("linkState: unknown link state 'up', expected one of auto, enable, disable")),
    ("maxTxRate: 5000000000", ("maxTxRate: expected a rate in Mbit/s from 0, which is no limit, to 4294967295, got "
                               "'5000000000'")),
    ("vlanQoS: 3", "vlanQoS: needs vlan, which is not set"),
    ("vlan: 0, vlanQoS: 3", "vlanQoS: expected 0 for vlan 0 (untagged), got 3"),
    ("maxTxRate: 10, minTxRate: 20", "minTxRate: expected at most maxTxRate (10), got 20"),
])
def test_wrong_default_of_a_pool(keys, problem):
    (found,) = problems(f"{HEAD}pools:\n  - {{resource: a, select: [{{pf: x}}], defaults: {{{keys}}}}}\n")
    assert found.partition(" ")[2] in (f"pools[0].defaults.{problem}", f"pools[0].defaults: {problem}")


# ---- properties -----------------------------------------------------------------------------------------


def several(items):
    return st.lists(items, max_size=2).map(tuple)


def or_pattern(values):
    return values | st.sampled_from([
        "*", "a*", "[ab]?", "/a|b/", "/(?i)x'\"#: {}/", "/\\d+\u00e9/", "/\U0001f600/",
    ])


names = st.text(string.ascii_lowercase + string.digits + "-_.:@!#&%,'\"", min_size=1, max_size=15).filter(
    lambda name: "#" not in name and (not name.replace(":", "").replace(".", "").isalnum() or ":" not in name))
hex_ids = st.text("0123456789abcdef", min_size=4, max_size=4)
drivers = st.sampled_from(["igbvf", "vfio-pci", "iavf", "123"])
nodes = st.integers(-1, 99999)
speeds = st.builds("{}{}".format, st.sampled_from(["", "<=", ">="]), st.integers(1, 9999999)).map(SpeedRange.parse)
function_keys = {
    "address": several(or_pattern(pci_addresses)), "path": several(or_pattern(pci_addresses)),
    "vendor": several(or_pattern(hex_ids)), "device": several(or_pattern(hex_ids)),
    "driver": several(or_pattern(drivers)), "numa_node": several(nodes), "acpi_index": several(or_pattern(names)),
    "base_class": several(st.sampled_from(FunctionClass)), "rdma": st.none() | st.booleans(),
}
node_names = {"node": several(or_pattern(st.sampled_from(["worker-1", "a.b", "null"])))}
pf_keys = {
    "name": several(or_pattern(names)), "mac": several(or_pattern(macs)),
    "link_type": several(st.sampled_from(["ether", "infiniband"])), "speed": several(speeds),
    "firmware_package": several(st.sampled_from(["ICE OS Default Package", "é: x", "a*"])), **function_keys,
}
entries = st.builds(
    PfEntry, match=st.builds(PfMatch, **pf_keys, **node_names, exclude=several(st.builds(PfMatch, **pf_keys).filter(
        lambda match: match != PfMatch()))).filter(lambda match: replace(match, exclude=()) != PfMatch()),
    num_vfs=st.integers(0, 65535), mtu=st.none() | st.integers(68, 65535),
    eswitch=st.sampled_from([None, "legacy", "switchdev"]), force=several(st.sampled_from(LASTING)))
entries = st.one_of(entries, st.builds(replace, entries, derive_macs=st.just(True)), st.builds(
    replace, entries, vf_macs=st.lists(st.integers(0, 9), unique=True).map(
        lambda numbers: tuple(MacAddress(f"02:00:00:00:00:0{n}") for n in numbers))))
vfs = {"vfs": st.none() | spans.map(VfIndices.merge)}
selectors = st.one_of(
    st.builds(Selector, pf=several(or_pattern(names)), **vfs, **function_keys, **node_names),
    st.builds(Selector, on=st.builds(PfMatch, **pf_keys), **vfs, **function_keys, **node_names),
).filter(lambda selector: selector != Selector())
prefixes = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{1,3})?", fullmatch=True).filter(
    lambda prefix: not prefix.startswith("requests."))
resources = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", fullmatch=True)
pools = st.builds(
    Pool, resource=st.builds("{}/{}".format, prefixes, resources),
    selectors=st.lists(selectors, min_size=1, max_size=3).map(tuple),
    exclude=st.lists(selectors, max_size=2).map(tuple),
    driver=st.none() | drivers.map(Driver) | st.just(Driver.KERNEL), exclude_topology=st.booleans(),
    vf_mtu=st.none() | st.integers(68, 65535),
    vf_settings=st.builds(
        lambda tag, **others: VfSettings(vlan=tag[0], vlan_qos=tag[1], **others),
        tag=st.sampled_from([(None, None), (0, None), (0, 0), (5, None), (4094, 7)]),
        spoofchk=st.none() | st.booleans(), trust=st.none() | st.booleans(),
        min_tx_rate=st.none() | st.integers(0, 500), max_tx_rate=st.sampled_from([None, 0, 500, 2**32 - 1]),
        link_state=st.sampled_from([None, *LinkState])))
pool_files = st.builds(
    PoolFile, resource_prefix=prefixes, physical_functions=st.lists(entries, max_size=3).map(tuple),
    pools=st.lists(pools, max_size=3, unique_by=lambda pool: pool.resource).map(tuple))

@settings(deadline=None)
@given(pool_files)
def test_pool_file_survives_formatting(file):
    assert parse_pool_file(format_pool_file(file), "pools.yaml") == file


def value_or_problems(text):
    """The property: a value, or problems that each have a place inside the text."""
    result = attempt(lambda text: parse_pool_file(text, "pools.yaml"), text)
    if not isinstance(result, PoolFile):
        assert result.problems
        for problem in result.problems:
            assert problem.file == "pools.yaml"
            assert 1 <= problem.line <= len(text) + 1
            assert 1 <= problem.column <= len(text) + 2


YAML_LIKE = st.text("ab01 :-[]{},\n\t\"'|>&*!%#?@`~<\\xUu.", max_size=40)


@given(st.one_of(st.text(), YAML_LIKE, YAML_LIKE.map(lambda body: HEAD + body)))
@example("\ufeff")
@example("%YAML 1." + "9" * 5000 + "\n---\n")
@example('"\\U00110000"')
@example("%TAG ! tag:x\n--- !a b")
@example("a: >99\n b")
@example("{? : }")
def test_any_text_is_a_pool_file_or_problems(text):
    value_or_problems(text)


@settings(deadline=None)
@given(pool_files, st.data())
def test_a_spoilt_pool_file_is_a_pool_file_or_problems(file, data):
    text = format_pool_file(file)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 5, len(text))))
    value_or_problems(text[:start] + data.draw(YAML_LIKE) + text[end:])


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_pool_file_or_problems(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    result = attempt(load_pool_file, path)
    if not isinstance(result, PoolFile):
        assert {problem.file for problem in result.problems} == {str(path)}


def test_a_file_without_end_is_not_read_to_its_end():
    with pytest.raises(InputError, match="/dev/zero: it is larger than 1 MiB"):
        load_pool_file(Path("/dev/zero"))
