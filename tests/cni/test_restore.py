"""What a PF enforced on a VF, given back to drivers that refuse some of it; and VFs that are in reset."""

import dataclasses
import errno
import time
from typing import Any

import pytest

from cni.kernel import Vf
from cni.record import Baseline, HomeLink
from cni.restore import restore_settings, set_back
from cni.steps import MacOrder
from sriov.errors import HostError
from sriov.host.linkinfo import LinkTraits
from sriov.model import Link, VfSettings
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_ipam import NOW
from tests.cni.test_record import record

PF, ADDRESS = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:02.1")
OWN, POD = MacAddress("02:00:00:00:00:01"), MacAddress("02:00:00:00:00:02")
VF = Vf(address=ADDRESS, index=1, pf=PF, pf_name="ens1f0", pf_index=4, order=MacOrder.PF_FIRST)
HOME = HomeLink(name="ens1f0v1", mac=OWN, mtu=1500, up=False, traits=LinkTraits())
BEFORE = VfSettings(mac=OWN, vlan=0, vlan_qos=0, spoofchk=True, trust=False, min_tx_rate=0, max_tx_rate=0)
AFTER = dataclasses.replace(BEFORE, mac=POD, vlan=5, spoofchk=False, trust=True, max_tx_rate=100)


class Pf:
    """A PF's driver; `refuses` gives the errno for a message, and nothing that comes after what it refuses is done.

    That is the order of do_setvfinfo in the kernel's net/core/rtnetlink.c.
    """

    ORDER = ("mac", "vlan", "vlan_qos", "min_tx_rate", "max_tx_rate", "spoofchk", "trust")

    def __init__(self, current, refuses, *, carrier=True):
        self.current, self.messages = current, []
        self._refuses, self._carrier = refuses, carrier

    def find(self, _):
        return Link(index=4, name="ens1f0", mac=OWN, mtu=1500, up=True, carrier=self._carrier)

    def inspect_vf(self, pf_index, vf):
        assert (pf_index, vf) == (VF.pf_index, VF.index)
        return self.find(pf_index), self.current

    def set_vf(self, pf_index, vf, changes, what):
        assert (pf_index, vf) == (VF.pf_index, VF.index)
        self.messages.append(changes)
        for name in self.ORDER:
            value = getattr(changes, name)
            if value is None:
                continue
            if (refusal := self._refuses(name, value)) is not None:
                raise HostError(f"cannot {what}", errno=refusal)
            self.current = dataclasses.replace(self.current, **{name: value})


def restore(pf: Any, patience=10.0, **before):
    baseline = Baseline(link=HOME, settings=dataclasses.replace(BEFORE, **before), admin_mac=False)
    restore_settings(NOW, pf, VF, dataclasses.replace(record(), vf=ADDRESS, baseline=baseline),
                     time.monotonic() + patience)


def test_one_message_does_it_all():
    pf = Pf(AFTER, lambda name, value: None)
    restore(pf)
    assert (pf.current, len(pf.messages)) == (BEFORE, 1)
    restore(pf)
    assert len(pf.messages) == 1


def test_a_pf_without_link_keeps_nothing_but_the_rate():
    pf = Pf(AFTER, lambda name, value: errno.EINVAL if name.endswith("rate") else None, carrier=False)
    with pytest.raises(HostError, match=r"set min_tx_rate 0, max_tx_rate 0 on VF .*: EINVAL") as caught:
        restore(pf)
    assert caught.value.hint == "a rate, 0 too, can be set only while the link of ens1f0 is up"
    assert pf.current == dataclasses.replace(BEFORE, max_tx_rate=100)


def test_of_several_that_are_refused_the_first_is_told():
    pf = Pf(AFTER, lambda name, value: errno.EPERM if name in ("trust", "max_tx_rate") else None)
    with pytest.raises(HostError, match=r"set trust off on VF .*: EPERM"):
        restore(pf)
    assert pf.current == dataclasses.replace(BEFORE, trust=True, max_tx_rate=100)


def test_where_no_mac_at_all_is_refused_the_netdevs_own_does(caplog):
    def refuses(name, value):
        return errno.EINVAL if (name, value) == ("mac", MacAddress.ZERO) else None

    pf = Pf(AFTER, refuses)
    restore(pf, mac=MacAddress.ZERO)
    assert pf.current == BEFORE
    assert f"its PF gets MAC {OWN} for it" in caplog.text
    pf = Pf(AFTER, refuses)
    with pytest.raises(HostError, match="EINVAL"):          # of a vfio VF nobody knows one
        set_back(NOW, pf, VF, VfSettings(mac=MacAddress.ZERO), None, time.monotonic())    # type: ignore[arg-type]
    assert pf.current == AFTER


def test_a_vf_in_reset_is_waited_for():
    answers = iter([errno.EBUSY, errno.EAGAIN, None])
    pf = Pf(AFTER, lambda name, value: next(answers, None))
    restore(pf)
    assert (pf.current, len(pf.messages)) == (BEFORE, 3)


@pytest.mark.parametrize(("patience", "most"), [(0.2, 60.0), (60.0, 0.2)], ids=["of the kernel", "of the caller"])
def test_one_that_stays_in_reset_is_not_waited_for_forever(monkeypatch, patience, most):
    """Nor again for each of its settings."""
    monkeypatch.setattr("cni.kernel.RESET_PATIENCE", patience)
    pf = Pf(AFTER, lambda name, value: errno.EBUSY)
    started = time.monotonic()
    with pytest.raises(HostError) as caught:
        restore(pf, most)
    assert caught.value.errno == errno.EBUSY
    assert len(pf.messages) > 1
    assert {*pf.messages} == {pf.messages[0]}
    assert time.monotonic() - started < 5


def test_with_no_time_left_it_is_tried_once():
    pf = Pf(AFTER, lambda name, value: errno.EBUSY)
    with pytest.raises(HostError):
        restore(pf, -1.0)
    assert len(pf.messages) == 1
