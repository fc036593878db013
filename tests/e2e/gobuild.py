"""Executables of public Go modules, built by a module of our own whose go.mod names them as its tools.

`go install` would not do for Kubernetes (its go.mod has replacements) and sets no version. Sources come
through Go's module proxy, checked against Go's checksum database; versions are exact throughout: `go mod
tidy` takes from each release's own go.mod what that release was tested with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError
from tests.lab.host import find_program
from tests.lab.progress import Progress

GO = "1.26.6"            # the newest that a module of ours asks for; an older Go fetches it as a toolchain
HEARTBEAT = 30           # seconds
OLDEST = "1.21"          # Go fetches toolchains since then
GO_HINT = "golang-go of Debian's backports, or go.dev/dl"
_GO_VERSION = re.compile(r"\bgo([0-9]+\.[0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Executables of one module at one version.

    `programs` maps their names to packages below `module` ("" is its root). `variables` are what the linker
    sets, as package.variable=value, with {version} for the version; it ignores a wrong one, hence `probe`: a
    command whose output must have the version. `staged` is the version of the modules that the release's own
    go.mod replaces by folders of the release's tree, which a build from outside must have from the proxy.
    `static_cgo` is for C code. `sources` are programs of ours that use the module's packages: names and Go files.
    """

    name: str
    module: str
    version: str
    programs: Mapping[str, str]
    folder: str = "bin"
    variables: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    staged: str | None = None
    static_cgo: bool = False
    probe: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)    # Debian's, as tests.lab.host has them
    sources: Mapping[str, Path] = field(default_factory=dict)

    @property
    def executables(self) -> tuple[str, ...]:
        return (*self.programs, *self.sources)

    @property
    def key(self) -> str:
        """Name, version and a hash over all that determines the executables."""
        said = "\0".join([
            go_mod(self, ()), str(self.staged), self.folder, *self.executables, *build_arguments(self),
            *(path.read_text() for path in self.sources.values()),
        ])
        return f"{self.name}-{self.version}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def imports(self) -> list[str]:
        return [f"{self.module}/{package}".rstrip("/") for package in self.programs.values()]


def go_mod(recipe: Recipe, replaced: Sequence[str]) -> str:
    """Our own module's go.mod, before `go mod tidy` completes it."""
    lines = [f"module vfpool.test/{recipe.name}", "", f"go {GO}", "", f"require {recipe.module} {recipe.version}"]
    lines += [f"tool {path}" for path in recipe.imports()]
    lines += [f"replace {path} => {path} {recipe.staged}" for path in replaced]
    return "\n".join(lines) + "\n"


def staged_modules(description: Mapping[str, Any]) -> list[str]:
    """Of `go mod edit -json`: the modules that are replaced by folders below ./staging/."""
    return [
        line["Old"]["Path"] for line in description.get("Replace") or ()
        if line["New"]["Path"].startswith("./staging/")
    ]


def build_arguments(recipe: Recipe) -> list[str]:
    flags = ["-s", "-w", *(f"-X {line.format(version=recipe.version)}" for line in recipe.variables)]
    if recipe.static_cgo:
        flags += ["-linkmode external", "-extldflags -static"]
    # Our module is in no repository, but the cache it is in may be.
    return ["-trimpath", "-buildvcs=false", f"-tags={','.join(recipe.tags)}", f"-ldflags={' '.join(flags)}"]


def executable_name(package: str) -> str:
    """As `go build` names it: the last element of the path that is not a major version."""
    return re.sub(r"/v[0-9]+$", "", package).rpartition("/")[2]


class BuildProgress(Progress):
    """Where no terminal shows the compiler's lines, a line now and then with their number."""

    _lines = 0
    _said = 0.0

    def run(self, title: str, argv: Sequence[str]) -> None:
        self._lines, self._said = 0, time.monotonic()
        super().run(title, argv)

    def _show(self, line: str) -> None:
        super()._show(line)
        self._lines += 1
        if not sys.stderr.isatty() and time.monotonic() - self._said >= HEARTBEAT:
            self._said = time.monotonic()
            self.note(f"  {self._lines} packages, {line.strip()}")


