"""What a runtime does on the node, without one: cnitool, and libcni_probe for what cnitool has no words for."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import Any, Self

from tests.e2e.components import Components
from tests.e2e.node import CNI_BIN, Node
from tests.lab.channel import Result
from tests.lab.errors import LabError

CACHE = "/var/lib/cni/results"
IFNAME = "net1"
_HOME = "/opt/libcni"     # /run lets nothing be executed
_PROGRAMS = ("cnitool", "libcni_probe")
_PATIENCE = 90.0     # seconds; an ADD may take 50


class PluginFailed(Exception):
    """What libcni says of a call that failed; `code` where the plugin's answer is known."""

    def __init__(self, words: str, code: int | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.code = code


class Libcni:
    """`with Libcni(node, components) as libcni`; `vfs`: PCI addresses of VFs of one PF that have a netdev.

    Networks are conflists of their own, which no runtime sees; pods are network namespaces with a name.
    """

    def __init__(self, node: Node, components: Components) -> None:
        self._node = node
        self._components = components
        self._numbers = itertools.count()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._node.sh(f"mkdir -p {_HOME}/net.d")
        self._stack.callback(self._node.sh, f"rm -rf {_HOME}")
        for name in _PROGRAMS:
            self._node.channel.copy_in(self._components.program(name), f"{_HOME}/{name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def define(self, name: str, *plugins: Mapping[str, Any], version: str = "1.0.0") -> None:
        """A network, in the place of another one of that name."""
        text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins})
        self._node.sh(f"printf %s {shlex.quote(text)} > {_HOME}/net.d/{name}.conflist")

    @contextmanager
    def pod(self) -> Iterator[str]:
        """The path of a network namespace; it goes at the end, where it is still there."""
        name = f"libcni-{next(self._numbers)}"
        self._node.sh(f"ip netns add {name}")
        try:
            yield f"/var/run/netns/{name}"      # as runtimes call it, and so the agent's container
        finally:
            self._node.sh(f"[ ! -e /run/netns/{name} ] || ip netns del {name}")

    def ip(self, pod: str, words: str) -> str:
        """`ip` in the pod."""
        return self._node.sh(f"ip -n {_name(pod)} {words}")

    def link(self, pod: str, name: str = IFNAME) -> dict[str, Any] | None:
        """`ip -j -d address` of one of the pod's links; None where it has none of that name."""
        found = json.loads(self.ip(pod, "-j -d address show"))
        return next((link for link in found if link["ifname"] == name), None)

    # -- the verbs --------------------------------------------------------------------------------------------

    def add(self, network: str, pod: str, *, path: str = CNI_BIN, **capabilities: Any) -> dict[str, Any]:
        """The result. `path`: where plugins are looked for; `capabilities`: runtimeConfig of those that want it."""
        result: dict[str, Any] = json.loads(self._cnitool("add", network, pod, path=path, **capabilities))
        return result

    def delete(self, network: str, pod: str, *, path: str = CNI_BIN) -> None:
        self._cnitool("del", network, pod, path=path)

    def check(self, network: str, pod: str) -> None:
        self._cnitool("check", network, pod)

    def check_code(self, network: str, pod: str) -> None:
        """As `check`; PluginFailed has the code, too."""
        self._probe("check", network, pod, container(pod), IFNAME)

    def status(self, network: str) -> None:
        self._probe("status", network)

    def collect(self, network: str, valid: Iterable[str] | None) -> None:
        """GC: these pods' attachments are valid; None: the plugins are not told which are."""
        if valid is None:
            self._cnitool("gc", network, "/")
        else:
            self._probe("gc", network, *(word for pod in valid for word in (container(pod), IFNAME)))

    def versions(self, plugin: str) -> list[str]:
        found: list[str] = json.loads(self._probe("version", plugin))
        return found

    # -- what is left on the disk -----------------------------------------------------------------------------

    def cached(self, network: str) -> list[str]:
        """Paths of libcni's cache of this network's attachments."""
        return self._node.sh(f"find {CACHE} -name '{network}-cnitool-*'").split()

    def leases(self, network: str) -> list[str]:
        """Addresses that host-local has given out."""
        return sorted(self._node.sh(f"cd /var/lib/cni/networks/{network} && ls | grep '^[0-9a-f]*[.:]'",
                                    check=False).split())

    # -- calls ------------------------------------------------------------------------------------------------

    def _cnitool(self, verb: str, network: str, pod: str, *, path: str = CNI_BIN, **capabilities: Any) -> str:
        done = self._run(["cnitool", verb, network, pod], path, capabilities)
        if done.status != 0:
            raise PluginFailed(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode()

    def _probe(self, *words: str) -> str:
        done = self._run(["libcni_probe", *words], CNI_BIN, {})
        if done.status == 1:
            answered = json.loads(done.stdout)
            raise PluginFailed(answered["msg"], answered["code"])
        if done.status != 0:
            raise LabError(f"libcni_probe {shlex.join(words)}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def _run(self, words: list[str], path: str, capabilities: Mapping[str, Any]) -> Result:
        env = {"CNI_PATH": path, "NETCONFPATH": f"{_HOME}/net.d", "CNI_IFNAME": IFNAME}
        if capabilities:
            env["CAP_ARGS"] = json.dumps(capabilities)
        return self._node.channel.run([f"{_HOME}/{words[0]}", *words[1:]], env=env, timeout=_PATIENCE)


def container(pod: str) -> str:
    """The container id that cnitool makes of a namespace's path."""
    return f"cnitool-{hashlib.sha512(pod.encode()).digest()[:10].hex()}"


def _name(pod: str) -> str:
    return PurePosixPath(pod).name
