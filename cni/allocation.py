"""Whose VF it is, by the kubelet: a CNI call can name any device of the node, whoever wrote it there."""

from __future__ import annotations

import logging
from typing import Protocol

from cni.protocol import PodRef
from sriov.errors import Refused
from sriov.pci import PciAddress

log = logging.getLogger(__name__)


class Allocated(Protocol):
    """Whether the kubelet gave a VF to a pod; None where that cannot be told now, and it has logged why.

    Never raises.
    """

    def __call__(self, pod: PodRef, vf: PciAddress, /) -> bool | None: ...


def check_allocation(allocated: Allocated, pod: PodRef | None, vf: PciAddress) -> None:
    """Raise Refused where the VF is not the pod's; allowed is what cannot be told, and a call by hand."""
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
