"""Applying pool files on a real kernel: VFs that are in use, and drivers that udev loads at the same time."""

import fcntl
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sriov.host.sysfs import Sysfs
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import Terms, apply_pool_file
from sriov.provision.executor import Executor
from tests.support import node
from tests.support.node import wait_for

pytestmark = pytest.mark.lab

COUNT = 7
# linux/vfio.h: _IO(';', 100 + n)
VFIO_SET_IOMMU, VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_GET_DEVICE_FD = 0x3B66, 0x3B68, 0x3B6A
VFIO_TYPE1_IOMMU = 1


@pytest.fixture
def pf():
    """A PF without VFs, before and after."""
    pf = node.pfs()[0]
    yield pf
    Sysfs().write_num_vfs(pf.address, 0)
    subprocess.run(["modprobe", "igbvf"], check=True)
    node.run("udevadm", "settle")


def apply(pf, driver, sysfs=None):
    return apply_pool_file(Executor(sysfs or Sysfs()), parse_pool_file(f"""
apiVersion: vfpool.io/v1alpha1
kind: PoolFile
physicalFunctions:
  - {{match: {{address: '{pf.address}'}}, numVfs: {COUNT}}}
pools:
  - {{resource: sriov, driver: {driver}, select: [{{pf: '{pf.link.name}'}}]}}
""", "pools.yaml"), Terms(in_use=lambda vf: False)).problems


def vfs_of(pf):
    return next(now for now in node.pfs() if now.address == pf.address).vfs


@contextmanager
def opened(path):
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_vf_keeps_its_driver_while_a_process_has_it_open(pf):
    """As a DPDK program: Documentation/driver-api/vfio.rst of the kernel."""
    assert apply(pf, "vfio-pci") == ()
    vf, *others = vfs_of(pf)
    group = Path(f"/dev/vfio/{vf.iommu_group}")
    wait_for("the group's device node", group.is_char_device)
    with ExitStack() as stack:
        container, group = (stack.enter_context(opened(path)) for path in ("/dev/vfio/vfio", group))
        fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER, container.to_bytes(4, "little"))
        fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU)
        device = fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bytearray(vf.address.encode() + b"\0"))
        stack.callback(os.close, device)
        (refused,) = apply(pf, "kernel")
        assert refused.startswith(f"cannot bind VF {vf.address} to kernel (now vfio-pci): a process has it open")
        assert [each.driver for each in vfs_of(pf)] == ["vfio-pci", *["igbvf" for _ in others]]
    assert apply(pf, "kernel") == ()
    assert {each.driver for each in vfs_of(pf)} == {"igbvf"}


class Watching(Sysfs):
    """Keeps what drivers may probe the VFs at the moment when the kernel lets any driver probe them."""

    def write_autoprobe(self, pf, enabled):
        if enabled:
            device = Path("/sys/bus/pci/devices", pf)
            self.overrides = [(vf / "driver_override").read_text().strip() for vf in device.glob("virtfn*")]
        super().write_autoprobe(pf, enabled)


@pytest.mark.parametrize(("driver", "override"), [("vfio-pci", "vfio-pci"), ("kernel", "(null)")])
def test_no_driver_probes_new_vfs_that_it_would_lose_again(pf, driver, override):
    sysfs = Watching()
    assert apply(pf, driver, sysfs) == ()
    assert sysfs.overrides == [override] * COUNT


@contextmanager
def coming_and_going(module):
    """The module is loaded and unloaded all the while: its driver tries every VF, and lets go of it again."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            for how in ("--", "--remove"):    # fails while the other one's work is not done
                subprocess.run(["modprobe", how, module], capture_output=True, check=False)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield
        finally:
            stop.set()
            done.result()


def test_binding_while_the_kernels_own_driver_is_loaded_and_unloaded(pf):
    """As udev loads it when VFs appear: what fails here waits for the agent's next try."""
    assert apply(pf, "vfio-pci") == ()
    sysfs = Sysfs()
    with coming_and_going("igbvf"):
        for _ in range(10):
            for vf in vfs_of(pf):
                sysfs.set_driver_override(vf.address, None)
                sysfs.unbind(vf.address)
            assert apply(pf, "vfio-pci") == ()
            assert {vf.driver for vf in vfs_of(pf)} == {"vfio-pci"}
