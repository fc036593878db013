"""The existing stack and vfpool, one after the other on the same node: bursts of pods, ADD and DEL, and faults.

Both get the same objects: pods that ask for intel.com/sriov themselves, on a NAD of `type: sriov`, through Multus
thin. The existing stack is sriov-network-device-plugin and sriov-cni over VFs that a script has made.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.burst import PODS, delete_pods, start_pods
from tests.e2e.cluster import EXPECTED, Cluster
from tests.e2e.peers import find_peers
from tests.e2e.pods import SRIOV, container, network, pod
from tests.e2e.trials import Trials, list_rows, run_trials
from tests.lab.errors import LabError
from tests.support.node import wait_for

BURSTS = 5
PATIENCE = 25.0    # seconds after the last sandbox has gone
ROUNDS = 12
TITLE = 40         # columns
BEGIN, END = "<!-- make compare -->\n\n", "\n<!-- end of make compare -->"
_LABELS = {"app": "sriovdp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Seconds until all pods ran, None: not in time; VFs that were not home at the end, by the names they had."""

    seconds: float | None
    astray: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one stack; `calls`: milliseconds by case and command."""

    stack: str
    bursts: tuple[Burst, ...]
    calls: dict[str, dict[str, list[float]]]
    trials: Trials


def compare() -> str:
    """Measure both; a table. LabError where the existing stack's executables are missing."""
    peers = find_peers()
    if missing := [name for name in ("multus", "sriov", "sriovdp") if peers.find(name) is None]:
        raise LabError(f"nothing to compare with: no {', '.join(missing)}", hint=peers.reason)
    return format_table([
        run_stack("existing stack", install_existing, make_vfs, agent=False),
        run_stack("vfpool", Cluster.install, lambda _: None, agent=True),
    ])


def run_stack(stack: str, install: Callable[[Cluster], None], prepare: Callable[[Cluster], None], *,
              agent: bool) -> Figures:
    """`prepare` makes VFs free that faults have left otherwise, where nothing of the stack does."""
    with Cluster() as cluster:
        install(cluster)
        cluster.multus.use("thin")
        bursts, calls = measure(cluster, stack)
        trials = run_trials(cluster, prepare=lambda: prepare(cluster), agent=agent)
        return Figures(stack=stack, bursts=bursts, calls=calls, trials=trials)


def install_existing(cluster: Cluster) -> None:
    """VFs by a script, sriov-network-device-plugin as a DaemonSet, sriov-cni as an executable."""
    cluster.apply_crd()
    make_vfs(cluster)
    cluster.node.install_cni("/peers/sriov")
    cluster.kubectl.apply(*device_plugin())
    cluster.wait_allocatable({SRIOV: EXPECTED[SRIOV]})
    cluster.host.take_baseline()


def make_vfs(cluster: Cluster) -> None:
    """7 on each of the two PFs that have a NUMA node, anew where they exist."""
    cluster.node.sh("""
        for device in /sys/bus/pci/drivers/igb/0000*; do
            [ "$(cat $device/numa_node)" = -1 ] && continue
            ip link set "$(ls $device/net)" up
            echo 0 > $device/sriov_numvfs
            echo 7 > $device/sriov_numvfs
        done
        udevadm settle""")


def device_plugin() -> list[dict[str, Any]]:
    selectors = {"vendors": ["8086"], "devices": ["10ca"], "drivers": ["igbvf"]}
    config = {"resourceList": [{"resourceName": "sriov", "resourcePrefix": "intel.com", "selectors": selectors}]}
    paths = ("/var/lib/kubelet", "/sys", "/var/run/k8s.cni.cncf.io")
    volumes = [{"name": f"host{n}", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
               for n, path in enumerate(paths)]
    mounts = [{"name": f"host{n}", "mountPath": path} for n, path in enumerate(paths)]
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sriovdp", "namespace": "kube-system"},
         "data": {"config.json": json.dumps(config)}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "sriovdp", "namespace": "kube-system"},
         "spec": {"selector": {"matchLabels": _LABELS}, "template": {
             "metadata": {"labels": _LABELS},
             "spec": {
                 "hostNetwork": True, "automountServiceAccountToken": False,
                 "tolerations": [{"operator": "Exists"}],
                 "volumes": [*volumes, {"name": "config", "configMap": {"name": "sriovdp"}}],
                 "containers": [{
                     "name": "sriovdp", "image": "vfpool.test/sriovdp:1", "imagePullPolicy": "Never",
                     "command": ["/usr/bin/sriovdp", "--config-file=/etc/pcidp/config.json"],
                     "securityContext": {"privileged": True},
                     "volumeMounts": [*mounts, {"name": "config", "mountPath": "/etc/pcidp"}],
                 }],
             },
         }}},
    ]


