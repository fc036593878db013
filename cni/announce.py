"""Tell the neighbours of a pod's new interface whose its addresses are: gratuitous ARP, unsolicited NA.

An address may have been another pod's a moment ago, and switches and neighbours go on by what they learnt.
The frames are complete ones, sent through a packet socket of that one interface: they can leave by no other.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv6Address

from cni.grammar import Address
from cni.netns import call_in, find_place
from sriov.errors import SriovError
from sriov.host.linkevents import LinkEvents
from sriov.host.netlink import Links
from sriov.pci import MacAddress

log = logging.getLogger(__name__)

PATIENCE = 5.0      # seconds for carrier and DAD; for as long the namespace is held open
_TIMES = 2
_REPEAT = 1.0       # seconds to the second time: a link that just went up may lose its first packets
_LOOK = 0.5         # seconds between two looks whether the pod is still there

_ETH_P_IP6, _ETH_P_ARP, _ARP_REQUEST, _ICMPV6 = 0x86DD, 0x0806, 1, 58
_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_ADDRESS = 136, 1 << 29, 2      # RFC 4861, 4.4 and 4.6.1
_ALL_NODES, _ALL_NODES_MAC = IPv6Address("ff02::1"), b"\x33\x33\0\0\0\1"
_BROADCAST = b"\xff" * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An interface that has just come to a pod; `netns` is the path of that pod's namespace."""

    netns: str
    index: int
    addresses: Sequence[Address]


def start_announcing(netns_fd: int, arrival: Arrival) -> None:
    """Announce in a thread, once the interface has a carrier and DAD is over; what fails is logged."""
    if not arrival.addresses:
        return
    with ExitStack() as stack:
        try:
            fd = os.dup(netns_fd)
            stack.callback(os.close, fd)      # one that stayed open would keep a dead pod's VF
            threading.Thread(target=_run, args=(fd, arrival), name="announce", daemon=True).start()
            stack.pop_all()
        except (OSError, RuntimeError) as error:     # too many descriptors or threads: the ADD is done all the same
            log.warning("index %d of %s: not announced: %s", arrival.index, arrival.netns, error)


def _run(netns_fd: int, arrival: Arrival) -> None:
    try:
        with ExitStack() as stack:
            stack.callback(os.close, netns_fd)
            place = find_place(arrival.netns)
            links, events, packets = call_in(netns_fd, lambda: _open(stack, arrival.index))
            _announce(links, events, packets, arrival, place)
    # The pod may be gone again, or have given it a name that is no text (Python's sockets encode strictly).
    except (SriovError, OSError, RuntimeError, UnicodeEncodeError) as error:
        log.info("index %d of %s: not announced: %s", arrival.index, arrival.netns, error)


def _open(stack: ExitStack, index: int) -> tuple[Links, LinkEvents, socket.socket]:
    links = stack.enter_context(Links.open())
    events = LinkEvents(addresses=True)
    stack.callback(events.close)
    # Protocol 0: it sends, and receives nothing.
    packets = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0))
    link = links.find(index)
    if link is not None:
        packets.bind((link.name, 0))
    return links, events, packets


def _announce(links: Links, events: LinkEvents, packets: socket.socket, arrival: Arrival,
              place: tuple[int, int] | None) -> None:
    until = time.monotonic() + PATIENCE
    said: dict[Address, list[float]] = {}       # when (monotonic), for the MAC of now
    mac = None
    heard = select.poll()
    heard.register(events, select.POLLIN)
    while (now := time.monotonic()) < until and find_place(arrival.netns) == place:
        link = links.find(arrival.index)
        if link is None:
            return                      # its DEL was quicker
        if link.mac != mac:             # a later plugin of the chain may change it
            mac, said = link.mac, {address: [] for address in arrival.addresses}
        settled = _find_settled(links, arrival, said) if link.carrier else []
        for address in settled:
            if (not said[address] or said[address][-1] + _REPEAT <= now) and _send(packets, mac, address):
                said[address].append(now)
        said = {address: times for address, times in said.items() if len(times) < _TIMES}
        if not said:
            return
        due = [again for times in said.values() if times and (again := times[-1] + _REPEAT) > now]
        if heard.poll((min([until, now + _LOOK, *due]) - now) * 1000):
            events.drain()
    silent = [address for address, times in said.items() if not times]
    if silent:
        log.info("index %d of %s: not announced within %.0f s: %s", arrival.index, arrival.netns, PATIENCE,
                 ", ".join(map(str, silent)))


def _send(packets: socket.socket, mac: MacAddress, address: Address) -> bool:
    """Whether it went: a later plugin may have set the link down this moment."""
    try:
        packets.send(announcement(mac, address))
    except OSError as error:
        if error.errno not in (errno.ENETDOWN, errno.ENOBUFS):
            raise
        return False
    return True


def _find_settled(links: Links, arrival: Arrival, asked: dict[Address, list[float]],
                  ) -> list[Address]:
    """Which of `asked` the interface has for good by now; one that somebody else has leaves them.

    A later plugin may take an address away and give it back (vrf): DAD then starts anew, and a NIC that hands the
    VF its own advertisement would end it.
    """
    states = {found.address.ip: found for found in links.dump_addresses(arrival.index)}
    for address in [address for address in asked if address in states and states[address].duplicate]:
        log.error("index %d of %s: somebody else on the link has %s", arrival.index, arrival.netns, address)
        del asked[address]
    return [address for address in asked if address in states and not states[address].tentative]


def announcement(mac: MacAddress, address: Address) -> bytes:
    """The Ethernet frame that says that `mac` has `address`. Source: RFC 826 and 5227; RFC 4861, 7.2.6."""
    own = bytes.fromhex(mac.replace(":", ""))
    if address.version == 4:
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, _ARP_REQUEST, own, address.packed, bytes(6),
                          address.packed)
        return _BROADCAST + own + struct.pack("!H", _ETH_P_ARP) + arp
    body = struct.pack("!I16sBB6s", _OVERRIDE, address.packed, _TARGET_LINK_ADDRESS, 1, own)
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body) + 4, _ICMPV6)
    checksum = _checksum(pseudo + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + body)
    icmp = struct.pack("!BBH", _ADVERTISEMENT, 0, checksum) + body
    # Hop limit 255: receivers believe no other (RFC 4861, 7.1.2).
    header = struct.pack("!IHBB16s16s", 6 << 28, len(icmp), _ICMPV6, 255, address.packed, _ALL_NODES.packed)
    return _ALL_NODES_MAC + own + struct.pack("!H", _ETH_P_IP6) + header + icmp


def _checksum(data: bytes) -> int:
    """The Internet's (RFC 1071); `data` has an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
