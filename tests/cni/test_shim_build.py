"""How the CNI executable is built: by make, into wheels, reproducibly, and what is said when it cannot be."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cni.shim import build

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """A copy of what a wheel is made of, not compiled yet."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("sriov", "deviceplugin", "cni", "admission"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "cni/shim/vfpool").unlink(missing_ok=True)
    return copy


@pytest.fixture
def shim_directory(tmp_path):
    directory = tmp_path / "shim"
    directory.mkdir()
    shutil.copy(build.SOURCE, directory)
    shutil.copy(build.__file__, directory)
    return directory


def python(directory, *arguments, **env):
    return subprocess.run([sys.executable, *arguments], cwd=directory, env={**os.environ, **env},
                          capture_output=True, text=True, check=False)


def make(directory, **env):
    """As the Makefile does; -S: without site-packages, so without hatchling."""
    return python(directory, "-S", "build.py", **env)


def make_wheel(tree, **env):
    return python(tree, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist",
                  "--disable-pip-version-check", **env)


def test_wheel_carries_the_executable(tree, tmp_path):
    done = make_wheel(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, = (tree / "dist").iterdir()
    assert "-py3-none-linux_" in wheel.name    # for any Python 3, but not for any machine
    with zipfile.ZipFile(wheel) as archive:
        mode = archive.getinfo("cni/shim/vfpool").external_attr >> 16
        archive.extract("cni/shim/vfpool", tmp_path)
    assert stat.S_IMODE(mode) == 0o755
    shim = tmp_path / "cni/shim/vfpool"
    shim.chmod(stat.S_IMODE(mode))
    version = subprocess.run([shim], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
    assert b"supportedVersions" in version.stdout


def test_editable_install_compiles_in_place(tree):
    done = python(tree, "-m", "hatchling", "build", "--target", "wheel:editable", "--hooks-only")
    assert done.returncode == 0, done.stderr
    assert os.access(tree / "cni/shim/vfpool", os.X_OK)


def test_sdist_needs_no_compiler_and_carries_the_source(tree, tmp_path):
    done = python(tree, "-c", "from hatchling.build import build_sdist; build_sdist('dist')", CC="no-such-cc")
    assert done.returncode == 0, done.stderr
    archive, = (tree / "dist").iterdir()
    shutil.unpack_archive(archive, tmp_path, filter="data")
    shim = archive.name.removesuffix(".tar.gz") + "/cni/shim"
    assert sorted(path.name for path in (tmp_path / shim).iterdir()) == ["build.py", "vfpool.c"]


def test_wheel_without_a_compiler_says_so(tree):
    done = make_wheel(tree, CC="no-such-cc")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "no C compiler: CC=no-such-cc names 'no-such-cc', which is not on PATH" in said


def test_executable_is_static_stripped_and_the_same_wherever_it_is_built(shim_directory, tmp_path):
    assert make(shim_directory).returncode == 0
    here = shim_directory / "vfpool"
    shown = subprocess.run(["readelf", "--wide", "--segments", "--sections", here],
                           capture_output=True, text=True, check=True).stdout
    assert ".text" in shown
    assert not any(word in shown for word in ("INTERP", "DYNAMIC", ".symtab", ".debug"))
    build.compile_shim(build.SOURCE, tmp_path / "elsewhere/vfpool")
    assert here.read_bytes() == (tmp_path / "elsewhere/vfpool").read_bytes()


def test_compiled_again_only_when_the_source_is_newer(shim_directory):
    shim = shim_directory / "vfpool"
    assert make(shim_directory).stdout == f"{shim}\n"
    first = shim.stat()
    assert make(shim_directory).returncode == 0
    assert shim.stat().st_ino == first.st_ino
    for changed in ("vfpool.c", "build.py"):
        before = shim.stat().st_ino
        os.utime(shim, ns=(0, 0))
        os.utime(shim_directory / changed)
        assert make(shim_directory).returncode == 0
        assert shim.stat().st_ino != before


def test_no_compiler_at_all(shim_directory, tmp_path):
    (tmp_path / "bin").mkdir()
    done = make(shim_directory, PATH=str(tmp_path / "bin"), CC="")
    assert done.returncode == 1
    assert done.stderr == ("no C compiler: none of musl-gcc, cc, gcc, clang is on PATH and CC is not set "
                           "(hint: the Debian packages gcc and libc6-dev have what is needed)\n")


def test_no_headers_of_the_c_library(shim_directory):
    done = make(shim_directory, CC="gcc --sysroot=/var/empty")
    assert done.returncode == 1
    assert "C library's headers are missing (hint: the Debian package libc6-dev" in done.stderr


LINKER_WITHOUT_LIBRARIES = """#!/bin/sh
for argument do
    shift
    case $argument in -L*) ;; *) set -- "$@" "$argument" ;; esac
done
exec ld -nostdlib "$@"
"""


def test_no_static_c_library(shim_directory, tmp_path):
    (tmp_path / "ld").write_text(LINKER_WITHOUT_LIBRARIES)
    (tmp_path / "ld").chmod(0o755)
    done = make(shim_directory, CC=f"gcc -B{tmp_path}")
    assert done.returncode == 1
    assert "libc.a) is missing (hint: the Debian package libc6-dev" in done.stderr


def test_failed_compilation_shows_the_compilers_words_and_leaves_what_was_there(shim_directory):
    assert make(shim_directory).returncode == 0
    before = (shim_directory / "vfpool").stat()
    source = shim_directory / "vfpool.c"
    source.write_text(source.read_text() + "\nint broken(void) { return absent; }\n")
    os.utime(shim_directory / "vfpool", ns=(0, 0))
    done = make(shim_directory)
    assert done.returncode == 1
    assert "absent" in done.stderr
    assert "hint" not in done.stderr
    assert (shim_directory / "vfpool").stat().st_ino == before.st_ino
    assert sorted(path.name for path in shim_directory.iterdir()) == ["build.py", "vfpool", "vfpool.c"]
