"""What is known of netdevs that pods have: remembered, recalled, kept in a file that may be anything."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.errors import InputError
from sriov.host.known import Known, KnownFunction, format_known, parse_known, recall, remember
from sriov.host.knownfile import KnownFile
from sriov.host.sysfs import Sysfs
from sriov.model import Host, Link, RdmaDevice
from sriov.pci import MacAddress, PciAddress
from tests.support.nics import nic
from tests.support.tree import Tree

PF = PciAddress("0000:3b:00.0")
VF1 = PciAddress("0000:3b:00.3")
BOOT = "6b1f0a9e-9c8b-4a53-8c3e-0d6f6a0f3f11"
KIND = "mlx5 legacy"


@pytest.fixture
def scan(tmp_path):
    """Looks at a node with one NIC; `away` VFs are in pods, with their RDMA devices."""
    count = 0

    def look(**fields):
        nonlocal count
        count += 1
        tree = Tree(tmp_path / f"sys{count}").add(nic(KIND, PF, "ens1f0np0", num_vfs=3, **fields))
        tree.add_other("0000:00:03.0", "020000", driver="virtio-pci",
                       netdev=None if 9 in fields.get("away", ()) else "eth0")
        return Sysfs(tree.root).scan(tree.links)

    return look


def known_of(*hosts):
    known = Known(boot_id=BOOT)
    for host in hosts:
        known = remember(known, host)
    return known


def trouble_of(kept):
    return kept.trouble


def vf(host, index=1):
    return host.pfs[0].vfs[index]


# ---- remember and recall ------------------------------------------------------------------------------------


def test_a_vf_in_a_pod_keeps_what_was_known_of_it(scan):
    home, away = scan(), scan(away={1})
    assert (vf(away).link, vf(away).rdma, vf(away).known_link) == (None, (), None)
    host = recall(away, known_of(home, away))
    found, before = vf(host), vf(home)
    assert found.known_link is not None
    assert found.known_link == found.last_link == replace(before.link, up=False, carrier=False)
    assert (found.link, found.away, found.rdma) == (None, True, before.rdma)
    assert [function.last_link for function in (*host.pfs, vf(host, 0), vf(host, 2), *host.others)] == [None] * 4
    assert replace(found, last_link=None, rdma=()) == vf(away)


def test_a_plain_nic_in_a_pod_too(scan):
    home, away = scan(), scan(away={9})
    (found,) = recall(away, known_of(home, away)).others
    assert found.known_link is not None
    assert (found.link, found.known_link.name) == (None, "eth0")


def test_nothing_is_known_of_what_was_never_seen(scan):
    away = scan(away={1})
    assert recall(away, known_of(away)) == away


def test_what_is_here_counts_more_than_what_was(scan):
    home = scan()
    changed = replace(vf(home), link=replace(vf(home).link, name="renamed", mtu=9000))
    now = replace(home, pfs=(replace(home.pfs[0], vfs=(changed,)),))
    away = scan(away={1})
    found = vf(recall(away, known_of(home, now, away)))
    assert found.known_link is not None
    assert (found.known_link.name, found.known_link.mtu) == ("renamed", 9000)
    assert recall(now, known_of(home, now)) == now


def test_rdma_that_is_still_here_counts_more(scan):
    """Where RDMA devices are shared between namespaces, they stay when the netdev goes."""
    home, away = scan(), scan(away={1})
    still = (RdmaDevice(name="other"),)
    shown = replace(away, pfs=(replace(away.pfs[0], vfs=(replace(vf(away), rdma=still),)),))
    assert recall(shown, known_of(home)).pfs[0].vfs[0].rdma == still


@pytest.mark.parametrize("changes", [
    {"vf_drivers": {1: "vfio-pci"}}, {"vf_drivers": {1: None}}, {"vf_device": "1016"},
    {"vf_drivers": {1: "other"}, "away": {1}}, {"gaps": {1}}], ids=lambda changes: str(sorted(changes.items())))
def test_void_where_the_device_is_another_since(scan, changes):
    """Its netdev ended when its driver did, and does not come back by that driver's return."""
    between = scan(**{"away": {1}, **changes})
    away = scan(away={1})
    assert VF1 not in known_of(scan(), between, away).functions
    assert recall(between, known_of(scan())) == between


def test_what_could_not_be_read_is_not_forgotten(scan):
    home, gap, away = scan(), scan(gaps={1}), scan(away={1})
    unread = replace(gap, unreadable=("cannot read VF 1",))
    assert vf(recall(away, known_of(home, unread, away))).known_link is not None
    assert vf(recall(away, known_of(home, gap, away))).known_link is None


# ---- JSON -----------------------------------------------------------------------------------------------------


TEXT = st.text(max_size=8)
ADDRESSES = st.builds("{:04x}:{:02x}:{:02x}.{}".format, st.integers(0, 0x1FFFF), st.integers(0, 255),
                      st.integers(0, 31), st.integers(0, 7)).map(PciAddress)
MACS = st.just(MacAddress("")) | st.binary(min_size=6, max_size=6).map(lambda raw: MacAddress(raw.hex(":")))


@st.composite
def entries(draw):
    address = draw(ADDRESSES)
    altnames = tuple(draw(st.lists(TEXT, max_size=2)))
    link = Link(index=draw(st.integers(1, 2**31)), name=draw(TEXT), altnames=altnames, mac=draw(MACS),
                mtu=draw(st.integers(0, 2**32)), up=False, carrier=False, pci=address, kind=draw(TEXT))
    rdma = st.builds(RdmaDevice, name=TEXT, nodes=st.lists(TEXT, max_size=2).map(tuple))
    return address, KnownFunction(vendor=draw(TEXT), device=draw(TEXT), driver=draw(TEXT), link=link,
                                  rdma=tuple(draw(st.lists(rdma, max_size=2))))


