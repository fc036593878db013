"""JSON objects as Go's encoding/json reads them: keys in any case, the last of two, unknown ones passed over.

What is passed over there is a warning here; what cannot be read there is a problem, and both have their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sriov.pools.documents import Problem, suggest
from sriov.pools.jsonnodes import Node, Object

Complain = Callable[[Node, str], None]


@dataclass(slots=True, kw_only=True)
class Findings:
    """What is found in one file; both lists are in the order of finding."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    doubts: list[Problem] = field(default_factory=list)

    def refuse(self, node: Node, message: str) -> None:
        self.problems.append(Problem(node.line, node.column, message, self.file))

    def warn(self, node: Node, message: str) -> None:
        self.doubts.append(Problem(node.line, node.column, message, self.file))

    def place(self, node: Node) -> str:
        return f"{self.file}:{node.line}:{node.column}"


class Fields:
    """The members of one object. Getters return what Go has where a key is absent: "", False, ()."""

    def __init__(self, node: Node, path: str, keys: Sequence[str], findings: Findings, complain: Complain) -> None:
        self.node = node
        self.path = path
        self._findings = findings
        self._complain = complain
        self._values: dict[str, Node] = {}
        if not isinstance(node.value, Object):
            complain(node, f"{path}: expected an object, got {node.describe()}")
            return
        places: dict[str, Node] = {}
        by_lower = {key.lower(): key for key in keys}
        for key, value in node.value.members:
            self._add(key, value, by_lower.get(str(key.value).lower()), places, keys)

    def _add(self, key: Node, value: Node, name: str | None, places: dict[str, Node], keys: Sequence[str]) -> None:
        if name is None:
            self._findings.warn(key, f"{self.path}: unknown key {key.describe()} has no effect"
                                     f"{suggest(str(key.value), keys)}")
            return
        if name in places:
            self._findings.warn(key, f"{self.path}: key {name!r} is here twice, first at "
                                     f"{self._findings.place(places[name])}: the last one counts")
        places[name] = key
        # Go leaves a text or a truth value as it is where null follows.
        if value.value is None and name in self._values and isinstance(self._values[name].value, str | bool):
            return
        self._values[name] = value

    def find(self, key: str) -> Node | None:
        """The value under `key`; None if it is absent or null."""
        node = self._values.get(key)
        return None if node is None or node.value is None else node

    def text(self, key: str) -> str:
        node = self.find(key)
        if node is None or isinstance(node.value, str):
            return "" if node is None else str(node.value)
        self._complain(node, f"{self.path}.{key}: expected a text, got {node.describe()}")
        return ""

    def truth(self, key: str) -> bool:
        node = self.find(key)
        if node is None or isinstance(node.value, bool):
            return node is not None and node.value is True
        self._complain(node, f"{self.path}.{key}: expected true or false, got {node.describe()}")
        return False

    def texts(self, key: str) -> tuple[tuple[Node, str], ...]:
        """The items of a list of texts, each with its node; null is the empty text."""
        node = self.find(key)
        if node is None:
            return ()
        if not isinstance(node.value, list):
            hint = f", write [{node.describe()}]".replace("'", '"') if isinstance(node.value, str) else ""
            self._complain(node, f"{self.path}.{key}: expected a list of texts, got {node.describe()}{hint}")
            return ()
        for number, item in enumerate(node.value):
            if item.value is not None and not isinstance(item.value, str):
                self._complain(item, f"{self.path}.{key}[{number}]: expected a text, got {item.describe()}")
        return tuple((item, item.value or "") for item in node.value
                     if item.value is None or isinstance(item.value, str))
