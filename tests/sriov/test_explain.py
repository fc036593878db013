"""Every selector's answer to a VF: the same as `assign`, and every reason of every selector."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.diagnosis.causes import Finding
from sriov.host.sysfs import Sysfs
from sriov.model import PciFunction
from sriov.pools.assignment import Driver, PfEntry, PfMatch, Pool, Selector, VfIndices, assign
from sriov.pools.dpconfig import parse_dp_config
from sriov.views.explanation import by_device, format_other, format_pf, format_vf, pf_document
from sriov.views.stories import Attempt, as_pf, explain_pf, explain_vf, find_namesakes
from sriov.views.tables import WIDTH
from tests.support.nics import nic
from tests.support.tree import Tree


def vfs(text, place="", **keys):
    return Selector(vfs=VfIndices.parse(text), place=place, **keys)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    tree = Tree(tmp_path_factory.mktemp("tree") / "sys")
    tree.add(nic("i40e", "0000:3b:00.0", "ens1f0", num_vfs=8, away={1}, vf_drivers={2: None}))
    tree.add(nic("mlx5 legacy", "0000:5e:00.0", "ens2f0np0", num_vfs=2))
    tree.add_other("0000:17:00.0", "020000", netdev="eno1", driver="i40e")
    return Sysfs(tree.root).scan(tree.links)


POOLS = (
    Pool(resource="a/kernel", place="p:5:5", driver=Driver.KERNEL, selectors=(
        vfs("0-3", "p:6:9", pf=("ens1f0",)), Selector(pf=("eth0",), numa_node=(1,), place="p:7:9"))),
    Pool(resource="a/dpdk", place="p:8:5", driver=Driver("vfio-pci"), exclude=(vfs("7", "p:10:9"),),
         selectors=(vfs("3-7", "p:9:9", pf=("ens1*",)),)),
)
ENTRIES = (PfEntry(match=PfMatch(name=("eth0", "eno1"), place="p:2:5"), num_vfs=2, place="p:2:5"),
           PfEntry(match=PfMatch(name=("ens1f0",), place="p:3:5"), num_vfs=8, place="p:3:5"))


def story_of(host, index):
    pf = host.pfs[0]
    return explain_vf(pf, pf.vfs[index], POOLS)


def test_a_vf_of_a_pool(host):
    story = story_of(host, 3)
    assert story.pool is POOLS[0]
    assert story.selector is POOLS[0].selectors[0]
    assert (story.attempts, story.later) == ((), (Attempt(what="a/dpdk", place="p:9:9"),))


def test_a_second_selector_of_its_pool_takes_nothing_from_a_vf(host):
    pool = Pool(resource="a/twice", selectors=(vfs("0-3"), vfs("2-7")))
    assert explain_vf(host.pfs[0], host.pfs[0].vfs[2], [pool]).later == ()


def test_a_vf_that_a_later_pool_has(host):
    story = story_of(host, 4)
    assert story.pool is POOLS[1]
    assert story.fault == "bound to iavf, the pool wants vfio-pci"
    assert story.attempts == (
        Attempt(what="a/kernel", place="p:6:9", why_not=("vfs 0-3 has no 4",)),
        Attempt(what="a/kernel", place="p:7:9", why_not=("pf eth0 is not ens1f0", "numaNode 1 is not -1")))


def test_a_vf_in_no_pool_has_every_reason_of_every_selector(host):
    story = story_of(host, 7)
    assert (story.pool, story.selector, story.fault) == (None, None, None)
    assert [attempt.why_not for attempt in story.attempts] == [
        ("vfs 0-3 has no 7",), ("pf eth0 is not ens1f0", "numaNode 1 is not -1"),
        ("exclude takes it out, at p:10:9",)]


pools_of_any_kind = st.lists(st.builds(
    lambda n, low, size, pf, out: Pool(
        resource=f"a/{n}", selectors=(vfs(f"{low}-{low + size}", pf=pf),), exclude=(vfs(str(out)),)),
    st.integers(0, 99), st.integers(0, 7), st.integers(0, 7), st.sampled_from([(), ("ens1*",), ("ens2f0np0",)]),
    st.integers(0, 8)), max_size=4, unique_by=lambda pool: pool.resource)


@settings(max_examples=50, deadline=None)
@given(pools_of_any_kind)
def test_explanations_agree_with_the_assignment(host, pools):
    assignment = assign(host, pools)
    for pf in host.pfs:
        for vf in pf.vfs:
            story = explain_vf(pf, vf, pools)
            found = [name for name, members in assignment.members.items() if vf in [each.vf for each in members]]
            assert found == ([story.pool.resource] if story.pool else [])
            assert all(attempt.why_not for attempt in story.attempts)
            assert not any(attempt.why_not for attempt in story.later)


def test_the_story_of_a_pf(host):
    story = explain_pf(host.pfs[0], ENTRIES, POOLS)
    assert story.entry is ENTRIES[1]
    assert [attempt.why_not for attempt in story.attempts] == [("name eth0 or eno1 is not ens1f0",), ()]
    assert format_pf(story, {}) == """\
