"""Who may import what, read from the sources; a violation is named with file and line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sriov", "deviceplugin", "cni", "admission")

# Every package may import itself and sriov; admission the named modules of cni too: one parser for webhook,
# CNI and command line. __main__ modules join packages as they need.
SHARED_WITH_ADMISSION = (
    "cni.protocol", "cni.netconf", "cni.values", "cni.annotation", "cni.networkref", "cni.fields", "cni.grammar",
)

# No part of sriov imports one that is named after it here.
PARTS_OF_SRIOV = (
    "sriov.host", "sriov.pools", "sriov.diagnosis", "sriov.provision", "sriov.views", "sriov.commands",
)

PURE = (
    "sriov.errors", "sriov.pci", "sriov.model", "sriov.status",
    *(f"sriov.host.{name}" for name in ("nlattr", "linkinfo", "vfinfo", "routes", "ties", "known")),
    *(f"sriov.pools.{name}" for name in (
        "assignment", "documents", "jsonnodes", "scalars", "patterns", "ranges", "selectors", "poolformat",
        "dpfields", "dpselectors", "dpconfig", "overlap", "advice", "prospects", "override", "yamlsyntax",
        "drivernames")),
    *(f"sriov.diagnosis.{name}" for name in ("causes", "modprobe", "symptoms")),
    *(f"sriov.provision.{name}" for name in ("plan", "steps", "state", "guards", "ownership", "claims")),
    *(f"sriov.views.{name}" for name in (
        "tables", "exports", "report", "drawing", "plantext", "explanation", "stories", "statustext")),
    *(f"cni.{name}" for name in (
        "protocol", "result", "netconf", "values", "record", "steps", "annotation", "selection", "networkref",
        "fields", "grammar", "keys", "leftover")),
    "deviceplugin.allocation", "deviceplugin.changes",
    *(f"admission.{name}" for name in ("pod", "review", "mutation")),
)

# What pure modules may have of the standard library: no files, sockets, processes, clocks, randomness, loops.
PURE_STANDARD_LIBRARY = {
    "__future__", "abc", "base64", "bisect", "collections", "contextlib", "copy", "dataclasses", "difflib", "enum",
    "errno", "fnmatch", "functools", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator", "re",
    "string", "struct", "textwrap", "types", "typing", "unicodedata", "warnings", "xml",
}

# Third-party packages and the modules that may import them.
HOMES = {
    "yaml": ("sriov.pools.yamlnodes", "sriov.views.output"),    # reads with places; writes documents
    "pyudev": ("sriov.host.udev",),
    "pyroute2": ("sriov.host.netlink",),
    "grpc": ("deviceplugin.plugin", "deviceplugin.registration", "deviceplugin.endpoint",
             "deviceplugin.podresources", "deviceplugin.kubelet.*"),
    "google.protobuf": ("deviceplugin.plugin", "deviceplugin.registration", "deviceplugin.kubelet.*"),
    "asyncinotify": ("deviceplugin.*",),
    "kubernetes": ("deviceplugin.*", "admission.*"),
    "aiohttp": ("deviceplugin.*", "admission.*"),
    "hatchling": ("cni.shim.build",),
}
ONE_MODULE_PER_PACKAGE = ("asyncinotify", "kubernetes", "aiohttp")

MAIN_ONLY = {"os.environ", "os.environb", "os.getenv", "os._exit", "sys.argv", "sys.exit", "logging.basicConfig"}


@dataclass(frozen=True, slots=True)
class Source:
    """A module of ours: its dotted name and where each thing it imports or uses is."""

    name: str
    path: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def is_main(self) -> bool:
        return self.name.endswith(".__main__")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of each import, wherever in the file; `from a import b` gives a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def uses(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of each attribute of a plain name, and of what is imported from modules."""
        yield from self.imports()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield node.lineno, f"{node.value.id}.{node.attr}"
            elif isinstance(node, ast.Name) and node.id == "SystemExit":
                yield node.lineno, "sys.exit"

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parents = self.name.split(".") if self.path.endswith("__init__.py") else self.name.split(".")[:-1]
        return ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])


def read_sources(root: Path) -> list[Source]:
    sources = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        sources.append(Source(name, str(relative), ast.parse(path.read_text(), relative)))
    return sources


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


# ---- the rules: each yields a line for each violation -----------------------------------------------------


