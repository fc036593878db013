"""What is known of a VF that is on its way to a pod, in one, or on its way home, and its form on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sriov.errors import Refused, SriovError
from sriov.host.linkinfo import LinkTraits
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

# Another number wherever an earlier version could not read what this one writes: a version that is put back then
# refuses the record and says so, instead of setting aside what it takes for damaged.
_FORMAT = 3
_READ = (1, 2, _FORMAT)


class Phase(StrEnum):
    ATTACHING = "attaching"      # changes may have begun; without an ADD that still runs, undo them
    ATTACHED = "attached"        # the ADD was answered
    DETACHING = "detaching"      # a DEL has begun; without one that still runs, do the rest of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    container_id: str
    ifname: str
    network: str
    netns: str                   # CNI_NETNS as it was given
    cookie: int                  # SO_NETNS_COOKIE: the same namespace only together with the boot id
    file_system: int | None = None     # st_dev of what has `netns`; None: that did not open for this process
    pod: str = ""                # namespace/name; empty: the runtime did not say

    def __str__(self) -> str:
        container = f"container {self.container_id[:13]}, {self.ifname} of network {self.network}"
        return f"pod {self.pod}, {container}" if self.pod else container


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """The IPAM plugin that an ADD asked, and what its DEL needs where no runtime calls ours."""

    plugin: str
    environment: Mapping[str, str]     # of the ADD: CNI_CONTAINERID, CNI_IFNAME, CNI_ARGS, CNI_PATH
    config: Mapping[str, Any]          # the network configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeLink:
    """A VF's netdev as it is at home, before any pod. `traits`: all else that a pod can leave on it."""

    name: str
    mac: MacAddress
    mtu: int
    up: bool
    traits: LinkTraits = field(default_factory=LinkTraits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How the VF was before ADD changed anything, and shall be again. `link` is None for a vfio VF."""

    link: HomeLink | None
    settings: VfSettings
    admin_mac: bool              # the PF had set the VF's MAC: it has to be set again, not only be equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an ADD asked for; None: to be left as it is."""

    settings: VfSettings = field(default_factory=VfSettings)
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`identity` tells this VF from one that is made later at its address; None: not known."""

    vf: PciAddress
    pf: PciAddress
    index: int
    boot_id: str
    phase: Phase
    owner: Owner
    baseline: Baseline
    sets_mac: bool               # the attachment sets the VF's MAC through the PF
    result: Mapping[str, Any] | None = None      # what ADD answered
    identity: int | None = None
    ipam: Delegation | None = None
    wanted: Wanted = field(default_factory=Wanted)

    @property
    def attachment(self) -> tuple[str, str]:
        return self.owner.container_id, self.owner.ifname

    @property
    def is_unanswered(self) -> bool:
        """Whether its ADD did not end: nobody knows what it got."""
        return self.phase is Phase.ATTACHING

    def attached(self, result: Mapping[str, Any]) -> Record:
        return dataclasses.replace(self, phase=Phase.ATTACHED, result=result)

    def detaching(self) -> Record:
        return dataclasses.replace(self, phase=Phase.DETACHING)

    def without_ipam(self) -> Record:
        return dataclasses.replace(self, ipam=None)


def format_record(record: Record) -> str:
    return json.dumps({"format": _FORMAT, **_fields(record)}, default=_fields) + "\n"


def _fields(value: Record | Owner | Delegation | Baseline | HomeLink | LinkTraits | VfSettings | Wanted,
            ) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def parse_record(text: str) -> Record:
    """Read what `format_record` wrote; raise SriovError for anything else."""
    try:
        document = json.loads(text)
        if document["format"] not in _READ:
            raise Refused(f"its format is {document['format']!r}, this version knows {', '.join(map(str, _READ))}",
                          hint="it was written by another version of vfpool: use that one")
        settings = document["baseline"]["settings"]
        link = document["baseline"]["link"]
        identity, ipam = document.get("identity"), document.get("ipam")
        wanted = document.get("wanted")
        record = Record(
            vf=PciAddress.parse(document["vf"]),
            pf=PciAddress.parse(document["pf"]),
            index=int(document["index"]),
            boot_id=str(document["boot_id"]),
            phase=Phase(document["phase"]),
            owner=Owner(**document["owner"]),
            baseline=Baseline(
                link=None if link is None else _parse_link(link),
                settings=_parse_settings(settings),
                admin_mac=bool(document["baseline"]["admin_mac"]),
            ),
            sets_mac=bool(document["sets_mac"]),
            result=document["result"],
            identity=None if identity is None else int(identity),
            ipam=None if ipam is None else Delegation(**ipam),
            wanted=Wanted() if wanted is None else Wanted(settings=_parse_settings(wanted["settings"]),
                                                          mtu=wanted["mtu"]),
        )
        _check_types(record)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SriovError(f"not a record: {error!r}") from None
    return record


def _check_types(value: object) -> None:
    """Raise TypeError where something in the value of a class here is of another type than the class says."""
    for name, kinds in _KINDS[type(value)].items():
        found = getattr(value, name)
        if not isinstance(found, kinds):
            raise TypeError(f"{name}: {found!r}")
        if type(found) in _KINDS:
            _check_types(found)


# By class and field, what a value may be an instance of.
_KINDS: Mapping[type, Mapping[str, tuple[type, ...]]] = {
    of: {name: tuple(get_origin(kind) or kind
                     for kind in (get_args(hint) if get_origin(hint) is UnionType else (hint,)))
         for name, hint in get_type_hints(of).items()}
    for of in (Record, Owner, Delegation, Wanted, Baseline, HomeLink, LinkTraits, VfSettings)}


def _parse_settings(document: dict[str, Any]) -> VfSettings:
    mac, state = document["mac"], document["link_state"]
    return VfSettings(**{**document, "mac": None if mac is None else MacAddress.parse(mac),
                         "link_state": None if state is None else LinkState(state)})


def _parse_link(document: dict[str, Any]) -> HomeLink:
    traits = document.get("traits", {})
    altnames, broadcast = (traits.get(key) for key in ("altnames", "broadcast"))
    words = {key: traits.get(key) for key in ("features", "channels", "rings", "coalescing")}
    programs = {key: traits.get(key) for key in ("programs", "tcx")}
    return HomeLink(**{
        **document,
        "mac": MacAddress.parse(document["mac"]),
        "traits": LinkTraits(**{
            **traits,
            "altnames": None if altnames is None else tuple(map(str, altnames)),
            "broadcast": None if broadcast is None else MacAddress.parse(broadcast),
            **{key: None if value is None else tuple((int(place), int(number)) for place, number in value)
               for key, value in programs.items()},
            **{key: None if value is None else tuple(map(int, value)) for key, value in words.items()},
        }),
    })
