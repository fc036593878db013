"""Whether a VF that a CNI call names is its pod's, by the kubelet's word.

When a pod's sandbox is made the kubelet has given it its devices and lists it. Of pods it is the name that counts:
a static pod has one UID in its file and another in the API. Calls come in bursts, and the kubelet answers 100
questions a second, whoever asks: calls that wait at the same time share an answer. But an answer that was asked for
before a call came may be of before its pod was: such a one allows, and never refuses.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from deviceplugin.podresources import FRESH_SECONDS, PodResources
from sriov.errors import HostError
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0        # a pod's start waits for it; on a node under load half a second was too little


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the kubelet said to a question; `asked` and `ended` are time.monotonic()."""

    asked: float = float("-inf")
    ended: float = float("-inf")
    given: frozenset[tuple[str, PciAddress]] | None = frozenset()     # pods and their VFs; None: it did not say

    def allows(self, pod: str, vf: PciAddress, arrived: float) -> bool:
        return self.given is not None and (pod, vf) in self.given and self.asked > arrived - FRESH_SECONDS

    def is_for(self, arrived: float) -> bool:
        """Whether a call that arrived then need not ask; who waited for a silent kubelet has waited enough."""
        return (self.ended if self.given is None else self.asked) >= arrived


class Grants:
    """Owner of the last answer; any thread may ask."""

    def __init__(self, kubelet: PodResources) -> None:
        self._kubelet = kubelet
        self._turn = threading.Lock()
        self._answer = _Answer()
        self._said: dict[str, str] = {}      # by source, the trouble that the log has last

    def covers(self, namespace: str, name: str, uid: str, vf: PciAddress) -> bool | None:
        """Whether the pod was given the VF; None where that cannot be told, and the log says why, once."""
        pod, arrived = f"{namespace}/{name}", time.monotonic()
        answer = self._answer
        if not answer.allows(pod, vf, arrived):
            with self._turn:
                answer = self._answer
                if not answer.allows(pod, vf, arrived) and not answer.is_for(arrived):
                    answer = self._answer = self._ask()
        if answer.given is not None and (pod, vf) in answer.given:
            return True
        written = self._find_written(uid, vf)
        return None if answer.given is None and not written else written

    def _ask(self) -> _Answer:
        asked, given = time.monotonic(), None
        try:
            given = frozenset((each.pod, each.vf) for each in self._kubelet.ask(ANSWER_SECONDS))
            self._said.pop("pods", None)
        except HostError as error:
            self._say("pods", error)
        return _Answer(asked=asked, ended=time.monotonic(), given=given)

    def _find_written(self, uid: str, vf: PciAddress) -> bool | None:
        """Whether the kubelet's checkpoint has it as the pod's: that of an init container is nowhere else."""
        try:
            return any((each.pod, each.vf) == (uid, vf) for each in self._kubelet.remember())
        except HostError as error:
            self._say("checkpoint", error)
            return None

    def _say(self, source: str, error: HostError) -> None:
        if error.message != self._said.get(source):
            log.warning("CNI calls may name any VF for now: cannot tell which ones the kubelet gave to pods: %s",
                        error.message)
        self._said[source] = error.message
