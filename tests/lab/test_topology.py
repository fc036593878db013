from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.errors import InputError
from tests.lab.topology import Pf, Topology

NODES = st.none() | st.integers(min_value=0, max_value=3)
TOPOLOGIES = st.builds(
    lambda nodes, iommu, cpus, memory: Topology(
        pfs=tuple(Pf(numa_node=node) for node in nodes), iommu=iommu, cpus=cpus, memory=memory
    ),
    st.lists(NODES, max_size=8), st.booleans(), st.integers(1, 8), st.integers(512, 8192),
)


def values(topology: Topology, option: str) -> list[str]:
    """The values of an option, in order."""
    arguments = topology.qemu_arguments()
    return [value for name, value in zip(arguments[::2], arguments[1::2], strict=True) if name == option]


def test_default_has_a_pf_on_each_of_two_numa_nodes_and_one_on_none():
    topology = Topology()
    assert [pf.numa_node for pf in topology.pfs] == [0, 1, None]
    devices = values(topology, "-device")
    assert "pxb-pcie,id=node0,bus=pcie.0,bus_nr=0x20,numa_node=0" in devices
    assert "pxb-pcie,id=node1,bus=pcie.0,bus_nr=0x40,numa_node=1" in devices
    assert [device for device in devices if device.startswith("pcie-root-port")] == [
        "pcie-root-port,id=port0,bus=node0,chassis=1",
        "pcie-root-port,id=port1,bus=node1,chassis=2",
        "pcie-root-port,id=port2,bus=pcie.0,chassis=3",
    ]


@given(TOPOLOGIES)
def test_memory_of_the_nodes_adds_up_and_every_cpu_has_one_node(topology):
    sizes = [int(m[1]) for value in values(topology, "-object") if (m := re.search(r"size=(\d+)M", value))]
    cpus = [cpu for value in values(topology, "-numa") for cpu in re.findall(r"cpus=(\d+)", value)]
    assert len(sizes) == len(topology.nodes)
    if topology.nodes:
        assert sum(sizes) == topology.memory
        assert sorted(map(int, cpus)) == list(range(topology.cpus))


@given(TOPOLOGIES)
def test_every_pf_has_a_port_of_its_own_and_all_share_one_wire(topology):
    nics = [device for device in values(topology, "-device") if device.startswith("igb,")]
    assert len(nics) == len(set(nics)) == len(topology.pfs)
    assert len({mac for nic in nics for mac in re.findall(r"mac=(\S+)", nic)}) == len(topology.pfs)
    assert {value.partition("hubid=")[2] for value in values(topology, "-netdev")} <= {"0"}


@given(TOPOLOGIES)
def test_every_bus_named_exists_and_every_bridge_names_its_own(topology):
    devices = [device for device in values(topology, "-device") if not device.startswith("intel-iommu")]
    known = {"pcie.0", *(name for device in devices for name in re.findall(r"\bid=(\w+)", device))}
    for device in devices:
        assert set(re.findall(r"\bbus=([\w.]+)", device)) <= known
        assert "bus=" in device


def test_without_an_iommu_neither_qemu_nor_the_kernel_hears_of_one():
    topology = Topology(iommu=False)
    assert not any("iommu" in argument for argument in topology.qemu_arguments())
    assert topology.kernel_arguments() == []
    assert Topology().kernel_arguments() == ["intel_iommu=on", "iommu=pt"]


@pytest.mark.parametrize(
    "wrong",
    [{"pfs": (Pf(),) * 9}, {"pfs": (Pf(numa_node=4),)}, {"pfs": (Pf(numa_node=-2),)}, {"memory": 64}, {"cpus": 0}],
)
def test_what_no_machine_can_have_is_refused(wrong):
    with pytest.raises(InputError, match="a lab machine has"):
        Topology(**wrong)
