"""Compiles the static CNI executable: as hatchling's build hook, or `python cni/shim/build.py` without it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("vfpool.c")
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wundef", "-Wvla"),
    *("-Wcast-align", "-Wcast-qual", "-Wwrite-strings", "-Wformat=2", "-Wimplicit-fallthrough", "-Wswitch-enum"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror"),
)
FLAGS = (
    *("-std=c17", "-D_GNU_SOURCE", "-Os", *WARNINGS),
    *("-static", "-s", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,--build-id=none"),
)
COMPILERS = ("musl-gcc", "cc", "gcc", "clang")    # musl first: a tenth of glibc's memory, a quarter of its time


class BuildFailed(Exception):
    """The executable could not be compiled; the text is for the person at the terminal."""


def find_compiler() -> list[str]:
    """The C compiler as the start of a command line: $CC, else the first of COMPILERS; raise BuildFailed."""
    wanted = shlex.split(os.environ.get("CC", ""))
    if wanted and shutil.which(wanted[0]) is None:
        raise BuildFailed(f"no C compiler: CC={os.environ['CC']} names {wanted[0]!r}, which is not on PATH")
    found = [name for name in COMPILERS if shutil.which(name)]
    if not wanted and not found:
        raise BuildFailed(
            f"no C compiler: none of {', '.join(COMPILERS)} is on PATH and CC is not set "
            "(hint: the Debian packages gcc and libc6-dev have what is needed)"
        )
    return wanted or found[:1]


def compile_shim(source: Path, output: Path) -> None:
    """Compile into a temporary file beside `output` and rename it: no runtime ever sees half of it."""
    compiler = find_compiler()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vfpool-", dir=output.parent) as directory:
        built = Path(directory, "vfpool")
        done = subprocess.run(
            [*compiler, *FLAGS, "-o", str(built), source.name],
            cwd=source.parent, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise BuildFailed(f"{shlex.join(compiler)} cannot compile {source}: {_explain(done.stderr)}")
        built.chmod(0o755)
        built.replace(output)


def _explain(stderr: str) -> str:
    """What the compiler said, and in front of it, where that shows, which Debian package is missing."""
    missing = None
    if re.search(r"fatal error: .*\.h", stderr):
        missing = "the C library's headers are"
    elif re.search(r"(cannot find|unable to find library) .*(-lc|crt1\.o)\b", stderr):
        missing = "the C library for static linking (libc.a) is"
    reason = f"{missing} missing (hint: the Debian package libc6-dev has them)" if missing else ""
    return f"{reason}\n{stderr.strip()}"


def update_shim(source: Path = SOURCE, output: Path | None = None) -> Path:
    """Compile where `output` (vfpool beside the source) is missing or older than its source or this file."""
    output = output or source.with_suffix("")
    newest = max(path.stat().st_mtime_ns for path in (source, Path(__file__)))
    if not output.exists() or output.stat().st_mtime_ns < newest:
        compile_shim(source, output)
    return output


def main() -> int:
    try:
        print(update_shim())    # noqa: T201
    except BuildFailed as error:
        print(error, file=sys.stderr)    # noqa: T201
        return 1
    return 0


if importlib.util.find_spec("hatchling"):
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class ShimHook(BuildHookInterface[Any]):
        """Puts the executable into wheels, editable ones too; an sdist carries the source alone."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            if self.target_name != "wheel":
                return
            try:
                update_shim()
            except BuildFailed as error:
                self.app.abort(str(error))
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"    # any Python 3, but this machine's instruction set


if __name__ == "__main__":
    sys.exit(main())
