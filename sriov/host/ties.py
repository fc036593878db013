"""What the node itself needs a NIC for: masters, addresses and routes, through whatever stands on it.

Seen is one network namespace: what a pod has made on top of a NIC is not. Nor does the kernel tell by which of
its ports an Open vSwitch's own packets leave: each is tied as a port, none by the vSwitch's routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from sriov.host.routes import MAIN_TABLE, Address, Route
from sriov.model import Host, Link, PciFunction, VirtualFunction
from sriov.pci import PciAddress

_Function = TypeVar("_Function", bound=PciFunction)

# Two ends, neither of which stands on the other, though each says so by IFLA_LINK.
_PAIRS = ("veth", "netkit", "vxcan")
# What user space reads and writes packets by, a VM mostly, with no address here that would show it.
_TAPS = ("macvtap", "ipvtap")
_WORDS = {"openvswitch": "Open vSwitch"}


def find_ties(links: Iterable[Link], addresses: Iterable[Address], routes: Iterable[Route],
              ) -> Mapping[int, tuple[str, ...]]:
    """What ties each link down, by ifindex; a link that nothing does is absent.

    Sentences as `carries the default route (via bond0)`, `carries 3 routes`, `port of bond0 (bond)`, `has address
    192.0.2.1/24`.
    Link-local IPv6 addresses tie nothing: every link that is up has one.
    """
    by_index = {link.index: link for link in links}
    above: dict[int, list[int]] = {}
    for link in by_index.values():
        if link.master is not None:
            above.setdefault(link.index, []).append(link.master)
        if link.lower is not None and link.software not in _PAIRS:
            above.setdefault(link.lower, []).append(link.index)
    own: dict[int, list[str]] = {}
    others: dict[int, int] = {}       # how many routes that lead not everywhere: thousands, on some nodes
    for route in routes:
        for index in dict.fromkeys(route.links):
            if route.prefix == 0:
                own.setdefault(index, []).append(_say_route(route))
            else:
                others[index] = others.get(index, 0) + 1
    for index, count in others.items():
        own.setdefault(index, []).append("carries a route" if count == 1 else f"carries {count} routes")
    for link in by_index.values():
        if link.master is not None:
            own.setdefault(link.index, []).append(f"port of {_say_master(link.master, by_index)}")
        if link.lower is not None and link.software in _TAPS:
            own.setdefault(link.lower, []).append(f"carries {link.name} ({link.software})")
    for address in addresses:
        if not (address.address.version == 6 and address.address.is_link_local):
            own.setdefault(address.index, []).append(f"has address {address.address}")
    found = {index: tuple(dict.fromkeys(_gather(index, own, above, by_index))) for index in by_index}
    return {index: ties for index, ties in found.items() if ties}


def find_vf_ties(links: Iterable[Link], addresses: Iterable[Address], routes: Iterable[Route],
                 ) -> Mapping[int, tuple[str, ...]]:
    """Those that count of a VF: a network manager asks DHCP servers and routers for addresses on whatever is up,
    and nobody meant a VF by that.
    """
    return find_ties(links, [each for each in addresses if each.lasting],
                     [each for each in routes if each.prefix == 0])


def tie_functions(host: Host, links: Sequence[Link], ties: Mapping[int, tuple[str, ...]],
                  of_vfs: Mapping[int, tuple[str, ...]]) -> Host:
    """The host, each function with what ties any of its netdevs down; those of its VFs' representors aside.

    `of_vfs` are the ties that count of a VF.
    """
    netdevs: dict[PciAddress, list[int]] = {}
    for link in links:
        if link.pci is not None and link.is_uplink:
            netdevs.setdefault(link.pci, []).append(link.index)

    def tie(function: _Function) -> _Function:
        indices = netdevs.get(function.address) or ([function.link.index] if function.link else [])
        counted = of_vfs if isinstance(function, VirtualFunction) else ties
        found = tuple(dict.fromkeys(tie for index in indices for tie in counted.get(index, ())))
        return replace(function, ties=found) if found else function

    return host.map_functions(tie)


def _gather(start: int, own: Mapping[int, Sequence[str]], above: Mapping[int, Sequence[int]],
            links: Mapping[int, Link]) -> Iterator[str]:
    """The link's own ties, then those of what stands on it, nearest first; stacks may meet again, or loop."""
    seen, waiting = {start}, [start]
    for index in waiting:
        for tie in own.get(index, ()):
            yield tie if index == start else f"{tie} (via {_name(index, links)})"
        for upper in above.get(index, ()):
            if upper not in seen:
                seen.add(upper)
                waiting.append(upper)


def _say_route(route: Route) -> str:
    version = "" if route.version == 4 else "IPv6 "
    table = "" if route.table == MAIN_TABLE else f" of table {route.table}"
    return f"carries the {version}default route{table}"


def _say_master(index: int, links: Mapping[int, Link]) -> str:
    master = links.get(index)
    kind = master.software if master else None
    return _name(index, links) + (f" ({_WORDS.get(kind, kind)})" if kind else "")


def _name(index: int, links: Mapping[int, Link]) -> str:
    link = links.get(index)
    return link.name if link else f"link {index}"
