"""`python -m tests.trials TRIAL ...`: one trial on this machine's VFs that a kernel driver has; a JSON object.

Those VFs must be free, and stay so: nobody else may be attaching them. Nothing else goes to stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from cni.wire import SOCKET_PATH
from sriov.host.sysfs import Sysfs
from sriov.model import VirtualFunction
from tests.support import node
from tests.support.node import POOLS, SHIM, Agent, Cni
from tests.trials.calls import End
from tests.trials.kills import Kills, Trial
from tests.trials.pods import Pod
from tests.trials.storm import Storm, Tally

COMMANDS = ("ADD", "DEL")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    trials = parser.add_subparsers(required=True)
    storm = trials.add_parser("storm", help="pods that start and end at once, by an executable")
    storm.add_argument("--seconds", type=float, default=60)
    storm.add_argument("--workers", type=int, default=16)
    storm.add_argument("--patience", type=float, default=30, help="seconds for the VFs to be home at the end")
    storm.set_defaults(run=run_storm)
    kills = trials.add_parser("kills", help="kill -9 of an executable while it runs")
    kills.set_defaults(run=run_kills)
    agents = trials.add_parser("agent-kills", help="kill -9 of an agent, started for this, while it serves a call")
    agents.set_defaults(run=run_agent_kills)
    for trial in (storm, kills):
        trial.add_argument("executable", help="the CNI executable; where it is ours the agent is the node's")
    for trial in (kills, agents):
        trial.add_argument("--trials", type=int, default=20, help="of ADD, and of DEL")
    for trial in (storm, kills, agents):
        trial.add_argument("--seed", type=int, default=secrets.randbits(32))
        trial.add_argument("--cni-path", default=node.CNI_PATH, help="where host-local is")
        trial.add_argument("--leases", type=Path, default=Path("/var/lib/cni/networks"),
                           help="where host-local shall keep what it gave; an agent in a container sees this one")
        trial.add_argument("--vfs", type=int, default=0, metavar="N", help="make so many anew on each PF first")
    return parser.parse_args(argv)


def find_vfs(per_pf: int) -> list[VirtualFunction]:
    """VFs with a netdev on this host."""
    if per_pf:
        for pf in node.pfs():
            Sysfs().write_num_vfs(pf.address, 0)
    made = [vf for pf in node.pfs() for vf in (node.make_vfs(pf, per_pf) if per_pf else pf.vfs)]
    return [vf for vf in made if vf.link is not None]


def run_storm(arguments: argparse.Namespace) -> dict[str, Any]:
    cni = Cni(Path(SOCKET_PATH), (arguments.executable,), path=arguments.cni_path)
    storm = Storm(cni, find_vfs(arguments.vfs), arguments.leases, seed=arguments.seed)
    return _fields(storm.run(arguments.seconds, arguments.workers, arguments.patience))


def run_kills(arguments: argparse.Namespace) -> dict[str, Any]:
    cni = Cni(Path(SOCKET_PATH), (arguments.executable,), path=arguments.cni_path)
    trial = Trial(cni, find_vfs(arguments.vfs), arguments.leases, seed=arguments.seed)
    trial.warm_up()
    return {command: _fields(trial.run(command, arguments.trials)) for command in COMMANDS}


def run_agent_kills(arguments: argparse.Namespace) -> dict[str, Any]:
    vfs = find_vfs(arguments.vfs)
    with started_agent() as agent:
        trial = Trial(Cni(agent.socket, (str(SHIM),), path=arguments.cni_path), vfs, arguments.leases,
                      seed=arguments.seed)
        trial.warm_up()

        def kill(command: str, pod: Pod, random: Random) -> End:
            end = trial.disturb(command, pod, random, agent.kill)
            if not agent.running:
                agent.start()
            return end

        return {command: _fields(trial.run(command, arguments.trials, kill)) for command in COMMANDS}


def _fields(value: Tally | Kills) -> dict[str, Any]:
    """Not by asdict: it cannot copy a Counter."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@contextmanager
def started_agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as root:      # short: a unix socket's path has 107 characters
        agent = Agent(Path(root), POOLS, log_level="info")
        try:
            agent.start()
            yield agent
        finally:
            agent.kill()


def main(argv: list[str]) -> int:
    arguments = parse_arguments(argv)
    json.dump({"seed": arguments.seed, **arguments.run(arguments)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
