"""Where a VF's netdev is, on the host or in its pod, and in what it differs from how it was at home."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cni.kernel import Kernel, Vf
from cni.record import HomeLink
from sriov.errors import HostError
from sriov.host.bpf import TCX
from sriov.host.linkinfo import LinkTraits
from sriov.host.netlink import Links
from sriov.model import Link, printable

_POLL = 0.02         # seconds
# Of LinkTraits. One that the host's own ended meanwhile, a daemon that was restarted, is no difference to mend.
_PROGRAMS = ("programs", "tcx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a VF's netdev was found, and how. `above`: what stands on it there, a VLAN or a macvlan."""

    links: Links
    link: Link
    traits: LinkTraits
    above: tuple[Link, ...] = ()

    def is_home(self, home: HomeLink) -> bool:
        return self.is_usable(home) and not [*self.traits_unlike(home)]

    def is_usable(self, home: HomeLink) -> bool:
        """Whether the next pod can have it, with nothing of the last one's on it that touches packets."""
        return not [*self.unlike(home)]

    def unlike(self, home: HomeLink) -> Iterator[str]:
        """What keeps it from being usable, a line each."""
        for what, expected, found in (("name", home.name, self.link.name), ("MAC", home.mac, self.link.mac),
                                      ("MTU", home.mtu, self.link.mtu), ("up", home.up, self.link.up)):
            if expected != found:
                yield _say(what, expected, found)
        for mode, number in self.foreign_programs(home):
            yield f"XDP program {number} (mode {mode:#x}) is attached"
        for place, number in self.foreign_tcx(home):
            yield f"tcx {TCX[place]} program {number} is attached"

    def traits_unlike(self, home: HomeLink) -> Iterator[str]:
        """What else differs, a line each."""
        missing = home.traits.missing_in(self.traits)
        for field in dataclasses.fields(missing):
            expected, found = getattr(missing, field.name), getattr(self.traits, field.name)
            if expected is not None and field.name not in _PROGRAMS:
                yield _say(field.name.replace("_", " "), expected, found)
        for name in ("features", "tcx"):
            if getattr(home.traits, name) is not None and getattr(self.traits, name) is None:
                yield f"{name}: cannot be read"

    def foreign_programs(self, home: HomeLink) -> tuple[tuple[int, int], ...]:
        """XDP programs that it did not have at home; all where that is not known: it comes from a pod."""
        return tuple(each for each in self.traits.programs or () if each not in (home.traits.programs or ()))

    def foreign_tcx(self, home: HomeLink) -> tuple[tuple[int, int], ...]:
        """The same of tcx programs; none in a pod, where they are not known."""
        return tuple(each for each in self.traits.tcx or () if each not in (home.traits.tcx or ()))

    def lost_programs(self, home: HomeLink) -> Iterator[str]:
        """BPF programs that it had at home, and has not now."""
        for name, kind in zip(_PROGRAMS, ("XDP", "tcx"), strict=True):
            had, has = getattr(home.traits, name), getattr(self.traits, name)
            if had is not None and has is not None:
                yield from (f"{kind} program {number}" for place, number in had if (place, number) not in has)


def _say(what: str, expected: object, found: object) -> str:
    return f"{what}: expected {printable(str(expected))}, found {printable(str(found))}"


def find(kernel: Kernel, host: Links, pod: Links | None, vf: Vf, deadline: float) -> Place:
    """Where the VF's netdev is: on the host or in the pod; waits for the kernel to take a namespace down."""
    while True:
        on_host = kernel.inspect_link(host, vf.address)
        found = None if on_host is None else Place(links=host, link=on_host[0], traits=on_host[1])
        if found is None and pod is not None:
            found = _look_in_pod(pod, vf)
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise HostError(f"the netdev of {vf} is neither on the host nor in its pod's network namespace",
                            hint="a namespace that something still holds open keeps its netdevs")
        with kernel.calls.aside():
            time.sleep(_POLL)


def look(kernel: Kernel, host: Links, key: int | str) -> Place | None:
    """Where one on the host stands."""
    found = kernel.inspect(host, key)
    return None if found is None else Place(links=host, link=found[0], traits=found[1])


def _look_in_pod(pod: Links, vf: Vf) -> Place | None:
    found = pod.inspect_pci(vf.address)
    return None if found is None else Place(links=pod, link=found[0], traits=found[1], above=found[2])
