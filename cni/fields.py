"""JSON objects read key by key: as Go's decoder would, and with a report of all that is wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from sriov.errors import InputError

T = TypeVar("T")

ENOUGH = 100               # problems, and warnings: what is after them is not looked at, or not kept
_SHOWN = 60                # characters of a value in a message
MOST_VALUES = 128         # of a list of addresses: Python takes 13 us for one
_SUGGESTIONS = 5           # each costs a search, and a text may have thousands of unknown keys


def show(value: object) -> str:
    """A value as JSON has it, cut where it is long."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        cut = value[:_SHOWN]
        return json.dumps(cut, ensure_ascii=not cut.isprintable()) + ("..." if len(value) > _SHOWN else "")
    try:
        shown = json.dumps(value)
    except ValueError:               # an integer of more digits than Python prints
        return "a very large number"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


class EnoughProblemsError(Exception):
    """Of a Report that is full: reading on would only cost time."""


class Report:
    """What is wrong, and what is hardly meant: at most ENOUGH of each, whatever the text."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._searches = 0

    def note(self, path: str, problem: str) -> None:
        """Raises EnoughProblemsError with the last one that has room."""
        self.problems.append(f"{path}: {problem}" if path else problem)
        if len(self.problems) == ENOUGH:
            raise EnoughProblemsError

    def warn(self, path: str, warning: str) -> None:
        if len(self.warnings) < ENOUGH:
            self.warnings.append(f"{path}: {warning}")

    def check(self, path: str, raw: object, parse: Callable[[str], T]) -> T | None:
        try:
            if not isinstance(raw, str):
                raise InputError("is not text")
            return parse(raw)
        except InputError as error:
            self.note(path, f"{show(raw)} {error.message}")
            return None

    def suggest(self, word: str, known: Iterable[str]) -> str | None:
        """The known word that is nearest, for the first unknown words of a text."""
        if self._searches == _SUGGESTIONS or len(word) > _SHOWN:
            return None
        self._searches += 1
        return next(iter(difflib.get_close_matches(word, known, 1)), None)


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which of its keys stood there more than once."""

    __slots__ = ("keys_written",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.keys_written = pairs


class Fields:
    """The keys of one JSON object as Multus reads them: in any case, and the last of a repeated one counts.

    Null and an empty text are what templates leave where they have no value, and Multus takes them for absent.
    """

    def __init__(self, report: Report, path: str, raw: JsonObject, known: tuple[str, ...]) -> None:
        self._report = report
        self._path = path
        self._values: dict[str, Any] = {}
        names = _fold_all(known)
        written: set[str] = set()
        for key, value in raw.keys_written:
            name = names.get(_fold(key))
            if name is None:
                if "." not in key and key not in written:      # a name with a dot belongs to someone else
                    near = report.suggest(_fold(key), names)
                    self.warn(_plain(key), "unknown key" + (f", did you mean {names[near]}?" if near else ""))
            elif name in self._values:
                self.warn(name, f"stands there more than once, Multus takes the last: {show(value)}")
            elif key != name:
                self.warn(_plain(key), f"Multus reads it as {name}, write {name}")
            written.add(key)
            if name is not None and (value is not None or name not in self._values):
                self._values[name] = value

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - JSON
        return self._values.get(key)

    def given(self, key: str) -> bool:
        return self[key] is not None and self[key] != ""

    def note(self, key: str, problem: str) -> None:
        self._report.note(f"{self._path}.{key}", problem)

    def warn(self, key: str, warning: str) -> None:
        self._report.warn(f"{self._path}.{key}", warning)

    def text(self, key: str, parse: Callable[[str], T]) -> T | None:
        return self._report.check(f"{self._path}.{key}", self[key], parse) if self.given(key) else None

    def several(self, key: str, parse: Callable[[str], T], *, empty_is_meant: bool = False) -> tuple[T, ...] | None:
        raw = self.listed(key)
        if raw is None:
            return None
        if not raw and not empty_is_meant:
            self.warn(key, "the list is empty, which says nothing")
        if len(raw) > MOST_VALUES:
            self.note(key, f"{len(raw)} entries, expected at most {MOST_VALUES}")
            return None
        checked = [self._report.check(f"{self._path}.{key}[{n}]", item, parse) for n, item in enumerate(raw)]
        return tuple(value for value in checked if value is not None)

    def listed(self, key: str) -> list[Any] | None:
        raw = self[key]
        if raw is None or isinstance(raw, list):
            return raw
        self.note(key, f"{show(raw)} is not a list")
        return None

    def number(self, key: str, low: int, high: int, *, required: bool = False) -> int | None:
        raw = self[key]
        if raw is None:
            if required:
                self.note(key, f"missing, expected a number from {low} to {high}")
            return None
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.note(key, f"{show(raw)} is not a number from {low} to {high}")
            return None
        return raw

    def mapping(self, key: str) -> JsonObject | None:
        raw = self[key]
        if raw is None:
            return None
        if not isinstance(raw, JsonObject):
            self.note(key, f"{show(raw)} is not an object")
            return None
        return raw

    def objects(self, key: str, known: tuple[str, ...]) -> Iterator[Fields]:
        """The objects of a list, each with its path."""
        for n, raw in enumerate(self.listed(key) or ()):
            if isinstance(raw, JsonObject):
                yield self.inner(f"{key}[{n}]", raw, known)
            else:
                self.note(f"{key}[{n}]", f"{show(raw)} is not an object")

    def inner(self, key: str, raw: JsonObject, known: tuple[str, ...]) -> Fields:
        return Fields(self._report, f"{self._path}.{key}", raw, known)


def _fold(key: str) -> str:
    """As Go's JSON decoder compares keys: simple case folding, which knows the long s."""
    return key.lower().replace("\u017f", "s")


@lru_cache
def _fold_all(keys: tuple[str, ...]) -> Mapping[str, str]:
    return {_fold(key): key for key in keys}


def _plain(key: str) -> str:
    """A key in a path; quoted where it would not be read as one."""
    return key if re.fullmatch(r"[\w./-]{1,60}", key, re.ASCII) else show(key)
