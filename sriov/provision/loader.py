"""Loads kernel modules: a driver that no device had yet."""

from __future__ import annotations

import subprocess

from sriov.errors import HostError


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
