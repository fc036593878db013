"""Ranges as an admin writes them: VF indices like `0-3,6`, link speeds like `>=25G`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sriov.errors import InputError

MAX_VFS = 65535                       # TotalVFs is a 16-bit register (PCIe specification, SR-IOV capability)

_SPAN = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_SPEED = re.compile(r"(>=|<=)? ?(?:([1-9]\d{0,6})|([1-9]\d{0,3})G)", re.ASCII)


@dataclass(frozen=True, slots=True)
class VfIndices:
    """VF numbers as inclusive spans, sorted, apart from each other: `0-3,6` is ((0, 3), (6, 6))."""

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> VfIndices:
        """Take `6`, `0-3` or `0-3,6`; raise InputError for anything else."""
        spans = []
        for part in text.split(","):
            match = _SPAN.fullmatch(part.strip())
            if match is None:
                raise InputError(f"expected an index range like 0-3, got {text!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise InputError(f"expected an index range like 0-3, got {text!r}: it counts down")
            if last > MAX_VFS:
                raise InputError(f"expected VF indices up to {MAX_VFS}, got {text!r}")
            spans.append((first, last))
        return cls.merge(spans)

    @classmethod
    def merge(cls, spans: Sequence[tuple[int, int]]) -> VfIndices:
        merged: list[tuple[int, int]] = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    def __contains__(self, index: int) -> bool:
        return any(first <= index <= last for first, last in self.spans)

    def __and__(self, other: VfIndices) -> VfIndices:
        """The indices that both have, maybe none."""
        return VfIndices(tuple(self._common(other)))

    def meets(self, other: VfIndices) -> bool:
        return any(True for _ in self._common(other))

    def covers(self, other: VfIndices) -> bool:
        return self & other == other

    def _common(self, other: VfIndices) -> Iterator[tuple[int, int]]:
        """The spans that both have: whichever ends first cannot meet what comes next in the other."""
        mine, others = 0, 0
        while mine < len(self.spans) and others < len(other.spans):
            (first, last), (start, end) = self.spans[mine], other.spans[others]
            if max(first, start) <= min(last, end):
                yield max(first, start), min(last, end)
            if last < end:
                mine += 1
            else:
                others += 1

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in self.spans)


def name_indices(indices: Sequence[int]) -> str:
    """`VF 3` or `VFs 0-2,7`; at least one."""
    merged = VfIndices.merge([(index, index) for index in indices])
    return f"VF {merged}" if len(indices) == 1 else f"VFs {merged}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRange:
    """Link speeds in Mbit/s, both ends included; `most` None: however fast."""

    least: int = 0
    most: int | None = None

    @classmethod
    def parse(cls, text: str) -> SpeedRange:
        """Take `25000`, `25G`, `>=25G` or `<=10G`; raise InputError for anything else."""
        match = _SPEED.fullmatch(text)
        if match is None:
            raise InputError(f"expected a link speed in Mbit/s like 25000 or 25G, >=25G or <=25G, got {text!r}")
        sign, mega, giga = match.groups()
        speed = int(mega) if mega else int(giga) * 1000
        return cls(least=0 if sign == "<=" else speed, most=None if sign == ">=" else speed)

    def __contains__(self, speed: int) -> bool:
        return self.least <= speed and (self.most is None or speed <= self.most)

    def covers(self, other: SpeedRange) -> bool:
        return self.least <= other.least and (
            self.most is None or (other.most is not None and other.most <= self.most))

    def __str__(self) -> str:
        if self.most is None:
            return f">={self.least}"
        return f"<={self.most}" if self.least == 0 else f"{self.most}"
