"""What keeps a VF on the host."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import cast

import pytest

from cni.away import check_untied
from cni.kernel import Vf
from cni.steps import MacOrder
from sriov.errors import HostError, Refused
from sriov.host.netlink import Links
from sriov.host.routes import Address, Route
from sriov.model import Link
from sriov.pci import MacAddress, PciAddress

VF = Vf(address=PciAddress("0000:3b:02.0"), index=0, pf=PciAddress("0000:3b:00.0"), pf_name="ens1", pf_index=2,
        order=MacOrder.NETDEV_FIRST)


def make_link(index: int, name: str, **changes: int | str) -> Link:
    return Link(index=index, name=name, mac=MacAddress("02:00:00:00:00:01"), mtu=1500, up=True, carrier=True,
                **changes)    # type: ignore[arg-type]


@dataclass
class FakeLinks:
    links: tuple[Link, ...]
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    error: HostError | None = None

    def dump(self) -> tuple[Link, ...]:
        return self.links

    def dump_addresses(self) -> tuple[Address, ...]:
        if self.error is not None:
            raise self.error
        return self.addresses

    def dump_routes(self) -> tuple[Route, ...]:
        return self.routes


PLAIN = make_link(7, "ens1v0")
BOND = make_link(9, "bond0", software="bond")


def check(host: FakeLinks) -> None:
    check_untied(cast("Links", host), VF, host.links[0])


def test_a_vf_that_nobody_else_needs() -> None:
    links = (PLAIN, BOND)
    check(FakeLinks(links))
    check(FakeLinks(links, addresses=(Address(index=9, address=ip_interface("192.0.2.7/24")),)))
    check(FakeLinks(links, addresses=(Address(index=7, address=ip_interface("fe80::1/64")),)))


@pytest.mark.parametrize(("host", "words"), [
    (FakeLinks((PLAIN,), addresses=(Address(index=7, address=ip_interface("192.0.2.7/24")),)),
     "has address 192.0.2.7/24"),
    (FakeLinks((PLAIN,), routes=(Route(version=4, links=(7,)),)), "carries the default route"),
    (FakeLinks((make_link(7, "ens1v0", master=9), BOND)), "port of bond0 (bond)"),
    (FakeLinks((PLAIN, make_link(8, "ens1v0.5", lower=7, software="vlan")),
               routes=(Route(version=6, links=(8,)),)), "carries the IPv6 default route (via ens1v0.5)"),
])
def test_what_the_node_itself_needs_stays(host: FakeLinks, words: str) -> None:
    with pytest.raises(Refused) as caught:
        check(host)
    assert caught.value.message == (
        f"VF 0000:3b:02.0 (ens1 vf 0) is not for pods, the node itself needs ens1v0: {words}")


def test_not_to_know_is_not_to_be_free() -> None:
    with pytest.raises(HostError):
        check(FakeLinks((PLAIN,), error=HostError("cannot list addresses")))
