"""Have a VF's driver make its netdev anew: the last way home, for one that cannot be brought or cleaned.

The old one goes with all that is on it or stands on it, in every network namespace; the new one is on the host,
since that is where the device is. The settings that the PF enforces stay.
"""

from __future__ import annotations

import time

from cni.kernel import Kernel, Vf
from sriov.errors import HostError
from sriov.host.sysfs import Sysfs
from sriov.model import is_userspace

_PATIENCE = 10.0     # seconds: iavf makes its netdev after its probe has returned
_POLL = 0.02
_HINT = "see what dmesg says of it; a PF that is down or resets answers no VF"


def rebind(kernel: Kernel, vf: Vf) -> None:
    """Return once udev is done with the new netdev. Raises Gone where the VF is gone, HostError.

    Blocks for as long as the driver takes, with no lock but the VF's own: it is not a change for the queue, in
    which those of all other VFs would wait.
    """
    sysfs = kernel.sysfs
    driver = sysfs.read_driver(vf.address)
    # Whoever finds the VF without a driver after a crash knows by the override that it is to have one. And with
    # autoprobe off the kernel refuses every driver for a VF without one (pci_device_can_probe).
    forced = sysfs.read_driver_override(vf.address) is None
    if forced:
        sysfs.set_driver_override(vf.address, driver)
    try:
        sysfs.unbind(vf.address)
    except HostError:
        if forced:
            sysfs.set_driver_override(vf.address, None)
        raise
    _probe(sysfs, vf, driver)
    if forced:
        sysfs.set_driver_override(vf.address, None)
    deadline = time.monotonic() + _PATIENCE
    while (netdev := sysfs.find_netdev(vf.address)) is None:
        if time.monotonic() > deadline:
            raise HostError(f"{vf}: {driver} was bound anew, and made no netdev in {_PATIENCE:.0f} s",
                            hint=_HINT)
        with kernel.calls.aside():
            time.sleep(_POLL)
    kernel.await_udev(netdev[1])


def end_rebind(kernel: Kernel, vf: Vf) -> None:
    """Look for a driver for a VF that has none; raise HostError where `rebind` left it so, and none takes it."""
    sysfs = kernel.sysfs
    override = sysfs.read_driver_override(vf.address)
    _probe(sysfs, vf, override)
    # With autoprobe off it may be the admin's, who has the VF bound by it.
    if override is not None and not is_userspace(override) and sysfs.read_autoprobe(vf.pf):
        sysfs.set_driver_override(vf.address, None)


def _probe(sysfs: Sysfs, vf: Vf, wanted: str | None) -> None:
    sysfs.probe(vf.address)
    if wanted is not None and sysfs.read_driver(vf.address) is None:
        raise HostError(f"{vf}: its driver {wanted} does not take it any more", hint=_HINT)
