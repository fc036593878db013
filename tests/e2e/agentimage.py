"""vfpool's container image in two layers: Debian's Python with the dependencies, and this checkout's packages.

The first changes with the dependencies only, so it is kept in the cache and on the node's prepared disk; the
second is made for each cluster, and small enough to be imported while an emulated node starts.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cni.shim.build import update_shim
from tests.e2e.oci import Layer, write_archive
from tests.e2e.store import Store
from tests.lab.errors import LabError
from tests.lab.image import (
    CHECKOUT,
    SUITE,
    build_image,
    debian_command,
    pip_command,
    python_command,
    site_folder,
)
from tests.lab.progress import Progress

BASE = "vfpool.test/vfpool-base:1"    # keeps the first layer from being collected
AGENT = "vfpool.test/vfpool:1"
ENTRYPOINT = ("vfpool-agent",)
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
}
PACKAGES = (
    "base-files", "coreutils", "dash",
    "libc-bin",       # ldconfig: without its cache ctypes does not find libudev
    "libstdc++6",     # grpcio's wheel
    "libudev1",       # pyudev
    "kmod",           # modprobe: as deploy/ has it the agent may not load modules, and says so
    "python3",
)
_ARCHIVE = "image.tar"
_SCRIPT = """\
#!/usr/bin/python3
import sys
from {module} import {function}
sys.exit({function}())
"""


def build_base_archive() -> Path:
    """The first layer as an image of its own, in the cache; built once. LabError where that fails."""
    requirements = _project()["dependencies"]
    lab = build_image().tree
    built = Store("agentbase").get(base_key(requirements), lambda work: _build_base(lab, work, requirements))
    return built / _ARCHIVE


def base_key(requirements: Sequence[str]) -> str:
    """A hash over all that determines the first layer: this recipe and the requirements."""
    digest = hashlib.sha256()
    for part in (SUITE.encode(), Path(__file__).read_bytes(), *(line.encode() for line in requirements)):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def build_agent_archive(folder: Path, base: Path) -> Path:
    """The image of this checkout in `folder`, without the first layer: to be imported where `base` has been."""
    tree, archive = folder / "agent", folder / "agent.tar"
    tree.mkdir(parents=True)
    _install_checkout(build_image().tree, tree)
    write_archive(archive, AGENT, [Layer.of_tree(tree)], ENTRYPOINT, ENVIRONMENT, base=base)
    shutil.rmtree(tree)
    return archive


def _install_checkout(lab: Path, tree: Path) -> None:
    """pyproject's packages, compiled, with the CNI executable, and its scripts."""
    site = tree / site_folder(lab).relative_to(lab)
    for package in _packages():
        shutil.copytree(CHECKOUT / package, site / package, ignore=shutil.ignore_patterns("__pycache__", "*.c"))
    shutil.copy2(update_shim(), site / "cni/shim/vfpool")
    scripts = tree / "usr/local/bin"
    scripts.mkdir(parents=True)
    for name, target in _project()["scripts"].items():
        module, _, function = target.partition(":")
        (scripts / name).write_text(_SCRIPT.format(module=module, function=function))
        (scripts / name).chmod(0o755)
    _run(_compile_command(lab, tree, site))


def _build_base(lab: Path, work: Path, requirements: Sequence[str]) -> None:
    tree = work / "tree"
    stages = (
        # extract: neither dpkg nor apt nor maintainer scripts, which do no more here than the stages below.
        (f"Debian {SUITE}: {len(PACKAGES)} packages and what they need",
         lambda: debian_command(tree, PACKAGES, "--variant=extract")),
        (f"Python: {len(requirements)} requirements", lambda: pip_command(lab, tree, requirements)),
        ("Python: bytecode", lambda: _compile_command(lab, tree, tree / "usr/lib")),
        ("libraries", lambda: [str(tree / "usr/sbin/ldconfig"), "-r", str(tree)]),
    )
    progress = Progress("agent image")
    for title, command in stages:
        progress.run(title, command())
    for folder in ("var/lib/apt", "var/cache"):
        shutil.rmtree(tree / folder)
    write_archive(work / _ARCHIVE, BASE, [Layer.of_tree(tree)], ["python3"], ENVIRONMENT)
    shutil.rmtree(tree)


def _compile_command(lab: Path, root: Path, folder: Path) -> list[str]:
    """Bytecode that the interpreter takes unseen: layers are of the epoch, their sources' times are not."""
    return [
        *python_command(lab), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "-s", str(root), "-p", "/", str(folder),
    ]


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stdout.strip()}")


def _project() -> dict[str, Any]:
    project: dict[str, Any] = _pyproject()["project"]
    return project


def _packages() -> list[str]:
    """As the wheel has them."""
    packages: list[str] = _pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return packages


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
