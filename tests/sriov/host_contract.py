"""What holds for every `Host` that a scan returns, of a synthetic tree as of a real kernel."""

import re

from sriov.model import Host
from sriov.pci import PciAddress

ID = re.compile(r"[0-9a-f]{4}")


def check_host(host: Host) -> None:
    """Sorted, complete where nothing was unreadable, and everything points to where it belongs."""
    functions = (*host.pfs, *host.vfs, *host.others)
    addresses = [function.address for function in functions]
    assert len(addresses) == len(set(addresses))
    for listed in (host.pfs, host.others):
        assert [each.address for each in listed] == sorted(
            (each.address for each in listed), key=lambda address: address.order)
    for pf in host.pfs:
        assert [vf.index for vf in pf.vfs] == sorted({vf.index for vf in pf.vfs})
        assert 0 <= pf.num_vfs <= pf.total_vfs
        assert pf.speed is None or pf.speed > 0
        for vf in pf.vfs:
            assert vf.pf == pf.address
            assert vf.pci_class == pf.pci_class
            assert 0 <= vf.index < pf.total_vfs
            assert host.find_vf(vf.address) is vf
    for function in functions:
        assert PciAddress.parse(function.address) == function.address
        assert ID.fullmatch(function.vendor)
        assert ID.fullmatch(function.device)
        assert 0 <= function.pci_class < 1 << 24
        assert function.path[-1] == function.address
        assert function.numa_node is None or function.numa_node >= 0
        assert function.iommu_group is None or function.iommu_group >= 0
        assert function.iommu_group is not None or not function.noiommu
        assert function.userspace or (not function.noiommu and function.vfio_device is None)
        assert function.link is None or function.link.pci in (None, function.address)
        for device in function.rdma:
            assert list(device.nodes) == sorted(device.nodes)
        assert list(function.rdma) == sorted(function.rdma, key=lambda device: device.name)


def check_all_vfs_found(host: Host) -> None:
    """Nothing was unreadable and no PF is in the middle of a change: as many VFs as numVfs says."""
    assert host.unreadable == ()
    for pf in host.pfs:
        assert len(pf.vfs) == pf.num_vfs
