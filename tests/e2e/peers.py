"""Executables of the projects that vfpool replaces or works under, for the tests that put both side by side.

From the folder that VFPOOL_PEERS names; what is not there is fetched and built by `go install`, once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.e2e.gobuild import BuildProgress, go_command, last_line
from tests.e2e.store import Store
from tests.lab.errors import LabError

FOLDER = "VFPOOL_PEERS"


@dataclass(frozen=True, slots=True)
class Project:
    """A module at a version as Go knows it; `programs` are the last elements of its packages cmd/..."""

    title: str
    module: str
    version: str
    programs: tuple[str, ...]


PROJECTS = (
    Project("Multus", "gopkg.in/k8snetworkplumbingwg/multus-cni.v4", "v4.3.0",
            ("multus", "multus-daemon", "multus-shim")),
    # Releases 2.10.0 and 3.11.0, whose module paths lack the /v2 and /v3 that Go wants: so by their commits.
    Project("sriov-cni", "github.com/k8snetworkplumbingwg/sriov-cni", "6e57b33abf15", ("sriov",)),
    Project("sriov-network-device-plugin", "github.com/k8snetworkplumbingwg/sriov-network-device-plugin",
            "d9b3819fcfaa", ("sriovdp",)),
    Project("network-resources-injector", "github.com/k8snetworkplumbingwg/network-resources-injector", "v1.9.0",
            ("webhook",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """`programs` by the names that their users know; `reason` says in one line why some are missing."""

    programs: Mapping[str, Path]
    reason: str | None = None

    def find(self, name: str) -> Path | None:
        return self.programs.get(name)


def find_peers() -> Peers:
    """What VFPOOL_PEERS has and what `go install` gives; a refusal is not asked for twice in one process."""
    named = os.environ.get(FOLDER)
    programs: dict[str, Path] = {}
    missing: list[str] = []
    refusal = ""
    for project in PROJECTS:
        found = _look(named, project)
        if len(found) < len(project.programs):
            folder, why = install(project)
            if folder is None:
                missing.append(project.title)
                refusal = refusal or why
            else:
                found = {name: folder / name for name in project.programs} | found
        programs |= found
    return Peers(programs=programs, reason=_explain(named, missing, refusal) if missing else None)


def _look(named: str | None, project: Project) -> dict[str, Path]:
    paths = {name: Path(named, name) for name in project.programs} if named else {}
    return {name: path for name, path in paths.items() if path.is_file() and os.access(path, os.X_OK)}


def _explain(named: str | None, missing: list[str], refusal: str) -> str:
    where = f"{FOLDER} ({named}) does not have all of it" if named else f"{FOLDER} is not set"
    return f"without {', '.join(missing)}: {where} and {refusal}"


@cache
def install(project: Project) -> tuple[Path | None, str]:
    """The folder of the project's executables, else None and why; remembered."""
    packages = [f"{project.module}/cmd/{name}@{project.version}" for name in project.programs]

    def go_install(work: Path) -> None:
        BuildProgress("peers").run(
            f"{project.title} {project.version}: go install",
            ["env", f"GOBIN={work}", *go_command(), "install", "-v", "-trimpath", "-ldflags=-s -w", *packages],
        )

    try:
        return Store("peers").get(f"{project.programs[0]}-{project.version}", go_install), ""
    except LabError as error:
        return None, f"go install of {project.module} failed: {last_line(str(error))}"
