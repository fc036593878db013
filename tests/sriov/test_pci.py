"""Addresses: parse(format(x)) == x, and any text is a value or an InputError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.errors import InputError
from sriov.pci import MacAddress, PciAddress

pci_addresses = st.builds(
    "{:04x}:{:02x}:{:02x}.{}".format,
    st.integers(0, 0xFFFFFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7),
).map(PciAddress)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: MacAddress(raw.hex(":")))


def attempt(parse, text):
    """The value, or the InputError; anything else is raised on."""
    try:
        return parse(text)
    except InputError as error:
        return error


@given(pci_addresses)
def test_pci_address_survives_formatting(address):
    assert PciAddress.parse(address) == address
    assert PciAddress.parse(address.upper()) == address
    assert PciAddress.parse(f" {address}\n") == address


@given(macs)
def test_mac_address_survives_formatting(mac):
    assert MacAddress.parse(mac) == mac
    assert MacAddress.parse(mac.upper().replace(":", "-")) == mac
    digits = mac.replace(":", "")
    assert MacAddress.parse(f"{digits[:4]}.{digits[4:8]}.{digits[8:]}") == mac


@given(st.one_of(st.text(), st.text("0123456789abcdefABCDEF:.- \n", max_size=20)))
def test_any_text_is_an_address_or_an_input_error(text):
    for parse in (PciAddress.parse, MacAddress.parse, MacAddress.parse_unicast):
        result = attempt(parse, text)
        if isinstance(result, InputError):
            assert repr(text) in result.message
        else:
            assert parse(result) == result


@pytest.mark.parametrize("text", [
    "", "3b:00", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "000:3b:00.0", "0000:3b:00.0x",
])
def test_what_is_no_pci_address(text):
    with pytest.raises(InputError, match="expected a PCI address like 0000"):
        PciAddress.parse(text)


def test_short_form_gets_its_domain():
    assert PciAddress.parse("3B:00.1") == "0000:3b:00.1"


def test_order_is_by_domain_as_a_number():
    texts = ("10000:01:00.0", "0000:5e:00.0", "0000:3b:00.1", "ffff:00:00.0")
    assert sorted(map(PciAddress.parse, texts), key=lambda address: address.order) == [
        "0000:3b:00.1", "0000:5e:00.0", "ffff:00:00.0", "10000:01:00.0"]


@pytest.mark.parametrize("text", ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"])
def test_what_no_interface_may_carry(text):
    assert MacAddress.parse(text) == text
    with pytest.raises(InputError, match="expected a unicast MAC address"):
        MacAddress.parse_unicast(text)
