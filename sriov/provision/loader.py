"""Kernel modules: whether there is one for a driver that no device had yet, and loading it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sriov.diagnosis.modprobe import module_name, parse_module_names
from sriov.errors import HostError


def has_module(name: str) -> bool | None:
    """Whether the running kernel has a module of this name, or has it built in; None where its list cannot be read,
    as in a container without it."""
    folder = Path("/lib/modules", os.uname().release)
    try:
        listed, builtin = ((folder / file).read_text("utf-8", "replace")
                           for file in ("modules.dep", "modules.builtin"))
    except OSError:
        return None
    return module_name(name) in parse_module_names(listed, builtin)


def load_module(name: str) -> None:
    """Have modprobe load a module; raises HostError with what it says."""
    try:
        # Its own process group: Ctrl-C is for whoever started this, and may have to finish its work first.
        done = subprocess.run(["modprobe", name], capture_output=True, text=True, timeout=60, check=False,
                              process_group=0)
        said = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said is not None:
        raise HostError(f"driver {name} is not loaded and modprobe failed: {said}",
                        hint="load it at boot, by a file in the host's /etc/modules-load.d; an agent in a "
                             "container may not")
