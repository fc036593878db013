"""Whom the kubelet gave which VFs, as it says itself on its pod-resources socket.

A pod has its VFs from the kubelet's Allocate on: before its containers run, and without any CNI call where it names
no network, as DPDK pods and VMs may. When a pod ends nobody tells a device plugin, but it is on that list no more.
Where nobody answers there, the kubelet's checkpoint counts: it names at least the VFs that pods have, and more
until the kubelet cleans it up.

Source: staging/src/k8s.io/kubelet/pkg/apis/podresources and pkg/kubelet/cm/devicemanager/checkpoint of Kubernetes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from deviceplugin.kubelet import podresources_pb2 as api
from deviceplugin.kubelet.podresources_pb2_grpc import PodResourcesListerStub
from deviceplugin.kubeletdir import KUBELET
from sriov.errors import HostError, InputError
from sriov.model import VirtualFunction
from sriov.pci import PciAddress

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
FRESH_SECONDS = 0.2                   # the kubelet answers 100 questions a second, whoever asks
_MOST = 64 << 20                      # bytes; gRPC's own limit of 4 MiB is a few thousand containers


class PodResources:
    """The kubelet whose folder is `root`. Any thread may ask."""

    def __init__(self, root: Path = KUBELET) -> None:
        self._socket = root / "pod-resources" / "kubelet.sock"
        self._checkpoint = root / "device-plugins" / "kubelet_internal_checkpoint"
        self._turn = threading.Lock()
        self._listed: Mapping[PciAddress, str] | None = {}
        self._fresh_until = 0.0
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why it was not known at the last question; None: it was."""
        return self._trouble

    def holds(self, vf: VirtualFunction) -> bool:
        """Whether a pod has the VF, or may have it where that cannot be read.

        A VF without a driver is of no use to anybody: as all are after a reboot, whatever pods had before.
        """
        if vf.driver is None:
            return False
        with self._turn:
            if time.monotonic() >= self._fresh_until:
                self._listed, trouble = None, None
                try:
                    self._listed = self.list_owners()
                except HostError as error:
                    trouble = str(error)
                    if trouble != self._trouble:
                        log.error("every VF counts as in use: %s", trouble)
                self._trouble = trouble
                self._fresh_until = time.monotonic() + FRESH_SECONDS
            return self._listed is None or vf.address in self._listed

    def list_owners(self) -> Mapping[PciAddress, str]:
        """Who has which devices, of those that are named by a PCI address: "default/a, container app".

        None has any where no kubelet ever gave one. Raises HostError where that cannot be told.
        """
        try:
            return dict(self._ask())
        except grpc.RpcError as error:
            silence = f"{self._socket}: {error.code().name}: {error.details()}"
        return dict(self._remember(silence))

    def _ask(self) -> Iterator[tuple[PciAddress, str]]:
        options = [("grpc.max_receive_message_length", _MOST)]
        with grpc.insecure_channel(f"unix:{self._socket}", options) as channel:
            answer = PodResourcesListerStub(channel).List(api.ListPodResourcesRequest(), timeout=ANSWER_SECONDS)
        for pod in answer.pod_resources:
            for container in pod.containers:
                for device in (device for devices in container.devices for device in devices.device_ids):
                    yield from _owned(device, f"{pod.namespace}/{pod.name}, container {container.name}")

    def _remember(self, silence: str) -> Iterator[tuple[PciAddress, str]]:
        try:
            entries = json.loads(self._checkpoint.read_bytes())["Data"]["PodDeviceEntries"] or ()
        except FileNotFoundError:     # no kubelet ever had a device plugin here
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._unknown(silence, error) from None
        try:
            for entry in entries:
                by_node = entry["DeviceIDs"]      # Kubernetes before 1.20: without NUMA nodes
                ids = by_node if isinstance(by_node, list) else [each for few in by_node.values() for each in few]
                for device in ids:
                    yield from _owned(device, f"pod {entry['PodUID']}, container {entry['ContainerName']}")
        except (AttributeError, KeyError, TypeError) as error:
            raise self._unknown(silence, error) from None

    def _unknown(self, silence: str, error: Exception) -> HostError:
        what = error.strerror if isinstance(error, OSError) else f"not the kubelet's: {error!r}"
        return HostError(f"cannot tell which VFs the kubelet gave to pods: {silence}; {self._checkpoint}: {what}",
                         hint="start the kubelet, or name its folder with --kubelet-dir")


def _owned(device: str, owner: str) -> Iterator[tuple[PciAddress, str]]:
    """Nothing for other plugins' devices; those of other plugins for VFs count."""
    try:
        yield PciAddress.parse(device), owner
    except InputError:
        return
