"""A running lab machine: boots, offers its channel, and never outlives its parent."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.accel import accelerator
from tests.lab.channel import Channel, Keys
from tests.lab.child import bound_to_parent
from tests.lab.console import Console
from tests.lab.disk import Disk, checkout_disk, pack
from tests.lab.errors import LabError
from tests.lab.host import check_host, install_missing_packages
from tests.lab.image import Image, build_image
from tests.lab.progress import Progress
from tests.lab.scratch import scratch_folder
from tests.lab.topology import Topology

BOOT_SECONDS = 300
READY = b"vfpool-lab ready"
PORT_TAKEN = b"Could not set up host forwarding rule"
ENVIRONMENT = {
    "VFPOOL_IN_LAB": "1",
    "PYTHONPATH": "/vfpool",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}


class Machine:
    """`with Machine(topology) as machine: machine.channel.run(["ip", "link"])`.

    Every boot starts from the pristine image, with the working tree as it is now at /vfpool. `shares`
    maps folders of the guest to folders here, brought in read-only; VFPOOL_PEERS is one where it is set.
    `disks` are more of them, made by the caller. The guest reaches nothing of this machine, unless there
    are `forwards`: then this machine's loopback is its 10.0.2.2, and each of these ports on 127.0.0.1 is the
    same port there.
    Booted by a thread that ends, QEMU ends with it: the kernel's parent-death signal goes by thread.
    """

    def __init__(
        self, topology: Topology | None = None, shares: Mapping[str, Path] | None = None, *,
        disks: Sequence[Disk] = (), forwards: Sequence[int] = (),
    ) -> None:
        self.topology = topology or Topology()
        self._shares = dict(shares or {})
        self._more_disks = tuple(disks)
        self._forwards = tuple(forwards)
        self._environment = dict(ENVIRONMENT)
        peers_given = any(disk.mount == "/peers" for disk in disks)
        if (peers := os.environ.get("VFPOOL_PEERS")) and not peers_given:
            self._shares.setdefault("/peers", Path(peers))
        if "/peers" in self._shares or peers_given:
            self._environment["VFPOOL_PEERS"] = "/peers"
        self._stack = ExitStack()
        self._hardware: _Hardware | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._console = Console()
        self._channel: Channel | None = None

    @property
    def channel(self) -> Channel:
        if self._channel is None:
            raise LabError("the lab machine is not running", hint="enter it: with Machine() as machine")
        return self._channel

    @property
    def alive(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def console_tail(self, lines: int = 40) -> str:
        """The last lines of the serial console and of what QEMU itself said."""
        return self._console.tail(lines)

    def __enter__(self) -> Self:
        check_host()
        install_missing_packages()
        image = build_image()
        try:
            scratch = self._stack.enter_context(scratch_folder("vfpool-lab-"))
            self._hardware = self._assemble(image, scratch)
            self._boot(self._hardware)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def power_off(self, timeout: float = 60) -> None:
        """Ask the guest to write everything back and power off, and wait until it has."""
        self.channel.popen(["kill", "-TERM", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
        assert self._qemu is not None
        try:
            self._qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"the lab did not power off within {timeout:g} s:\n{self.console_tail()}") from None

    def reset(self) -> None:
        """Cut the power and boot again, with the same disks, keys and forwards; LabError as at the start.

        All is pristine again but for the `kept` disks: they have what the guest had written back.
        """
        if self._hardware is None:
            raise LabError("the lab machine is not running", hint="enter it: with Machine() as machine")
        self._end()
        self._boot(self._hardware)

    def stop(self) -> None:
        """End the guest at once, written back or not; nothing where it has ended already."""
        self._end()
        self._hardware = None
        self._stack.close()

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._console.join()
            self._qemu = None

    def _assemble(self, image: Image, scratch: Path) -> _Hardware:
        disks = [checkout_disk(scratch)]
        for number, (mount, folder) in enumerate(sorted(self._shares.items())):
            disks.append(pack(folder, scratch / f"share{number}.img", label=f"share{number}", mount=mount))
        disks += self._more_disks
        (scratch / "mounts").write_text("".join(disk.mount_line() for disk in disks))
        return _Hardware(image=image, scratch=scratch, keys=Keys.make(scratch), disks=tuple(disks))

    def _boot(self, hardware: _Hardware) -> None:
        Progress("lab").note("booting the VM")
        for attempt in range(5):
            port = _free_port()
            self._console = Console()
            command = self._arguments(hardware, port)
            self._qemu = subprocess.Popen(
                bound_to_parent(command),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            self._console.follow(self._qemu)
            if self._console.wait_for(READY, BOOT_SECONDS):
                break
            status = self._exit_status()
            if PORT_TAKEN in self._console.content():    # another took the port between look and use
                continue
            if status is None or attempt:
                state = "is still not up" if status is None else f"ended (QEMU's exit status {status})"
                raise LabError(
                    f"the lab {state}, at most {BOOT_SECONDS} s after its start:\n{self.console_tail()}"
                )
            Progress("lab").note(f"QEMU ended with status {status} while the VM booted, trying once more")
        else:
            raise LabError(f"no free ports on 127.0.0.1 in 5 attempts:\n{self.console_tail(5)}")
        # A folder for each boot: ssh takes a control socket that is left of the last for a live one.
        folder = Path(tempfile.mkdtemp(dir=hardware.scratch))
        self._channel = Channel(folder, hardware.keys, port, self._environment)
        try:
            self._channel.open()
        except LabError as error:
            error.add_note(self.console_tail())
            raise

    def _exit_status(self) -> int | None:
        """QEMU's exit status; None where it still runs. Its console ends a moment before it does."""
        assert self._qemu is not None
        try:
            return self._qemu.wait(2)
        except subprocess.TimeoutExpired:
            return None

    def _arguments(self, hardware: _Hardware, port: int) -> list[str]:
        image, scratch, keys = hardware.image, hardware.scratch, hardware.keys
        kernel = [
            "root=/dev/vda", "rootfstype=ext4", "rw", "init=/usr/local/sbin/lab-init", "console=ttyS0",
            "loglevel=5", "panic=-1", "modprobe.blacklist=kvm_amd,kvm_intel,iTCO_wdt",    # slow, of no use here
            # The kernel waits for ten ticks by counting instructions, and panics where a busy host brings them late
            # (check_timer in arch/x86/kernel/apic/io_apic.c).
            "no_timer_check",
            *self.topology.kernel_arguments(),
        ]
        return [
            *image.qemu(), *accelerator(image), *self.topology.qemu_arguments(),
            "-nodefaults", "-display", "none", "-no-reboot",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", " ".join(kernel),
            "-drive", f"if=none,id=root,file={image.disk},format=raw,snapshot=on,cache=unsafe",
            "-device", "virtio-blk-pci,drive=root,bus=pcie.0",
            *(argument for disk in hardware.disks for argument in disk.qemu_arguments()),
            "-netdev", way_in(port, self._forwards),
            "-device", "virtio-net-pci,netdev=way-in,bus=pcie.0,romfile=",
            "-fw_cfg", f"name=opt/vfpool/host_key,file={keys.host}",
            "-fw_cfg", f"name=opt/vfpool/authorized_keys,file={keys.user}.pub",
            "-fw_cfg", f"name=opt/vfpool/mounts,file={scratch}/mounts",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hardware:
    """What is the same for every boot of one machine."""

    image: Image
    scratch: Path
    keys: Keys
    disks: tuple[Disk, ...]


def way_in(ssh: int, forwards: Sequence[int]) -> str:
    """QEMU's netdev: closed, or open to this machine's loopback where ports are forwarded."""
    # QEMU's IPv6 router announces itself, so the guest would take it for a default route.
    opened = "restrict=off,ipv6=off" if forwards else "restrict=on"
    ports = [(ssh, 22), *((port, port) for port in forwards)]
    return ",".join([
        "user", "id=way-in", opened, *(f"hostfwd=tcp:127.0.0.1:{here}-10.0.2.15:{there}" for here, there in ports),
    ])


def _free_port() -> int:
    """A TCP port that nothing on 127.0.0.1 uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
