"""The cluster's node: the lab VM with containerd and the kubelet, and a disk that outlives a loss of power."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.agentimage import build_agent_archive, build_base_archive
from tests.e2e.components import Components
from tests.e2e.controlplane import ControlPlane
from tests.e2e.images import build_images
from tests.e2e.nodedisks import executables, peers_disk, run_script, state_disk
from tests.e2e.peers import Peers
from tests.e2e.process import find_free_ports
from tests.lab.channel import Channel
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.progress import Progress
from tests.lab.topology import Topology

MEMORY = 4096                 # MiB
KUBERNETES = "/etc/kubernetes"
CNI_CONF = "/etc/cni/net.d"
CNI_BIN = "/opt/cni/bin"
PATH = "/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 120.0              # seconds


class Node:
    """`with Node(components, plane, peers, folder) as node: node.sh("ctr -n k8s.io images list")`.

    Entered, its kubelet runs; when the node is Ready the API server knows.
    """

    name = "localhost"    # which the API server resolves to QEMU's forwarded port, on any machine

    def __init__(self, components: Components, plane: ControlPlane, peers: Peers, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._components = components
        self._plane = plane
        self._peers = peers
        self._folder = folder
        self._machine: Machine | None = None
        self._stack = ExitStack()

    @property
    def channel(self) -> Channel:
        return self._running().channel

    @property
    def images(self) -> tuple[str, ...]:
        """References of the images that containerd has."""
        names = self.sh("ctr -n k8s.io images list -q").split()
        return tuple(name for name in names if not name.startswith("sha256:"))

    def __enter__(self) -> Self:
        base = build_base_archive()
        archives = [*build_images(self._peers, self._folder / "images"), base]
        programs = executables(self._components)
        state = state_disk(self._folder / "state.img", programs, archives)
        [port] = find_free_ports(1)
        machine = Machine(
            Topology(memory=MEMORY), disks=[programs, peers_disk(self._peers), state], forwards=[port]
        )
        with ExitStack() as stack:
            self._machine = stack.enter_context(machine)
            self._install(port, base)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Cut the power, boot from the same disk, start the services as at any boot."""
        self._running().reset()
        self._run("prepare")
        self._run("start", "containerd")
        self.start_kubelet()

    def find_end(self) -> str | None:
        """The VM's last words where QEMU ended by itself; None where it runs, or was stopped."""
        if self._machine is None or self._machine.alive:
            return None
        return f"QEMU, the node's VM, ended, its console's last lines:\n{self._machine.console_tail()}"

    # -- services ---------------------------------------------------------------------------------------

    def start_kubelet(self) -> None:
        """Start it, and wait for nothing: the API server knows when the node is Ready."""
        self._run("start", "kubelet")

    def stop_kubelet(self) -> None:
        """End it (SIGTERM); containers run on."""
        self._run("stop", "kubelet")

    def restart_containerd(self) -> None:
        """End it (SIGTERM) and start it anew, until it serves; containers run on under their shims."""
        self._run("stop", "containerd")
        self._run("start", "containerd")

    def log_tail(self, name: str, lines: int = 40) -> str:
        """The last log lines of a service: containerd, kubelet."""
        return self.sh(f"tail -n {lines} /var/log/{name}.log", check=False)

    # -- the guest --------------------------------------------------------------------------------------

    def sh(self, script: str, *, check: bool = True, timeout: float = PATIENCE) -> str:
        """What a shell script in the guest writes to stdout; LabError where it fails, unless not to `check`."""
        done = self.channel.run(["sh", "-c", script], env={"PATH": PATH}, timeout=timeout)
        if check and done.status != 0:
            words = done.stderr.decode(errors="replace").strip()
            raise LabError(f"on the node, exit status {done.status} of\n{script}\n{words}")
        return done.stdout.decode(errors="replace")

    def wait_for(self, condition: str, timeout: float = PATIENCE) -> None:
        """Return once the shell command `condition` succeeds in the guest."""
        loop = f"until {{ {condition}; }} > /dev/null 2>&1; do sleep 0.1; done"
        done = self.channel.run(
            ["timeout", f"{timeout:g}", "sh", "-c", loop], env={"PATH": PATH}, timeout=timeout + 30
        )
        if done.status != 0:
            raise LabError(f"on the node, not within {timeout:g} s: {condition}")

    def set_cni_conf(self, name: str, text: str) -> None:
        """A file in the runtime's CNI configuration; the first by name is the one that it goes by."""
        # Not as a whole name until it is complete: the runtime watches the folder.
        draft = f"{CNI_CONF}/.{name}.draft"
        self._write(draft, text)
        self._rename(draft, f"{CNI_CONF}/{name}")

    def remove_cni_conf(self, name: str) -> None:
        self.sh(f"rm -f {shlex.quote(f'{CNI_CONF}/{name}')}")

    def install_cni(self, source: str) -> None:
        """A CNI executable of the guest (/peers/...) among those that the runtime finds, under its name."""
        name = Path(source).name
        self.sh(f"cp {shlex.quote(source)} {CNI_BIN}/.{name}")
        self._rename(f"{CNI_BIN}/.{name}", f"{CNI_BIN}/{name}")

    def _rename(self, draft: str, name: str) -> None:
        # Without it a power cut in the next half minute leaves an empty file under the new name.
        self.sh(f"sync {shlex.quote(draft)} && mv {shlex.quote(draft)} {shlex.quote(name)}")

    # -- making -----------------------------------------------------------------------------------------

    def _install(self, port: int, base: Path) -> None:
        """What the disk from the cache does not have: identity, this checkout's agent; then the services."""
        progress = Progress("node")
        self._run("prepare")
        self.channel.copy_in(self._identity(port), KUBERNETES)
        self._run("start", "containerd")
        progress.note("containerd is up")
        self.channel.copy_in(build_agent_archive(self._folder, base), "/run/agent.tar")
        self._run("import", "/run/agent.tar")
        progress.note("vfpool's image is imported")
        self.start_kubelet()

    def _identity(self, port: int) -> Path:
        """A folder with the kubelet's certificates, its kubeconfig and its port."""
        folder = self._folder / "kubernetes"
        (folder / "kubelet.d").mkdir(parents=True)
        authority = self._plane.authority
        serving = authority.issue("kubelet", common_name=f"system:node:{self.name}", hosts=[self.name, "127.0.0.1"])
        kubeconfig = self._plane.kubeconfig(
            "kubelet", common_name=f"system:node:{self.name}", organizations=["system:nodes"],
            server=self._plane.guest_server,
        )
        for name, source in {
            "ca.crt": authority.certificate, "kubelet.crt": serving.certificate, "kubelet.key": serving.key,
            "kubelet.kubeconfig": kubeconfig,
        }.items():
            (folder / name).write_bytes(source.read_bytes())
        (folder / "kubelet.d/10-port.conf").write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "port": port,
        }))
        return folder

    def _running(self) -> Machine:
        if self._machine is None:
            raise LabError("the node is not running", hint="enter it: with Node(...) as node")
        return self._machine

    def _run(self, *arguments: str) -> None:
        run_script(self.channel, *arguments)

    def _write(self, path: str, text: str) -> None:
        done = self.channel.run(["sh", "-c", f"cat > {shlex.quote(path)}"], input=text.encode())
        if done.status != 0:
            raise LabError(f"cannot write {path} on the node: {done.stderr.decode(errors='replace').strip()}")