PF ens1f0 (0000:3b:00.0): 8 of 64 VFs
  numVfs 8 by the entry at p:3:5
  VFs 0,3: in a/kernel by the selector at p:6:9
  VF 1: in a/kernel by the selector at p:6:9, netdev elsewhere
  VF 2: in a/kernel by the selector at p:6:9, not healthy: no driver is bound
  VFs 4-6: in a/dpdk by the selector at p:9:9, not healthy: bound to iavf, the pool wants vfio-pci
  VF 7: in no pool
    not a/kernel at p:6:9: vfs 0-3 does not have it
    not a/kernel at p:7:9: pf eth0 is not ens1f0; numaNode 1 is not -1
    not a/dpdk at p:9:9: exclude takes it out, at p:10:9
"""
    assert "not the entry at p:2:5: name eth0 or eno1 is not ens1f0\n" in format_pf(story, {}, fully=True)


def test_a_pf_that_no_entry_matches(host):
    text = format_pf(explain_pf(host.pfs[1], ENTRIES[1:], ()), {})
    assert text == """\
PF ens2f0np0 (0000:5e:00.0): 2 of 16 VFs
  no entry matches it: it is left as it is
    not the entry at p:3:5: name ens1f0 is not ens2f0np0
  VFs 0-1: in no pool: the file has none
"""


def test_findings_stand_with_what_they_are_about(host):
    pf = host.pfs[0]
    findings = by_device([
        Finding(device=pf.address, problem="ens1f0 has no carrier", action="check the cable"),
        *(Finding(device=pf.vfs[n].address, problem="broken", action="mend it") for n in (4, 5))])
    text = format_pf(explain_pf(pf, ENTRIES, POOLS), findings)
    assert "  ! ens1f0 has no carrier\n    hint: check the cable\n" in text
    assert "  VFs 4-5: in a/dpdk" in text
    assert "    ! broken\n      hint: mend it\n  VF 6: in a/dpdk" in text
    assert format_vf(story_of(host, 4), pf, findings) == """\
VF ens1f0v4 (0000:3b:02.4): VF 4 of PF ens1f0 (0000:3b:00.0)
  in a/dpdk by the selector at p:9:9, not healthy: bound to iavf, the pool wants vfio-pci
    not a/kernel at p:6:9: vfs 0-3 has no 4
    not a/kernel at p:7:9: pf eth0 is not ens1f0; numaNode 1 is not -1
  ! broken
    hint: mend it
  its PF ens1f0 (0000:3b:00.0):
    ! ens1f0 has no carrier
      hint: check the cable
