"""The steps to a pod and home, carried out on a small model of the two kinds of drivers: home is the start again.

The model is what steps.py says of them, no more: who may set a VF's MAC, what the PF then shows, and what
igbvf makes its own when it goes down. The drivers themselves are in the lab tier.
"""

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni.record import Baseline, HomeLink
from cni.steps import (
    Around,
    MacOrder,
    difference,
    mac_order,
    plan_attach,
    plan_home_mac,
    plan_home_settings,
    plan_rebind,
)
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress

ZERO = MacAddress.ZERO
OWN, PFS, PODS = (MacAddress(f"02:00:00:00:00:0{n}") for n in (1, 2, 3))
PLAIN = VfSettings(mac=ZERO, vlan=0, vlan_qos=0, vlan_proto=0x8100, spoofchk=True, trust=False, min_tx_rate=0,
                   max_tx_rate=0, link_state=LinkState.AUTO)


class Refusal(Exception):
    """What the kernel would answer with an errno."""


@dataclass(kw_only=True)
class Driver:
    """A VF with its PF. `marked`: the PF has set the VF's MAC. `takes_over`: the VF's netdev gets it at once."""

    order: MacOrder
    pf: VfSettings
    marked: bool
    mac: MacAddress | None               # of the netdev; None: driven from user space
    permanent: MacAddress | None = None
    up: bool = False
    takes_over: bool = False
    overrides: int = 0                   # "VF attempted to override administratively set MAC" in the log

    def set_vf(self, changes):
        """RTM_SETLINK: what is one attribute travels together, and what is missing of it becomes 0."""
        if changes is None:
            return
        given = {name: value for name in VfSettings.__slots__ if (value := getattr(changes, name)) is not None}
        assert given, "an empty message"
        for absent in ({"vlan": 0, "vlan_qos": 0, "vlan_proto": 0x8100}, {"max_tx_rate": 0, "min_tx_rate": 0}):
            if absent.keys() & given.keys():
                given = absent | given
        if changes.mac is not None:
            self.marked = changes.mac != ZERO
            if self.marked and self.takes_over and self.mac is not None:
                self.mac = changes.mac
        self.pf = dataclasses.replace(self.pf, **given)

    def set_mac(self, mac):
        if self.order is MacOrder.NETDEV_FIRST:
            if self.marked and not self.pf.trust:
                raise Refusal(f"EADDRNOTAVAIL: netdev MAC {mac} on a VF whose PF has set {self.pf.mac}")
            self.pf = dataclasses.replace(self.pf, mac=mac)
        elif self.marked and not self.pf.trust and mac != self.pf.mac:
            raise Refusal(f"EPERM: netdev MAC {mac} on an untrusted VF whose PF has set {self.pf.mac}")
        self.mac = mac

    def set_up(self, up):
        if self.order is MacOrder.NETDEV_FIRST and up and not self.up:
            if self.marked and not self.pf.trust:
                self.overrides += 1
            else:
                self.pf = dataclasses.replace(self.pf, mac=self.mac)
        if self.order is MacOrder.NETDEV_FIRST and self.up and not up:
            self.permanent = self.mac
        self.up = up

    def move(self, *, mac, up):
        """RTM_NEWLINK with a namespace: the kernel takes the netdev down, then come MAC and flags."""
        self.set_up(False)
        if mac is not None:
            self.set_mac(mac)
        self.set_up(up)


def attach(driver, wanted):
    plan = plan_attach(driver.order, wanted, driver.pf, netdev=driver.mac is not None)
    driver.set_vf(plan.before)
    if driver.mac is not None:
        driver.move(mac=wanted.mac, up=True)
    driver.set_vf(plan.after)


def bring_home(driver, baseline, wanted):
    if baseline.link is not None:
        mac = plan_home_mac(driver.order, baseline, driver.mac, admin_mac_set=wanted.mac is not None)
        driver.set_vf(mac.first)
        if mac.before:
            driver.set_mac(baseline.link.mac)
            driver.set_up(True)
        driver.move(mac=baseline.link.mac if mac.within else None, up=baseline.link.up)
    driver.set_vf(plan_home_settings(driver.order, baseline, driver.pf))