def check_direction(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for line, name in source.imports():
            target = name.partition(".")[0]
            allowed = (
                target not in PACKAGES or source.is_main or target in (source.package, "sriov")
                or (source.package == "admission" and within(name, *SHARED_WITH_ADMISSION))
            )
            if not allowed:
                yield f"{source.path}:{line}: {source.package} must not import {name}"
            if within(name, *_later_parts(source.name)):
                yield f"{source.path}:{line}: {source.name} must not import {name}"
            if within(name, "tests"):
                yield f"{source.path}:{line}: {source.package} must not import {name}"


def _later_parts(module: str) -> tuple[str, ...]:
    """The parts of sriov that a module of one of them must not import."""
    own = next((number for number, part in enumerate(PARTS_OF_SRIOV) if within(module, part)), len(PARTS_OF_SRIOV))
    return PARTS_OF_SRIOV[own + 1 :]


def check_third_parties(sources: list[Source]) -> Iterator[str]:
    importers: dict[tuple[str, str], list[str]] = {}
    for source in sources:
        for line, name in source.imports():
            if name.partition(".")[0] in {*sys.stdlib_module_names, *PACKAGES, "tests"}:
                continue
            library = next((library for library in HOMES if within(name, library)), None)
            if library is None:
                yield f"{source.path}:{line}: {name} has no home: name the one module that imports it"
            elif not any(fnmatchcase(source.name, home) for home in HOMES[library]):
                yield f"{source.path}:{line}: only {', '.join(HOMES[library])} may import {name}"
            elif library in ONE_MODULE_PER_PACKAGE:
                known = importers.setdefault((library, source.package), [])
                if source.name not in known:
                    known.append(source.name)
                if known[0] != source.name:
                    yield f"{source.path}:{line}: {library} is imported by {known[0]} already: one home per package"


def check_pure(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        if source.name not in PURE:
            continue
        for line, name in source.imports():
            first = name.partition(".")[0]
            if not within(name, *PURE) if first in PACKAGES else first not in PURE_STANDARD_LIBRARY:
                yield f"{source.path}:{line}: {source.name} is pure, it must not import {name}"
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print"):
                yield f"{source.path}:{node.lineno}: {source.name} is pure, it must not call {node.func.id}"


def check_composition_roots(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        if source.is_main or source.name == "cni.shim.build":    # a build hook is a process of its own
            continue
        for line, name in source.uses():
            if name in MAIN_ONLY:
                yield f"{source.path}:{line}: only __main__ modules may use {name}"


RULES = (check_direction, check_third_parties, check_pure, check_composition_roots)


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule):
    violations = list(rule(read_sources(ROOT)))
    assert not violations, "\n" + "\n".join(violations)


def test_all_packages_are_read():
    names = {source.name for source in read_sources(ROOT)}
    assert {*PACKAGES, "sriov.pools.assignment", "sriov.__main__"} <= names


# ---- the checker catches what is planted ------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "path", "code", "violation"), [
    (check_direction, "sriov/x.py", "import cni.netconf", "sriov/x.py:1: sriov must not import cni.netconf"),
    (check_direction, "cni/x.py", "from deviceplugin import plugin",
     "cni/x.py:1: cni must not import deviceplugin.plugin"),
    (check_direction, "cni/a/x.py", "def f():\n    import admission",
     "cni/a/x.py:2: cni must not import admission"),
    (check_direction, "admission/x.py", "import cni.attach",
     "admission/x.py:1: admission must not import cni.attach"),
    (check_direction, "sriov/pools/x.py", "from sriov.provision import plan",
     "sriov/pools/x.py:1: sriov.pools.x must not import sriov.provision.plan"),
    (check_direction, "cni/x.py", "import tests.support", "cni/x.py:1: cni must not import tests.support"),
    (check_third_parties, "sriov/x.py", "import yaml",
     "sriov/x.py:1: only sriov.pools.yamlnodes, sriov.views.output may import yaml"),
    (check_third_parties, "cni/x.py", "\nimport requests",
     "cni/x.py:2: requests has no home: name the one module that imports it"),
    (check_third_parties, "deviceplugin/x.py", "from google.protobuf import any_pb2",
     f"deviceplugin/x.py:1: only {', '.join(HOMES['google.protobuf'])} may import google.protobuf.any_pb2"),
    (check_pure, "sriov/pools/assignment.py", "import os",
     "sriov/pools/assignment.py:1: sriov.pools.assignment is pure, it must not import os"),
    (check_pure, "sriov/pools/assignment.py", "from sriov.host import sysfs",
     "sriov/pools/assignment.py:1: sriov.pools.assignment is pure, it must not import sriov.host.sysfs"),
    (check_pure, "cni/steps.py", "import time", "cni/steps.py:1: cni.steps is pure, it must not import time"),
    (check_pure, "cni/steps.py", "open('x')", "cni/steps.py:1: cni.steps is pure, it must not call open"),
    (check_composition_roots, "cni/x.py", "import os\nos.environ['A']",
     "cni/x.py:2: only __main__ modules may use os.environ"),
    (check_composition_roots, "cni/x.py", "from sys import argv",
     "cni/x.py:1: only __main__ modules may use sys.argv"),
    (check_composition_roots, "cni/x.py", "raise SystemExit(1)",
     "cni/x.py:1: only __main__ modules may use sys.exit"),
])
def test_planted_violation_is_caught(tmp_path, rule, path, code, violation):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert list(rule(read_sources(tmp_path))) == [violation]


def test_second_home_is_caught(tmp_path):
    (tmp_path / "admission").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"admission/{name}.py").write_text("import aiohttp.web\nfrom aiohttp import web")
    assert list(check_third_parties(read_sources(tmp_path))) == [
        f"admission/b.py:{line}: aiohttp is imported by admission.a already: one home per package"
        for line in (1, 2)]


@pytest.mark.parametrize(("path", "code"), [
    ("cni/x.py", "import sriov.model\nfrom . import netconf\nimport os, json"),
    ("admission/x.py", "from cni.netconf import NetConf\nfrom cni import annotation"),
    ("deviceplugin/__main__.py", "import cni.service, sys\nsys.exit(len(sys.argv))"),
    ("sriov/pools/yamlnodes.py", "import yaml"),
    ("sriov/pools/assignment.py", "from sriov.pci import PciAddress\nfrom sriov import model\nimport re"),
])
def test_what_is_allowed_is_not_caught(tmp_path, path, code):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert [violation for rule in RULES for violation in rule(read_sources(tmp_path))] == []
