"""Have a VF's driver make its netdev anew: the last way home, for one that cannot be brought or cleaned.

The old one goes with all that is on it or stands on it, in every network namespace; the new one is on the host,
since that is where the device is. The settings that the PF enforces stay.
"""

from __future__ import annotations

import time

from cni.kernel import Kernel, Vf
from sriov.errors import HostError

_PATIENCE = 10.0     # seconds: iavf makes its netdev after its probe has returned
_POLL = 0.02


def rebind(kernel: Kernel, vf: Vf) -> None:
    """Return once udev is done with the new netdev. Raises Gone where the VF is gone, HostError.

    Blocks for as long as the driver takes, with no lock but the VF's own: it is not a change for the queue, in
    which those of all other VFs would wait.
    """
    sysfs = kernel.sysfs
    driver, override = sysfs.read_driver(vf.address), sysfs.read_driver_override(vf.address)
    # With autoprobe off the kernel refuses every driver for a VF without an override (pci_device_can_probe). Set
    # first: whoever finds the VF without a driver after a crash only has to probe.
    forced = override is None and not sysfs.read_autoprobe(vf.pf)
    if forced:
        sysfs.set_driver_override(vf.address, driver)
    try:
        sysfs.unbind(vf.address)
        sysfs.probe(vf.address)
    finally:
        if forced:
            sysfs.set_driver_override(vf.address, None)
    deadline = time.monotonic() + _PATIENCE
    while (netdev := sysfs.find_netdev(vf.address)) is None:
        if time.monotonic() > deadline:
            raise HostError(f"{vf}: {driver} was bound anew, and made no netdev in {_PATIENCE:.0f} s",
                            hint="see what dmesg says of it; a PF that is down or resets answers no VF")
        with kernel.calls.aside():
            time.sleep(_POLL)
    kernel.await_udev(netdev[1])