def baseline_of(driver):
    link = None if driver.mac is None else HomeLink(name="ens1f0v1", mac=driver.mac, mtu=1500, up=driver.up)
    marked = driver.order is MacOrder.NETDEV_FIRST and driver.marked and driver.mac is not None
    return Baseline(link=link, settings=driver.pf, admin_mac=marked)


# ---- starts that the drivers can be in, and what NADs can want --------------------------------------------


def or_none(values):
    return st.none() | values


rates = st.sampled_from([0, 100, 1000])
protocols = st.sampled_from([0x8100, 0x88A8])
host_settings = st.builds(
    VfSettings, mac=st.just(ZERO), vlan=st.sampled_from([0, 5]), vlan_qos=st.sampled_from([0, 3]),
    vlan_proto=protocols, spoofchk=st.booleans(), trust=st.booleans(), min_tx_rate=rates, max_tx_rate=rates,
    link_state=st.sampled_from(LinkState))
wishes = st.builds(
    VfSettings, mac=or_none(st.sampled_from([OWN, PFS, PODS])), vlan=or_none(st.sampled_from([0, 5, 100])),
    vlan_qos=or_none(st.sampled_from([0, 3])), vlan_proto=or_none(protocols), spoofchk=or_none(st.booleans()),
    trust=or_none(st.booleans()), min_tx_rate=or_none(rates), max_tx_rate=or_none(rates),
    link_state=or_none(st.sampled_from(LinkState)),
).map(lambda wish: wish if wish.vlan is not None else dataclasses.replace(wish, vlan_qos=None, vlan_proto=None))


@st.composite
def igb_vfs(draw):
    settings, marked = draw(host_settings), draw(st.booleans())
    if marked:       # the VF took the PF's MAC over when it probed
        return Driver(order=MacOrder.NETDEV_FIRST, pf=dataclasses.replace(settings, mac=PFS), marked=True, mac=PFS,
                      permanent=PFS, up=draw(st.booleans()))
    up = draw(st.booleans())
    shown = OWN if up else draw(st.sampled_from([ZERO, OWN]))    # the PF hears of it when the netdev goes up
    return Driver(order=MacOrder.NETDEV_FIRST, pf=dataclasses.replace(settings, mac=shown), marked=False, mac=OWN,
                  permanent=OWN, up=up)


@st.composite
def other_vfs(draw):
    settings, marked, takes_over = draw(host_settings), draw(st.booleans()), draw(st.booleans())
    mac = PFS if marked and not settings.trust else draw(st.sampled_from([OWN, PFS]))
    return Driver(order=MacOrder.PF_FIRST, pf=dataclasses.replace(settings, mac=PFS if marked else ZERO),
                  marked=marked, mac=mac, up=draw(st.booleans()), takes_over=takes_over)


@st.composite
def vfio_vfs(draw):
    marked = draw(st.booleans())
    settings = dataclasses.replace(draw(host_settings), mac=PFS if marked else ZERO)
    return Driver(order=draw(st.sampled_from(MacOrder)), pf=settings, marked=marked, mac=None)


# ---- properties -----------------------------------------------------------------------------------------


@given(igb_vfs() | other_vfs() | vfio_vfs(), wishes)
@example(Driver(order=MacOrder.PF_FIRST, pf=PLAIN, marked=False, mac=OWN), VfSettings(mac=PODS))
@example(Driver(order=MacOrder.NETDEV_FIRST, pf=PLAIN, marked=False, mac=OWN, permanent=OWN), VfSettings(mac=PODS))
def test_attach_does_what_is_wanted_and_home_is_the_start_again(driver, wanted):
    start, baseline = dataclasses.replace(driver), baseline_of(driver)
    attach(driver, wanted)
    assert difference(wanted, driver.pf) is None
    if driver.mac is not None:
        assert driver.up
        assert driver.mac == wanted.mac or wanted.mac is None
        assert wanted.mac is None or driver.overrides == 0
        assert wanted.mac is None or driver.marked
    bring_home(driver, baseline, wanted)
    assert dataclasses.replace(driver, overrides=0) == start


@given(igb_vfs() | other_vfs() | vfio_vfs(), wishes)
def test_home_twice_is_home(driver, wanted):
    """As after a crash between the last change and the record's end."""
    start, baseline = dataclasses.replace(driver), baseline_of(driver)
    attach(driver, wanted)
    bring_home(driver, baseline, wanted)
    bring_home(driver, baseline, wanted)
    assert dataclasses.replace(driver, overrides=0) == start


