"""Disks of the guest: ext4 images made without a mount, most of them of a folder of the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.host import get_program
from tests.lab.image import CHECKOUT, mkfs_command

SHIM = "cni/shim/vfpool"    # built, so git ignores it


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """An image, its ext4 label and where the guest mounts it.

    What the guest writes to a `writable` disk is gone with the boot, unless it is `kept`: then it is in the
    image as soon as the guest has written it back.
    """

    image: Path
    label: str
    mount: str
    writable: bool = False
    kept: bool = False

    def qemu_arguments(self) -> list[str]:
        mode = ("snapshot=off" if self.kept else "snapshot=on") if self.writable else "readonly=on"
        return [
            "-drive", f"if=none,id={self.label},file={self.image},format=raw,cache=unsafe,{mode}",
            "-device", f"virtio-blk-pci,drive={self.label},bus=pcie.0",
        ]

    def mount_line(self) -> str:
        """LABEL FOLDER OPTIONS, as the guest's init reads it."""
        return f"{self.label} {self.mount} {'rw' if self.writable else 'ro'},noatime\n"


def checkout_disk(scratch: Path) -> Disk:
    """The working tree (tracked and new files, not the ignored ones; the shim where built) at /vfpool."""
    listed = subprocess.run(
        [get_program("git"), "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT),
         "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False,
    )
    if listed.returncode != 0:
        raise LabError(f"git ls-files in {CHECKOUT}: {listed.stderr.decode().strip()}")
    folder = scratch / "checkout"
    for name in {*(os.fsdecode(name) for name in listed.stdout.split(b"\0") if name), SHIM}:
        source = CHECKOUT / name
        if source.is_symlink() or source.is_file():    # a tracked file may be deleted and not yet staged
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    return pack(folder, scratch / "checkout.img", label="checkout", mount="/vfpool", writable=True)


def pack(folder: Path, image: Path, *, label: str, mount: str, writable: bool = False) -> Disk:
    """An image with the folder's content and, where writable, half a GiB (sparse) to spare."""
    if not folder.is_dir():
        raise LabError(f"no folder {folder} to bring into the lab as {mount}")
    blocks = sum(path.lstat().st_size // 4096 + 2 for path in folder.rglob("*"))    # of 4 KiB, and an inode
    spare = 512 if writable else 16                                                 # MiB
    size = blocks * 4 * 11 // 10 + spare * 1024
    _run_mkfs(mkfs_command(folder, image, label=label, size=f"{size}k"), f"mkfs.ext4 of {folder}")
    return Disk(image=image, label=label, mount=mount, writable=writable)


def make_empty(image: Path, *, label: str, mount: str, size: str) -> Disk:
    """An empty disk, sparse, that outlives resets: kept and with a journal. `size` as mkfs has it: 8G."""
    _run_mkfs(mkfs_command(None, image, label=label, size=size, journal=True), f"mkfs.ext4 of {image}")
    return Disk(image=image, label=label, mount=mount, writable=True, kept=True)


def _run_mkfs(command: list[str], title: str) -> None:
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode != 0:
        raise LabError(f"{title}: exit status {made.returncode}: {made.stdout.strip()}")
