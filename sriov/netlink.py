"""Routing netlink of one network namespace: links, VF attributes, addresses, routes.

A raw AF_NETLINK socket stays bound to the namespace it was made in, whichever thread uses it later;
pyroute2 encodes the messages. One request at a time per socket: give each thread its own,
a socket costs microseconds. Source: linux/rtnetlink.h, linux/if_link.h, linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import TracebackType
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sriov.errors import Gone, HostError
from sriov.model import Link, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

_RTMGRP_LINK = 1
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLM_F_REPLACE, _NLM_F_CREATE, _NLM_F_APPEND = 0x100, 0x400, 0x800
_RTM_NEWLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 18, 19
_RTM_NEWADDR, _RTM_NEWROUTE, _RTM_DELLINKPROP = 20, 24, 109
_RTEXT_FILTER_VF, _RTEXT_FILTER_SKIP_STATS = 1, 8
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_LINK_INDEX, _LINK_ATTRIBUTES = 20, 32          # in a message with struct ifinfomsg, header included
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_VFINFO_LIST = 1, 3, 4, 22
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_PARENT_DEV_NAME, _IFLA_PARENT_DEV_BUS_NAME = 52, 53, 56, 57
_IFLA_VF_MAC, _IFLA_VF_VLAN, _IFLA_VF_SPOOFCHK, _IFLA_VF_LINK_STATE = 1, 2, 4, 5
_IFLA_VF_RATE, _IFLA_VF_TRUST, _IFLA_VF_VLAN_LIST = 6, 9, 12
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 254, 4, 0, 253, 1

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SO_NETNS_COOKIE = 71
_HEADER = struct.Struct("=IHHII")
_NLMSGERR_ATTR_MSG = 1
_DUMP_TRIES = 5


class Links:
    """The links of the network namespace that `sock` (AF_NETLINK, NETLINK_ROUTE) was made in.

    Every method raises HostError with the kernel's errno and, where it gives one, its own words; Gone where
    the link does not exist.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)

    @classmethod
    def open(cls) -> Links:
        """The links of the calling thread's own network namespace."""
        try:
            return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0))
        except OSError as error:
            raise HostError("cannot open a netlink socket", errno=error.errno or 0) from None

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def cookie(self) -> int:
        """SO_NETNS_COOKIE: names the namespace for this boot and is never given out again (Linux 5.14)."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return int.from_bytes(raw, "little")

    # -- links ---------------------------------------------------------------------------------------

    def dump(self) -> tuple[Link, ...]:
        """All links, without VF lists: those cost a driver call per VF under the kernel's lock."""
        body = _get_link_body(0, _RTEXT_FILTER_SKIP_STATS)
        return tuple(_link(raw) for raw in self._dump(body, _RTM_GETLINK, "list links"))

    def find(self, key: int | str) -> Link | None:
        """The link with this index, or this name or altname; None where there is none."""
        raw = self._get_link(key, _RTEXT_FILTER_SKIP_STATS)
        return None if raw is None else _link(raw)

    def find_pci(self, address: PciAddress) -> Link | None:
        """The netdev of this PCI function, whatever it is called."""
        return next((link for link in self.dump() if link.pci == address), None)

    def change(self, index: int, what: str, *, netns_fd: int | None = None, name: str | None = None,
               mac: MacAddress | None = None, mtu: int | None = None, up: bool | None = None) -> None:
        """Change link `index`, all in one message; `what` names it in errors.

        The kernel (do_setlink) takes namespace, MAC, MTU, name and flags in this order, and stops at the
        first that fails with the earlier ones done: look again after an error.
        """
        attrs: list[tuple[str, Any]] = []
        if netns_fd is not None:
            attrs.append(("IFLA_NET_NS_FD", netns_fd))
        if name is not None:
            attrs.append(("IFLA_IFNAME", name))
        if mac is not None:
            attrs.append(("IFLA_ADDRESS", mac))
        if mtu is not None:
            attrs.append(("IFLA_MTU", mtu))
        message = _link_message(index, attrs)
        if up is not None:
            message["flags"], message["change"] = _IFF_UP if up else 0, _IFF_UP
        self._request(_body(message), _RTM_NEWLINK, what)

    def delete_altname(self, index: int, altname: str) -> None:
        attrs = [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", altname)]})]
        self._request(_body(_link_message(index, attrs)), _RTM_DELLINKPROP, f"delete the altname {altname}")

    # -- what a PF enforces on its VFs -----------------------------------------------------------------

    def vf_settings(self, pf_index: int) -> dict[int, VfSettings]:
        """What PF `pf_index` enforces on each of its VFs, by VF index."""
        message = self._get_link(pf_index, _RTEXT_FILTER_VF | _RTEXT_FILTER_SKIP_STATS)
        if message is None:
            raise Gone(f"cannot read VF attributes: there is no link {pf_index}")
        vfs = _Attributes(message[_LINK_ATTRIBUTES:]).nested(_IFLA_VFINFO_LIST)
        return dict(_vf_settings(info) for _, info in vfs)

    def set_vf(self, pf_index: int, vf: int, changes: VfSettings, what: str) -> None:
        """Set what is not None in `changes` on VF `vf`, in one message.

        The kernel (do_setvfinfo) takes MAC, VLAN, rate, spoofchk, link state, trust in this order and stops
        at the first that fails with the earlier ones done.
        """
        attrs: list[tuple[str, dict[str, Any]]] = []
        if changes.mac is not None:
            attrs.append(("IFLA_VF_MAC", {"vf": vf, "mac": str(changes.mac)}))
        if changes.vlan is not None:
            attrs.append(("IFLA_VF_VLAN", {"vf": vf, "vlan": changes.vlan, "qos": changes.vlan_qos or 0}))
        if changes.min_tx_rate is not None or changes.max_tx_rate is not None:
            rates = {"min_tx_rate": changes.min_tx_rate or 0, "max_tx_rate": changes.max_tx_rate or 0}
            attrs.append(("IFLA_VF_RATE", {"vf": vf, **rates}))
        if changes.spoofchk is not None:
            attrs.append(("IFLA_VF_SPOOFCHK", {"vf": vf, "spoofchk": int(changes.spoofchk)}))
        if changes.link_state is not None:
            attrs.append(("IFLA_VF_LINK_STATE", {"vf": vf, "link_state": int(changes.link_state)}))
        if changes.trust is not None:
            attrs.append(("IFLA_VF_TRUST", {"vf": vf, "trust": int(changes.trust)}))
        nested = {"attrs": [("IFLA_VF_INFO", {"attrs": attrs})]}
        self._request(_body(_link_message(pf_index, [("IFLA_VFINFO_LIST", nested)])), _RTM_SETLINK, what)

    # -- addresses and routes ----------------------------------------------------------------------------

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> None:
        message = ifaddrmsg()
        message["family"] = _family(address)
        message["prefixlen"] = address.network.prefixlen
        message["index"] = index
        message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
        if address.version == 4 and address.network.prefixlen < 31:
            message["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
        self._request(_body(message), _RTM_NEWADDR, f"add the address {address}", _NLM_F_CREATE | _NLM_F_REPLACE)

    def add_route(self, index: int, to: IPv4Network | IPv6Network,
                  gateway: IPv4Address | IPv6Address | None) -> None:
        message = rtmsg()
        message["family"] = _family(to)
        message["dst_len"] = to.prefixlen
        message["table"], message["proto"], message["type"] = _RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST
        message["scope"] = _RT_SCOPE_UNIVERSE if gateway else _RT_SCOPE_LINK
        message["attrs"] = [("RTA_OIF", index)]
        if to.prefixlen:
            message["attrs"].append(("RTA_DST", str(to.network_address)))
        if gateway:
            message["attrs"].append(("RTA_GATEWAY", str(gateway)))
        self._request(_body(message), _RTM_NEWROUTE, f"add a route to {to} through {gateway or 'the link'}",
                      _NLM_F_CREATE | _NLM_F_APPEND)

    # -- the wire ------------------------------------------------------------------------------------------

    def _get_link(self, key: int | str, mask: int) -> bytes | None:
        try:
            (raw,) = self._request(_get_link_body(key, mask), _RTM_GETLINK, f"read the link {key}", ack=False)
        except Gone:
            return None
        return raw

    def _dump(self, body: bytes, kind: int, what: str) -> list[bytes]:
        # A table that changes during its dump is marked; the rest of the dump may lack entries.
        for _ in range(_DUMP_TRIES):
            try:
                return self._request(body, kind, what, _NLM_F_DUMP, ack=False)
            except InterruptedError:
                continue
        raise HostError(f"cannot {what}: it changed during each of {_DUMP_TRIES} reads", errno=errno.EINTR)

    def _request(self, body: bytes, kind: int, what: str, flags: int = 0, *, ack: bool = True) -> list[bytes]:
        self._sequence += 1
        flags |= _NLM_F_REQUEST | (_NLM_F_ACK if ack else 0)
        try:
            return self._exchange(body, kind, what, flags, ack=ack)
        except InterruptedError:
            raise
        except OSError as error:      # ENOBUFS, say
            raise HostError(f"cannot {what}: the netlink socket failed", errno=error.errno or 0) from None

    def _exchange(self, body: bytes, kind: int, what: str, flags: int, *, ack: bool) -> list[bytes]:
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        replies: list[bytes] = []
        interrupted = False
        while True:
            for raw, reply, reply_flags in self._receive():
                interrupted = interrupted or bool(reply_flags & _NLM_F_DUMP_INTR)
                if reply == _NLMSG_ERROR:
                    _check(raw, what, capped=bool(reply_flags & 0x100), tlvs=bool(reply_flags & 0x200))
                    return replies
                if reply == _NLMSG_DONE:
                    if len(raw) >= 20:
                        _check(raw, what, capped=True, tlvs=False)      # a dump that the kernel gave up
                    if interrupted:
                        raise InterruptedError
                    return replies
                replies.append(raw)
                if not flags & _NLM_F_DUMP and not ack:
                    return replies

    def _receive(self) -> Iterator[tuple[bytes, int, int]]:
        """Messages of the next datagram that answer the current request: bytes, type, flags."""
        # A PF with many VFs answers in one message of over 64 KiB: ask for the size first.
        size = self._socket.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        data = self._socket.recv(max(size, 16384))
        offset = 0
        while offset < len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if sequence == self._sequence:
                yield data[offset : offset + length], kind, flags
            offset += (length + 3) & ~3


class LinkEvents:
    """Messages that a link of this namespace changed; `fileno` turns readable when there are any."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, 0)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> None:
        """Throw away what is queued."""
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                # More came than the buffer holds: the lost ones would have said the same.
                if error.errno != errno.ENOBUFS:
                    raise


def _check(raw: bytes, what: str, *, capped: bool, tlvs: bool) -> None:
    (code,) = struct.unpack_from("=i", raw, 16)
    if code == 0:
        return
    words = _kernel_words(raw, capped=capped) if tlvs else ""
    text = f"cannot {what}: {os.strerror(-code)}" + (f" ({words})" if words else "")
    if -code == errno.ENODEV:
        raise Gone(text)
    raise HostError(text, errno=-code)


def _kernel_words(raw: bytes, *, capped: bool) -> str:
    """NLMSGERR_ATTR_MSG of an extended ACK; behind the request's header, or its whole where not capped."""
    (length,) = struct.unpack_from("=I", raw, 20)
    offset = 20 + (16 if capped else (length + 3) & ~3)
    return _Attributes(raw[offset:]).text(_NLMSGERR_ATTR_MSG) or ""


@lru_cache(256)
def _get_link_body(key: int | str, mask: int) -> bytes:
    attrs: list[tuple[str, Any]] = [("IFLA_EXT_MASK", mask)]
    if isinstance(key, str):
        # IFLA_IFNAME holds 15 characters; IFLA_ALT_IFNAME finds names and altnames of any length.
        attrs.append(("IFLA_ALT_IFNAME", key))
    return _body(_link_message(key if isinstance(key, int) else 0, attrs))


def _body(message: Any) -> bytes:
    """The message as pyroute2 encodes it, without the header."""
    message.encode()
    return bytes(message.data[_HEADER.size :])


def _link_message(index: int = 0, attrs: Sequence[tuple[str, Any]] = ()) -> Any:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = list(attrs)
    return message


class _Attributes:
    """The attributes of a message or of a nested attribute, by type; the last of a repeated one counts.

    pyroute2's decoder takes twenty times as long, and a call of the CNI executable reads six messages.
    """

    def __init__(self, data: bytes) -> None:
        self._found = dict(_attributes(data))

    def text(self, kind: int) -> str | None:
        found = self._found.get(kind)
        return None if found is None else found.rstrip(b"\0").decode(errors="replace")

    def numbers(self, kind: int, form: str) -> tuple[int, ...] | None:
        """The fields of a C structure, or of as much of it as this kernel knows; None where it is absent."""
        found = self._found.get(kind)
        return None if found is None else struct.unpack_from(form, found)

    def mac(self, kind: int, offset: int = 0) -> MacAddress | None:
        found = self._found.get(kind)
        return None if found is None else MacAddress(found[offset : offset + 6].hex(":"))

    def nested(self, kind: int) -> Iterator[tuple[int, bytes]]:
        return _attributes(self._found.get(kind, b""))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def _link(raw: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", raw, _LINK_INDEX)
    found = _Attributes(raw[_LINK_ATTRIBUTES:])
    mtu = found.numbers(_IFLA_MTU, "=I")
    on_pci = found.text(_IFLA_PARENT_DEV_BUS_NAME) == "pci"
    return Link(
        index=index,
        name=found.text(_IFLA_IFNAME) or "",
        altnames=tuple(name.rstrip(b"\0").decode(errors="replace")
                       for kind, name in found.nested(_IFLA_PROP_LIST) if kind == _IFLA_ALT_IFNAME),
        mac=found.mac(_IFLA_ADDRESS) or MacAddress(""),
        mtu=mtu[0] if mtu else 0,
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        pci=PciAddress(found.text(_IFLA_PARENT_DEV_NAME)) if on_pci else None,
    )


def _vf_settings(raw: bytes) -> tuple[int, VfSettings]:
    found = _Attributes(raw)

    def flag(kind: int) -> bool | None:
        # Drivers that do not report a flag leave the kernel's -1 in it (rtnl_fill_vfinfo).
        pair = found.numbers(kind, "=II")
        return None if pair is None or pair[1] == 0xFFFFFFFF else bool(pair[1])

    index = found.numbers(_IFLA_VF_MAC, "=I") or (-1,)
    vlan = found.numbers(_IFLA_VF_VLAN, "=III") or (None, None, None)
    rates = found.numbers(_IFLA_VF_RATE, "=III") or (None, None, None)
    state = found.numbers(_IFLA_VF_LINK_STATE, "=II")
    protos = [struct.unpack_from(">H", info, 12)[0] for _, info in found.nested(_IFLA_VF_VLAN_LIST)]
    return index[0], VfSettings(
        mac=found.mac(_IFLA_VF_MAC, 4),
        vlan=vlan[1],
        vlan_qos=vlan[2],
        vlan_proto=protos[0] if protos else None,
        spoofchk=flag(_IFLA_VF_SPOOFCHK),
        trust=flag(_IFLA_VF_TRUST),
        min_tx_rate=rates[1],
        max_tx_rate=rates[2],
        link_state=None if state is None else LinkState(state[1]),
    )


def _family(address: IPv4Interface | IPv6Interface | IPv4Network | IPv6Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
