"""Whose VF it is, by the kubelet: a CNI call can name any device of the node, whoever wrote it there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sriov.errors import Refused
from sriov.pci import PciAddress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRef:
    """A pod as the runtime names it in CNI_ARGS. `uid`: empty where the runtime does not say."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Allocated(Protocol):
    """Whether the kubelet gave a VF to a pod; None where that cannot be told now, and it has logged why.

    Never raises.
    """

    def __call__(self, pod: PodRef, vf: PciAddress, /) -> bool | None: ...


def find_pod(args: Mapping[str, str]) -> PodRef | None:
    """The pod that CNI_ARGS names; None where they name none: a call by hand."""
    namespace, name = args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME")
    return PodRef(namespace=namespace, name=name, uid=args.get("K8S_POD_UID", "")) if namespace and name else None


def check_allocation(allocated: Allocated, args: Mapping[str, str], vf: PciAddress) -> None:
    """Raise Refused where the VF is not the pod's; allowed is what cannot be told, and a call by hand."""
    pod = find_pod(args)
    if pod is None:
        log.info("VF %s is taken for a container that CNI_ARGS names no pod of", vf)
        return
    answer = allocated(pod, vf)
    if answer is None:
        log.debug("VF %s is taken for pod %s without knowing whether it was allocated to it", vf, pod)
    elif not answer:
        raise Refused(f"VF {vf} is not allocated to pod {pod}",
                      hint="the kubelet chooses a pod's VFs: a network asks for them by its annotation "
                           "k8s.v1.cni.cncf.io/resourceName and names no deviceID")
