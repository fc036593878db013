"""The trials of tests.trials on the cluster's node, of one stack after the other, and their lines in the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.cluster import NAMESPACE, PATIENCE, POLL, Cluster
from tests.e2e.node import CNI_BIN
from tests.support.node import wait_for
from tests.trials.vfs import Loss

SECONDS = 75           # of the storm
WORKERS = 16           # two more than there are VFs
KILLS = 20             # of the executable, in ADD and in DEL
AGENT_KILLS = 10       # the same of the agent: each waits for the next one's start
EXECUTABLE = f"{CNI_BIN}/sriov"
_TIMEOUT = 1800.0      # seconds: a damaged VF is waited for, and made anew
_AGENT = "app.kubernetes.io/name=vfpool-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """`attached`: pods that got a VF; `put_off`: ADDs that were told to try again; `losses` by their words."""

    attached: int
    put_off: int
    losses: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """How many trials left a VF otherwise than it was, of how many."""

    damaged: int
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Of one stack; `executable` and `agent`: who was killed, by the command that was under way."""

    storm: Storm
    executable: Mapping[str, Kills]
    agent: Mapping[str, Kills] | None = None


def run_trials(cluster: Cluster, *, prepare: Callable[[], None], agent: bool) -> Trials:
    """`prepare` makes the node's VFs free and clean; with `agent` the cluster is without one at the end.

    No pod may run on the node that has a VF, nor be started.
    """
    prepare()
    storm = _run(cluster, "storm", EXECUTABLE, f"--seconds={SECONDS}", f"--workers={WORKERS}")
    prepare()
    executable = _run(cluster, "kills", EXECUTABLE, f"--trials={KILLS}")
    agents = None
    if agent:
        _remove_agent(cluster)      # the kubelet would start it later each time: the trial has one of its own
        agents = _kills(_run(cluster, "agent-kills", f"--trials={AGENT_KILLS}"))
    found = {key: storm[key] for key in ("attached", "put_off", "losses")}
    return Trials(storm=Storm(**found), executable=_kills(executable), agent=agents)


def _run(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    command = f"python3 -m tests.trials {' '.join(arguments)} --cni-path={CNI_BIN}"
    found: dict[str, Any] = json.loads(cluster.node.sh(command, timeout=_TIMEOUT))
    cluster.progress.note(f"{arguments[0]}: {json.dumps(found)}")
    return found


def _kills(found: Mapping[str, Any]) -> dict[str, Kills]:
    return {command: Kills(damaged=found[command]["damaged"], trials=found[command]["trials"])
            for command in ("ADD", "DEL")}


def _remove_agent(cluster: Cluster) -> None:
    cluster.kubectl.run("-n", NAMESPACE, "delete", "daemonset", "vfpool-agent", "--wait", timeout=PATIENCE)
    wait_for("the agent's end", lambda: not cluster.kubectl.get(
        "pods", namespace=NAMESPACE, selector=_AGENT)["items"], PATIENCE, POLL)


def list_rows(found: Sequence[Trials]) -> Iterator[tuple[str, list[str]]]:
    """Title and a value for each stack; of the losses those that any stack has."""
    yield f"storm of {SECONDS} s: pods that had a VF", [str(trials.storm.attached) for trials in found]
    yield "  ADDs told to try again later", [str(trials.storm.put_off) for trials in found]
    for loss in Loss:
        values = [trials.storm.losses.get(loss, 0) for trials in found]
        if any(values):
            yield f"  {loss}", [str(value) for value in values]
    if not any(trials.storm.losses for trials in found):
        yield "  losses", ["0"] * len(found)
    for command in ("ADD", "DEL"):
        yield f"kill -9 in {command}: VFs left changed", [_show(trials.executable[command]) for trials in found]
    if any(trials.agent for trials in found):
        for command in ("ADD", "DEL"):
            yield f"  of the agent, in {command}", [
                _show(trials.agent[command]) if trials.agent else "no agent" for trials in found]


def _show(kills: Kills) -> str:
    return f"{kills.damaged} of {kills.trials}"
