"""Records of PFs on disk: what is written comes back, and what is not a record is never taken for one."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sriov.errors import HostError, InputError, Refused
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver
from sriov.pools.override import Override
from sriov.provision.ledger import Ledger, hold_state
from sriov.provision.ownership import Ownership, Unfinished, format_ownership, parse_ownership
from sriov.provision.state import PfState, VfState
from tests.sriov.fakenode import make_pf

A = PciAddress("0000:3b:00.0")
PF = make_pf(A, 1)

vf_settings = st.builds(
    VfSettings, mac=st.sampled_from([None, MacAddress("02:00:00:00:00:01"), MacAddress.ZERO]),
    vlan=st.none() | st.integers(0, 4094), vlan_proto=st.sampled_from([None, 0x8100, 0x88A8]),
    spoofchk=st.none() | st.booleans(), trust=st.none() | st.booleans(),
    max_tx_rate=st.none() | st.integers(0, 2**32), link_state=st.sampled_from([None, *LinkState]))
states = st.builds(
    PfState, num_vfs=st.integers(0, 65535), mtu=st.none() | st.integers(68, 65535), up=st.none() | st.booleans(),
    eswitch=st.sampled_from([None, "legacy"]), autoprobe=st.none() | st.booleans(),
    vfs=st.dictionaries(st.integers(0, 255), st.builds(
        VfState, driver=st.sampled_from([None, Driver.KERNEL, Driver("")]),
        override=st.sampled_from([None, "", "a"]), mtu=st.none() | st.integers(68, 65535), settings=vf_settings),
        max_size=3))
records = st.builds(
    Ownership, pf=st.just(A), vendor=st.just("8086"), device=st.just("10c9"), boot_id=st.text(), before=states,
    owns_vfs=st.booleans(), vfs=st.none() | st.integers(0, 2**64), last_good=st.none() | states,
    unfinished=st.none() | st.builds(Unfinished, autoprobe=st.booleans(), counts=st.lists(
        st.integers(0, 65535), max_size=2).map(tuple)),
    overrides=st.lists(st.sampled_from(Override), unique=True).map(tuple))


@settings(deadline=None)
@given(records)
def test_a_record_survives_formatting(record):
    assert parse_ownership(format_ownership(record)) == record


TEXT = format_ownership(Ownership(
    pf=A, vendor="8086", device="10c9", boot_id="b", last_good=None, before=PfState(num_vfs=1, mtu=1500, vfs={
        0: VfState(driver=Driver("igbvf"), settings=VfSettings(vlan=1, trust=True, link_state=LinkState.AUTO))})))


@settings(deadline=None)
@given(st.data())
def test_a_spoilt_record_is_a_record_or_none(data):
    start = data.draw(st.integers(0, len(TEXT)))
    text = TEXT[:start] + data.draw(st.text(max_size=5)) + TEXT[start + data.draw(st.integers(0, 9)):]
    with suppress(InputError):
        assert isinstance(parse_ownership(text), Ownership)


def spoil(change):
    document = json.loads(TEXT)
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize("text", [
    "", "[]", "[" * 100000, "{}", spoil(lambda it: it.update(overrides=["all"])),
    spoil(lambda it: it.update(version=2)), spoil(lambda it: it.update(vendor=1)),
    spoil(lambda it: it.update(vfs=True)), spoil(lambda it: it.update(unfinished={})),
    spoil(lambda it: it.update(unfinished={"autoprobe": True, "counts": ["2"]})),
    spoil(lambda it: it.update(unfinished={"autoprobe": True, "counts": 2})),
    spoil(lambda it: it["before"].update(numVfs=True)), spoil(lambda it: it["before"].update(mtu="x")),
    spoil(lambda it: it["before"]["vfs"].update(x={})), spoil(lambda it: it["before"]["vfs"].update({"0": []})),
    *(spoil(lambda it, key=key, value=value: it["before"]["vfs"]["0"]["settings"].update({key: value}))
      for key, value in (("mac", "x"), ("vlan", "x"), ("trust", 1), ("link_state", 7), ("no", 1))),
])
def test_what_is_no_record(text):
    with pytest.raises(InputError):
        parse_ownership(text)


def test_what_was_there_before_is_noted_once_for_each_boot(tmp_path):
    first, second = PfState(num_vfs=0), PfState(num_vfs=3)
    ledger = Ledger(tmp_path, "one")
    ledger.begin(PF, first)
    ledger.begin(PF, second, vfs=7)
    ledger.settle(PF, second)
    assert ledger.find_changed(PF) == Ownership(
        pf=A, vendor="8086", device="10c9", boot_id="one", before=first, owns_vfs=True, vfs=7, last_good=second)
    booted = Ledger(tmp_path, "two")
    assert booted.records == ledger.records
    assert booted.find_changed(PF) is None
    booted.begin(PF, second)
    assert booted.find_changed(PF) == Ownership(
        pf=A, vendor="8086", device="10c9", boot_id="two", before=second, owns_vfs=False, last_good=second,
        unfinished=Unfinished(autoprobe=True))
    booted.forget(A)
    booted.forget(A)
    assert Ledger(tmp_path, "two").records == {}


def test_a_run_that_began_and_did_not_end(tmp_path):
    """The next one knows what it may have made, and how autoprobe was before the first that did not end."""
    ledger = Ledger(tmp_path, "b")
    ledger.begin(PF, PfState(num_vfs=0), counts=(2,))
    died = Ledger(tmp_path, "b")
    off = replace(PF, autoprobe=False)
    assert [died.owns(replace(off, num_vfs=count), 7) for count in (1, 2, 3)] == [False, True, False]
    died.begin(off, PfState(num_vfs=0))
    assert died.find_unfinished(PF) == Unfinished(autoprobe=True)
    assert not died.owns(replace(off, num_vfs=2), 7)
    died.own(PF, 7)
    died.end(PF)
    assert died.find_unfinished(PF) is None
    assert [died.owns(replace(PF, num_vfs=2), number) for number in (7, 8)] == [True, False]
    assert Ledger(tmp_path, "b").records == died.records


def test_a_damaged_record_is_set_aside_only_when_a_new_one_is_written(tmp_path):
    (tmp_path / "pfs").mkdir()
    path = tmp_path / "pfs" / f"{A}.json"
    path.write_text("{")
    other = path.with_name("0000:00:00.0.json")
    other.write_text(TEXT)
    ledger = Ledger(tmp_path, "b")
    assert sorted(ledger.damaged) == [
        f"{other}: it is about {A}",
        (f"{path}: not a record of a PF: JSONDecodeError('Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)')")]
    assert path.read_text() == "{"
    ledger.begin(PF, PfState(num_vfs=0))
    assert path.with_suffix(".damaged").read_text() == "{"
    assert set(Ledger(tmp_path, "b").records) == {A}


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(HostError, match=r"cannot read the records in .*: ENOTDIR"):
        Ledger(tmp_path / "state", "b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/pfs").write_text("")
    with pytest.raises(HostError, match=r"cannot read the records in .*: ENOTDIR"):
        Ledger(tmp_path / "other", "b")


def test_one_process_at_a_time(tmp_path):
    state = tmp_path / "state"
    with hold_state(state), pytest.raises(Refused, match="another process has it open"), hold_state(state):
        pass
    with hold_state(tmp_path / "state"):
        pass


def test_the_lock_is_the_agents(tmp_path):
    from cni.store import Store

    store = Store.open(tmp_path)
    with pytest.raises(Refused, match="stop it first"), hold_state(tmp_path):
        pass
    store.close()
    with hold_state(tmp_path), pytest.raises(Refused):
        Store.open(tmp_path)
