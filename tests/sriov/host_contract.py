"""What holds for every `Host` that a scan returns, of a synthetic tree as of a real kernel."""

import re

from sriov.model import Host
from sriov.pci import PciAddress

ID = re.compile(r"[0-9a-f]{4}")


def check_host(host: Host) -> None:
    """Sorted, complete where nothing was unreadable, and everything points to where it belongs."""
    addresses = [pf.address for pf in host.pfs] + [vf.address for vf in host.vfs]
    assert len(addresses) == len(set(addresses))
    assert [pf.address for pf in host.pfs] == sorted((pf.address for pf in host.pfs), key=lambda each: each.order)
    for pf in host.pfs:
        assert [vf.index for vf in pf.vfs] == sorted({vf.index for vf in pf.vfs})
        assert 0 <= pf.num_vfs <= pf.total_vfs
        for vf in pf.vfs:
            assert vf.pf == pf.address
            assert 0 <= vf.index < pf.total_vfs
            assert host.find_vf(vf.address) is vf
        for function in (pf, *pf.vfs):
            assert PciAddress.parse(function.address) == function.address
            assert ID.fullmatch(function.vendor)
            assert ID.fullmatch(function.device)
            assert function.numa_node is None or function.numa_node >= 0
            assert function.iommu_group is None or function.iommu_group >= 0
            assert function.link is None or function.link.pci in (None, function.address)


def check_all_vfs_found(host: Host) -> None:
    """Nothing was unreadable and no PF is in the middle of a change: as many VFs as numVfs says."""
    assert host.unreadable == ()
    for pf in host.pfs:
        assert len(pf.vfs) == pf.num_vfs
