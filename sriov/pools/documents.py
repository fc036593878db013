"""What is wrong with a file that somebody wrote: problems with their places, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from sriov.errors import InputError

_MOST = 500                # characters of a message: a value may be as long as the file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a file; `line` and `column` count from 1."""

    line: int
    column: int
    message: str
    file: str = ""

    def __str__(self) -> str:
        message = self.message if len(self.message) <= _MOST else f"{self.message[:_MOST]}..."
        return f"{self.file}:{self.line}:{self.column}: {message}"


class DocumentErrors(InputError):
    """All problems of one file, in the order of their places; str() has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def decode(data: bytes, file: str) -> str:
    """UTF-8 to text; raises DocumentErrors with the place of the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = locate(before, len(before))
        message = f"expected UTF-8 text, got byte 0x{data[error.start]:02x}"
        raise DocumentErrors([Problem(line, column, message, file)]) from None


def locate(text: str, position: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at `position`."""
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def suggest(name: str, allowed: Sequence[str]) -> str:
    """What to add to a message about a name that is not among those allowed."""
    by_lower = {key.lower(): key for key in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f", did you mean {by_lower[close[0]]!r}?" if close else f", expected one of {', '.join(allowed)}"
