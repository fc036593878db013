"""Functions of a node by what an admin calls them: netdev name, altname or PCI address, its domain or not."""

from __future__ import annotations

from collections.abc import Collection

from sriov.errors import InputError
from sriov.model import Host, Link
from sriov.pci import PciAddress


def find_pfs(host: Host, texts: Collection[str]) -> list[PciAddress]:
    """Their addresses; raises InputError that names each text that is no PF's."""
    found = {text: _find_link(text, [(pf.address, pf.known_link) for pf in host.pfs]) or _parse(text)
             for text in texts}
    unknown = [text for text, address in found.items() if address is None or host.find_pf(address) is None]
    if unknown:
        raise InputError("expected the name or PCI address of a PF of this node, got "
                         + " and ".join(map(repr, unknown)), hint="vfpool discover lists them")
    return [address for address in found.values() if address is not None]


def find_function(host: Host, text: str) -> PciAddress:
    """The address of whatever has the name, or the address that the text is, be anything there or not.

    Raises InputError for a text that is neither.
    """
    links = [(each.address, each.known_link) for each in (*host.pfs, *host.vfs, *host.others)]
    address = _find_link(text, links) or _parse(text)
    if address is None:
        raise InputError(f"expected a netdev's name or a PCI address like 0000:3b:02.1, got {text!r}",
                         hint="vfpool discover lists them")
    return address


def _find_link(text: str, links: Collection[tuple[PciAddress, Link | None]]) -> PciAddress | None:
    return next((address for address, link in links if link and text in (link.name, *link.altnames)), None)


def _parse(text: str) -> PciAddress | None:
    try:
        return PciAddress.parse(text)
    except InputError:
        return None
