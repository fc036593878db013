"""Who attaches a VF, and how it is timed: the kernel's floor, vfpool, and sriov-cni where VFPOOL_PEERS has it.

The floor is the netlink messages that the driver needs and the reads that verify them, and nothing else, from a
process that has sockets and descriptors open.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cni.netns import links_in, open_netns
from cni.takeover import FOLDER
from sriov.host.netlink import Links
from sriov.model import Link, VfSettings, VirtualFunction
from sriov.pci import MacAddress, PciAddress
from tests.bench.turns import timed
from tests.support import node
from tests.support.node import Cni, CniFailed, config, netns

FLOOR, OURS, PEER = "floor", "vfpool", "sriov-cni"
MAC = MacAddress("02:00:00:00:00:01")

Pair = tuple[Callable[[], None], Callable[[], None]]     # one ADD and its DEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    keys: dict[str, Any]
    userspace: bool = False            # of a VF that is bound to vfio-pci
    untrusted_mac: bool = False        # sriov-cni fails here on igb


CASES = (
    Case(name="VLAN", keys={"vlan": 100}),
    Case(name="VLAN + MAC + trust", keys={"vlan": 100, "mac": MAC, "trust": "on"}),
    Case(name="VLAN + MAC, untrusted", keys={"vlan": 100, "mac": MAC}, untrusted_mac=True),
    Case(name="vfio: VLAN + MAC", keys={"vlan": 100, "mac": MAC}, userspace=True),
)
LIKE_FOR_LIKE, UNTRUSTED = CASES[1], CASES[2]


@dataclass(slots=True, kw_only=True)
class Contestant:
    """One who attaches one VF. `mend` undoes, untimed, what a failed DEL left; None: none may fail."""

    name: str
    attach: Callable[[], None]
    detach: Callable[[], None]
    mend: Callable[[], None] | None = None
    adds: list[float] = field(default_factory=list)      # milliseconds
    dels: list[float] = field(default_factory=list)
    failed: int = 0                    # DELs
    broken: bool = False               # the last one was among them

    def add(self) -> None:
        self.adds.append(timed(self.attach))

    def delete(self) -> None:
        self.dels.append(timed(self._detach))

    def tidy(self) -> None:
        """The VF is home, whoever should have brought it there."""
        if self.broken and self.mend is not None:
            self.mend()
            self.broken = False

    def forget(self) -> None:
        """What was timed so far was a warm-up."""
        self.adds.clear()
        self.dels.clear()
        self.failed = 0

    @property
    def p50(self) -> float:
        """Of an ADD and a DEL together."""
        return statistics.median(self.adds) + statistics.median(self.dels)

    def _detach(self) -> None:
        try:
            self.detach()
        except CniFailed:
            if self.mend is None:
                raise
            self.failed += 1
            self.broken = True


def take_turns(contestants: Sequence[Contestant], rounds: int) -> None:
    """Each its ADD and its DEL, `rounds` times after a warm-up, once udev is done with the one before."""
    for number in range(rounds + 1):
        for contestant in contestants:
            node.run("udevadm", "settle")
            contestant.add()
            contestant.delete()
            contestant.tidy()
            if number == 0:
                contestant.forget()


# ---- who ------------------------------------------------------------------------------------------------


@contextmanager
def contest(cni: Cni, vf: VirtualFunction, case: Case) -> Iterator[list[Contestant]]:
    """All who can attach this VF as the case says, each to the same pod; `cni` calls our executable."""
    with netns() as pod, open_netns(pod) as pod_fd, open_netns("/proc/self/ns/net") as host_fd, \
            Links.open() as host, links_in(pod_fd) as inside:
        floor = Floor(host, host_fd, inside, pod_fd, vf, case)
        attach, detach = cni_pair(cni, vf, pod, case.keys)
        found = [Contestant(name=FLOOR, attach=floor.add, detach=floor.delete),
                 Contestant(name=OURS, attach=attach, detach=detach)]
        if (program := find_peer()) is not None and not case.untrusted_mac:
            attach, detach = cni_pair(Cni(Path("/nonexistent"), (str(program),)), vf, pod, case.keys)
            found.append(Contestant(name=PEER, attach=attach, detach=detach, mend=partial(mend, host, vf)))
        yield found


def cni_pair(cni: Cni, vf: VirtualFunction, pod: str, keys: dict[str, Any]) -> Pair:
    calls = Calls(cni, config(vf.address, **keys), pod)
    return partial(calls.run, "ADD"), partial(calls.run, "DEL")


class Calls:
    """An attachment's calls of a CNI executable, with as little around the process as there can be.

    subprocess would take longer than our executable runs.
    """

    def __init__(self, cni: Cni, conf: Mapping[str, Any], pod: str) -> None:
        self._argv = cni.argv
        self._env = {command: cni.env(command, Path(pod).name, pod, "net1") for command in ("ADD", "DEL")}
        self._stdin, self._stdout = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - as long as this
        self._stdin.write(json.dumps(conf).encode())
        self._stdin.flush()

    def run(self, command: str) -> None:
        """Raises CniFailed."""
        stdin, stdout = self._stdin.fileno(), self._stdout.fileno()
        os.lseek(stdin, 0, os.SEEK_SET)
        os.lseek(stdout, 0, os.SEEK_SET)
        os.ftruncate(stdout, 0)
        files = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1),
                 (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        _, status = os.waitpid(os.posix_spawn(self._argv[0], self._argv, self._env[command], file_actions=files), 0)
        if status != 0:
            raise CniFailed(json.loads(os.pread(stdout, 1 << 20, 0)))


def find_peer() -> Path | None:
    folder = os.environ.get("VFPOOL_PEERS")
    return Path(folder, "sriov") if folder and Path(folder, "sriov").exists() else None


class Floor:
    """The messages themselves, by the same encoder."""

    def __init__(self, host: Links, host_fd: int, pod: Links, pod_fd: int, vf: VirtualFunction, case: Case) -> None:
        self._host, self._host_fd, self._pod, self._pod_fd = host, host_fd, pod, pod_fd
        self._pf, self._vf, self._link = pf_index(vf.pf), vf.index, vf.link
        self._was = host.vf_settings(self._pf)[vf.index]
        self._mac = case.keys.get("mac")
        self._trust = {"on": True}.get(case.keys.get("trust", ""))

    def add(self) -> None:
        if self._link is None:
            self._read()
            self._set(mac=self._mac, vlan=100, vlan_qos=0)
            self._read()
            return
        self._host.find(self._link.index)
        self._read()
        self._set(mac=MacAddress.ZERO if self._mac else None, vlan=100, vlan_qos=0, trust=self._trust)
        self._host.change(self._link.index, "move", netns_fd=self._pod_fd, name="net1", mac=self._mac, up=True)
        if self._mac:
            self._set(mac=self._mac)
        self._read()
        self._pod.find("net1")

    def delete(self) -> None:
        if self._link is None:
            self._set(mac=self._was.mac, vlan=0, vlan_qos=0)
            self._read()
            return
        link: Link | None = self._pod.find("net1")
        assert link is not None
        if self._mac:
            self._set(mac=MacAddress.ZERO)
            self._pod.change(link.index, "mac", mac=self._link.mac, up=True)
        self._pod.change(link.index, "move", netns_fd=self._host_fd, name=self._link.name, up=False)
        self._set(vlan=0, vlan_qos=0, trust=False if self._trust else None)
        self._host.find(self._link.index)
        self._read()

    def _read(self) -> None:
        self._host.vf_settings(self._pf)

    def _set(self, **settings: Any) -> None:
        self._host.set_vf(self._pf, self._vf, VfSettings(**settings), "set")


def mend(host: Links, vf: VirtualFunction) -> None:
    """Bring home a VF that sriov-cni's DEL left: misnamed, with its settings, a pod's by its cache."""
    FOLDER.joinpath("pci", vf.address).unlink(missing_ok=True)
    host.set_vf(pf_index(vf.pf), vf.index, VfSettings(mac=MacAddress.ZERO, vlan=0, vlan_qos=0, trust=False), "mend")
    if vf.link is None:
        return
    node.run("udevadm", "settle")
    found = host.find_pci(vf.address)
    assert found is not None
    if found.name != vf.link.name and vf.link.name in found.altnames:
        host.delete_altnames(found.index, [vf.link.name])
    host.change(found.index, "mend", mac=vf.link.mac, up=True)       # igbvf tells its PF of a MAC when it is up
    host.change(found.index, "mend", up=False)
    host.change(found.index, "mend", name=vf.link.name)


def pf_index(address: PciAddress) -> int:
    pf = next(pf for pf in node.pfs() if pf.address == address)
    assert pf.link is not None
    return pf.link.index
