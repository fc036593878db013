"""STATUS: whether an ADD could be served now."""

from __future__ import annotations

from cni.invocation import Invocation
from cni.ipam import ipam_forward
from cni.kernel import Kernel
from cni.netconf import find_ipam
from cni.protocol import CniError, Code
from cni.store import Store
from sriov.errors import SriovError
from sriov.host.netlink import Links
from sriov.model import Host


def check_status(kernel: Kernel, store: Store, call: Invocation) -> None:
    """Raise CniError with code 50 where no ADD can succeed, 51 where attached VFs have no way out either.

    VFs that are all in use are no reason: the kubelet counts them, and a runtime that hears of it would call
    the whole node not ready. Then the network's IPAM plugin is asked.
    """
    try:
        store.check_writable()
        with Links.open() as host:
            raise_if_unfit(kernel.sysfs.scan(host.dump()))
    except CniError:
        raise
    except SriovError as error:
        raise CniError(Code.UNAVAILABLE, error.message, hint=error.hint) from error
    ipam = find_ipam(call.request.config)
    if ipam is not None:
        ipam_forward(ipam, call.request, call.timeout)


def raise_if_unfit(host: Host) -> None:
    """Raise CniError (50, 51) where no VF of this host can carry a pod's traffic."""
    pfs = [pf for pf in host.pfs if pf.num_vfs]
    if not pfs:
        unread = f" that can be read ({'; '.join(host.unreadable)})" if host.unreadable else ""
        raise CniError(Code.UNAVAILABLE, f"this node has no VF{unread}",
                       hint="`vfpool explain` on the node tells what stands in the way")
    dark = [pf.link.name for pf in pfs if pf.link is not None and not pf.link.carrier]
    if len(dark) == len(pfs):
        raise CniError(Code.LIMITED, f"no PF with VFs has a carrier: {', '.join(dark)}",
                       hint="check cables, transceivers and switch ports, and whether the PFs are up")
