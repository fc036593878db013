"""What gives way where something on the host has a VF's name, or one of its altnames, by the time it comes home."""

import dataclasses
import logging
import types
from typing import Any

import pytest

from cni.names import find_other_name, settle_names
from cni.record import HomeLink
from sriov.errors import InputError
from sriov.host.linkinfo import LinkTraits
from sriov.model import Link
from sriov.pci import MacAddress, PciAddress

VF, OTHER, NIC = (PciAddress(f"0000:3b:02.{n}") for n in (1, 2, 7))
MAC = MacAddress("02:00:00:00:00:01")
HOME = HomeLink(name="ens1f0v1", mac=MAC, mtu=1500, up=False, traits=LinkTraits(altnames=("uplink", "storage")))


class Host:
    """Netdevs by name; `altnames` says whose each one is."""

    def __init__(self, altnames=(), **links):
        self.links = {name: Link(index=n, name=name, mac=MAC, mtu=1500, up=False, carrier=False, pci=pci)
                      for n, (name, pci) in enumerate(links.items(), 1)}
        self.altnames = dict(altnames)

    def find(self, name):
        return self.links.get(self.altnames.get(name, name))

    def delete_altnames(self, index, names):
        for name in names:
            assert self.links[self.altnames.pop(name)].index == index


def locate(address):
    if address == NIC:
        raise InputError(f"{address} is not a VF")
    return PciAddress("0000:3b:00.0"), 1


KERNEL: Any = types.SimpleNamespace(sysfs=types.SimpleNamespace(locate_vf=locate), changes=types.SimpleNamespace(
    run=lambda change, *args: change(*args)))


def settle(host: Any) -> Any:
    vf: Any = types.SimpleNamespace(address=VF)
    found = settle_names(KERNEL, host, vf, HOME)
    assert found.name == HOME.name
    return found.traits.altnames


@pytest.mark.parametrize("name", ["ens1f0v1", "uplink"])
def test_another_vfs_altname_gives_way(name, caplog):
    host = Host({name: "net1", "hello": "net1"}, net1=OTHER)
    assert settle(host) == ("uplink", "storage")
    assert host.altnames == {"hello": "net1"}
    assert f"{name} was given to net1 as an altname: taken off there" in caplog.text


@pytest.mark.parametrize("pci", [NIC, None])
def test_what_is_no_vf_keeps_its_altnames(pci, caplog):
    host = Host({"ens1f0v1": "eno1", "uplink": "eno1"}, eno1=pci)
    assert settle(host) == ("storage",)
    assert host.altnames == {"ens1f0v1": "eno1", "uplink": "eno1"}
    assert "comes home without its altname uplink, which eno1 has" in caplog.text


@pytest.mark.parametrize("pci", [OTHER, NIC, None])
def test_a_name_is_taken_from_nobody(pci):
    host = Host(uplink=pci, ens1f0v1=pci)
    assert settle(host) == ("storage",)
    assert set(host.links) == {"uplink", "ens1f0v1"}


def test_its_own_are_no_clash(caplog):
    caplog.set_level(logging.DEBUG)
    assert settle(Host({"uplink": "net1", "ens1f0v1": "net1"}, net1=VF)) == ("uplink", "storage")
    assert settle(Host()) == ("uplink", "storage")
    assert caplog.records == []


def other_name(host: Any) -> Any:
    vf: Any = types.SimpleNamespace(address=VF)
    return find_other_name(host, vf, HOME)


@pytest.mark.parametrize(("host", "whose"), [
    (Host(ens1f0v1=NIC, dev0=OTHER), "another netdev"),
    (Host({"ens1f0v1": "eno1"}, eno1=None, dev0=None), "an altname of eno1"),
])
def test_who_finds_the_own_name_taken_comes_home_under_a_free_one(host, whose, caplog):
    found = other_name(host)
    assert found == dataclasses.replace(HOME, name="dev1")
    assert f"comes home as dev1: ens1f0v1, which it was called, is {whose} now" in caplog.text


def test_a_free_name_is_kept_the_next_time():
    assert other_name(Host(ens1f0v1=NIC, dev0=VF)).name == "dev0"


@pytest.mark.parametrize("host", [Host(dev0=NIC), Host(ens1f0v1=VF)])
def test_a_name_that_nobody_else_has_is_not_given_up(host):
    assert other_name(host) is None
