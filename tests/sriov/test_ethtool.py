"""Interrupt coalescing that a driver adapts by itself; the rest of ethtool is tried on real netdevs."""

import errno
import struct

import pytest

from sriov.errors import HostError
from sriov.host import ethtool

RX_USECS, TX_USECS, ADAPTIVE_RX = 0, 4, 9


class Driver:
    """Tells its own numbers where it adapts them, and takes no others then (ice_set_coalesce of drivers/net)."""

    def __init__(self, monkeypatch):
        self.words = [0] * 22
        monkeypatch.setattr(ethtool, "_call", self._call)

    def _call(self, socket, name, data, what):
        assert (socket, name, len(data)) == (3, "net1", 92)
        command, *words = struct.unpack("=23I", data)
        if command == 0x0E:
            self.words[RX_USECS] += self.words[ADAPTIVE_RX]      # another number at each look
            return struct.pack("=23I", command, *self.words)
        assert command == 0x0F
        if words[ADAPTIVE_RX] and words[RX_USECS] != self.words[RX_USECS]:
            raise HostError("its own", errno=errno.EINVAL)
        self.words = words
        return data


@pytest.fixture
def driver(monkeypatch):
    return Driver(monkeypatch)


def read():
    found = ethtool.read_coalescing(3, "net1")
    assert found is not None
    return found


def test_what_the_driver_adapts_is_no_setting(driver):
    driver.words[RX_USECS], driver.words[TX_USECS], driver.words[ADAPTIVE_RX] = 30, 40, 1
    first, second = (read() for _ in range(2))
    assert first == second
    assert (first[RX_USECS], first[TX_USECS], first[ADAPTIVE_RX]) == (0, 40, 1)


def test_a_pods_fixed_numbers_give_way_to_the_drivers(driver):
    driver.words[TX_USECS], driver.words[ADAPTIVE_RX] = 40, 1
    before = read()
    driver.words[RX_USECS], driver.words[TX_USECS], driver.words[ADAPTIVE_RX] = 500, 600, 0
    assert read() != before
    ethtool.set_coalescing(3, "net1", before)
    assert read() == before


def test_and_the_other_way_round(driver):
    driver.words[RX_USECS] = 30
    before = read()
    driver.words[ADAPTIVE_RX] = 1
    ethtool.set_coalescing(3, "net1", before)
    assert (driver.words[RX_USECS], driver.words[ADAPTIVE_RX]) == (30, 0)
