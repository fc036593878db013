"""`make bench`: every benchmark that this machine can run, each with its floor or peer in the same run."""

from __future__ import annotations

import subprocess
import sys

from tests.lab.topology import FULL
from tests.support.tiers import unavailable


def main() -> int:
    here = [sys.executable, "-u", "-m"]
    commands = {
        "scan of 1,024 synthetic VFs": [*here, "tests.bench.scan"],
        "pool files, and 1,024 VFs in 20 pools": [*here, "tests.bench.pools"],
        "from 64 to 4,096 VFs": [*here, "tests.bench.growth"],
        "the CNI executable's own cost": [*here, "tests.bench.shim"],
        "the webhook": [*here, "tests.bench.webhook"],
    }
    if (reason := unavailable("lab")) is None:
        lab, guest = [*here, "tests.lab", "run"], ["--", "python3", "-u", "-m"]
        full = ["--pfs", ",".join(str(-1 if pf.numa_node is None else pf.numa_node) for pf in FULL.pfs)]
        commands["ADD and DEL on emulated VFs, in the lab"] = [*lab, *full, *guest, "tests.bench.attach"]
        commands["all VFs of 8 emulated PFs, in the lab"] = [*lab, *full, *guest, "tests.bench.provision"]
    status = 0
    for title, command in commands.items():
        sys.stdout.write(f"\n== {title}\n")
        sys.stdout.flush()
        status |= subprocess.run(command, check=False).returncode
    if reason is not None:
        sys.stdout.write(f"\nWhat needs VFs was not measured: {reason}\n")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