def build(recipe: Recipe, work: Path, progress: Progress) -> None:
    """Build into `work`/`recipe.folder`; LabError where Go, a module or the compiler fails.

    go.mod and go.sum stay beside it, in `work`/module: they name all that went into the executables.
    """
    title = f"{recipe.name} {recipe.version}"
    source, target = work / "module", work / recipe.folder
    source.mkdir()
    target.mkdir()
    go = go_command(static_cgo=recipe.static_cgo, source=source)
    released = _download(recipe, go)
    replaced = []
    if recipe.staged is not None:
        described = _run([*go, "mod", "edit", "-json", released["GoMod"]])
        replaced = staged_modules(json.loads(described.stdout))
    (source / "go.mod").write_text(go_mod(recipe, replaced))
    for name, path in recipe.sources.items():
        (source / name).mkdir()
        shutil.copyfile(path, source / name / "main.go")
    progress.run(f"{title}: the modules it needs", [*go, "mod", "tidy"])
    progress.run(
        f"{title}: {_enumerate(recipe.executables)}",
        [*go, "build", "-v", *build_arguments(recipe), "-o", f"{target}/", "tool",
         *(f"./{name}" for name in recipe.sources)],
    )
    for name, package in zip(recipe.programs, recipe.imports(), strict=True):
        (target / executable_name(package)).rename(target / name)
    _probe(recipe, target)


def go_command(*, static_cgo: bool = False, source: Path | None = None) -> list[str]:
    """Go in that folder, without what the user's own settings might change; LabError where there is no Go.

    Debian's Go has GOTOOLCHAIN=local, and would refuse a module that asks for a newer one; it is heeded
    where the environment says so.
    """
    if fault := find_go_fault():
        raise LabError(fault)
    return [
        "env", f"CGO_ENABLED={int(static_cgo)}", "GOFLAGS=", "GOWORK=off", f"GOTOOLCHAIN={_toolchain()}",
        str(find_program("go")),
        *(["-C", str(source)] if source else []),
    ]


def find_go_fault() -> str | None:
    """What is there, what is needed and what to do, in one line; None where Go is there and new enough."""
    local = _toolchain().startswith("local")
    needed = f"the cluster's executables need Go {GO if local else OLDEST} or newer"
    program = find_program("go")
    if program is None:
        return f"{needed}, and no go is on PATH (hint: install it: {GO_HINT})"
    said = _run(["env", "GOTOOLCHAIN=local", program, "version"]).stdout
    version = _GO_VERSION.search(said)
    if version is None or _number(version[1]) >= _number(GO if local else OLDEST):
        return None                 # a Go without a number is one that somebody built of its newest sources
    hint = "unset GOTOOLCHAIN, and Go fetches what it needs; or install" if local else "install"
    return f"{needed}, and {program} is {version[1]} (hint: {hint} a newer one: {GO_HINT})"


def _toolchain() -> str:
    return os.environ.get("GOTOOLCHAIN", "auto")


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _download(recipe: Recipe, go: Sequence[str]) -> dict[str, Any]:
    """The release itself, as `go mod download -json` tells of it: the first that the module proxy is asked for."""
    done = _run([*go, "mod", "download", "-json", f"{recipe.module}@{recipe.version}"])
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        told = {"Error": last_line(done.stderr)}
    if reason := told.get("Error"):
        raise LabError(
            f"Go could not get {recipe.module} {recipe.version}: {last_line(reason)}",
            hint="the first build needs Go's module proxy; `go env GOPROXY` says which",
        )
    return told


def _probe(recipe: Recipe, folder: Path) -> None:
    if not recipe.probe:
        return
    program, *arguments = recipe.probe
    done = _run([str(folder / program), *arguments])
    said = done.stdout + done.stderr    # a CNI plugin tells its version on stderr
    if recipe.version.removeprefix("v") not in said:
        raise LabError(f"{recipe.name}: expected {shlex.join(recipe.probe)} to say {recipe.version}, got {said!r}")


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _enumerate(names: Collection[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} executables"


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "(no output)")
