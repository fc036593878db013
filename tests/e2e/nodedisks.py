"""The node's disks: its executables, the peers', and its state with the images imported beforehand."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.components import Components
from tests.e2e.peers import Peers
from tests.e2e.store import Store
from tests.lab.channel import Channel
from tests.lab.disk import Disk, make_empty, pack
from tests.lab.errors import LabError
from tests.lab.image import CHECKOUT
from tests.lab.machine import Machine
from tests.lab.topology import Topology

PROGRAMS = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc")
GUEST = Path(__file__).with_name("guest")
SCRIPT = f"/vfpool/{GUEST.relative_to(CHECKOUT)}/node"    # in the guest: the checkout is there
STATE_SIZE = "8G"                                         # sparse
_IMAGE, _STATE = "disk.img", "state.img"


def run_script(channel: Channel, *arguments: str, timeout: float = 180) -> str:
    """The guest's `node` script; its output. LabError where it fails."""
    done = channel.run([SCRIPT, *arguments], timeout=timeout)
    if done.status != 0:
        words = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise LabError(f"node {' '.join(arguments)} in the lab: exit status {done.status}: {words}")
    return done.stdout.decode(errors="replace")


def executables(components: Components) -> Disk:
    """/opt/node with bin/ and cni/: what of the components runs on a node."""
    files = {f"bin/{name}": components.program(name) for name in PROGRAMS}
    files |= {f"cni/{path.name}": path for path in components.cni.iterdir()}
    return _packed("nodedisk", files, label="node", mount="/opt/node")


def peers_disk(peers: Peers) -> Disk:
    """/peers with the peers' executables under the names that their users know."""
    return _packed("peersdisk", dict(peers.programs), label="peers", mount="/peers")


def _packed(kind: str, files: dict[str, Path], *, label: str, mount: str) -> Disk:
    """A read-only disk of files, from the cache as long as names, sizes and times are the same."""
    stats = [(name, path.stat()) for name, path in sorted(files.items())]
    key = _digest(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode())

    def build(work: Path) -> None:
        for name, path in files.items():
            target = work / "content" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755)
        (work / "content").mkdir(exist_ok=True)
        pack(work / "content", work / _IMAGE, label=label, mount=mount)
        shutil.rmtree(work / "content")

    return Disk(image=Store(kind).get(key, build) / _IMAGE, label=label, mount=mount)


def state_disk(target: Path, programs: Disk, archives: Sequence[Path]) -> Disk:
    """A disk of its own at `target`, to be mounted at /state, on which containerd has the archives' images.

    A copy of one from the cache, made there by a machine that does nothing else: an emulated one takes
    long to import. Its key is the archives' content, containerd and the guest's scripts.
    """
    parts = [path.read_bytes() for path in sorted(GUEST.iterdir()) if path.is_file()]
    key = _digest(str(programs.image).encode(), *parts, *(_file_digest(path) for path in archives))
    prepared = Store("nodestate").get(key, lambda work: _prepare(work, programs, archives)) / _STATE
    copied = subprocess.run(
        ["cp", "--reflink=auto", "--sparse=auto", str(prepared), str(target)],    # always would look at each byte
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    if copied.returncode != 0:
        raise LabError(f"cannot copy the node's prepared disk: {copied.stdout.strip()}")
    return _state(target)


def _state(image: Path) -> Disk:
    return Disk(image=image, label="state", mount="/state", writable=True, kept=True)


def _prepare(work: Path, programs: Disk, archives: Sequence[Path]) -> None:
    inside = [Path("/archives", f"{number}.tar") for number in range(len(archives))]
    shared = work / "archives"
    shared.mkdir()
    for archive, path in zip(archives, inside, strict=True):
        shutil.copyfile(archive, shared / path.name)
    state = make_empty(work / _STATE, label="state", mount="/state", size=STATE_SIZE)
    topology = Topology(pfs=(), iommu=False)
    with Machine(topology, {"/archives": shared}, disks=[programs, state]) as machine:
        run_script(machine.channel, "prepare")
        run_script(machine.channel, "start", "containerd")
        run_script(machine.channel, "import", *map(str, inside), timeout=600)
        run_script(machine.channel, "stop", "containerd")
        machine.power_off()
    shutil.rmtree(shared)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
