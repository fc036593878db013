"""What a pod asks for in its networks annotation, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cni.grammar import Address
from sriov.pci import MacAddress

MOST_NETWORKS = 64        # of a pod: each may cost a call of the API server while the pod waits


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    host_port: int
    container_port: int
    protocol: str = "TCP"
    host_ip: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bits per second, and bits; 0: not limited."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRef:
    """One attachment that a pod asks for. `index` is its place in the list, `interface` None: `net<index + 1>`."""

    index: int
    namespace: str
    name: str
    interface: str | None = None
    mac: MacAddress | None = None
    ips: tuple[Address, ...] = ()
    guid: str | None = None
    cni_args: Mapping[str, Any] = field(default_factory=dict)
    default_route: tuple[Address, ...] | None = None       # (): takes the default network's route away
    port_mappings: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    ipam_claim: str | None = None

    @property
    def path(self) -> str:
        return f"networks[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """A valid annotation. `warnings` are about what is allowed, but hardly meant."""

    refs: tuple[NetworkRef, ...] = ()
    warnings: tuple[str, ...] = ()
