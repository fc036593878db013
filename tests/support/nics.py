"""NICs that the lab lacks, each as its driver shows it in sysfs: ids, VF drivers, routing ids, netdevs.

    tree.add(nic("mlx5 switchdev", "0000:3b:00.0", "ens1f0np0", num_vfs=4))

Ids: the kernel's drivers and https://pci-ids.ucw.cz. Offset and stride: what the card's SR-IOV capability says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.tree import Pf

NICS: dict[str, dict[str, Any]] = {
    # Intel 82576: VFs on every second function, from 128 on
    "igb": {"device": "10c9", "vf_device": "10ca", "total_vfs": 7, "offset": 128, "stride": 2, "speed": 1000},
    # Intel X710
    "i40e": {"device": "1572", "driver": "i40e", "vf_device": "154c", "vf_driver": "iavf", "total_vfs": 64,
             "offset": 16, "speed": 10000},
    # Intel E810: names its ports since it has devlink ports
    "ice": {"device": "1592", "driver": "ice", "vf_device": "1889", "vf_driver": "iavf", "total_vfs": 256,
            "offset": 8, "port": "p0", "speed": 100000, "rdma": True},
    # NVIDIA ConnectX-6 Dx: PF and VF have one driver
    "mlx5 legacy": {"vendor": "15b3", "device": "101d", "driver": "mlx5_core", "vf_device": "101e",
                    "vf_driver": "mlx5_core", "total_vfs": 16, "offset": 2, "port": "p0", "speed": 100000,
                    "rdma": True},
    # The same with a netdev on the PF for each VF
    "mlx5 switchdev": {"vendor": "15b3", "device": "101d", "driver": "mlx5_core", "vf_device": "101e",
                       "vf_driver": "mlx5_core", "total_vfs": 16, "offset": 2, "port": "p0", "speed": 100000,
                       "rdma": True},
    # Broadcom BCM57414
    "bnxt_en": {"vendor": "14e4", "device": "16d7", "driver": "bnxt_en", "vf_device": "16dc",
                "vf_driver": "bnxt_en", "total_vfs": 128, "offset": 16, "port": "p0", "speed": 25000, "rdma": True},
    # A virtio NIC in hardware: the netdev is not the PCI function's child, and no driver says a speed
    "virtio": {"vendor": "1af4", "device": "1041", "driver": "virtio-pci", "vf_device": "1041",
               "vf_driver": "virtio-pci", "total_vfs": 8, "offset": 1},
}


def nic(kind: str, address: str, name: str | None, **changes: Any) -> Pf:
    """A PF of this kind; `changes` are fields of `Pf`. In switchdev mode each VF has a representor."""
    pf = Pf(address, name, **{**NICS[kind], **changes})
    if kind.endswith("switchdev"):
        pf = replace(pf, representors=tuple(f"{name}_{n}" for n in range(pf.num_vfs)))
    return pf
