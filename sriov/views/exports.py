"""The node and its pools as JSON documents: every field of the model, null where there is none."""

from __future__ import annotations

from collections.abc import Mapping

from sriov.model import Host, Link, PciFunction
from sriov.pools.assignment import Assignment

Json = Mapping[str, object]


def host_document(host: Host) -> Json:
    """JSON of `discover`; `unreadable` says what could not be looked at."""
    return {
        "physicalFunctions": [
            {
                **function_document(pf), "numVfs": pf.num_vfs, "totalVfs": pf.total_vfs, "speed": pf.speed,
                "eswitch": pf.eswitch, "firmwarePackage": pf.firmware_package, "autoprobe": pf.autoprobe,
                "virtualFunctions": [
                    {"index": vf.index, **function_document(vf), "netdevElsewhere": vf.away} for vf in pf.vfs
                ],
            }
            for pf in host.pfs
        ],
        "others": [function_document(other) for other in host.others],
        "unreadable": list(host.unreadable),
    }


def assignment_document(host: Host, assignment: Assignment) -> Json:
    """JSON of pools and their VFs; `fault` null means healthy."""
    return {
        "resources": {
            resource: [{"address": member.vf.address, "fault": member.fault} for member in members]
            for resource, members in assignment.members.items()
        },
        "leftOut": dict(assignment.left_out),
        "unreadable": list(host.unreadable),
    }


def function_document(function: PciFunction) -> dict[str, object]:
    """What all functions have; `class` is six hex digits, `lastNetdev` what is known of a netdev that a pod has."""
    return {
        "address": function.address, "vendor": function.vendor, "device": function.device,
        "class": f"{function.pci_class:06x}", "path": list(function.path), "acpiIndex": function.acpi_index,
        "driver": function.driver, "numaNode": function.numa_node, "iommuGroup": function.iommu_group,
        "noiommu": function.noiommu, "vfioDevice": function.vfio_device,
        "rdma": [{"name": device.name, "nodes": list(device.nodes)} for device in function.rdma],
        "netdev": _link_document(function.link), "lastNetdev": _link_document(function.last_link),
        "ties": list(function.ties),
    }


def _link_document(link: Link | None) -> dict[str, object] | None:
    if link is None:
        return None
    return {
        "name": link.name, "altnames": list(link.altnames), "index": link.index, "mac": link.mac, "mtu": link.mtu,
        "up": link.up, "carrier": link.carrier, "kind": link.kind, "pci": link.pci, "port": link.port,
        "master": link.master, "lower": link.lower, "software": link.software,
    }