def measure(cluster: Cluster, stack: str) -> tuple[tuple[Burst, ...], dict[str, dict[str, list[float]]]]:
    (vf,) = cluster.node.sh("ls /sys/bus/pci/drivers/igbvf | grep ^0000 | head -1").split()
    calls = json.loads(cluster.node.sh(f"python3 -m tests.bench.calls /opt/cni/bin/sriov {vf} {ROUNDS}"))
    bursts = []
    for number in range(BURSTS):
        bursts.append(run_burst(cluster, f"burst-{number}"))
        cluster.progress.note(f"{stack}, burst {number + 1} of {BURSTS}: {bursts[-1].astray} VFs not home")
    return tuple(bursts), calls


def run_burst(cluster: Cluster, name: str) -> Burst:
    many = network("many", kind="sriov", namespace=name, vlan=77, subnets=["10.56.7.0/24"])
    pods = [pod(f"p{n}", container(resources={SRIOV: 1}), namespace=name, networks="many") for n in range(PODS)]
    started, seconds = time.monotonic(), None
    # What does not come to an end is what is being measured.
    with contextlib.suppress(AssertionError):
        start_pods(cluster, name, many, pods)
        seconds = time.monotonic() - started
    with contextlib.suppress(AssertionError):
        delete_pods(cluster, name, delete_namespace=False)
        wait_for("VFs home", lambda: not names_astray(cluster)[0], PATIENCE, 1)
    missing, strangers = names_astray(cluster)
    cluster.kubectl.run("delete", "namespace", name, "--wait", timeout=120)
    return Burst(seconds=seconds, astray=len(missing), names=tuple(strangers))


def names_astray(cluster: Cluster) -> tuple[list[str], list[str]]:
    """Home names that no link has, and names that links have instead."""
    now, home = cluster.host.links(), cluster.host.baseline
    return sorted(home.keys() - now.keys()), sorted(now.keys() - home.keys())


def format_table(found: list[Figures]) -> str:
    lines = [f"{'':{TITLE}}{''.join(f'{figures.stack:>24}' for figures in found)}"]

    def row(title: str, values: list[str]) -> None:
        lines.append(f"{title:{TITLE}}{''.join(f'{value:>24}' for value in values)}")

    for number in range(BURSTS):
        bursts = [figures.bursts[number] for figures in found]
        row(f"burst {number + 1}: {PODS} pods Running after", [
            "never" if burst.seconds is None else f"{burst.seconds:.0f} s" for burst in bursts])
        row(f"  VFs not home {PATIENCE:.0f} s after the end", [
            " ".join([str(burst.astray), *burst.names]) for burst in bursts])
    for case in found[0].calls:
        for command in ("ADD", "DEL"):
            row(f"{case}, {command} p50", [
                f"{statistics.median(figures.calls[case][command]):.0f} ms" for figures in found])
    for title, values in list_rows([figures.trials for figures in found]):
        row(title, values)
    return "\n".join(lines) + "\n"


def put_into(readme: Path, table: str) -> None:
    """Replace the table between the two marks; LabError where the marks are not there."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LabError(f"{readme}: no place for the table, expected {BEGIN.strip()} and {END.strip()}")
    readme.write_text(f"{before}{begin}{textwrap.indent(table, '    ')}{end}{after}")
