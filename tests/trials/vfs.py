"""How VFs are, by iproute2's word, and what of it is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sriov.model import VirtualFunction
from tests.support import node

# Counters of a kernel's life, and what it chooses anew where a netdev comes back.
_PASSING = ("ifindex", "qdisc", "stats", "stats64")


class Loss(StrEnum):
    """What a trial finds wrong, in the order of a report."""

    TWICE = "held by two pods"
    STOLEN = "not in its owner's namespace"
    ALTERED = "not as its owner asked"
    KEPT = "in its pod after the DEL"
    REFUSED = "ADD failed, though free"
    STUCK = "DEL failed again and again"
    ABSENT = "not on the host"
    NAME = "wrong name"
    MAC = "wrong MAC"
    MTU = "wrong MTU"
    ENFORCED = "wrong on its PF"
    TRAITS = "wrong altname, flag or the like"
    ADDRESS = "address still reserved"


@dataclass(frozen=True, slots=True, kw_only=True)
class VfState:
    """`link`: its netdev on the host as `ip -j -d link` shows it, None where there is none; `enforced`: its PF's
    entry of vfinfo_list."""

    link: Mapping[str, Any] | None
    enforced: Mapping[str, Any] | None


def look(vfs: Iterable[VirtualFunction]) -> dict[str, VfState]:
    """By PCI address; the caller is in the host's network namespace."""
    return read_states(node.ip("link", "show"), vfs)


def read_states(links: Sequence[Mapping[str, Any]], vfs: Iterable[VirtualFunction]) -> dict[str, VfState]:
    devices = {link["parentdev"]: link for link in links if link.get("parentbus") == "pci"}
    enforced = {(pf, entry["vf"]): entry for pf, link in devices.items() for entry in link.get("vfinfo_list", ())}
    states = {}
    for vf in vfs:
        link = devices.get(vf.address)
        kept = None if link is None else {key: value for key, value in link.items() if key not in _PASSING}
        states[str(vf.address)] = VfState(link=kept, enforced=enforced.get((vf.pf, vf.index)))
    return states


def find_losses(before: VfState, after: VfState) -> list[Loss]:
    """What of the VF is not as it was, each kind once."""
    if before.link is None or after.link is None:
        found = [] if before.link == after.link else [Loss.ABSENT]
    else:
        rest = [dict(before.link), dict(after.link)]
        found = []
        for key, loss in (("ifname", Loss.NAME), ("address", Loss.MAC), ("mtu", Loss.MTU)):
            if rest[0].pop(key, None) != rest[1].pop(key, None):
                found.append(loss)
        if rest[0] != rest[1]:
            found.append(Loss.TRAITS)
    return found if before.enforced == after.enforced else [*found, Loss.ENFORCED]


def describe(address: str, before: VfState, after: VfState) -> list[str]:
    """A line for each difference."""
    pairs = {"link": (before.link, after.link), "PF": (before.enforced, after.enforced)}
    return [f"VF {address}: {line}" for what, (was, is_now) in pairs.items()
            for line in node.differences(was, is_now, f".{what}")]
