"""What a PF enforces on a VF, as it was before its pod."""

from __future__ import annotations

import dataclasses
import errno
import logging

from cni.kernel import RESETTING, Kernel, Vf
from cni.record import HomeLink, Record
from cni.steps import MacOrder, difference, parts, plan_home_settings
from sriov.errors import HostError
from sriov.host.netlink import Links
from sriov.model import VfSettings
from sriov.pci import MacAddress

log = logging.getLogger(__name__)


def set_back(kernel: Kernel, host: Links, vf: Vf, changes: VfSettings, home: HomeLink | None, deadline: float,
             ) -> None:
    """Set `changes`, as Kernel.set_vf does; for a MAC of zero, which some drivers tell but do not take (qede's
    ndo_set_vf_mac), the one that the netdev has at `home`.
    """
    try:
        kernel.set_vf(host, vf, changes, deadline)
    except HostError as error:
        own = _stand_in(vf, changes, home)
        if own is None or error.errno not in (errno.EINVAL, errno.EADDRNOTAVAIL):
            raise
        log.warning("%s: its PF gets MAC %s for it, which its netdev has, since no MAC at all is refused: %s", vf,
                    own, error)
        kernel.set_vf(host, vf, dataclasses.replace(changes, mac=own), deadline)


def _stand_in(vf: Vf, changes: VfSettings, home: HomeLink | None) -> MacAddress | None:
    """What does for the MAC that `changes` have; None where nothing does."""
    wants_none = changes.mac == MacAddress.ZERO and vf.order is MacOrder.PF_FIRST
    return home.mac if wants_none and home is not None else None


def restore_settings(kernel: Kernel, host: Links, vf: Vf, record: Record, deadline: float) -> None:
    """Have the PF enforce on the VF what it did before; raise HostError with the first part that cannot be.

    A VF in reset is waited for until `deadline` (time.monotonic) at most.
    """
    home = record.baseline.link
    pf, current = kernel.inspect_vf(host, vf)
    changes = plan_home_settings(vf.order, record.baseline, current)
    failure = None
    if changes is not None:
        failure = _set_what_can_be(kernel, host, vf, changes, home, deadline)
        pf, current = kernel.inspect_vf(host, vf)
    wanted = record.baseline.settings
    learns_mac = vf.order is MacOrder.NETDEV_FIRST and home is not None and not pf.up
    if learns_mac or current.mac in (wanted.mac, _stand_in(vf, wanted, home)):
        # The PF learns the netdev's MAC from its mailbox, when it is up again.
        wanted = dataclasses.replace(wanted, mac=None)
    left = difference(wanted, current)
    if left is not None:
        raise failure or HostError(f"{vf}: its settings are not as they were: {left} differ")


def _set_what_can_be(kernel: Kernel, host: Links, vf: Vf, changes: VfSettings, home: HomeLink | None,
                     deadline: float) -> HostError | None:
    """Why some of it could not be."""
    try:
        set_back(kernel, host, vf, changes, home, deadline)
    except HostError as error:
        if len(parts(changes)) == 1 or error.errno in RESETTING:      # in reset it has one answer to all
            return error
    else:
        return None
    # What of a message follows a part that a driver refuses the kernel leaves undone (do_setvfinfo).
    failure = None
    for part in parts(changes):
        try:
            set_back(kernel, host, vf, part, home, deadline)
        except HostError as error:
            failure = failure or error
    return failure
