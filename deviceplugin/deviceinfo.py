"""Device-info files: how Multus learns which device the kubelet gave to a network.

Source: Device Information Specification 1.1.0 of the Network Plumbing Working Group.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sriov.errors import HostError
from sriov.pci import PciAddress

DIRECTORY = Path("/var/run/k8s.cni.cncf.io/devinfo/dp")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """The file of one VF of one resource. Nothing here removes it: the pod that holds the VF outlives us."""

    resource: str
    address: PciAddress

    @property
    def name(self) -> str:
        return f"{self.resource}-{self.address}-device.json".replace("/", "-")

    @property
    def content(self) -> bytes:
        info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": self.address}}
        return json.dumps(info, separators=(",", ":")).encode()


def write_device_info(directory: Path, info: DeviceInfo) -> None:
    """Write or replace the file, mode 0444, so that a reader sees the old one or the new one whole.

    No fsync: the directory is a tmpfs, and after a reboot the kubelet allocates anew. Raises HostError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(info.content)
                file.flush()
                temporary.chmod(0o444)
                temporary.rename(directory / info.name)
            except BaseException:
                temporary.unlink()
                raise
    except OSError as error:
        raise HostError(
            f"cannot write {directory / info.name}: {error.strerror}", errno=error.errno or 0
        ) from error
