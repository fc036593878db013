"""What is wrong with a file that somebody wrote: problems with their places, all at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from sriov.errors import InputError

_MOST = 500                # characters of a message: a value may be as long as the file
_MOST_LINES = 50           # one slip of the pen may be as many problems as the file has lines
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


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
    """All problems of one file, in the order of their places; str() has one line for each of the first 50."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        lines = [str(problem) for problem in self.problems[:_MOST_LINES]]
        if (more := len(self.problems) - len(lines)) > 0:
            lines.append(f"and {more} more")
        super().__init__("\n".join(lines))


def decode(data: bytes, file: str) -> str:
    """UTF-8 to text; raises DocumentErrors with the place of the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = locate(before, len(before))
        found = "UTF-16: save it as UTF-8" if data.startswith(_UTF16) else f"byte 0x{data[error.start]:02x}"
        message = f"expected UTF-8 text, got {found}"
        raise DocumentErrors([Problem(line, column, message, file)]) from None


def locate(text: str, position: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at `position`."""
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def find_near(name: str, allowed: Sequence[str], *, cutoff: float = 0.5) -> str | None:
    """The one that a mistyped name most likely is, in any case; None where none is like it."""
    by_lower = {key.lower(): key for key in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def suggest(name: str, allowed: Sequence[str]) -> str:
    """What to add to a message about a name that is not among those allowed."""
    near = find_near(name, allowed)
    return f", did you mean {near!r}?" if near is not None else f", expected one of {', '.join(allowed)}"
