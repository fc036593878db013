"""What sriov-cni attached on this node before vfpool came, and how its VFs were: read from its cache.

Source: its files under /var/lib/cni/sriov, the same since version 2.8: `<container id>-<interface>` is the
network configuration with what ADD found (OrigVfState), `pci/<BDF>` the path of the namespace that has the VF.
"""

from __future__ import annotations

import errno
import json
import logging
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.kernel import Kernel
from cni.netns import find_file_system, is_netns, links_in, netns_cookie
from cni.record import Baseline, Delegation, HomeLink, Owner, Phase, Record
from cni.store import Attachment
from sriov.errors import Gone, HostError, InputError, Refused
from sriov.model import VLAN_PROTOCOLS, LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress

log = logging.getLogger(__name__)

FOLDER = Path("/var/lib/cni/sriov")
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One attachment that sriov-cni made. `netns`: where it said the VF is; None: it did not say."""

    path: Path
    since: float               # time.time()
    attachment: Attachment
    network: str
    vf: PciAddress
    netns: str | None
    baseline: Baseline
    sets_mac: bool


class Forerunner:
    """sriov-cni's cache; `folder` is where it is on this node, FOLDER if not said. Every method raises HostError.

    Files of before the node's boot are removed: they are about VFs that went with it.
    """

    def __init__(self, kernel: Kernel, folder: Path | None = None) -> None:
        self._kernel = kernel
        self._folder = folder or FOLDER
        self._booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def find(self, attachment: Attachment, netns: str) -> Leftover | None:
        """What the attachment left; `netns` as its DEL names it, empty where that is gone and has no name.

        None also where sriov-cni gave the VF to another pod since: its own DEL would take it from that one.
        """
        self._make_searchable()
        leftover = self._read(self._folder / "-".join(attachment), attachment)
        if leftover is None or leftover.netns in (None, netns):
            return leftover
        if netns == "" and netns_cookie(leftover.netns) is None:
            return leftover
        log.warning("VF %s: sriov-cni gave it to %s after container %s had it", leftover.vf, leftover.netns,
                    attachment[0])
        _delete(leftover.path)
        return None

    def of_network(self, network: str) -> Iterator[Leftover]:
        """All that the network's pods left."""
        self._make_searchable()
        return (leftover for leftover in self._all() if leftover.network == network)

    def of_vf(self, vf: PciAddress) -> list[Leftover]:
        """What dead pods left of this VF, the first that had it first; raise Refused where a living one has it."""
        self._make_searchable()
        netns = self._read_netns(vf)
        if netns is None:
            return []
        if netns_cookie(netns) is not None:
            raise Refused(f"VF {vf} is in use: sriov-cni gave it to {netns}")
        found = [leftover for leftover in self._all() if leftover.vf == vf]
        if not found:            # its file about the VF was damaged, or its DEL was told of no namespace
            log.warning("VF %s: sriov-cni gave it to %s, which is gone, and left no word of how the VF was before: "
                        "it is taken as it is now", vf, netns)
            _delete(self._folder / "pci" / vf)
        return sorted(found, key=lambda leftover: leftover.since)

    def make_record(self, leftover: Leftover, netns_fd: int | None, delegation: Delegation | None,
                    pod: str = "") -> Record | None:
        """A record whose VF is on its way home; None where the VF is gone, or in no namespace of this pod.

        `netns_fd` is the pod's namespace where the caller has it open; `delegation`: who gave it addresses;
        `pod`: namespace/name where its DEL says it, sriov-cni did not.
        """
        try:
            vf = self._kernel.locate(leftover.vf)
        except (Gone, InputError):
            return None
        cookie = self._find_cookie(leftover, netns_fd)
        if leftover.netns is None and cookie is None:
            return None          # sriov-cni ended before it said whose the VF is, and nothing else says it
        container, ifname = leftover.attachment
        netns = leftover.netns or ""
        return Record(
            vf=vf.address, pf=vf.pf, index=vf.index, identity=self._kernel.identity(vf.address),
            boot_id=self._kernel.boot_id, phase=Phase.DETACHING, baseline=leftover.baseline,
            sets_mac=leftover.sets_mac, ipam=delegation,
            owner=Owner(container_id=container, ifname=ifname, network=leftover.network, netns=netns,
                        cookie=cookie or 0,
                        file_system=None if netns_fd is None else find_file_system(netns, netns_fd), pod=pod),
        )

    def forget(self, leftover: Leftover) -> None:
        """Remove sriov-cni's files about it: a record of ours is in their place, or there is nothing to do."""
        _delete(leftover.path)
        if leftover.netns is not None:
            _delete(self._folder / "pci" / leftover.vf)

    def _make_searchable(self) -> None:
        """sriov-cni makes its folders with mode 0600. That hinders no root with CAP_DAC_OVERRIDE; the agent in its
        container has none, but as their owner it may change the mode.
        """
        for folder in (self._folder, self._folder / "pci"):
            try:
                if not folder.stat().st_mode & stat.S_IXUSR:
                    folder.chmod(0o700)
            except FileNotFoundError:
                return
            except OSError as error:
                raise HostError(f"cannot look into sriov-cni's folder {folder}", errno=error.errno or 0) from None

    def _find_cookie(self, leftover: Leftover, netns_fd: int | None) -> int | None:
        """Of the namespace that has the VF; None where that is dead, or does not have it."""
        if netns_fd is None or not is_netns(netns_fd):
            return netns_cookie(leftover.netns) if leftover.netns else None
        with links_in(netns_fd) as pod:
            has_it = leftover.netns is not None or pod.find_pci(leftover.vf) is not None
            return pod.cookie if has_it else None

    def _all(self) -> Iterator[Leftover]:
        """In an interface's name a dash counts as the end of the container's."""
        try:
            paths = sorted(path for path in self._folder.iterdir()
                           if "-" in path.name and path.suffix != _DAMAGED and path.is_file())
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"cannot read {self._folder}", errno=error.errno or 0) from None
        for path in paths:
            container, _, ifname = path.name.rpartition("-")
            leftover = self._read(path, (container, ifname))
            if leftover is not None:
                yield leftover

    def _read_netns(self, vf: PciAddress) -> str | None:
        found = self._read_fresh(self._folder / "pci" / vf)
        return None if found is None else found[0].strip() or None

    def _read(self, path: Path, attachment: Attachment) -> Leftover | None:
        found = self._read_fresh(path)
        if found is None:
            return None
        text, since = found
        try:
            document = json.loads(text)
            vf = PciAddress.parse(document["deviceID"])
            return Leftover(
                path=path, since=since, attachment=attachment, network=str(document["name"]), vf=vf,
                netns=self._read_netns(vf), baseline=_baseline(document, document["OrigVfState"]),
                sets_mac=bool(document.get("MAC")))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError, InputError) as error:
            log.error("set aside sriov-cni's file %s, which cannot be read: %r", path, error)
            _set_aside(path)
            return None

    def _read_fresh(self, path: Path) -> tuple[str, float] | None:
        """Text and time of a file of this boot; None where there is none."""
        try:
            since = path.stat().st_mtime
            if since >= self._booted:
                return path.read_text(errors="replace"), since
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:      # no file has such a name
                return None
            raise HostError(f"cannot read sriov-cni's file {path}", errno=error.errno or 0) from None
        log.info("removed sriov-cni's file %s: the node has been rebooted since", path)
        _delete(path)
        return None


