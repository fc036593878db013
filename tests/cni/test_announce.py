"""The frames of an announcement, bit by bit."""

import os
import struct
import threading
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.announce import Arrival, announcement, start_announcing
from sriov.pci import MacAddress

MAC = MacAddress("02:00:00:00:00:0a")


def test_gratuitous_arp():
    """Both protocol addresses are the announced one, in a request to everybody (RFC 5227, 3)."""
    assert announcement(MAC, ip_address("10.9.0.1")).hex(" ", 2) == (
        "ffff ffff ffff 0200 0000 000a 0806 "
        "0001 0800 0604 0001 0200 0000 000a 0a09 0001 0000 0000 0000 0a09 0001")


def test_unsolicited_neighbour_advertisement():
    """From the address itself to all nodes, hop limit 255, override set, with its MAC (RFC 4861, 7.2.6)."""
    assert announcement(MAC, ip_address("fd00::1")).hex(" ", 2) == (
        "3333 0000 0001 0200 0000 000a 86dd "
        "6000 0000 0020 3aff fd00 0000 0000 0000 0000 0000 0000 0001 ff02 0000 0000 0000 0000 0000 0000 0001 "
        "8800 5a92 2000 0000 fd00 0000 0000 0000 0000 0000 0000 0001 0201 0200 0000 000a")


@given(st.ip_addresses(v=6), st.binary(min_size=6, max_size=6))
def test_the_checksum_is_right_for_every_address(address, mac):
    """One's complement sum of pseudo header and message: all ones (RFC 8200, 8.1)."""
    packet = announcement(MacAddress(mac.hex(":")), address)[14:]
    icmp = packet[40:]
    words = packet[8:40] + struct.pack("!II", len(icmp), 58) + icmp
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_no_frame_is_longer_than_the_smallest_mtu(address):
    assert len(announcement(MAC, ip_address(address))) <= 14 + 72


def test_a_thread_that_cannot_be_started_holds_no_namespace(monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    arrival = Arrival(netns="/proc/self/ns/net", index=5, addresses=[ip_address("10.9.0.1")])
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        before = len(os.listdir("/proc/self/fd"))
        start_announcing(fd, arrival)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)
    assert "not announced: can't start new thread" in caplog.text
