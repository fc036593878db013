"""Which driver somebody most likely means by a name that is none: of those that VFs are mostly bound to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from sriov.pools.assignment import Driver, Pool

# What other projects call the same: the deviceType of the SR-IOV network operator's policies, for one.
_MEANINGS = {"kernel": "kernel", "netdevice": "kernel", "netdev": "kernel",
             "vfio-pci": "vfio-pci", "vfio": "vfio-pci"}
_NO_DRIVERS = ("none", "null", "any", "default")     # what is written for no opinion
_VF_DRIVERS = (
    "iavf", "ixgbevf", "igbvf", "i40evf", "mlx5_core", "mlx4_core", "bnxt_en", "cxgb4vf", "qede", "ionic", "enic",
    "hns3", "hinic", "nfp", "sfc", "octeon_ep_vf", "uio_pci_generic", "igb_uio", "virtio-pci", "pci-stub",
)


def find_likely_driver(name: str) -> str | None:
    """The name to write instead; None for one that is right, or like no other."""
    lower = name.lower()
    if name in (Driver.KERNEL, "vfio-pci", *_VF_DRIVERS):
        return None
    if lower in _MEANINGS:
        return _MEANINGS[lower]
    if close := difflib.get_close_matches(lower, _VF_DRIVERS, n=1, cutoff=0.85):
        return close[0]
    close = difflib.get_close_matches(lower, _MEANINGS, n=1, cutoff=0.75)
    return _MEANINGS[close[0]] if close else None


def warn_of_driver_name(pool: Pool) -> Iterator[str]:
    """A pool's driver that is nearly another one. Whether a node has one of any name, only the node knows."""
    if pool.driver is None:
        return
    wants = f"{pool.driver_place or pool.place}: {pool.resource} wants the driver {str(pool.driver)!r}"
    if pool.driver.lower() in _NO_DRIVERS:
        yield f"{wants}: leave the key out for VFs that are to stay as they are"
    elif (likely := find_likely_driver(pool.driver)) is not None:
        yield f"{wants}, did you mean {likely!r}?"