def _set_aside(path: Path) -> None:
    try:
        path.replace(path.with_name(f"{path.name}{_DAMAGED}"))
    except OSError as error:
        raise HostError(f"cannot rename sriov-cni's file {path}", errno=error.errno or 0) from None


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot delete sriov-cni's file {path}", errno=error.errno or 0) from None


def _baseline(config: Mapping[str, Any], was: Mapping[str, Any]) -> Baseline:
    """How the VF was. Of what its PF enforces, only what the network set: the rest is the admin's."""
    mac = MacAddress.parse(was["AdminMAC"]) if was.get("AdminMAC") else None
    vlan, rates = config.get("vlan") is not None, _any(config, "min_tx_rate", "max_tx_rate")
    settings = VfSettings(
        mac=mac,
        vlan=int(was["Vlan"]) if vlan else None,
        vlan_qos=int(was["VlanQoS"]) if vlan else None,
        vlan_proto=(int(was["VlanProto"]) or VLAN_PROTOCOLS["802.1q"]) if vlan else None,
        spoofchk=bool(was["SpoofChk"]) if config.get("spoofchk") else None,
        trust=bool(was["Trust"]) if config.get("trust") else None,
        min_tx_rate=int(was["MinTxRate"]) if rates else None,
        max_tx_rate=int(was["MaxTxRate"]) if rates else None,
        link_state=LinkState(was["LinkState"]) if config.get("link_state") else None,
    )
    return Baseline(link=_home_link(config, was, mac), settings=settings, admin_mac=False)


def _home_link(config: Mapping[str, Any], was: Mapping[str, Any], admin_mac: MacAddress | None) -> HomeLink | None:
    """None for a VF that is driven from user space: it had neither name nor MAC of its own."""
    if not was.get("HostIFName") or not was.get("EffectiveMAC"):
        return None
    own = MacAddress.parse(was["EffectiveMAC"])
    # Read after the PF had set the pod's MAC, which some drivers' netdevs take over at once.
    if own == config.get("MAC") and admin_mac not in (None, MacAddress.ZERO):
        own = admin_mac or own
    return HomeLink(name=str(was["HostIFName"]), mac=own, mtu=int(was["MTU"]), up=False)


def _any(config: Mapping[str, Any], *keys: str) -> bool:
    return any(config.get(key) is not None for key in keys)
