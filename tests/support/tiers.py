"""Which test tiers this machine can run, decided by uid, architecture, packages and Go alone.

Whatever else goes wrong in a tier that can run (a build, a boot) is a failure and never a skip.
"""

from __future__ import annotations

import os

from tests.e2e.gobuild import find_go_fault
from tests.lab import host

TIERS = ("kernel", "lab", "e2e")    # also the names of the markers


def unavailable(tier: str) -> str | None:
    """Why this machine cannot run the tier, in one line; None where it can."""
    if os.environ.get("VFPOOL_IN_LAB"):
        return "the e2e tier runs on the host" if tier == "e2e" else None
    match tier:
        case "kernel":
            return None if os.geteuid() == 0 else f"the kernel tier needs root (uid is {os.geteuid()})"
        case "lab":
            return host.unavailable()
        case "e2e":
            return host.unavailable() or find_go_fault()
        case _:
            raise ValueError(f"expected a tier of {', '.join(TIERS)}, got {tier!r}")


def parse_required(text: str) -> frozenset[str]:
    """VFPOOL_REQUIRE: a comma list of the tiers that must run; ValueError for an unknown one."""
    names = frozenset(filter(None, (part.strip() for part in text.split(","))))
    if unknown := names - set(TIERS):
        raise ValueError(f"VFPOOL_REQUIRE: expected tiers of {', '.join(TIERS)}, got {', '.join(sorted(unknown))}")
    return names
