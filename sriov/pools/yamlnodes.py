"""YAML as nodes with a place: scalars as written, every problem found at once.

No value is ever guessed: `0000:03:00.0` stays text instead of 180.0, `on` text instead of True, and a key
that is there twice is a problem instead of its last value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from sriov.errors import InputError
from sriov.pools.documents import DocumentErrors, Problem, find_near, locate, suggest
from sriov.pools.yamlsyntax import NO_ALIASES, NO_MERGES, NO_TAGS, reword

T = TypeVar("T")

_MAX_DEPTH = 32
_BREAKS = re.compile("[\x85\u2028\u2029]")
_NOTHING: Mapping[str, str] = MappingProxyType({})
_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses what lets text mean something else than it says, and endless nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()     # type: ignore[no-untyped-call]
        refusal = None
        if getattr(event, "anchor", None) is not None:
            refusal = NO_ALIASES
        elif getattr(event, "tag", None) is not None:
            refusal = NO_TAGS
        elif self.depth == _MAX_DEPTH:
            refusal = f"nested deeper than {_MAX_DEPTH} levels"
        if refusal is not None:
            raise DocumentErrors([_problem(event.start_mark, refusal)])
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_document(text: str, file: str) -> Cursor:
    """Compose the one document of `text`; raises DocumentErrors for bad syntax, no or several documents."""
    if (found := _BREAKS.search(text)) is not None:
        message = f"character U+{ord(found[0]):04X} ends a line for YAML, but not for editors: write an escape"
        raise DocumentErrors([Problem(*locate(text, found.start()), message, file)])
    try:
        loader = _Loader(text)        # refuses characters that YAML does not allow
    except yaml.reader.ReaderError as error:
        line, column = locate(text, error.position)
        message = f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise DocumentErrors([Problem(line, column, message, file)]) from None
    loader.name = file                # marks take their name from here
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise DocumentErrors([_explain(error, loader.get_mark())]) from None
    except (ValueError, OverflowError):
        # PyYAML lets chr() and int() speak for escapes and version numbers that are out of range.
        raise DocumentErrors([_problem(loader.get_mark(), "a number here is out of range")]) from None
    if node is None:
        raise DocumentErrors([Problem(1, 1, "expected a document, the file is empty", file)])
    return Cursor(node, "", [])


def _explain(error: yaml.MarkedYAMLError, here: Any) -> Problem:  # noqa: ANN401 - a Mark, as below
    start = error.context_mark or error.problem_mark or here
    if error.context == "expected a single document in the stream":
        return _problem(error.problem_mark or here, "expected one document, got another")
    wording = reword(error.problem, error.context, _place(start))
    return _problem(start if wording.at_start else error.problem_mark or here, wording.message)


def _place(mark: Any) -> str:  # noqa: ANN401 - as below
    """`pools.yaml:14:9`"""
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def _problem(mark: Any, message: str) -> Problem:  # noqa: ANN401 (PyYAML has one Mark in Python and one in C)
    return Problem(mark.line + 1, mark.column + 1, message, mark.name)


class Cursor:
    """A node, the way to it (`pools[1].select[0].vfs`) and the list that collects the file's problems.

    A getter that finds a problem notes it and returns its default, so that parsing goes on and finds the
    rest; `check` at the end raises them all, and what was built until then is thrown away.
    """

    def __init__(self, node: yaml.Node, path: str, problems: list[Problem]) -> None:
        self._node = node
        self.path = path
        self._problems = problems
        self._fields: dict[str, Cursor] = {}

    @property
    def place(self) -> str:
        """`pools.yaml:14:9`"""
        return _place(self._node.start_mark)

    def note(self, message: str) -> None:
        where = f"{self.path}: " if self.path else ""
        self._problems.append(_problem(self._node.start_mark, f"{where}{message}"))

    def check(self) -> None:
        """Raise DocumentErrors if any problem was noted anywhere in the document."""
        if self._problems:
            raise DocumentErrors(self._problems)

    def open_mapping(self, *, required: Sequence[str] = (), optional: Sequence[str] = (),
                     elsewhere: Mapping[str, str] = _NOTHING) -> Cursor:
        """Take this node as a mapping of these keys: from now on the getters with a key work.

        `elsewhere` has keys that are not among them, with what to write instead.
        """
        allowed = [*required, *optional]
        if not isinstance(self._node, yaml.MappingNode):
            self.note(f"expected a mapping with {', '.join(allowed)}, got {_describe(self._node)}")
            return self
        keys: dict[str, Cursor] = {}
        stray: dict[str, list[str]] = {}
        last = ""
        for key_node, value in self._node.value:
            key = Cursor(key_node, self.path, self._problems)
            name = key_node.value
            if not isinstance(name, str):
                key.note(f"expected a key, got {_describe(key_node)}")
            elif name in keys:
                key.note(f"key {name!r} is here twice, first at {keys[name].place}")
            elif name == "<<":
                key.note(NO_MERGES)
            elif name in allowed:
                keys[name] = key
                last = name
                self._open(name, value)
            elif self._is_stray(last, value):
                stray.setdefault(last, [self._fields[last]._node.value]).append(name)
            elif name in elsewhere:
                key.note(f"unknown key {name!r}, did you mean {elsewhere[name]!r}?")
            else:
                key.note(f"unknown key {name!r}{suggest(name, allowed)}")
                self._open_near(name, value, allowed)
        for name, parts in stray.items():
            self._fields[name].note(f"a ',' ends a value within braces: write {name}: [{', '.join(parts)}]")
        for name in required:
            if name not in self._fields:
                self.note(f"key {name!r} is missing")
        return self

    def _open(self, name: str, value: yaml.Node) -> None:
        path = f"{self.path}.{name}" if self.path else name
        self._fields[name] = Cursor(value, path, self._problems)

    def _open_near(self, name: str, value: yaml.Node, allowed: Sequence[str]) -> None:
        """Go on below a mistyped key as if it were right, so that what is wrong there is found too."""
        near = find_near(name, allowed, cutoff=0.8)
        if near is not None and all(near != key.value for key, _ in self._node.value):
            self._open(near, value)

    def _is_stray(self, last: str, value: yaml.Node) -> bool:
        """Whether a key without a value is a part of the value before: `{vfs: 0,1}` has the keys `vfs` and `1`."""
        in_braces = isinstance(self._node, yaml.MappingNode) and bool(self._node.flow_style)
        return (in_braces and last != "" and isinstance(self._fields[last]._node, yaml.ScalarNode)
                and value.tag == _NULL and not value.value)

    def peek(self) -> Mapping[str, Cursor]:
        """The members of a mapping whatever they are called, nothing noted; none where it is no mapping."""
        members = self._node.value if isinstance(self._node, yaml.MappingNode) else ()
        return {key.value: Cursor(value, key.value, self._problems) for key, value in members
                if isinstance(key.value, str)}

    @property
    def text(self) -> str | None:
        """As it is written; None where it is no scalar."""
        return self._node.value if isinstance(self._node, yaml.ScalarNode) else None

    @property
    def line(self) -> int:
        return int(self._node.start_mark.line) + 1

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def __getitem__(self, key: str) -> Cursor:
        return self._fields[key]

    def plain(self) -> object:
        """Mappings, lists and texts as they are written, for a file of somebody else's that may say anything."""
        return _plain(self._node)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_empty_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode) and not self._node.value

    def items(self, key: str, *, at_least: int = 1) -> Iterator[Cursor]:
        """The items of the list under `key`; none if the key is absent."""
        field = self._fields.get(key)
        if field is None:
            return
        if not isinstance(field._node, yaml.SequenceNode):
            field.note(f"expected a list, got {_describe(field._node)}")
            return
        if len(field._node.value) < at_least:
            field.note("expected at least one item, got an empty list")
        for n, item in enumerate(field._node.value):
            yield Cursor(item, f"{field.path}[{n}]", self._problems)

    def one(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """The value under `key`; `default` if the key is absent or `parse` raises InputError."""
        return next(self._fields[key]._parse(parse), default) if key in self._fields else default

    def many(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """The values under `key`, which is one scalar or a list of them; () if it is absent."""
        field = self._fields.get(key)
        if field is None:
            return ()
        cursors = self.items(key) if isinstance(field._node, yaml.SequenceNode) else iter([field])
        return tuple(value for cursor in cursors for value in cursor._parse(parse))

    def _parse(self, parse: Callable[[str], T]) -> Iterator[T]:
        """The value, or nothing where a problem was noted instead."""
        if not isinstance(self._node, yaml.ScalarNode) or self._node.tag == _NULL:
            self.note(f"expected a single value, got {_describe(self._node)}")
            return
        try:
            yield parse(self._node.value)
        except InputError as error:
            self.note(error.message)


def _plain(node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    return [_plain(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag == _NULL else repr(node.value)