@given(igb_vfs() | other_vfs() | vfio_vfs(), wishes, st.integers(0, 2))
def test_home_from_the_middle_of_an_attach(driver, wanted, done):
    start, baseline = dataclasses.replace(driver), baseline_of(driver)
    plan = plan_attach(driver.order, wanted, driver.pf, netdev=driver.mac is not None)
    if done > 0:
        driver.set_vf(plan.before)
    if done > 1 and driver.mac is not None:
        driver.move(mac=wanted.mac, up=True)
    bring_home(driver, baseline, wanted)
    assert dataclasses.replace(driver, overrides=0) == start


@given(host_settings, wishes)
def test_difference(current, wanted):
    changes = difference(wanted, current)
    driver = Driver(order=MacOrder.PF_FIRST, pf=current, marked=False, mac=None)
    driver.set_vf(changes)
    assert difference(wanted, driver.pf) is None
    untouched = [name for name in VfSettings.__slots__ if getattr(wanted, name) is None]
    assert [getattr(driver.pf, name) for name in untouched] == [getattr(current, name) for name in untouched]
    if changes is not None:
        assert any(getattr(wanted, name) not in (None, getattr(current, name)) for name in VfSettings.__slots__)


def test_nothing_to_say_is_no_message():
    assert difference(VfSettings(), PLAIN) is None
    assert difference(PLAIN, PLAIN) is None
    assert plan_attach(MacOrder.PF_FIRST, VfSettings(vlan=0), PLAIN, netdev=True) == Around(before=None)


def test_pairs_go_together():
    current = dataclasses.replace(PLAIN, vlan=5, vlan_qos=3, min_tx_rate=10, max_tx_rate=100)
    assert difference(VfSettings(vlan=6), current) == VfSettings(vlan=6, vlan_qos=3, vlan_proto=0x8100)
    assert difference(VfSettings(vlan=5, vlan_proto=0x88A8), current) == VfSettings(
        vlan=5, vlan_qos=3, vlan_proto=0x88A8)
    assert difference(VfSettings(vlan=5, vlan_proto=0x8100), current) is None
    assert difference(VfSettings(vlan=0, vlan_proto=0x8100), dataclasses.replace(PLAIN, vlan_proto=0)) is None
    assert difference(VfSettings(max_tx_rate=200), current) == VfSettings(max_tx_rate=200, min_tx_rate=10)
    assert difference(VfSettings(vlan=5, trust=True), current) == VfSettings(trust=True)


def test_a_vlan_without_priority_has_priority_0():
    current = dataclasses.replace(PLAIN, vlan=5, vlan_qos=3)
    for wanted in (VfSettings(vlan=5), VfSettings(vlan=5, mac=PODS)):
        for order in MacOrder:
            before = plan_attach(order, wanted, current, netdev=True).before
            assert before is not None
            assert (before.vlan, before.vlan_qos) == (5, 0)


def test_what_the_driver_does_not_report_is_set_again():
    assert difference(VfSettings(trust=False), dataclasses.replace(PLAIN, trust=None)) == VfSettings(trust=False)


@pytest.mark.parametrize(("driver", "order"), [
    ("igb", MacOrder.NETDEV_FIRST), ("ixgbe", MacOrder.PF_FIRST), ("mlx5_core", MacOrder.PF_FIRST),
    (None, MacOrder.PF_FIRST)])
def test_orders(driver, order):
    assert mac_order(driver) is order


@pytest.mark.parametrize(("order", "admin_mac", "sent"), [
    (MacOrder.NETDEV_FIRST, False, VfSettings(mac=ZERO)),
    (MacOrder.NETDEV_FIRST, True, None),       # that MAC is the PF's
    (MacOrder.PF_FIRST, False, None),
    (MacOrder.PF_FIRST, True, None),
])
def test_a_new_netdev_takes_no_mac_for_the_pfs_that_is_not(order, admin_mac, sent):
    home = HomeLink(name="vf", mac=OWN, mtu=1500, up=False)
    assert plan_rebind(order, Baseline(link=home, settings=PLAIN, admin_mac=admin_mac)) == sent
