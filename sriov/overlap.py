"""How two selectors relate as they are written, whatever the node: one takes all of the other's, or a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from sriov.patterns import is_literal, matches
from sriov.ranges import SpeedRange, VfIndices
from sriov.selectors import FunctionKeys, PfMatch, Selector

_HEX = ("address", "path", "vendor", "device", "mac")
_ALWAYS_KNOWN = ("pf", "address", "path")    # "*" in these matches every function
_FILED = ("pf", "name", "address", "acpi_index", "mac")
# The class's own keys, in which most selectors differ, come first this way.
_KEYS = {each: tuple(key.name for key in reversed(fields(each)) if key.compare) for each in (PfMatch, Selector)}


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

    A selector is filed under each value of one key that holds nothing but literals: one that it covers has each
    of its values of that key there, so that a thousand selectors are not compared with each other.
    """

    def __init__(self) -> None:
        self._filed: dict[tuple[str, object], list[int]] = {}
        self._loose: list[int] = []
        self._count = 0

    def add(self, selector: FunctionKeys) -> None:
        """Remember it under the next number, from 0."""
        anchor = next(_literals(selector), None)
        if anchor is None:
            self._loose.append(self._count)
        else:
            name, values = anchor
            for value in values:
                self._filed.setdefault((name, _fold(name, value)), []).append(self._count)
        self._count += 1

    def near(self, selector: FunctionKeys) -> list[int]:
        """The numbers of those that may cover or cross this one, in order."""
        found = set(self._loose)
        for name in _FILED:
            if values := getattr(selector, name, ()):
                found.update(self._filed.get((name, _fold(name, values[0])), ()))
        return sorted(found)


def _literals(selector: FunctionKeys) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in _FILED:
        values = getattr(selector, name, ())
        if values and all(is_literal(value) for value in values):
            yield name, values


def _given(value: object) -> bool:
    return value is not None and value != ()


def _fold(name: str, value: object) -> object:
    return value.lower() if name in _HEX and isinstance(value, str) else value


def _covers_key(name: str, earlier: object, later: object) -> bool:
    if earlier is later or not _given(earlier) or earlier == later:
        return True
    if name == "exclude":
        return False
    if isinstance(earlier, PfMatch) and isinstance(later, PfMatch):
        return covers(earlier, later)
    if isinstance(earlier, VfIndices) and isinstance(later, VfIndices):
        return earlier.covers(later)
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
