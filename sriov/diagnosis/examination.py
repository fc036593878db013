"""Reads the symptoms: files of sysfs, /proc and modprobe's configuration. Nothing here ever raises for a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sriov.diagnosis.modprobe import (
    Block,
    Modules,
    order_files,
    parse_boot_options,
    parse_modprobe,
    parse_module_names,
    parse_pci_aliases,
)
from sriov.diagnosis.symptoms import Capability, Symptoms, parse_resources
from sriov.host.sysfile import Malformed, list_folder, read_if_any, say
from sriov.model import Host, PhysicalFunction
from sriov.pci import PciAddress

_MODPROBE = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
_MODULES = "lib/modules", "usr/lib/modules"

_Value = TypeVar("_Value")


class Examination:
    """One look at what is below `sysfs`, at the kernel's `proc`, and for all else below `root`, the host's /."""

    def __init__(self, sysfs: Path, root: Path, proc: Path = Path("/proc")) -> None:
        self._sysfs = os.fspath(sysfs)
        self._root = os.fspath(root)
        self._proc = os.fspath(proc)
        self._unreadable: list[str] = []

    def examine(self, host: Host) -> Symptoms:
        """The symptoms; what could not be read is None or empty, and named in `unreadable`."""
        options = (self._try(lambda: read_if_any(f"{self._proc}/cmdline"), None) or "").split()
        return Symptoms(
            has_iommu=self._try(self._find_iommu, None),
            boot_options=tuple(options),
            drivers=frozenset(self._list(f"{self._sysfs}/bus/pci/drivers")),
            modules=self._modules(options),
            capabilities={pf.address: self._capability(pf) for pf in host.pfs},
            unreadable=tuple(sorted(self._unreadable)),
        )

    def _find_iommu(self) -> bool:
        """Whether there is any IOMMU group but the make-believe ones of vfio's noiommu mode."""
        folder = f"{self._sysfs}/kernel/iommu_groups"
        return any(read_if_any(f"{folder}/{group}/name") != "vfio-noiommu" for group in list_folder(folder))

    def _modules(self, options: Sequence[str]) -> Modules:
        release = self._try(lambda: read_if_any(f"{self._proc}/sys/kernel/osrelease"), None)
        listed, builtin, aliases = (
            self._find_module_file(release, name) if release else None
            for name in ("modules.dep", "modules.builtin", "modules.alias"))
        return Modules(
            names=None if listed is None else parse_module_names(listed, builtin or ""),
            by_ids=parse_pci_aliases(aliases or ""),
            blocks=(*self._blocks(), *parse_boot_options(options)),
        )

    def _find_module_file(self, release: str, name: str) -> str | None:
        # /lib is a link to /usr/lib, which a container may have of the host without the link.
        texts = (self._text(self._path(f"{folder}/{release}/{name}")) for folder in _MODULES)
        return next((text for text in texts if text is not None), None)

    def _blocks(self) -> list[Block]:
        folders = [self._path(folder) for folder in _MODPROBE]
        blocks: list[Block] = []
        for path in order_files(f"{folder}/{name}" for folder in folders for name in self._list(folder)):
            blocks += parse_modprobe(self._text(path) or "", "/" + os.path.relpath(path, self._root))
        return blocks

    def _capability(self, pf: PhysicalFunction) -> Capability:
        vf_device = self._fact(pf.address, "sriov_vf_device")
        return Capability(
            offset=self._number(pf.address, "sriov_offset"), stride=self._number(pf.address, "sriov_stride"),
            vf_device=vf_device and vf_device.zfill(4),    # the kernel prints it with %x
            last_bus=self._number(pf.path[-2], "subordinate_bus_number") if len(pf.path) > 1 else None,
            has_memory=parse_resources(self._fact(pf.address, "resource") or ""),
        )

    def _list(self, folder: str) -> list[str]:
        return self._try(lambda: list_folder(folder), [])

    def _number(self, address: PciAddress, file: str) -> int | None:
        text = self._fact(address, file)
        return int(text) if text is not None and text.isdecimal() else None

    def _fact(self, address: PciAddress, file: str) -> str | None:
        return self._try(lambda: read_if_any(f"{self._sysfs}/bus/pci/devices/{address}/{file}"), None)

    def _text(self, path: str) -> str | None:
        """A file of any size; None where there is none."""
        def load() -> str | None:
            try:
                return Path(path).read_text("utf-8", "replace")
            except FileNotFoundError:
                return None

        return self._try(load, None)

    def _path(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _try(self, reading: Callable[[], _Value], otherwise: _Value) -> _Value:
        try:
            return reading()
        except (OSError, Malformed) as error:
            self._unreadable.append(f"cannot read {say(error)}")
            return otherwise
