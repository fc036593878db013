"""The cluster's executables: Kubernetes, etcd, containerd, runc, CNI plugins, as their releases have them.

Each component is an entry of the cache by version and recipe, so that a new containerd builds no Kubernetes.
`python -m tests.e2e build` does it beforehand; the first time takes some minutes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.gobuild import BuildProgress, Recipe, build
from tests.e2e.store import Store
from tests.lab.errors import LabError
from tests.lab.host import install_missing_packages

KUBERNETES = "1.36.3"


def _kubernetes_variables(version: str) -> tuple[str, ...]:
    major, minor, _ = version.split(".")
    values = {"gitVersion": "{version}", "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"{package}.{name}={value}" for package in packages for name, value in values.items())


# In the order of building: that which takes longest is last, what fails should do so early.
RECIPES = (
    Recipe(
        name="runc", module="github.com/opencontainers/runc", version="v1.5.2",
        programs={"runc": ""}, probe=("runc", "--version"),
        tags=("seccomp", "netgo", "osusergo"),    # without the first no pod starts
        static_cgo=True,                          # the guest's Debian has another glibc and libseccomp
        packages={"gcc": "gcc", "pkg-config": "pkg-config", "/usr/include/seccomp.h": "libseccomp-dev"},
    ),
    Recipe(
        name="cni", module="github.com/containernetworking/cni", version="v1.3.1",
        programs={"cnitool": "cnitool"},          # which has no version to tell
        sources={"libcni_probe": Path(__file__).with_name("libcni_probe.go")},
    ),
    Recipe(
        name="plugins", module="github.com/containernetworking/plugins", version="v1.9.1", folder="cni",
        programs={
            path.rpartition("/")[2]: f"plugins/{path}" for path in (
                "main/bridge", "main/dummy", "main/host-device", "main/ipvlan", "main/loopback", "main/macvlan",
                "main/ptp", "main/tap", "main/vlan", "ipam/dhcp", "ipam/host-local", "ipam/static",
                "meta/bandwidth", "meta/firewall", "meta/portmap", "meta/sbr", "meta/tuning", "meta/vrf",
            )
        },
        variables=("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}",),
        probe=("bridge",),
    ),
    Recipe(
        name="etcd", module="go.etcd.io/etcd/server/v3", version="v3.7.3",
        programs={"etcd": ""}, probe=("etcd", "--version"),
    ),
    Recipe(
        name="containerd", module="github.com/containerd/containerd/v2", version="v2.4.2",
        programs={name: f"cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        variables=("github.com/containerd/containerd/v2/version.Version={version}",),
        tags=("netgo", "osusergo", "static_build"),
        probe=("containerd", "--version"),
    ),
    Recipe(
        name="kubernetes", module="k8s.io/kubernetes", version=f"v{KUBERNETES}",
        programs={
            name: f"cmd/{name}"
            for name in ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        variables=_kubernetes_variables(KUBERNETES),
        staged=f"v0.{KUBERNETES.partition('.')[2]}",
        probe=("kubelet", "--version"),
    ),
)


@dataclass(frozen=True, slots=True)
class Components:
    """A folder with `bin` (what runs on the host and the node) and `cni` (the reference CNI plugins)."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def cni(self) -> Path:
        return self.root / "cni"

    def program(self, name: str) -> Path:
        """An executable of `bin`, or of `cni`; LabError where there is none of that name."""
        for folder in (self.bin, self.cni):
            if (folder / name).is_file():
                return folder / name
        known = sorted(path.name for folder in (self.bin, self.cni) for path in folder.iterdir())
        raise LabError(f"no executable {name!r} among the cluster's: expected one of {', '.join(known)}")


def build_components() -> Components:
    """All of them, those built that the cache lacks; LabError where that fails."""
    store, progress = Store("cluster"), BuildProgress("cluster")

    def make(recipe: Recipe, work: Path) -> None:
        install_missing_packages(recipe.packages)
        build(recipe, work, progress)

    parts = [(recipe, store.get(recipe.key, partial(make, recipe))) for recipe in RECIPES]

    def join(work: Path) -> None:
        for recipe, part in parts:
            folder = work / recipe.folder
            folder.mkdir(exist_ok=True)
            for name in recipe.executables:
                os.link(part / recipe.folder / name, folder / name)    # the cache is one file system

    keys = "\0".join(recipe.key for recipe in RECIPES)
    return Components(store.get(hashlib.sha256(keys.encode()).hexdigest()[:16], join))
