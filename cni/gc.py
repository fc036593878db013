"""GC: end what the network's pods left behind, by the runtime's list of those that are there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from cni.detach import Detacher
from cni.invocation import BUDGET, Invocation
from cni.ipam import ipam_forward
from cni.netconf import find_ipam
from cni.protocol import CniError, Code, show
from cni.record import Record
from cni.store import Attachment, Store
from sriov.errors import SriovError

log = logging.getLogger(__name__)

VALID = "cni.dev/valid-attachments"
_MISNAMED = "cni.dev/attachments"      # what libcni before 1.2.2 sends, by the specification's first text


def collect_garbage(detacher: Detacher, store: Store, call: Invocation) -> None:
    """End this network's attachments that are not in the list, then ask its IPAM plugin to do the same.

    A failure does not keep the others from their turn; the first is raised, the others are notes on it. An
    attachment that changes meanwhile is let be: its ADD or DEL is under way. Raises CniError (code 7) for a list
    that is none, an absent one too: it does not say that no attachment is valid.
    """
    valid = parse_valid(call.request.config)
    failures: list[SriovError] = []

    def attempt(what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except SriovError as error:
            error.add_note(f"while ending {what}")
            failures.append(error)
        else:
            log.info("GC of network %s: %s: not valid any more, ended unless it changed meanwhile",
                     call.request.network, what)

    try:
        for what, step in _steps(detacher, store, call, valid):
            if call.remaining <= 0:
                raise CniError(Code.TRY_AGAIN_LATER, f"not all was ended within {BUDGET:.0f} s")
            attempt(what, step)
    except SriovError as error:        # some of them cannot be found out
        failures.append(error)
    ipam = find_ipam(call.request.config)
    if ipam is not None:
        attempt(f"what {ipam} has of it", partial(ipam_forward, ipam, call.request, call.timeout))
    if failures:
        for other in failures[1:]:
            failures[0].add_note(str(other))
        raise failures[0]


def parse_valid(config: Mapping[str, Any]) -> frozenset[Attachment]:
    """The attachments that the runtime knows, of any network; raise CniError (code 7) where it does not say."""
    key = VALID if VALID in config else _MISNAMED
    raw = config.get(key)
    if not isinstance(raw, list):
        found = f"got {show(raw)}" if key in config else "it is not there"
        raise CniError(Code.INVALID_CONFIG, f"{VALID}: expected a list, {found}")
    return frozenset(_parse_attachment(f"{key}[{number}]", entry) for number, entry in enumerate(raw))


def _parse_attachment(path: str, entry: object) -> Attachment:
    if not isinstance(entry, dict):
        raise CniError(Code.INVALID_CONFIG, f"{path}: expected an object, got {show(entry)}")
    container, ifname = (entry.get(key) for key in ("containerID", "ifname"))
    if not isinstance(container, str) or not isinstance(ifname, str):
        raise CniError(Code.INVALID_CONFIG, f"{path}: expected containerID and ifname as text")
    return container, ifname


def _steps(detacher: Detacher, store: Store, call: Invocation, valid: frozenset[Attachment],
           ) -> Iterator[tuple[str, Callable[[], None]]]:
    network = call.request.network

    def of_nobody(records: Iterable[Record]) -> list[Record]:
        return [record for record in records if record.owner.network == network and record.attachment not in valid]

    # Read now: what the first steps come to owe is not tried a second time.
    attached, owing = of_nobody(store), of_nobody(store.owed)
    for record in attached:
        yield str(record.owner), partial(detacher.drop, record, call)
    for record in owing:
        yield f"the addresses of {record.owner}", partial(detacher.pay, record.attachment, call)
    names = {"-".join(attachment) for attachment in valid}
    for leftover in detacher.forerunner.of_network(network):
        if leftover.name not in names:
            yield f"sriov-cni's attachment {leftover.name}", partial(detacher.end, leftover, call)
