"""One look at the node: a pass over sysfs, a dump each of links, addresses and routes, devlink for each PF."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from sriov.errors import HostError, SriovError
from sriov.host.devlink import Devlink
from sriov.host.netlink import Links
from sriov.host.routes import Address, Route
from sriov.host.sysfs import Sysfs
from sriov.host.ties import find_ties, find_vf_ties, tie_functions
from sriov.model import Host, Link, PhysicalFunction
from sriov.pci import PciAddress


class RoutingTables(Protocol):
    """What `Links` dumps beside links."""

    def dump_addresses(self) -> tuple[Address, ...]: ...
    def dump_routes(self) -> tuple[Route, ...]: ...


class LinkTables(RoutingTables, Protocol):
    """What `Links` dumps."""

    def dump(self) -> tuple[Link, ...]: ...


class DevlinkFacts(Protocol):
    """What `Devlink` tells of a PF."""

    def eswitch_mode(self, address: PciAddress) -> str | None: ...
    def firmware_package(self, address: PciAddress) -> str | None: ...


class Packages(Protocol):
    """What `PackageMemory` does."""

    def recall(self, pf: PhysicalFunction, ask: Callable[[PciAddress], str | None]) -> str | None: ...


def discover(sysfs: Sysfs, packages: Packages | None = None, *,
             open_links: Callable[[], AbstractContextManager[LinkTables]] = Links.open,
             open_devlink: Callable[[], AbstractContextManager[DevlinkFacts]] = Devlink.open) -> Host:
    """The host of the calling thread's network namespace, which must be the one that `sysfs` shows.

    `packages` may know firmware packages from an earlier look; None: each driver is asked.
    Raises HostError where its links cannot be listed; what else cannot be read is named in `Host.unreadable`.
    """
    with open_links() as links:
        dumped = links.dump()
        host = add_ties(sysfs.scan(dumped), dumped, links)
    try:
        with open_devlink() as devlink:
            return add_devlink(host, devlink, packages)
    except HostError as error:
        return _with_unreadable(host, [str(error)])


def add_ties(host: Host, links: tuple[Link, ...], tables: RoutingTables) -> Host:
    """The host with what the node needs each NIC for.

    Where that cannot be read, every function with a netdev is tied by just this: what might carry the node's
    routes is not for anybody else to take.
    """
    try:
        addresses, routes = tables.dump_addresses(), tables.dump_routes()
    except HostError as error:
        doubt = (f"may carry the node's addresses and routes: {error}",)
        ties = {link.index: doubt for link in links}
        return tie_functions(_with_unreadable(host, [str(error)]), links, ties, ties)
    return tie_functions(host, links, find_ties(links, addresses, routes), find_vf_ties(links, addresses, routes))


def look_for_ties(links: Links, vf: Link, *, stacked: bool) -> tuple[str, ...]:
    """What the node needs the VF with netdev `vf` for, as `add_ties` says; raises HostError, Gone.

    Where nothing stands on it, by master or `stacked`, only its own addresses and routes are read.
    """
    if stacked or vf.master is not None:
        near, addresses, routes = links.dump(), links.dump_addresses(), links.dump_routes()
    else:
        near, addresses, routes = (vf,), links.dump_addresses(vf.index), links.dump_routes(vf.index)
    return find_vf_ties(near, addresses, routes).get(vf.index, ())


def add_devlink(host: Host, devlink: DevlinkFacts, packages: Packages | None = None) -> Host:
    """The host, each PF that a driver has with its eswitch mode and firmware package."""
    unreadable: list[str] = []

    def ask(question: Callable[[PhysicalFunction], str | None], pf: PhysicalFunction) -> str | None:
        try:
            return question(pf)
        except SriovError as error:
            unreadable.append(str(error))
            return None

    def read_mode(pf: PhysicalFunction) -> str | None:
        return devlink.eswitch_mode(pf.address)

    def read_package(pf: PhysicalFunction) -> str | None:
        question = devlink.firmware_package
        return question(pf.address) if packages is None else packages.recall(pf, question)

    pfs = tuple(
        replace(pf, eswitch=ask(read_mode, pf), firmware_package=ask(read_package, pf))
        if pf.driver is not None and not pf.userspace else pf
        for pf in host.pfs
    )
    return _with_unreadable(replace(host, pfs=pfs), unreadable)


def _with_unreadable(host: Host, sentences: list[str]) -> Host:
    return replace(host, unreadable=tuple(sorted({*host.unreadable, *sentences}))) if sentences else host
