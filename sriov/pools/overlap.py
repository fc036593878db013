"""How two selectors relate as they are written, whatever the node: one takes all of the other's, or a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from sriov.pools.patterns import is_literal, matches
from sriov.pools.ranges import SpeedRange, VfIndices
from sriov.pools.selectors import PfMatch, Selector

_HEX = ("address", "path", "vendor", "device", "mac")
_ALWAYS_KNOWN = ("pf", "address", "path")    # "*" in these matches every function
# The class's own keys, in which most selectors differ, come first this way.
_KEYS = {each: tuple(key.name for key in reversed(fields(each)) if key.compare and key.name != "reserved")
         for each in (PfMatch, Selector)}


def covers(earlier: PfMatch | Selector, later: PfMatch | Selector) -> bool:
    """Whether `earlier` surely matches whatever `later` does. False where only the node can tell."""
    return all(_covers_key(name, getattr(earlier, name), getattr(later, name)) for name in _KEYS[type(earlier)])


def crosses(earlier: Selector, later: Selector) -> bool:
    """Whether `earlier` surely matches what `later` does, but of some VF indices only, and has others to itself."""
    mine, others = earlier.vfs, later.vfs
    if mine is None or others is None or not mine.meets(others) or mine.covers(others):
        return False
    rest = (name for name in _KEYS[Selector] if name != "vfs")
    return (all(_covers_key(name, getattr(earlier, name), getattr(later, name)) for name in rest)
            and not covers(later, earlier))


class Earlier:
    """Selectors in their order, to be asked for those that may cover or cross another one.

    A selector is filed under each value of its first key that names something. One that it covers has that key too,
    and its first value there is one of these, or a plain name that a pattern among them may match. So a thousand
    selectors are not compared with each other.
    """

    def __init__(self) -> None:
        self._filed: dict[tuple[str, str], list[int]] = {}
        self._patterns: dict[str, list[int]] = {}
        self._loose: list[int] = []
        self._count = 0

    def add(self, selector: PfMatch | Selector) -> None:
        """Remember it under the next number, from 0."""
        key, values = next(((key, values) for key, values in _names(selector) if "*" not in values), ("", ()))
        for value in values:
            self._filed.setdefault((key, value.lower()), []).append(self._count)
        if not values:
            self._loose.append(self._count)
        elif not all(is_literal(value) for value in values):
            self._patterns.setdefault(key, []).append(self._count)
        self._count += 1

    def near(self, selector: PfMatch | Selector) -> list[int]:
        """The numbers of those that may cover or cross this one, in order."""
        found = set(self._loose)
        for key, values in _names(selector):
            found.update(self._filed.get((key, values[0].lower()), ()))
            if is_literal(values[0]):
                found.update(self._patterns.get(key, ()))
        return sorted(found)


def _names(selector: PfMatch | Selector) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys that tell selectors apart best, those that are given."""
    keys = {"address": selector.address, "acpi_index": selector.acpi_index}
    if isinstance(selector, Selector):
        keys = {"pf": selector.pf, "on.name": selector.on.name, "on.address": selector.on.address, **keys}
    else:
        keys = {"name": selector.name, "mac": selector.mac, **keys}
    return ((key, values) for key, values in keys.items() if values)


def _given(value: object) -> bool:
    return value is not None and value != ()


def _covers_key(name: str, earlier: object, later: object) -> bool:
    if earlier is later or not _given(earlier):
        return True
    if isinstance(earlier, VfIndices):
        return isinstance(later, VfIndices) and earlier.covers(later)
    if earlier == later:
        return True
    if name == "exclude":
        return False
    if isinstance(earlier, PfMatch) and isinstance(later, PfMatch):
        return covers(earlier, later)
    if not isinstance(earlier, tuple) or not isinstance(later, tuple):
        return False
    if name in _ALWAYS_KNOWN and "*" in earlier:
        return True
    return bool(later) and all(_covers_value(name, earlier, value) for value in later)


def _covers_value(name: str, earlier: Sequence[object], value: object) -> bool:
    if isinstance(value, SpeedRange):
        return any(isinstance(each, SpeedRange) and each.covers(value) for each in earlier)
    if isinstance(value, str) and is_literal(value):
        return any(isinstance(each, str) and matches(each, value, ignore_case=name in _HEX) for each in earlier)
    return value in earlier
