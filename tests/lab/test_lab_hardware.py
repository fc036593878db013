"""What the project relies on in the emulated hardware; asked of the kernel without the project's code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.topology import VFS_PER_PF

pytestmark = pytest.mark.lab

PCI = Path("/sys/bus/pci")


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def pfs() -> list[Path]:
    """The PFs' folders in sysfs, in the order of the topology: its MAC addresses count up."""
    found = [path.parent for path in (PCI / "devices").glob("*/sriov_totalvfs")]
    return sorted(found, key=lambda pf: (netdev(pf) / "address").read_text())


def netdev(device: Path) -> Path:
    [path] = (device / "net").iterdir()
    return path


def vfs(pf: Path) -> list[Path]:
    return sorted((path.resolve() for path in pf.glob("virtfn*")), key=lambda vf: vf.name)


@pytest.fixture
def pf() -> Iterator[Path]:
    """The first PF, up, with all its VFs; afterwards it is as it was."""
    pf = pfs()[0]
    name = netdev(pf).name
    run("ip", "link", "set", name, "up")    # igbvf gets no answer from a PF that is down
    (pf / "sriov_numvfs").write_text(str(VFS_PER_PF))
    run("udevadm", "settle")
    yield pf
    (pf / "sriov_numvfs").write_text("0")
    run("ip", "link", "set", name, "down")
    run("udevadm", "settle")


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    names = ("left", "right")
    for name in names:
        run("ip", "netns", "add", name)
    yield names
    for name in names:
        run("ip", "netns", "delete", name)


def test_this_qemu_delivers_the_pf_mailbox_interrupt():
    """10.0.2 does not. The guest's root is the tree whose QEMU the host runs."""
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", run("qemu-system-x86_64", "--version"))
    assert found is not None
    assert tuple(map(int, found.groups())) >= (10, 0, 13)


def test_three_pfs_on_numa_nodes_0_and_1_and_none():
    assert [int((pf / "numa_node").read_text()) for pf in pfs()] == [0, 1, -1]
    for pf in pfs():
        assert (pf / "driver").resolve().name == "igb"
        assert (pf / "vendor").read_text() + (pf / "device").read_text() == "0x8086\n0x10c9\n"
        assert int((pf / "sriov_totalvfs").read_text()) == VFS_PER_PF
        assert int((pf / "sriov_numvfs").read_text()) == 0


def test_vf_netdevs_appear_and_udev_names_them_by_pf_and_index(pf):
    assert len(vfs(pf)) == VFS_PER_PF
    for vf in vfs(pf):
        assert (vf / "driver").resolve().name == "igbvf"
        assert (vf / "device").read_text() == "0x10ca\n"
    names = {netdev((pf / f"virtfn{n}").resolve()).name for n in range(VFS_PER_PF)}
    assert names == {f"{netdev(pf).name}v{n}" for n in range(VFS_PER_PF)}


def test_vfs_take_the_numa_node_of_their_pf(pf):
    assert {(vf / "numa_node").read_text() for vf in vfs(pf)} == {(pf / "numa_node").read_text()}


def test_each_vf_has_an_iommu_group_and_vfio_pci_binds_it(pf):
    groups = {(vf / "iommu_group").resolve() for vf in vfs(pf)}
    assert len(groups) == VFS_PER_PF
    assert all(len(list((group / "devices").iterdir())) == 1 for group in groups)

    run("modprobe", "vfio-pci")
    vf = vfs(pf)[0]
    (vf / "driver_override").write_text("vfio-pci")
    (vf / "driver/unbind").write_text(vf.name)
    (PCI / "drivers_probe").write_text(vf.name)
    assert (vf / "driver").resolve().name == "vfio-pci"
    assert Path("/dev/vfio", (vf / "iommu_group").resolve().name).is_char_device()

    (vf / "driver_override").write_text("\n")
    (vf / "driver/unbind").write_text(vf.name)
    (PCI / "drivers_probe").write_text(vf.name)
    assert (vf / "driver").resolve().name == "igbvf"


def test_vfs_of_one_pf_reach_each_other_and_vlans_part_them(pf, namespaces):
    def ping(*options: str) -> int:
        argv = ["ip", "netns", "exec", namespaces[0], "ping", "-q", *options, "192.0.2.2"]
        return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode

    uplink = netdev(pf).name
    for n, namespace in enumerate(namespaces):
        name = netdev((pf / f"virtfn{n}").resolve()).name
        run("ip", "link", "set", name, "netns", namespace)
        run("ip", "-n", namespace, "address", "add", f"192.0.2.{n + 1}/24", "dev", name)
        run("ip", "-n", namespace, "link", "set", name, "up")
    assert ping("-c", "1", "-w", "20") == 0
    run("ip", "link", "set", uplink, "vf", "0", "vlan", "100")
    run("ip", "link", "set", uplink, "vf", "1", "vlan", "200")
    assert ping("-c", "3", "-i", "0.2", "-W", "1") == 1
    run("ip", "link", "set", uplink, "vf", "1", "vlan", "100")
    assert ping("-c", "1", "-w", "20") == 0
