"""What the lab needs of this machine: root, x86-64, a few programs; and how to get the missing ones."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.lab.errors import LabError

SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"    # mkfs.ext4: sbin is not on every PATH
PACKAGES = {    # a program, or the path of a file, and the Debian package that has it
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "git": "git",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


def find_program(name: str) -> str | None:
    return shutil.which(name, path=SEARCH)


def get_program(name: str) -> str:
    """The program's path; LabError naming its Debian package where it is not installed."""
    path = find_program(name)
    if path is None:
        raise LabError(f"the lab needs {name}", hint=f"apt-get install {PACKAGES[name]}")
    return path


def missing_packages(packages: Mapping[str, str] = PACKAGES) -> tuple[str, ...]:
    return tuple(sorted({package for name, package in packages.items() if not _is_there(name)}))


def _is_there(name: str) -> bool:
    return Path(name).exists() if name.startswith("/") else find_program(name) is not None


def unavailable() -> str | None:
    """Why the lab cannot run here, in one line; None where it can.

    A missing package that apt-get can install is no reason: then its failure to do so is a failure.
    """
    reasons = []
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        reasons.append(f"Linux on x86-64 (this is {platform.system()} on {platform.machine()})")
    if os.geteuid() != 0:
        reasons.append(f"root (uid is {os.geteuid()})")
    missing = missing_packages()
    if missing and (os.geteuid() != 0 or find_program("apt-get") is None):
        reasons.append(f"apt-get install {' '.join(missing)}")
    return "the lab needs " + "; ".join(reasons) if reasons else None


def check_host() -> None:
    """Raise LabError where the lab cannot run here."""
    reason = unavailable()
    if reason is not None:
        raise LabError(reason)


def install_missing_packages(packages: Mapping[str, str] = PACKAGES) -> None:
    """Install what is missing with apt-get, saying so in one line on stderr."""
    missing = missing_packages(packages)
    if not missing:
        return
    if find_program("apt-get") is None:
        raise LabError(f"the lab needs what Debian has in {' '.join(missing)}", hint="install it")
    sys.stderr.write(f"lab: apt-get install {' '.join(missing)}\n")
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    done = None
    for argv in (["apt-get", "update", "--quiet"], install):
        done = subprocess.run(
            argv, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )
    if missing := missing_packages(packages):
        tail = "\n".join(done.stdout.splitlines()[-15:]) if done else ""
        raise LabError(f"apt-get could not install {' '.join(missing)}:\n{tail}")
