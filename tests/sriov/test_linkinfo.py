"""Messages about links, encoded by pyroute2 as a kernel with real NICs sends them, decoded by us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from sriov.host.linkinfo import decode_link
from sriov.host.nlattr import Attributes, attributes, text_attribute
from sriov.model import Link
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
