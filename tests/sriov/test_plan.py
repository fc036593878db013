"""Plans for synthetic hosts: which entry is meant, what is refused and why, what is bound to what."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.model import Host, Link, PhysicalFunction, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from sriov.pools.assignment import Driver, PfEntry, PfMatch, Pool, Selector, VfIndices
from sriov.provision.guards import Facts, Guard, Override
from sriov.provision.plan import PfPlan, Plan, plan_host, plan_pf
from sriov.provision.state import PfState, VfState, derive_mac, settle
from sriov.provision.steps import BindDriver, Disturbs, MakeVfs, SetAutoprobe, SetPfMtu, SetVfSettings

A, B = PciAddress("0000:3b:00.0"), PciAddress("0000:5e:00.0")
VFIO = Driver("vfio-pci")


def link(index, name, mtu=1500, **changes):
    return replace(Link(index=index, name=name, mac=MacAddress(f"02:00:00:00:00:{index:02x}"), mtu=mtu, up=True,
                        carrier=True), **changes)


def vf(pf, index, driver="igbvf", *, away=False):
    netdev = driver == "igbvf" and not away
    return VirtualFunction(address=PciAddress(f"{pf[:8]}02.{index}"), pf=pf, index=index, vendor="8086",
                           device="10ca", driver=driver, numa_node=None, iommu_group=1,
                           link=link(20 + index, f"v{index}") if netdev else None)


def pf(address, name, *vfs, total=7, mtu=1500):
    return PhysicalFunction(address=address, vendor="8086", device="10c9", driver="igb", numa_node=None,
                            iommu_group=1, link=link(2, name, mtu) if name else None, total_vfs=total,
                            num_vfs=len(vfs), vfs=vfs)


def entry(num_vfs, name="*", mtu=None, place="pools.yaml:5:5"):
    return PfEntry(match=PfMatch(name=(name,)), num_vfs=num_vfs, mtu=mtu, place=place)


def pool(driver=None, vfs=None, resource="intel.com/sriov"):
    return Pool(resource=resource, selectors=(Selector(vfs=vfs and VfIndices.parse(vfs)),), driver=driver)


def plan(pfs, entries, pools=(), used=(), **terms):
    return plan_host(Host(pfs=tuple(pfs)), entries, pools, lambda vf: vf.address in used, **terms)


def said(made):
    return tuple(map(str, made.refused))


def makings(made):
    return [(step.pf.address, step.count) for step in made.steps if isinstance(step, MakeVfs)]


# ---- how many VFs -----------------------------------------------------------------------------------------


def test_vfs_are_made_where_there_are_none():
    empty = pf(A, "ens1f0")
    made = plan([empty], [entry(4, mtu=9000)])
    assert made == Plan(pfs=(PfPlan(pf=empty, pf_steps=(
        SetPfMtu(pf=empty, mtu=9000), SetAutoprobe(pf=empty, on=False), MakeVfs(pf=empty, count=4),
        SetAutoprobe(pf=replace(empty, autoprobe=False), on=True))),))
    assert made.describe() == (
        "set MTU 9000 on PF ens1f0 (0000:3b:00.0) (now 1500)",
        "keep drivers from probing new VFs of PF ens1f0 (0000:3b:00.0)",
        "make 4 VFs on PF ens1f0 (0000:3b:00.0)",
        "let drivers probe new VFs of PF ens1f0 (0000:3b:00.0)")
    assert {step.disturbs for step in made.steps} == {Disturbs.NOTHING}


def test_a_pf_that_is_down_is_set_up_before_vfs_are_made():
    down = replace(pf(A, "ens1f0"), link=link(2, "ens1f0", up=False), autoprobe=False)
    assert plan([down], [entry(4)]).describe() == (
        "set PF ens1f0 (0000:3b:00.0) up", "make 4 VFs on PF ens1f0 (0000:3b:00.0)")
    assert plan([down], [entry(0)]) == Plan()


def test_no_entry_no_touch():
    assert plan([pf(A, "ens1f0"), pf(B, "ens2f0", vf(B, 0, None))], [entry(4, "eth*")], [pool(VFIO)]) == Plan()
    assert plan([pf(A, "ens1f0")], []) == Plan()


def test_the_first_entry_that_matches_counts():
    made = plan([pf(A, "ens1f0"), pf(B, "ens2f0")], [entry(1, "ens1f0"), entry(2, "ens*"), entry(3)])
    assert makings(made) == [(A, 1), (B, 2)]


def test_what_is_there_already_is_nothing_to_do():
    full = pf(A, "ens1f0", vf(A, 0), vf(A, 1))
    assert plan([full], [entry(2)], [pool(Driver.KERNEL)]) == Plan()
    assert plan([pf(A, "ens1f0")], [entry(0)]) == Plan()


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_another_number_is_refused_while_there_are_vfs(wanted):
    full = pf(A, "ens1f0", vf(A, 0), vf(A, 1))
    made = plan([full], [entry(wanted)])
    assert (made.steps, said(made)) == ((), (
        (f"pools.yaml:5:5: numVfs {wanted} on PF ens1f0 (0000:3b:00.0): it has 2, none in use, and the kernel "
         "changes the number only by removing all of them (hint: write 0 to "
         "/sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs first; to do it all the same: override disturb-vfs)"),))
    (refused,) = said(plan([full], [entry(wanted)], used=[vf(A, 1).address]))
    assert "it has 2, in use are 0000:3b:02.1, and the kernel" in refused
    assert "(hint: end the pods that use them first; to do it all the same: override in-use)" in refused


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_another_number_by_its_override(wanted):
    full = pf(A, "ens1f0", vf(A, 0), vf(A, 1))
    made = plan([full], [entry(wanted)], overrides=[Override.DISTURB_VFS])
    assert makings(made) == [(A, 0), *([(A, wanted)] if wanted else [])]
    assert made.refused == ()
    assert made.steps[0].disturbs == Disturbs.ALL_VFS
    used = [vf(A, 1).address]
    assert plan([full], [entry(wanted)], used=used, overrides=[Override.DISTURB_VFS]).steps == ()
    assert makings(plan([full], [entry(wanted)], used=used, overrides=[Override.IN_USE])) == makings(made)


def test_no_override_removes_a_vf_that_a_process_has_open():
    """The write would hang in the kernel until that process ends."""
    full = pf(A, "ens1f0", vf(A, 0, "vfio-pci"))
    made = plan([full], [entry(2)], facts=Facts(opened={full.vfs[0].address}), overrides=set(Override))
    (refused,) = made.refused
    assert (made.steps, refused.override) == ((), None)
    assert str(refused) == (
        "pools.yaml:5:5: numVfs 2 on PF ens1f0 (0000:3b:00.0): a process has 0000:3b:02.0 open (hint: end the pods "
        "or the processes that use them)")


def test_more_than_the_pf_can_have():
    for made in (pf(A, None, total=7), pf(A, "ens1f0", vf(A, 0))):
        matching = PfEntry(match=PfMatch(address=(A,)), num_vfs=8, place="pools.yaml:5:5")
        (refused,) = said(plan([made], [matching]))
        assert refused.startswith("pools.yaml:5:5: numVfs 8 on PF ")
        assert refused.endswith(": 8 VFs are wanted, it can have 7 at most (sriov_totalvfs) (hint: ask for 7 or "
                                "fewer)")
        assert plan([made], [matching]).steps == ()


@pytest.mark.parametrize(("facts", "says"), [
    ({"vendor": "15b3"}, ("it can have 7 at most (sriov_totalvfs) [needs a reboot] (hint: ask for 7 or fewer, or "
                          "set NUM_OF_VFS=8 with mlxconfig -d 0000:3b:00.0 and reboot)")),
    ({"total_vfs": 0}, ("it can have no VFs (sriov_totalvfs is 0) [needs a reboot] (hint: turn on SR-IOV for the "
                        "card, and for the machine, in the firmware setup (BIOS, UEFI), then reboot)"))])
def test_a_number_that_takes_a_reboot(facts, says):
    made = plan([replace(pf(A, "ens1f0"), **facts)], [entry(8)], overrides=set(Override))
    (refused,) = made.refused
    assert str(refused).endswith(says)
    assert (made.steps, refused.override, refused.disturbs) == ((), None, Disturbs.REBOOT)
    assert plan([replace(pf(A, "ens1f0"), **facts)], [entry(0)]) == Plan()


def test_an_mtu_that_would_cost_vfs_their_link():
    full = pf(A, "ens1f0", vf(A, 0), vf(A, 1))
    assert plan([full], [entry(2, mtu=1500)]) == Plan()
    assert said(plan([full], [entry(2, mtu=9000)])) == (
        ("pools.yaml:5:5: mtu 9000 on PF ens1f0 (0000:3b:00.0): that takes the link from its 2 VFs for a moment, "
         "none in use (hint: remove its VFs first; to do it all the same: override disturb-vfs)"),)
    (step,) = plan([full], [entry(2, mtu=1400)], overrides=[Override.DISTURB_VFS]).steps
    assert step == SetPfMtu(pf=full, mtu=1400)


def test_one_refusal_stops_no_other_pf():
    made = plan([pf(A, "ens1f0", vf(A, 0)), pf(B, "ens2f0")], [entry(4)])
    assert makings(made) == [(B, 4)]
    assert len(made.refused) == 1


# ---- MACs and defaults ------------------------------------------------------------------------------------


def test_what_entry_and_pool_settle_for_each_vf():
    host = pf(A, "ens1f0", vf(A, 0), vf(A, 1), vf(A, 2))
    first = MacAddress("02:00:00:00:00:01")
    listed = replace(entry(3), vf_macs=(first,), eswitch="legacy")
    defaults = replace(pool(VFIO, "0-1"), vf_mtu=9000, vf_settings=VfSettings(vlan=7))
    assert settle(host, listed, [defaults]) == PfState(num_vfs=3, eswitch="legacy", vfs={
        0: VfState(driver=VFIO, mtu=9000, settings=VfSettings(vlan=7, mac=first)),
        1: VfState(driver=VFIO, mtu=9000, settings=VfSettings(vlan=7)),
    })


@given(st.integers(0, 2**48 - 1), st.sets(st.integers(0, 65535), max_size=300))
def test_derived_macs_are_lasting_unicast_local_and_different(number, indices):
    own = MacAddress(number.to_bytes(6, "big").hex(":"))
    macs = [derive_mac(own, index) for index in sorted(indices)]
    assert macs == [derive_mac(own, index) for index in sorted(indices)]
    assert all(MacAddress.parse_unicast(mac) == mac and int(mac[:2], 16) & 2 for mac in macs)
    assert len(set(macs)) == len(macs)


def test_a_derived_mac_is_the_same_in_every_version():
    """It is on switches' and DHCP servers' lists."""
    host = pf(A, "ens1f0", vf(A, 0))
    wish = settle(host, replace(entry(1), derive_macs=True), [])
    assert wish.vfs[0].settings.mac == derive_mac(host.link.mac, 0) == "5e:ef:0f:21:64:27"
    assert settle(replace(host, link=None), replace(entry(1), derive_macs=True), []).vfs == {}


def test_settings_are_planned_where_they_are_known_and_differ():
    host = pf(A, "ens1f0", vf(A, 0), vf(A, 1), vf(A, 2, "vfio-pci"))
    wants = replace(pool(), vf_settings=VfSettings(vlan=7, trust=True))
    known = {host.vfs[0].address: VfSettings(vlan=7, vlan_qos=0, trust=True),
             host.vfs[2].address: VfSettings(vlan=0, vlan_qos=3, trust=True)}
    made = plan([host], [entry(3)], [wants], facts=Facts(settings=known))
    (step,) = made.steps
    (refused,) = said(made)
    assert refused == ("cannot set vlan, trust for VF 0000:3b:02.1: its PF's driver igb does not report what it "
                       "enforces (hint: leave them out of vfMacs and of the pool's defaults)")
    assert step == SetVfSettings(pf=host, vf=host.vfs[2], settings=VfSettings(vlan=7, vlan_qos=3),
                                 before=known[host.vfs[2].address])
    assert step.describe() == "set vlan 7, vlan qos 3 for VF 0000:3b:02.2"
    assert step.disturbs == Disturbs.VF
    used = [host.vfs[2].address]
    assert plan([host], [entry(3)], [wants], used, facts=Facts(settings=known)).steps == ()
    assert plan([host], [entry(3)], [wants]) == Plan()


# ---- drivers --------------------------------------------------------------------------------------------


def bound(made):
    return {step.vf.index: str(step.driver) for step in made.steps if isinstance(step, BindDriver)}


def test_drivers():
    host = pf(A, "ens1f0", vf(A, 0), vf(A, 1, "vfio-pci"), vf(A, 2, None), vf(A, 3, None))
    pools = [pool(VFIO, "0-2"), pool(Driver.KERNEL, "3", "intel.com/other")]
    made = plan([host], [entry(4)], pools)
    assert bound(made) == {0: "vfio-pci", 2: "vfio-pci", 3: "kernel"}
    assert made.steps[0] == BindDriver(vf=host.vfs[0], driver=VFIO, override="vfio-pci")
    assert [step.disturbs for step in made.steps] == [Disturbs.VF, Disturbs.NOTHING, Disturbs.NOTHING]
    assert made.describe() == (
        "bind VF 0000:3b:02.0 to vfio-pci (now igbvf)", "bind VF 0000:3b:02.2 to vfio-pci (now none)",
        "bind VF 0000:3b:02.3 to kernel (now none)")


def test_back_to_the_kernel():
    host = pf(A, "ens1f0", vf(A, 0, "vfio-pci"), vf(A, 1), vf(A, 2, away=True))
    assert bound(plan([host], [entry(3)], [pool(Driver.KERNEL)])) == {0: "kernel"}


def test_a_pool_without_an_opinion_leaves_a_driver_and_gets_one_for_what_has_none():
    host = pf(A, "ens1f0", vf(A, 0, "vfio-pci"), vf(A, 1), vf(A, 2, None))
    for pools in ([pool()], []):
        assert bound(plan([host], [entry(3)], pools)) == {2: "kernel"}


def test_a_vf_in_use_is_not_bound_away_from_its_pod():
    host = pf(A, "ens1f0", vf(A, 0, away=True), vf(A, 1))
    made = plan([host], [entry(2)], [pool(VFIO)], used=[host.vfs[0].address])
    assert bound(made) == {1: "vfio-pci"}
    (refused,) = said(made)
    assert refused == ("VF 0000:3b:02.0 is bound to igbvf, its pool wants vfio-pci: it is in use (hint: it is "
                       "bound again once its pod is gone)")


def test_vfs_of_a_pf_without_entry_keep_their_drivers():
    host = pf(A, "ens1f0", vf(A, 0), vf(A, 1, None))
    assert plan([host], [entry(2, "ens2*")], [pool(VFIO)]) == Plan()


# ---- whatever the host is ---------------------------------------------------------------------------------


drivers = st.sampled_from(["igbvf", "vfio-pci", None])


@st.composite
def hosts(draw):
    pfs = []
    for address in (A, B):
        count = draw(st.integers(0, 4))
        pfs.append(pf(address, draw(st.sampled_from(["ens1f0", "ens2f0", None])),
                      *(vf(address, n, draw(drivers), away=draw(st.booleans())) for n in range(count))))
    return pfs


@given(hosts(), st.lists(st.builds(entry, st.integers(0, 9), st.sampled_from(["ens1*", "*"])), max_size=2),
       st.lists(st.builds(pool, st.sampled_from([None, VFIO, Driver.KERNEL]), st.sampled_from([None, "0-1", "2"])),
                max_size=2),
       st.sets(st.integers(0, 3)))
def test_no_plan_takes_anything_away(pfs, entries, pools, used_indices):
    used = {vf.address for pf in pfs for vf in pf.vfs if vf.index in used_indices}
    made = plan(pfs, entries, pools, used)
    matched = {pf.address for pf in pfs if any(each.match.matches(pf) for each in entries)}
    assert {each.pf.address for each in made.pfs} <= matched
    for step in made.steps:
        if isinstance(step, MakeVfs):
            assert step.pf.num_vfs == 0
            assert 0 < step.count <= step.pf.total_vfs
        elif isinstance(step, BindDriver):
            assert step.vf.address not in used
            assert step.driver.find_fault(step.vf)
        assert step.disturbs < Disturbs.ALL_VFS
    assert len(made.describe()) == len(made.steps) + len(made.refused)


# ---- guards ---------------------------------------------------------------------------------------------


TIED = ("carries the default route (via bond0)", "port of bond0 (bond)")


def overrides_named(made):
    return [refusal.override for refusal in made.refused]


def test_a_pf_that_the_node_needs():
    tied = replace(pf(A, "ens1f0"), ties=TIED)
    made = plan([tied], [entry(4)])
    assert (made.steps, said(made)) == ((), (
        ("pools.yaml:5:5: numVfs 4 on PF ens1f0 (0000:3b:00.0): the node itself needs it: carries the default "
         "route (via bond0), port of bond0 (bond) (hint: use another PF; to do it all the same: override tied)"),))
    assert makings(plan([tied], [entry(4)], overrides=[Override.TIED])) == [(A, 4)]
    settled = replace(pf(A, "ens1f0", vf(A, 0)), ties=TIED)
    assert plan([settled], [entry(1)]) == Plan()
    assert bound(plan([settled], [entry(1)], [pool(VFIO)])) == {0: "vfio-pci"}


def test_what_a_reset_does_to_a_pf_that_the_node_needs():
    tied = replace(pf(A, "ens1f0"), ties=TIED, autoprobe=False)
    on = plan_pf(tied, PfState(num_vfs=0, autoprobe=True), Guard())
    assert (on.steps, on.refused) == ((SetAutoprobe(pf=tied, on=True),), ())
    (refused,) = plan_pf(tied, PfState(num_vfs=0, up=False), Guard()).refused
    assert refused.message.startswith("its former state on PF ens1f0 (0000:3b:00.0): the node itself needs it: ")


def test_a_vf_that_the_node_needs():
    tied = replace(vf(A, 0), ties=("has address 192.0.2.1/24",))
    host = pf(A, "ens1f0", tied, vf(A, 1))
    made = plan([host], [entry(2)], [pool(VFIO)])
    assert bound(made) == {1: "vfio-pci"}
    assert overrides_named(made) == [Override.TIED]
    forced = plan([host], [entry(2)], [pool(VFIO)], overrides=[Override.TIED])
    assert bound(forced) == {0: "vfio-pci", 1: "vfio-pci"}
    assert overrides_named(plan([host], [entry(3)], overrides=[Override.DISTURB_VFS])) == [Override.TIED]


def test_a_pf_whose_vfs_somebody_else_makes():
    empty = pf(A, "ens1f0")
    facts = Facts(claims={A: ("NetworkManager makes its VFs, /etc/x says", "netplan makes its VFs, /etc/y says")})
    made = plan([empty], [entry(4, mtu=9000)], facts=facts)
    assert (made.steps, overrides_named(made)) == ((), [Override.CLAIMED] * 2)
    assert "NetworkManager makes its VFs, /etc/x says" in said(made)[0]
    assert makings(plan([empty], [entry(4)], facts=facts, overrides=[Override.CLAIMED])) == [(A, 4)]
    assert plan([pf(A, "ens1f0", vf(A, 0))], [entry(1)], facts=facts) == Plan()


def test_vfs_that_somebody_else_made():
    full = pf(A, "ens1f0", vf(A, 0), vf(A, 1, None))
    facts = Facts(foreign={A})
    made = plan([full], [entry(2)], [pool(VFIO)], facts=facts)
    assert (made.steps, overrides_named(made)) == ((), [Override.ADOPT] * 2)
    adopted = plan([full], [entry(2)], [pool(VFIO)], facts=facts, overrides=[Override.ADOPT])
    assert (bound(adopted), adopted.refused) == ({0: "vfio-pci", 1: "vfio-pci"}, ())
    assert overrides_named(plan([full], [entry(1)], facts=facts)) == [Override.DISTURB_VFS, Override.ADOPT]


def test_a_vf_without_a_driver_that_somebody_keeps_for_one():
    """As libvirt, driverctl and OpenStack do: driver_override first, then unbind and bind."""
    full = pf(A, "ens1f0", vf(A, 0, None), vf(A, 1, None))
    kept = Facts(kept={full.vfs[0].address})
    for pools in ([pool()], []):
        assert bound(plan([full], [entry(2)], pools, facts=kept)) == {1: "kernel"}
        assert plan([full], [entry(2)], pools, facts=Facts(foreign={A})) == Plan()
        adopted = plan([full], [entry(2)], pools, facts=replace(kept, foreign={A}), overrides=[Override.ADOPT])
        assert bound(adopted) == {1: "kernel"}
        assert plan([replace(full, autoprobe=False)], [entry(2)], pools) == Plan()
    assert bound(plan([full], [entry(2)], [pool(Driver.KERNEL)], facts=kept)) == {0: "kernel", 1: "kernel"}


def test_every_refusal_but_the_impossible_names_an_override_that_lifts_it():
    full = replace(pf(A, "ens1f0", replace(vf(A, 0), ties=("x",)), vf(A, 1)), ties=TIED)
    facts = Facts(foreign={A}, claims={A: ("somebody",)})
    given: set[Override] = set()
    for _ in Override:
        refused = plan([full], [entry(4)], used=[vf(A, 1).address], facts=facts, overrides=given).refused
        if not refused:
            break
        assert all(each.override not in given for each in refused)
        given.add(refused[0].override)
    forced = plan([full], [entry(4)], used=[vf(A, 1).address], facts=facts, overrides=given)
    assert makings(forced) == [(A, 0), (A, 4)]
    assert given == {Override.CLAIMED, Override.TIED, Override.IN_USE, Override.ADOPT}
