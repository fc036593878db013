"""A node to test on, inside the lab: what the host looks like, an agent as a process, CNI calls, namespaces."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sriov.host.discovery import discover
from sriov.host.netlink import Links
from sriov.host.sysfs import Sysfs
from sriov.model import PhysicalFunction, VirtualFunction

SHIM = Path(__file__).parents[2] / "cni/shim/vfpool"
CNI_PATH = "/usr/lib/cni"
# A pool file that offers each VF of the lab, and makes none.
POOLS = """\
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
pools:
  - resource: sriov
    select: [{device: 10ca}]
"""
PATIENCE = 30.0      # seconds; emulation is slow, and these are deadlines, not measurements


def ip(*args: str) -> Any:
    """iproute2's JSON, details included."""
    done = subprocess.run(["ip", "-j", "-d", *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


def wait_for(what: str, ready: Callable[[], Any], timeout: float = PATIENCE, every: float = 0.02) -> Any:
    """The first true answer of `ready`, asked `every` so many seconds; fails after `timeout`, naming what lacks."""
    deadline = time.monotonic() + timeout
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(every)
    return answer


def links() -> dict[str, Any]:
    """All of `ip -j -d link`, by name: names, altnames, MACs, MTU, flags and what each PF enforces on its VFs.

    Without the qdisc: the kernel attaches its default one when a link first goes up, for good.
    """
    return {link["ifname"]: {key: value for key, value in link.items() if key != "qdisc"}
            for link in ip("link", "show")}


def snapshot() -> dict[str, Any]:
    """What can be told of the host's links once udev is done: as `links`, with addresses and what ethtool sets."""
    run("udevadm", "settle")
    addresses = {link["ifname"]: sorted(f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"])
                 for link in ip("addr", "show")}
    with Links.open() as host:
        found = {name: host.inspect(name) for name in addresses}
    tuning = {name: dataclasses.asdict(traits[1]) for name, traits in found.items() if traits is not None}
    return {"links": links(), "addresses": addresses, "traits": tuning}


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two `links()` differ, a line each: path, before, after."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in sorted(before | after)
                for line in differences(before.get(key), after.get(key), f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for n, (a, b) in enumerate(zip(before, after, strict=True))
                for line in differences(a, b, f"{path}[{n}]")]
    return [] if before == after else [f"{path[1:]}: was {before}, is {after}"]


def pfs() -> tuple[PhysicalFunction, ...]:
    return discover(Sysfs()).pfs


def make_vfs(pf: PhysicalFunction, count: int) -> tuple[VirtualFunction, ...]:
    """`count` VFs on a PF that is up, each with the name that udev gave it."""
    name = netdev_name(pf)
    run("ip", "link", "set", name, "up")
    sysfs = Sysfs()
    if sysfs.read_num_vfs(pf.address) != count:
        sysfs.write_num_vfs(pf.address, 0)
        sysfs.write_num_vfs(pf.address, count)
    wait_for_carrier(pf)
    wait_for("netdevs of the VFs", lambda: all(vf.link for vf in _vfs(pf)))
    run("udevadm", "settle")
    return _vfs(pf)


def netdev_name(pf: PhysicalFunction) -> str:
    assert pf.link is not None
    return pf.link.name


def wait_for_carrier(pf: PhysicalFunction) -> None:
    name = netdev_name(pf)
    wait_for(f"carrier of {name}", lambda: "LOWER_UP" in links()[name]["flags"])


def _vfs(pf: PhysicalFunction) -> tuple[VirtualFunction, ...]:
    found = discover(Sysfs()).find_pf(pf.address)
    assert found is not None
    return found.vfs


def bind(vf: VirtualFunction, driver: str | None) -> None:
    sysfs = Sysfs()
    if driver is not None and not sysfs.driver_exists(driver):
        run("modprobe", driver)
    sysfs.set_driver_override(vf.address, driver)
    sysfs.unbind(vf.address)
    sysfs.probe(vf.address)
    if driver is None:
        wait_for("netdev", lambda: sysfs.find_netdev(vf.address))
        run("udevadm", "settle")


@contextlib.contextmanager
def netns() -> Iterator[str]:
    """A network namespace's path; the namespace goes at the end, where it is still there."""
    name = f"pod-{uuid.uuid4().hex[:8]}"
    run("ip", "netns", "add", name)
    try:
        yield f"/run/netns/{name}"
    finally:
        if Path(f"/run/netns/{name}").exists():
            run("ip", "netns", "del", name)


def in_netns(path: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", "netns", "exec", Path(path).name, *argv], capture_output=True, text=True,
                          check=False)


def answered(path: str, address: str, count: int) -> int:
    """How many of `count` pings are answered."""
    done = in_netns(path, "ping", "-n", "-i", "0.2", "-W", "2", "-c", str(count), address)
    found = re.search(r" (\d+) received", done.stdout)
    assert found is not None, f"ping {address}: {done.stderr or done.stdout}"
    return int(found[1])


def ping(path: str, address: str, count: int = 3) -> bool:
    """Whether all of `count` pings are answered."""
    return answered(path, address, count) == count


class CniFailed(Exception):
    """The executable exited with 1: its error document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(document))
        self.code: int = document["code"]
        self.msg: str = document["msg"]


def config(device: str, **keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "vfpool", "deviceID": device, **keys}


class Cni:
    """Calls of a CNI executable, for one container at a time; `socket` is the agent's."""

    def __init__(self, socket: Path, argv: tuple[str, ...] = (str(SHIM),), path: str = CNI_PATH) -> None:
        self._socket = socket
        self.argv = argv
        self._path = path

    def env(self, command: str, container: str, netns: str, ifname: str) -> dict[str, str]:
        return {**os.environ, "VFPOOL_SOCKET": str(self._socket), "CNI_COMMAND": command,
                "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": ifname, "CNI_PATH": self._path}

    def start(self, command: str, conf: Mapping[str, Any], container: str, netns: str,
              ifname: str = "net1") -> subprocess.Popen[str]:
        """The executable, running, its input written."""
        process = subprocess.Popen(self.argv, env=self.env(command, container, netns, ifname), text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):      # one that does not read it has its reasons
            process.stdin.write(json.dumps(conf))
            process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=90)
        if process.returncode != 0:
            assert out, f"exit status {process.returncode} without an error document: {err}"
            raise CniFailed(json.loads(out))
        return json.loads(out) if out else {}

    def add(self, conf: Mapping[str, Any], container: str, netns: str, ifname: str = "net1") -> dict[str, Any]:
        return self.finish(self.start("ADD", conf, container, netns, ifname))

    def delete(self, conf: Mapping[str, Any], container: str, netns: str, ifname: str = "net1") -> None:
        assert self.finish(self.start("DEL", conf, container, netns, ifname)) == {}

    def check(self, conf: Mapping[str, Any], result: Mapping[str, Any], container: str, netns: str,
              ifname: str = "net1") -> None:
        assert self.finish(self.start("CHECK", {**conf, "prevResult": result}, container, netns, ifname)) == {}

    def collect(self, conf: Mapping[str, Any], valid: Sequence[tuple[str, str]]) -> None:
        """GC: these attachments, container and interface, are there."""
        listed = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        assert self.finish(self.start("GC", {**conf, "cni.dev/valid-attachments": listed}, "", "", "")) == {}

    def status(self, conf: Mapping[str, Any]) -> None:
        assert self.finish(self.start("STATUS", conf, "", "", "")) == {}


class Agent:
    """`vfpool-agent` as a process with folders of its own under `root`; `runner` is a command that execs it."""

    def __init__(self, root: Path, pool_file: str, program: tuple[str, ...] = ("-m", "deviceplugin"),
                 log_level: str = "debug", runner: tuple[str, ...] = ()) -> None:
        self.root = root
        self.socket = root / "cni.sock"
        self.state = root / "state"
        self.kubelet = root / "kubelet"
        self.log = root / "agent.log"
        self._program = program
        self._log_level = log_level
        self._runner = runner
        root.mkdir(parents=True, exist_ok=True)
        (root / "pools.yaml").write_text(pool_file)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        """Start, and wait until CNI calls are served."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._runner, sys.executable, *self._program, "--pool-file", str(self.root / "pools.yaml"),
                 "--state-dir", str(self.state), "--socket", str(self.socket),
                 "--status-socket", str(self.root / "status.sock"), "--kubelet-dir", str(self.kubelet),
                 "--device-info-dir", str(self.root / "devinfo"), "--log-level", self._log_level],
                stdout=log, stderr=log, env={**os.environ, **env},
            )
        # Where a machine is busy with other things, too, the imports alone took 30 s.
        wait_for("the agent's CNI socket", lambda: self.serves() or self._check_alive(), 3 * PATIENCE)

    def serves(self) -> bool:
        import socket

        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def _check_alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the agent ended: {self.tail()}"
        return False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def tail(self) -> str:
        return self.log.read_text()[-3000:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it, in whatever state it is."""
        if self._process is not None:
            self.stop(signal.SIGKILL)

    def wait(self) -> int:
        assert self._process is not None
        status = self._process.wait(timeout=PATIENCE)
        self._process = None
        return status

    def records(self) -> list[Path]:
        return sorted((self.state / "vfs").glob("*.json"))
