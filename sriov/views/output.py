"""Where commands say what they found: text, JSON or YAML to stdout, warnings to stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TextIO

from sriov.views.exports import Json
from sriov.views.tables import WIDTH, Paint, plain

FORMATS = ("table", "json", "yaml")


class Output:
    """Writes in one of `FORMATS`; `paint` tints what is for people."""

    def __init__(self, out: TextIO, err: TextIO, form: str = "table", paint: Paint = plain) -> None:
        self._out = out
        self._err = err
        self._form = form
        self.paint = paint

    def show(self, document: Json, text: Callable[[], str]) -> None:
        """The document to programs, or else the text to people."""
        if self._form == "json":
            self.write(json.dumps(document, indent=2))
        elif self._form == "yaml":
            self.write(_to_yaml(document))
        else:
            self.write(text())

    def write(self, text: str) -> None:
        self._out.write(text.rstrip("\n") + "\n")

    def warn(self, warnings: Iterable[str]) -> None:
        with suppress(OSError):           # the answer counts
            for warning in warnings:
                self._err.write(f"warning: {warning}\n")


def _to_yaml(document: Json) -> str:
    # Importing it takes longer than most commands do.
    import yaml

    # By way of JSON: PyYAML refuses our kinds of str, and gives what is there twice an anchor. In ASCII: U+0085 it
    # writes as it is, and reads as the end of a line.
    return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, allow_unicode=False, width=WIDTH)