"""
    document = json.loads(json.dumps(pf_document(explain_pf(pf, ENTRIES, POOLS), findings)))
    assert document["findings"] == [{"problem": "ens1f0 has no carrier", "action": "check the cable"}]
    assert [vf["resource"] for vf in document["virtualFunctions"]] == [*4 * ["a/kernel"], *3 * ["a/dpdk"], None]
    assert document["virtualFunctions"][3]["later"] == [{"resource": "a/dpdk", "place": "p:9:9"}]


def test_a_nic_that_an_entry_means_but_that_is_no_pf(host):
    (other,) = host.others
    namesakes = find_namesakes(other, ENTRIES)
    assert namesakes == ENTRIES[:1]
    assert format_other(other, namesakes, {}) == (
        "eno1 (0000:17:00.0): neither PF nor VF\n  driver i40e\n  the entry at p:2:5 would match it\n")
    tied = replace(other, driver=None, ties=("has address 192.0.2.1/24",))
    assert "  driver none; has address 192.0.2.1/24\n" in format_other(tied, (), {})


def test_as_a_pf_a_nic_keeps_all_that_is_known_of_it(host):
    (other,) = host.others
    pf = as_pf(other)
    assert (pf.total_vfs, pf.num_vfs, pf.vfs) == (0, 0, ())
    assert all(getattr(pf, name) == getattr(other, name) for name in PciFunction.__dataclass_fields__)


def test_of_many_selectors_the_nearest_are_shown(host):
    pf = host.pfs[0]
    far = [Pool(resource=f"a/{n}", selectors=(vfs(str(n), f"p:{n}:9", pf=("eth0",)),)) for n in range(100, 120)]
    near = Pool(resource="a/near", selectors=(vfs("0-6", "p:1:9"),))
    story = explain_pf(pf, ENTRIES, [*far, near])
    text = format_pf(story, {})
    assert text.index("VF 7: in no pool\n") < text.index("not a/near at p:1:9: vfs 0-6 does not have it")
    assert text.count(" not a/") == 8
    assert "    nor 13 others, for the reasons that explain 0000:3b:02.7 shows\n" in text
    assert format_vf(story.vfs[7], pf, {}).count(" not a/") == 21


def test_vfs_that_differ_in_their_own_address_only_are_told_together(host):
    pf = host.pfs[1]
    pools = [Pool(resource="a/b", selectors=(
        Selector(address=("0000:99:*",), place="p:1:9"), vfs("4-7", "p:2:9"),
        Selector(on=PfMatch(name=("/(?i)eth\\.0/",)), place="p:3:9")))]
    text = format_pf(explain_pf(pf, (), pools), {})
    assert "  VFs 0-1: in no pool\n" in text
    assert "not a/b at p:1:9: address 0000:99:* is not its own\n" in text
    assert "not a/b at p:2:9: vfs 4-7 are not there: ens2f0np0 has VFs 0-1\n" in text
    assert "not a/b at p:3:9: pf's name eth.0 is not ens2f0np0\n" in text


def test_lines_fit(host):
    place = "/etc/" + "long/" * 8 + "pools.yaml:1:1"
    pools = [Pool(resource=f"intel.com/{'x' * 50}{n}", selectors=(Selector(pf=("none",), place=place),))
             for n in range(3)]
    for pf in host.pfs:
        text = format_pf(explain_pf(pf, ENTRIES, pools), {})
        assert max(map(len, text.splitlines())) <= WIDTH


def test_a_device_plugin_s_own_configuration_is_explained_the_same_way(host):
    text = json.dumps({"resourceList": [
        {"resourceName": "dpdk", "selectors": {"pfNames": ["ens1f0#0-3"], "drivers": ["vfio-pci"]}},
        {"resourceName": "rest", "selectors": [{"vendors": ["8086"]}]}]})
    pools = parse_dp_config(text, "config.json", "intel.com").pools
    pf = host.pfs[0]
    story = explain_vf(pf, pf.vfs[0], pools)
    assert story.pool is not None
    assert story.pool.resource == "intel.com/rest"
    assert "driver vfio-pci is not iavf" in story.attempts[0].why_not
    assert all(attempt.place.startswith("config.json:1:") for attempt in story.attempts)