@given(st.lists(entries(), max_size=3), TEXT)
def test_parsed_is_what_was_formatted(found, boot):
    known = Known(boot_id=boot, functions=dict(found))
    assert parse_known(format_known(known)) == known


JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.text() | JSON.map(json.dumps) | st.builds(
    lambda key, value: json.dumps({"version": 1, "bootId": "b", "functions": {}, key: value}),
    st.sampled_from(["version", "bootId", "functions"]), JSON))
def test_any_text_is_known_facts_or_an_input_error(text):
    try:
        known = parse_known(text)
    except InputError:
        return
    assert parse_known(format_known(known)) == known


def entry(**changes):
    whole = json.loads(format_known(known_example()))["functions"][VF1]
    return json.dumps({"version": 1, "bootId": BOOT, "functions": {VF1: {**whole, **changes}}})


def known_example():
    link = Link(index=7, name="ens1f0v1", mac=MacAddress("02:00:00:00:00:07"), mtu=1500, up=False, carrier=False,
                pci=VF1)
    return Known(boot_id=BOOT, functions={
        VF1: KnownFunction(vendor="15b3", device="101e", driver="mlx5_core", link=link)})


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "expected JSON: Expecting value: line 1 column 1 (char 0)"),
    ("[]", "version: expected int, got None"),
    ('{"version": 2}', "version: expected 1, got 2"),
    ('{"version": true}', "version: expected int, got True"),
    ('{"version": 1, "functions": []}', "functions: expected dict, got []"),
    ('{"version": 1, "functions": {"eth0": {}}}',
     "functions[eth0]: expected a PCI address like 0000:3b:02.1, got 'eth0'"),
    (entry(netdev=None), f"functions[{VF1}]: netdev: expected dict, got None"),
    (entry(netdev={"index": 7, "name": "a", "altnames": [], "mac": "02"}),
     f"functions[{VF1}]: expected a MAC address like 02:00:00:00:00:01, got '02'"),
    (entry(vendor=5), f"functions[{VF1}]: vendor: expected str, got 5"),
    (entry(rdma=[{"name": "mlx5_0", "nodes": [5]}]), f"functions[{VF1}]: nodes: expected a list of str, got [5]"),
    ("[" * 100_000, None),
])
def test_what_is_wrong_with_it(text, complaint):
    with pytest.raises(InputError) as caught:
        parse_known(text)
    assert complaint in (None, caught.value.message)


# ---- the file ---------------------------------------------------------------------------------------------------


def test_over_a_restart(scan, tmp_path):
    path = tmp_path / "known.json"
    first = KnownFile(path, BOOT)
    assert trouble_of(first) is None
    first.update(scan())
    again = KnownFile(path, BOOT)
    assert trouble_of(again) is None
    found = vf(again.update(scan(away={1})))
    assert found.known_link is not None
    assert (found.known_link.name, trouble_of(again)) == ("ens1f0np0v1", None)
    assert sorted(os.listdir(tmp_path)) == ["known.json", "sys1", "sys2"]


def test_it_is_written_only_when_something_changed(scan, tmp_path):
    path = tmp_path / "known.json"
    kept = KnownFile(path, BOOT)
    kept.update(scan())
    path.unlink()
    kept.update(scan())
    KnownFile(path, BOOT)
    assert not path.exists()
    kept.update(scan(vf_drivers={1: "vfio-pci"}))
    assert VF1 not in parse_known(path.read_text()).functions


def test_another_boots_facts_are_not_this_ones(scan, tmp_path):
    path = tmp_path / "known.json"
    KnownFile(path, "earlier").update(scan())
    later = KnownFile(path, BOOT)
    assert trouble_of(later) == f"what was known of netdevs in pods is of another boot: {path}"
    away = scan(away={1})
    assert later.update(away) == away
    assert (trouble_of(later), parse_known(path.read_text()).boot_id) == (None, BOOT)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "{path}: expected JSON: Expecting value: line 1 column 1 (char 0)"),
    (b"\xff\xfe", "{path}: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    (b'{"version": 7}', "{path}: version: expected 1, got 7"),
    (None, "{path}: Is a directory"),
])
def test_a_file_that_cannot_be_used_is_ignored_with_a_sentence(scan, tmp_path, content, reason):
    path = tmp_path / "known.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    kept = KnownFile(path, BOOT)
    assert trouble_of(kept) == f"what was known of netdevs in pods is lost: {reason.format(path=path)}"
    home = scan()
    assert kept.update(home) == home
    if content is None:
        assert trouble_of(kept) == f"cannot keep what is known of netdevs: {path}: Is a directory"
    else:
        assert trouble_of(kept) is None
        assert parse_known(path.read_text()).functions


def test_what_cannot_be_written_is_tried_again(scan, tmp_path):
    path = tmp_path / "state/known.json"
    kept = KnownFile(path, BOOT)
    home, away = scan(), scan(away={1})
    assert kept.update(home) == home
    assert trouble_of(kept) == (
        f"cannot keep what is known of netdevs: {path.with_name('.known.json.new')}: No such file or directory")
    path.parent.mkdir()
    assert vf(kept.update(away)).known_link is not None
    assert trouble_of(kept) is None
    assert VF1 in parse_known(path.read_text()).functions


@given(st.binary(max_size=40))
def test_any_file_leaves_the_host_as_it_is(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "known.json")
        path.write_bytes(content)
        kept = KnownFile(path, BOOT)
        assert trouble_of(kept)
        assert kept.update(Host()) == Host()
