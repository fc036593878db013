"""Other programs' configuration that makes or shapes a PF's VFs: what of it is about which PF. Pure.

Sources: nm-settings-keyfile(5), nm-settings-ifcfg-rh(5), systemd.link(5), systemd.network(5), netplan's YAML
reference. A key that is not looked at here never keeps a claim from counting: who may make the VFs is asked, and an
override answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sriov.model import Link, PhysicalFunction
from sriov.pci import PciAddress

Sections = Sequence[tuple[str, Sequence[tuple[str, str]]]]

_ETHERNET = ("ethernet", "802-3-ethernet")
# What alloc_etherdev of the kernel calls a NIC until udev gives it a name, and nobody remembers afterwards.
_KERNEL_NAMES = tuple(f"eth{number}" for number in range(256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`sentence` is true of each PF that all given keys match; any pattern of a key is enough.

    Patterns are globs; those that begin with ! are exceptions. `paths` are udev's ID_PATH: `pci-0000:3b:00.0`.
    `first_names`: of the name that the PF's netdev had before udev gave it one.
    """

    sentence: str                     # "netplan makes its VFs: /etc/netplan/50-nic.yaml"
    names: tuple[str, ...] = ()
    first_names: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()

    def matches(self, pf: PhysicalFunction) -> bool:
        link = pf.known_link
        return (
            _fits(self.names, (link.name, *link.altnames) if link else ())
            and any(_fits(self.first_names, (name,)) for name in _first_names(link))
            and _fits([mac.lower().replace("-", ":") for mac in self.macs], (link.mac,) if link else ())
            and _fits(self.paths, (f"pci-{pf.address}",)) and _fits(self.drivers, (pf.driver or "",))
        )


def parse_sections(text: str) -> Sections:
    """The sections of an ini-style file, in order, repeated ones apart; comments and other lines are skipped."""
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        bare = line.strip()
        if bare.startswith("[") and bare.endswith("]"):
            sections.append((bare[1:-1], []))
        elif bare and bare[0] not in "#;" and "=" in bare and sections:
            key, _, value = bare.partition("=")
            sections[-1][1].append((key.strip(), value.strip()))
    return sections


def find_keyfile_claim(text: str, file: str) -> Claim | None:
    """Of a NetworkManager profile: one with a section `sriov` sets the number of VFs when it is activated."""
    sections = parse_sections(text)
    found = {f"{section}.{key}": value for section, pairs in sections for key, value in pairs}
    if all(section != "sriov" for section, _ in sections):
        return None
    if found.get("connection.type", "ethernet") not in _ETHERNET:
        return None
    return Claim(
        sentence=f"NetworkManager makes its VFs: {file}",
        names=(*_list(found.get("connection.interface-name")), *_list(found.get("match.interface-name"))),
        macs=tuple(mac for section in _ETHERNET for mac in _list(found.get(f"{section}.mac-address"))),
        paths=_list(found.get("match.path")),
        drivers=_list(found.get("match.driver")),
    )


def find_ifcfg_claim(text: str, file: str) -> Claim | None:
    """Of a profile of Red Hat's network scripts, which NetworkManager reads too: as `find_keyfile_claim`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            found[key.removeprefix("export ").strip()] = value.strip().strip("\"'")
    if not any(key.startswith("SRIOV_") for key in found) or found.get("TYPE", "Ethernet") != "Ethernet":
        return None

    def words(*keys: str) -> tuple[str, ...]:
        return tuple(word.lstrip("|&") for key in keys for word in found.get(key, "").split())

    return Claim(
        sentence=f"NetworkManager makes its VFs: {file}", names=words("DEVICE", "MATCH_INTERFACE_NAME"),
        macs=words("HWADDR"), paths=words("MATCH_PATH"), drivers=words("MATCH_DRIVER"),
    )


def find_systemd_claim(text: str, file: str) -> Claim | None:
    """Of a .link or .network file with its drop-ins: settings of VFs, or their number."""
    sections = parse_sections(text)
    makes = any(section == "Link" and key == "SR-IOVVirtualFunctions" and value
                for section, pairs in sections for key, value in pairs)
    if not makes and all(section != "SR-IOV" for section, _ in sections):
        return None
    match = [pair for section, pairs in sections if section == "Match" for pair in pairs]
    who = "systemd-networkd" if file.endswith(".network") else "udev"
    return Claim(
        sentence=f"{who} {'makes' if makes else 'configures'} its VFs: {file}",
        names=_words(match, "Name"), first_names=_words(match, "OriginalName"),
        macs=_words(match, "MACAddress", "PermanentMACAddress"),
        paths=_words(match, "Path"), drivers=_words(match, "Driver"),
    )


def find_netplan_claims(documents: Iterable[tuple[str, object]]) -> Iterator[Claim]:
    """Of all of netplan's files, parsed: interfaces with a number of VFs, and those that others are VFs of."""
    interfaces: dict[str, dict[str, object]] = {}
    files: dict[str, str] = {}
    for file, document in documents:
        for name, settings in _mapping(_mapping(_mapping(document).get("network")).get("ethernets")).items():
            interfaces.setdefault(name, {}).update(_mapping(settings))
            for claimed, claims in ((name, "virtual-function-count" in _mapping(settings)),
                                    (_mapping(settings).get("link"), True)):
                if isinstance(claimed, str) and claims:
                    files.setdefault(claimed, file)
    for name, file in files.items():
        match = interfaces.get(name, {}).get("match")
        keys = _mapping(match)
        yield Claim(
            sentence=f"netplan makes its VFs: {file}",
            names=_texts(keys.get("name")) if match is not None else (name,),
            macs=_texts(keys.get("macaddress")), drivers=_texts(keys.get("driver")),
        )


def sort_claims(claims: Sequence[Claim], pfs: Iterable[PhysicalFunction]) -> dict[PciAddress, tuple[str, ...]]:
    """The sentences about each PF, by its address; a PF without any is absent."""
    found = {pf.address: tuple(dict.fromkeys(claim.sentence for claim in claims if claim.matches(pf)))
             for pf in pfs}
    return {address: sentences for address, sentences in found.items() if sentences}


def _first_names(link: Link | None) -> tuple[str, ...]:
    """What the netdev may have been called by the kernel."""
    if link is None:
        return _KERNEL_NAMES
    return (link.name,) if link.name in _KERNEL_NAMES else (link.name, *_KERNEL_NAMES)


def _fits(patterns: Sequence[str], values: Sequence[str]) -> bool:
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return ((not wanted or any(fnmatchcase(value, pattern) for value in values for pattern in wanted))
            and not any(fnmatchcase(value, pattern) for value in values for pattern in unwanted))


def _list(value: str | None) -> tuple[str, ...]:
    """A keyfile's list; a leading | or & joins matches with the others, which makes no difference here."""
    return tuple(part.lstrip("|&") for part in (value or "").split(";") if part)


def _words(pairs: Sequence[tuple[str, str]], *keys: str) -> tuple[str, ...]:
    """systemd's lists: assignments add up, an empty one begins anew; ! before the first word is for all."""
    found: list[str] = []
    for key, value in pairs:
        if key in keys:
            words = value.lstrip("!").split()
            found = [*found, *(f"!{word}" if value.startswith("!") else word for word in words)] if words else []
    return tuple(found)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(each for each in values if isinstance(each, str))
