"""JSON as nodes with a place (RFC 8259): every member of an object stays, also one whose key is there twice."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import NoReturn

from sriov.pools.documents import DocumentErrors, Problem

_MAX_DEPTH = 32
_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_WORD = re.compile(r"\w+")
_STRINGS = json.JSONDecoder()
_WORDS = {"true": True, "false": False, "null": None}
_HINTS = {
    "]": ": JSON has no trailing comma", "}": ": JSON has no trailing comma", "'": ": JSON has double quotes only",
    "/": ": JSON has no comments", "#": ": JSON has no comments",
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written; nothing that we read from JSON is one."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and where it begins; `line` and `column` count from 1."""

    value: str | bool | Number | list[Node] | Object | None
    line: int
    column: int

    def describe(self) -> str:
        """`a list`, `'text'`, `nothing`: what a message says that it got."""
        match self.value:
            case Object():
                return "an object"
            case list():
                return "a list"
            case None:
                return "null"
            case bool():
                return str(self.value).lower()
            case Number():
                return self.value.text if len(self.value.text) < 40 else "a long number"
            case str():
                return repr(self.value)


@dataclass(frozen=True, slots=True)
class Object:
    """Keys, which are strings, with their values, in order."""

    members: tuple[tuple[Node, Node], ...]


def parse_json(text: str, file: str) -> Node:
    """The one value of `text`; raises DocumentErrors with the first thing that is not JSON."""
    reader = _Reader(text.removeprefix("\ufeff"), file)
    try:
        return reader.read_document()
    except json.JSONDecodeError as error:    # of a string
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        reader.fail(error.pos, f"{what[:1].lower()}{what[1:]}")


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._at = 0
        self._depth = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def read_document(self) -> Node:
        node = self._read_value("a value")
        self._skip()
        if self._at < len(self._text):
            self.fail(self._at, f"expected the end of the file, got {self._show()}")
        return node

    def fail(self, at: int, message: str) -> NoReturn:
        raise DocumentErrors([Problem(*self._place(at), message, self._file)])

    def _read_value(self, expected: str) -> Node:
        self._skip()
        line, column = self._place(self._at)
        return Node(value=self._read(expected), line=line, column=column)

    def _read(self, expected: str) -> str | bool | Number | list[Node] | Object | None:
        character = self._text[self._at : self._at + 1]
        if character == '"':
            return self._read_string()
        if character in ("{", "["):
            if self._depth == _MAX_DEPTH:
                self.fail(self._at, f"nested deeper than {_MAX_DEPTH} levels")
            self._depth += 1
            self._at += 1
            value = self._read_object() if character == "{" else self._read_list()
            self._depth -= 1
            return value
        if (number := _NUMBER.match(self._text, self._at)) is not None:
            self._at = number.end()
            return Number(number[0])
        word = _WORD.match(self._text, self._at)
        if word is None or word[0] not in _WORDS:
            self.fail(self._at, f"expected {expected}, got {self._show()}")
        self._at = word.end()
        return _WORDS[word[0]]

    def _read_string(self) -> str:
        value, self._at = _STRINGS.raw_decode(self._text, self._at)
        # Half a surrogate pair is no character: what it cannot be written as, Go's JSON replaces too.
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _read_list(self) -> list[Node]:
        items: list[Node] = []
        while self._more("]", first=not items):
            items.append(self._read_value("a value"))
        return items

    def _read_object(self) -> Object:
        members: list[tuple[Node, Node]] = []
        while self._more("}", first=not members):
            self._skip()
            if self._text[self._at : self._at + 1] != '"':
                self.fail(self._at, f"expected a key in double quotes, got {self._show()}")
            key = self._read_value("a key")
            self._skip()
            if self._text[self._at : self._at + 1] != ":":
                self.fail(self._at, f"expected ':' after a key, got {self._show()}")
            self._at += 1
            members.append((key, self._read_value("a value")))
        return Object(tuple(members))

    def _more(self, end: str, *, first: bool) -> bool:
        """Whether another item follows; steps over the comma before it, or over the end."""
        self._skip()
        character = self._text[self._at : self._at + 1]
        if character == end:
            self._at += 1
            return False
        if not first:
            if character != ",":
                self.fail(self._at, f"expected ',' or {end!r}, got {self._show()}")
            self._at += 1
        return True

    def _skip(self) -> None:
        if (blank := _BLANK.match(self._text, self._at)) is not None:
            self._at = blank.end()

    def _show(self) -> str:
        character = self._text[self._at : self._at + 1]
        return f"{character!r}{_HINTS.get(character, '')}" if character else "the end of the file"

    def _place(self, at: int) -> tuple[int, int]:
        line = bisect_right(self._lines, at)
        return line, at - self._lines[line - 1] + 1
