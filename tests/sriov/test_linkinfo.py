"""Messages about links, encoded by pyroute2 as a kernel with real NICs sends them, decoded by us."""

import errno
import socket
import struct
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from sriov.errors import HostError
from sriov.host.linkinfo import decode_link, decode_settings_of, decode_vf_settings
from sriov.host.netlink import Links
from sriov.host.nlattr import HEADER, Attributes, attributes, text_attribute
from sriov.model import Link, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

PF = "0000:3b:00.0"
MAC = "02:00:00:00:00:07"


def encode(index, *attrs, kind=1, flags=0, more=()):
    """`more` are numbers and values of attributes that pyroute2 has no name for."""
    message = ifinfmsg()
    message["index"], message["ifi_type"], message["flags"] = index, kind, flags
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data) + b"".join(text_attribute(number, value) for number, value in more)


PARENT = ((56, PF), (57, "pci"))


def test_an_uplink():
    altnames = {"attrs": [("IFLA_ALT_IFNAME", "enp59s0f0np0")]}
    raw = encode(7, ("IFLA_IFNAME", "ens1f0np0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 9000), ("IFLA_MASTER", 12),
                 ("IFLA_PHYS_PORT_NAME", "p0"), ("IFLA_PROP_LIST", altnames), flags=0x10001, more=PARENT)
    link = decode_link(raw)
    assert link == Link(
        index=7, name="ens1f0np0", altnames=("enp59s0f0np0",), mac=MacAddress(MAC), mtu=9000, up=True,
        carrier=True, pci=PciAddress(PF), master=12, port="p0")
    assert link.is_uplink


def test_a_representor():
    link = decode_link(encode(8, ("IFLA_IFNAME", "eth0"), ("IFLA_PHYS_PORT_NAME", "pf0vf3"), more=PARENT))
    assert (link.port, link.is_uplink, link.pci, link.up, link.carrier) == ("pf0vf3", False, PF, False, False)


def test_a_vlan():
    raw = encode(9, ("IFLA_IFNAME", "ens1f0.5"), ("IFLA_LINK", 7),
                 ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vlan")]}))
    link = decode_link(raw)
    assert (link.software, link.lower, link.master, link.pci, link.kind) == ("vlan", 7, None, None, "ether")


@pytest.mark.parametrize(("attrs", "lower"), [
    ([("IFLA_LINK", 7), ("IFLA_LINK_NETNSID", 0)], None), ([("IFLA_LINK", 0)], None), ([("IFLA_LINK", 7)], 7)])
def test_what_stands_on_another_namespaces_link(attrs, lower):
    assert decode_link(encode(9, ("IFLA_IFNAME", "top0"), *attrs)).lower == lower


def test_a_virtio_nic_has_no_pci_parent():
    assert decode_link(encode(2, ("IFLA_IFNAME", "eth0"), more=((56, "virtio2"), (57, "virtio")))).pci is None


@pytest.mark.parametrize(("number", "kind"), [
    (1, "ether"), (32, "infiniband"), (772, "loopback"), (0xFFFE, "none"), (4711, "[4711]")])
def test_kinds_of_hardware(number, kind):
    assert decode_link(encode(2, ("IFLA_IFNAME", "ib0"), kind=number)).kind == kind


# ---- what a PF enforces on its VFs --------------------------------------------------------------------------


def attribute(kind, value):
    """As the kernel writes it: the length has 16 bits, whatever there is."""
    return struct.pack("=HH", (4 + len(value)) & 0xFFFF, kind) + value + bytes(-len(value) % 4)


def vf_info(index, *more, mac=MAC, state=0):
    """Of struct ifla_vf_mac, ifla_vf_vlan, ifla_vf_link_state and the list of VLANs; `more` attributes behind."""
    hardware = bytes.fromhex(mac.replace(":", "")) + bytes(26)
    vlan = struct.pack("=III", index, 7, 1)
    vlans = attribute(1, struct.pack("=III", index, 7, 1) + struct.pack(">Hxx", 0x8100))
    return attribute(1, b"".join([
        attribute(1, struct.pack("=I", index) + hardware), attribute(2, vlan), attribute(12, vlans),
        attribute(5, struct.pack("=II", index, state)), attribute(4, struct.pack("=Ii", index, -1)), *more]))


def of_pf(*infos):
    """A message of a PF: its VFs' list between the attributes that kernels send before and behind it."""
    return encode(7, ("IFLA_IFNAME", "ens1"), ("IFLA_NUM_VF", len(infos))) + attribute(22, b"".join(infos)) + (
        attribute(43, attribute(2, b"\0")) + attribute(56, PF.encode() + b"\0"))


SETTINGS = VfSettings(mac=MacAddress(MAC), vlan=7, vlan_qos=1, vlan_proto=0x8100, link_state=LinkState.AUTO)


def test_vfs_of_a_pf():
    assert dict(decode_vf_settings(of_pf(vf_info(0), vf_info(3, state=2)))) == {
        0: SETTINGS, 3: replace(SETTINGS, link_state=LinkState.DISABLE)}
    assert dict(decode_vf_settings(of_pf())) == {}
    assert dict(decode_vf_settings(encode(7, ("IFLA_IFNAME", "ens1")))) == {}


def test_one_vf_of_a_pf():
    message = of_pf(vf_info(0), vf_info(3, state=2))
    assert decode_settings_of(message, 0) == SETTINGS
    assert decode_settings_of(message, 3) == replace(SETTINGS, link_state=LinkState.DISABLE)
    assert decode_settings_of(message, 1) is None
    assert decode_settings_of(of_pf(), 0) is None
    assert decode_settings_of(encode(7, ("IFLA_IFNAME", "ens1")), 0) is None


@pytest.mark.parametrize("count", [300, 700, 4000])
def test_more_vfs_than_one_attribute_s_length_can_say(count):
    message = of_pf(*(vf_info(index, attribute(99, bytes(64))) for index in range(count)))
    assert (len(message) > 0x10000) == (count > 300)
    assert dict(decode_vf_settings(message)) == dict.fromkeys(range(count), SETTINGS)


@pytest.mark.parametrize("state", [3, 7, 0xFFFFFFFF])
def test_a_driver_s_odd_link_state_is_none(state):
    assert dict(decode_vf_settings(of_pf(vf_info(0, state=state)))) == {0: replace(SETTINGS, link_state=None)}


@given(st.lists(st.tuples(st.integers(0, 14), st.binary(max_size=16)), max_size=6), st.binary(max_size=40))
def test_a_driver_that_says_odd_things_of_a_vf_hides_no_other(odd, tail):
    """Attributes that are short, missing or of no such kind."""
    infos = attribute(1, b"".join(attribute(*each) for each in odd)), vf_info(3)
    found = dict(decode_vf_settings(of_pf(*infos)))
    assert found[3] == SETTINGS
    assert len(found) <= 2
    assert decode_settings_of(of_pf(vf_info(3), infos[0]), 3) == SETTINGS
    dict(decode_vf_settings(of_pf(*infos)[:-20] + tail))


class TooMany:
    """A kernel that answers EMSGSIZE to everything."""

    def setsockopt(self, *_):
        pass

    def send(self, request):
        *_, sequence, port = HEADER.unpack_from(request)
        body = struct.pack("=i", -errno.EMSGSIZE) + request[: HEADER.size]
        self.answer = HEADER.pack(HEADER.size + len(body), 2, 0x100, sequence, port) + body

    def recv_into(self, *_):
        return len(self.answer)

    def recv(self, _):
        return self.answer


def test_vfs_that_do_not_fit_the_kernel_s_message_are_not_known():
    links = Links(cast("socket.socket", TooMany()))
    assert links.vf_settings(7) == {}
    assert links.inspect_vf(7, 0) is None
    with pytest.raises(HostError, match="Message too long"):
        links.find(7)


@given(st.binary(max_size=80))
def test_any_bytes_are_attributes_or_end_them(data):
    for kind, value in attributes(data):
        assert 0 <= kind < 1 << 14
        assert len(value) <= len(data)
    Attributes(data)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.text(st.characters(exclude_characters="\0", codec="utf-8")))))
def test_attributes_come_back_as_they_were_sent(sent):
    data = b"".join(text_attribute(kind, text) for kind, text in sent)
    assert [(kind, value[:-1].decode()) for kind, value in attributes(data)] == sent
    found = Attributes(data)
    for kind, text in dict(sent).items():
        assert found.text(kind) == text
