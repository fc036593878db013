"""Provisioning keeps calls off a VF, and calls keep provisioning off."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from cni.attach import Attachments
from cni.custody import Custody
from cni.locks import Busy
from cni.store import Store
from sriov.errors import Refused
from sriov.pci import PciAddress
from tests.cni.test_ipam import NOW

VF, OTHER = PciAddress("0000:21:10.0"), PciAddress("0000:21:10.2")


@pytest.fixture
def attachments(tmp_path):
    with closing(Store.open(tmp_path)) as store:
        yield Attachments(NOW, store)


def custody_of(attachments: Attachments) -> Custody:
    return attachments._custody


def test_a_call_waits_for_as_long_as_its_vf_is_kept_from_it(attachments):
    custody, got = custody_of(attachments), threading.Event()

    def call():
        with custody.hold(VF, time.monotonic() + 30):
            got.set()

    with attachments.keep_off(VF):
        with pytest.raises(Busy), custody.hold(VF, time.monotonic()):
            pass
        with custody.hold(OTHER, time.monotonic()):
            pass
        caller = threading.Thread(target=call)
        caller.start()
        assert not got.wait(0.05)
    assert got.wait(30)
    caller.join()


def test_a_vf_that_a_call_is_at_is_refused_at_once(attachments):
    with custody_of(attachments).hold(VF, time.monotonic()):
        began = time.monotonic()
        with (pytest.raises(Refused, match=r"VF 0000:21:10\.0 is on its way to a pod or home"),
              attachments.keep_off(VF)):
            pytest.fail("the VF was given")
        assert time.monotonic() - began < 5
        with attachments.keep_off(OTHER):
            pass
    with attachments.keep_off(VF):
        pass


def test_what_happens_meanwhile_is_not_taken_for_a_call(attachments):
    """A refusal of its own that the changer meets, Busy even, is the changer's."""
    with pytest.raises(Busy), attachments.keep_off(VF), attachments.keep_off(OTHER):
        raise Busy(11, "something else is busy")
    with attachments.keep_off(VF):
        pass
