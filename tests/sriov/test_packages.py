"""Firmware is asked for its package once, and again when device, driver, netdev or ten minutes are new."""

from dataclasses import replace

import pytest

from sriov.errors import Gone, HostError
from sriov.host.discovery import add_devlink
from sriov.host.packages import GOOD_FOR, PackageMemory
from sriov.model import Host
from tests.sriov.fakenode import make_pf

PF = make_pf("0000:3b:00.0", 1, driver="ice")
NEW = make_pf("0000:3b:00.0", 3, driver="ice")       # the same card with another netdev
OTHER = make_pf("0000:5e:00.0", 2, driver="ice")


class Cards:
    """A sysfs with a generation for each device, a clock, and firmware that counts questions."""

    def __init__(self):
        self.now = 1000.0
        self.inodes = {PF.address: 7, OTHER.address: 8}
        self.packages = {PF.address: "ICE OS Default", OTHER.address: None}
        self.asked = []
        self.memory = PackageMemory(self.identify, clock=lambda: self.now)

    def identify(self, address):
        if address not in self.inodes:
            raise Gone("there is no such PCI device")
        return self.inodes[address]

    def eswitch_mode(self, _):
        return "legacy"

    def firmware_package(self, address):
        self.asked.append(address)
        answer = self.packages[address]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look(self, *pfs):
        """Packages, questions that it took, and what could not be read."""
        before = len(self.asked)
        host = add_devlink(Host(pfs=pfs), self, self.memory)
        return [pf.firmware_package for pf in host.pfs], len(self.asked) - before, host.unreadable


@pytest.fixture
def cards():
    return Cards()


def test_a_package_is_asked_for_once(cards):
    assert cards.look(PF, OTHER) == (["ICE OS Default", None], 2, ())
    cards.packages[PF.address] = "ICE COMMS Package"
    for _ in range(3):
        assert cards.look(PF, OTHER) == (["ICE OS Default", None], 0, ())
    cards.now += GOOD_FOR
    assert cards.look(PF) == (["ICE COMMS Package"], 1, ())


@pytest.mark.parametrize("change", [
    lambda cards: cards.inodes.update({PF.address: 9}), lambda _: replace(PF, driver="i40e"),
    lambda _: NEW,
], ids=["device", "driver", "netdev"])
def test_what_is_new_is_asked(cards, change):
    cards.look(PF, OTHER)
    cards.packages[PF.address] = "ICE COMMS Package"
    pf = change(cards) or PF
    assert cards.look(pf, OTHER) == (["ICE COMMS Package", None], 1, ())


def test_a_pf_whose_netdev_is_in_a_pod_is_not_new(cards):
    cards.look(PF)
    assert cards.look(replace(PF, link=None, last_link=PF.link)) == (["ICE OS Default"], 0, ())


def test_a_failure_is_told_each_time_and_no_old_answer_in_its_place(cards):
    cards.look(PF)
    cards.packages[PF.address] = HostError("cannot read the firmware versions")
    cards.now += GOOD_FOR
    for _ in range(2):
        assert cards.look(PF) == ([None], 1, ("cannot read the firmware versions",))
    cards.packages[PF.address] = "ICE OS Default"
    assert cards.look(PF) == (["ICE OS Default"], 1, ())


def test_a_device_that_cannot_be_told_from_others_is_asked_each_time(cards):
    cards.inodes.clear()
    for _ in range(2):
        assert cards.look(PF) == (["ICE OS Default"], 1, ())
