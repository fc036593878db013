"""The names of a VF's netdev at home, where something on the host has one of them by then."""

from __future__ import annotations

import dataclasses
import itertools
import logging

from cni.kernel import Kernel, Vf
from cni.record import HomeLink
from sriov.errors import Gone, InputError
from sriov.host.netlink import Links
from sriov.model import Link, printable

log = logging.getLogger(__name__)


def settle_names(kernel: Kernel, host: Links, vf: Vf, home: HomeLink) -> HomeLink:
    """Home as it can be had, where something on the host has a name of the VF's by now.

    An altname of another VF gives way, as long as that is on the host: a pod put it there, or somebody while this
    one's name was free. An altname of this VF gives way to any other netdev's.
    """
    lost = []
    for name in (home.name, *(home.traits.altnames or ())):
        other = host.find(name)
        if other is None or other.pci == vf.address:
            continue
        if other.name != name and _is_vf(kernel, other):
            log.warning("%s: %s was given to %s as an altname: taken off there", vf, printable(name),
                        printable(other.name))
            kernel.changes.run(host.delete_altnames, other.index, [name])
        elif name != home.name:
            log.warning("%s: comes home without its altname %s, which %s has", vf, printable(name),
                        printable(other.name))
            lost.append(name)
    if not lost:
        return home
    rest = tuple(name for name in home.traits.altnames or () if name not in lost)
    return dataclasses.replace(home, traits=dataclasses.replace(home.traits, altnames=rest))


def find_other_name(host: Links, vf: Vf, home: HomeLink) -> HomeLink | None:
    """Home under a name that is free, where another netdev keeps its own; None where it does not.

    The name is of the kind that the kernel gives to what comes out of a dead namespace and finds its name taken
    (default_device_exit_net in net/core/dev.c).
    """
    other = host.find(home.name)
    if other is None or other.pci == vf.address:
        return None
    free = next(name for name in map("dev{}".format, itertools.count())
                if (there := host.find(name)) is None or there.pci == vf.address)
    log.warning("%s: comes home as %s: %s, which it was called, is %s now", vf, free, printable(home.name),
                "another netdev" if other.name == home.name else f"an altname of {printable(other.name)}")
    return dataclasses.replace(home, name=free)


def _is_vf(kernel: Kernel, link: Link) -> bool:
    if link.pci is None:
        return False
    try:
        kernel.sysfs.locate_vf(link.pci)
    except (Gone, InputError):
        return False
    return True
