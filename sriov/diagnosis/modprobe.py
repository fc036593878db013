"""Kernel modules as kmod's files describe them: which there are, which PCI ids each takes, which may not load.

Formats: modprobe.d(5), modules.dep(5); `modules.alias` and `modules.builtin` are depmod's and the kernel build's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_PCI_ALIAS = re.compile(r"^alias pci:v0000([0-9A-F]{4})d0000([0-9A-F]{4})sv\S* (\S+)$", re.MULTILINE)
_NOTHING = {"true", "false", ":"}
# What the kernel and modprobe take from the kernel's command line; the second leaves `modprobe NAME` alone.
_OPTIONS = {"module_blacklist": True, "modprobe.blacklist": False}

Ids = tuple[str, str]                 # vendor and device, four hex digits each


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What keeps a module from loading: always, or only when the kernel finds a device for it."""

    module: str
    place: str                        # "blacklist in /etc/modprobe.d/virt.conf:3"
    always: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Modules of the running kernel. `names` None: its list cannot be read, as in a container without it."""

    names: frozenset[str] | None = None
    by_ids: Mapping[Ids, tuple[str, ...]] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()

    def has(self, module: str) -> bool | None:
        """Whether this kernel has the module; None where that cannot be told."""
        return None if self.names is None else module_name(module) in self.names

    def for_ids(self, vendor: str, device: str) -> tuple[str, ...]:
        """The modules whose drivers take such a device."""
        return self.by_ids.get((vendor, device), ())

    def find_block(self, module: str, *, by_name: bool) -> Block | None:
        """What keeps the module from being loaded by its name, or for a device that the kernel finds."""
        name = module_name(module)
        blocks = (block for block in self.blocks if block.module == name and (block.always or not by_name))
        return next(blocks, None)


def module_name(driver: str) -> str:
    """The name that the kernel's own files give a module: `vfio_pci` of `vfio-pci`."""
    return driver.replace("-", "_")


def parse_modprobe(text: str, path: str) -> Iterator[Block]:
    """What a file of modprobe.d keeps from loading; whatever else it says is left aside."""
    for line, words in _commands(text):
        if words[0] == "blacklist" and len(words) > 1:
            yield Block(module=module_name(words[1]), place=f"blacklist in {path}:{line}", always=False)
        elif words[0] == "install" and len(words) > 2 and words[2].rpartition("/")[2] in _NOTHING:
            yield Block(module=module_name(words[1]), place=f"install {words[2]} in {path}:{line}", always=True)


def parse_boot_options(options: Sequence[str]) -> Iterator[Block]:
    """What the kernel's command line keeps from loading."""
    for option in options:
        key, _, names = option.partition("=")
        if key in _OPTIONS:
            for name in filter(None, names.split(",")):
                yield Block(module=module_name(name), place=f"{option} on the kernel's command line",
                            always=_OPTIONS[key])


def parse_module_names(*texts: str) -> frozenset[str]:
    """The modules that the lines of modules.dep and modules.builtin begin with."""
    paths = (line.partition(":")[0] for text in texts for line in text.splitlines())
    names = (path.rpartition("/")[2].partition(".ko")[0] for path in paths)
    return frozenset(module_name(name) for name in names if name)


def parse_pci_aliases(text: str) -> Mapping[Ids, tuple[str, ...]]:
    """Modules by the vendor and device ids that modules.alias names for them."""
    found: dict[Ids, tuple[str, ...]] = {}
    for vendor, device, module in _PCI_ALIAS.findall(text):
        key = vendor.lower(), device.lower()
        if module not in found.get(key, ()):
            found[key] = (*found.get(key, ()), module)
    return found


def order_files(paths: Iterable[str]) -> list[str]:
    """The files that count, as modprobe reads them: by name; of two with one name the first given."""
    first: dict[str, str] = {}
    for path in paths:
        if path.endswith(".conf"):
            first.setdefault(path.rpartition("/")[2], path)
    return [path for _, path in sorted(first.items())]


def _commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each command; a backslash at the end of a line joins the next one to it."""
    begun, pending = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        begun = begun if pending else number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        words, pending = pending.split(), ""
        if words and not words[0].startswith("#"):
            yield begun, words
