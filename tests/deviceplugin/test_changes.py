"""What is different from one version to the next, as a value and in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.changes import NO_CHANGE, Change, FaultChange, Members, ResourceChange, find_change
from sriov.pools.assignment import Member
from tests.deviceplugin.harness import make_vf

A, B = "intel.com/a", "intel.com/b"


def members(**faults: str | None) -> tuple[Member, ...]:
    """`v0=None, v2="unbound"`: VFs 0 and 2."""
    return tuple(Member(vf=make_vf(int(name[1:])), fault=fault) for name, fault in faults.items())


@pytest.mark.parametrize(("before", "after", "change", "said"), [
    ({}, {}, NO_CHANGE, []),
    ({A: members(v0=None)}, {A: members(v0=None)}, NO_CHANGE, []),
    ({}, {A: ()}, Change(started=(A,), resources=(ResourceChange(resource=A, healthy=0, total=0),)),
     [f"{A}: 0 of 0 VFs are healthy"]),
    ({A: ()}, {}, Change(ended=(A,)), [f"{A}: no pool has this resource any more"]),
    ({A: members(v0=None)}, {A: members(v0=None, v1="no driver is bound")},
     Change(resources=(ResourceChange(resource=A, added=members(v1="no driver is bound"), healthy=1, total=2),)),
     [f"{A}: VF {make_vf(1).address} is unhealthy: no driver is bound", f"{A}: 1 of 2 VFs are healthy"]),
    ({A: members(v0=None, v1=None)}, {A: members(v1=None)},
     Change(resources=(ResourceChange(resource=A, gone=(make_vf(0).address,), healthy=1, total=1),)),
     [f"{A}: 1 of 1 VFs are healthy"]),
    ({A: members(v0="gone", v1=None)}, {A: members(v0=None, v1="unbound")},
     Change(resources=(ResourceChange(resource=A, healthy=1, total=2, faults=(
         FaultChange(vf=make_vf(0).address, before="gone", after=None),
         FaultChange(vf=make_vf(1).address, before=None, after="unbound"))),)),
     [f"{A}: VF {make_vf(1).address} is unhealthy: unbound", f"{A}: VF {make_vf(0).address} is healthy again",
      f"{A}: 1 of 2 VFs are healthy"]),
])
def test_what_changed_and_how_it_is_said(before: Members, after: Members, change: Change, said: list[str]) -> None:
    found = find_change(before, after)
    assert found == change
    assert [*found.warnings(), *found.news()] == said


ANY = st.dictionaries(
    st.sampled_from([A, B]),
    st.dictionaries(st.integers(0, 4), st.sampled_from([None, "gone", "unbound"])).map(
        lambda faults: tuple(Member(vf=make_vf(n), fault=faults[n]) for n in sorted(faults))))


@given(ANY, ANY)
def test_a_change_leads_from_the_one_to_the_other(before: Members, after: Members) -> None:
    """Who knows the version before and the change knows all VFs' health after."""
    change = find_change(before, after)
    state = {name: {member.vf.address: member.fault for member in found} for name, found in before.items()}
    for name in change.ended:
        del state[name]
    for each in change.resources:
        faults = state.setdefault(each.resource, {})
        for address in each.gone:
            del faults[address]
        for fault in each.faults:
            assert faults[fault.vf] == fault.before
            faults[fault.vf] = fault.after
        faults |= {member.vf.address: member.fault for member in each.added}
        assert (each.healthy, each.total) == (list(faults.values()).count(None), len(faults))
    assert state == {name: {member.vf.address: member.fault for member in found} for name, found in after.items()}
    assert (change == NO_CHANGE) == (before == after)
