"""Whom the kubelet gave which VFs, as it says itself on its pod-resources socket.

A pod has its VFs from the kubelet's Allocate on: before its containers run, and without any CNI call where it names
no network, as DPDK pods and VMs may. When a pod ends nobody tells a device plugin, but it is on that list no more.
Where nobody answers there, the kubelet's checkpoint counts: it names at least the VFs that pods have, and more
until the kubelet cleans it up. It also has those of init containers, which that list leaves out.

Source: staging/src/k8s.io/kubelet/pkg/apis/podresources, pkg/kubelet/apis/podresources/server_v1.go and
pkg/kubelet/cm/devicemanager/checkpoint of Kubernetes.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
# Whoever asks too much gets RESOURCE_EXHAUSTED, and so do others meanwhile. Source: gRPC's service_config.proto.
_RETRY = {"maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "0.2s", "backoffMultiplier": 2,
          "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}
_OPTIONS = [("grpc.max_receive_message_length", _MOST),
            ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY}]}))]
# How CDI devices and those of DRA drivers are named after a PCI address, which no Kubernetes name can be.
_NAMED_AFTER = re.compile(r"(?<![0-9a-f])([0-9a-f]{4,8})[:-]([0-9a-f]{2})[:-]([0-9a-f]{2})[.-]([0-7])(?![0-9a-z])")


@dataclass(frozen=True, slots=True)
class Given:
    """A VF that the kubelet gave to a container of a pod."""

    vf: PciAddress
    pod: str                          # namespace/name; its UID where the checkpoint says so
    container: str


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
            return {given.vf: f"{given.pod}, container {given.container}" for given in self.ask(ANSWER_SECONDS)}
        except HostError as error:
            silence = error
        try:
            return {given.vf: f"pod {given.pod}, container {given.container}" for given in self.remember()}
        except HostError as error:
            raise HostError(f"cannot tell which VFs the kubelet gave to pods: {silence.message}; {error.message}",
                            hint="start the kubelet, or name its folder with --kubelet-dir") from None

    def ask(self, timeout: float) -> list[Given]:
        """What running pods' containers have now; raise HostError where nobody says so within `timeout` seconds."""
        try:
            with grpc.insecure_channel(f"unix:{self._socket}", _OPTIONS) as channel:
                answer = PodResourcesListerStub(channel).List(api.ListPodResourcesRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise HostError(f"{self._socket}: {error.code().name}: {error.details()}") from None
        return [Given(vf, f"{pod.namespace}/{pod.name}", container.name) for pod in answer.pod_resources
                for container in pod.containers for vf in _find_vfs(container)]

    def remember(self) -> list[Given]:
        """What the kubelet wrote down, pods by their UIDs; raise HostError where that cannot be read."""
        try:
            entries = json.loads(self._checkpoint.read_bytes())["Data"]["PodDeviceEntries"] or ()
            return [Given(vf, str(entry["PodUID"]), str(entry["ContainerName"])) for entry in entries
                    for device in _list_ids(entry["DeviceIDs"]) for vf in _parse(device)]
        except FileNotFoundError:     # no kubelet ever had a device plugin here
            return []
        except OSError as error:
            raise HostError(f"{self._checkpoint}: {error.strerror}") from None
        except (AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise HostError(f"{self._checkpoint}: not the kubelet's: {error!r}") from None


def _list_ids(devices: Mapping[str, list[str]] | list[str]) -> list[str]:
    if isinstance(devices, list):     # Kubernetes before 1.20: without NUMA nodes
        return devices
    return [each for few in devices.values() for each in few]


def _find_vfs(container: api.ContainerResources) -> Iterator[PciAddress]:
    """By whatever way it got them: from device plugins, ours or others, and from DRA drivers."""
    for devices in container.devices:
        for device in devices.device_ids:
            yield from _parse(device)
    for claimed in (resource for claim in container.dynamic_resources for resource in claim.claim_resources):
        for name in (claimed.device_name, *(device.name for device in claimed.cdi_devices)):
            yield from (PciAddress("{}:{}:{}.{}".format(*parts)) for parts in _NAMED_AFTER.findall(name))


def _parse(device: str) -> Iterator[PciAddress]:
    """Nothing for other plugins' devices; those of other plugins for VFs count."""
    try:
        yield PciAddress.parse(device)
    except InputError:
        return
