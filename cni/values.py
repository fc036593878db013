"""Values of a network configuration's JSON, each by its key, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cni.fields import Report
from cni.protocol import show
from sriov.errors import InputError

T = TypeVar("T")


class Values:
    """The keys of one JSON object at `path`. A value that is wrong is None, as one that is not given is.

    Templates leave null or an empty text where they have no value.
    """

    def __init__(self, document: Mapping[str, Any], report: Report, path: str = "") -> None:
        self.document = document
        self._report = report
        self._path = path

    def given(self, key: str) -> bool:
        raw = self.document.get(key)
        return raw is not None and raw != ""

    def path(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def note(self, key: str, problem: str) -> None:
        self._report.note(self.path(key), problem)

    def warn(self, key: str, warning: str) -> None:
        self._report.warn(self.path(key), warning)

    def text(self, key: str, parse: Callable[[str], T]) -> T | None:
        """`parse` raises InputError."""
        if not self.given(key):
            return None
        raw = self.document[key]
        try:
            if not isinstance(raw, str):
                raise InputError(f"expected text, got {show(raw)}")
            return parse(raw)
        except InputError as error:
            self.note(key, error.message)
            return None

    def number(self, key: str, low: int, high: int) -> int | None:
        raw = self.document.get(key)
        if raw is None:
            return None
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.note(key, f"expected a number from {low} to {high}, got {show(raw)}")
            return None
        return raw

    def choice(self, key: str, choices: Mapping[str, T], *, folded: bool = False) -> T | None:
        """`folded`: in any case."""
        if not self.given(key):
            return None
        raw = self.document[key]
        word = raw.lower() if folded and isinstance(raw, str) else raw
        if not isinstance(word, str) or word not in choices:
            self.note(key, f"expected {' or '.join(map(repr, choices))}, got {show(raw)}")
            return None
        return choices[word]

    def section(self, key: str) -> Values:
        """The object at this key; an empty one where there is none."""
        raw = self.document.get(key)
        if raw is not None and not isinstance(raw, dict):
            self.note(key, f"expected an object, got {show(raw)}")
            raw = None
        return Values(raw or {}, self._report, self.path(key))
