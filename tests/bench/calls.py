"""Times of ADD and DEL of an installed CNI executable, on the node that it serves.

`python -m tests.bench.calls EXECUTABLE BDF ROUNDS`: a JSON object of milliseconds, by case and command. The first
round of each case is a warm-up and is not in it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from cni.wire import SOCKET_PATH
from tests.bench.contest import CASES, cni_pair
from tests.bench.turns import timed
from tests.support.node import Cni, netns, pfs


def main(executable: str, address: str, rounds: int) -> None:
    cni = Cni(Path(SOCKET_PATH), (executable,))
    (vf,) = [vf for pf in pfs() for vf in pf.vfs if vf.address == address]
    times: dict[str, dict[str, list[float]]] = {}
    for case in CASES:
        if case.untrusted_mac or case.userspace:
            continue
        found = times[case.name] = defaultdict(list)
        with netns() as pod:
            attach, detach = cni_pair(cni, vf, pod, case.keys)
            for number in range(rounds + 1):
                for name, action in (("ADD", attach), ("DEL", detach)):
                    took = timed(action)
                    if number:
                        found[name].append(took)
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
