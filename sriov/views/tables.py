"""Text for a terminal: tables and wrapped sentences of at most 100 columns, tinted only where the caller says."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from sriov.model import printable

WIDTH = 100

_LAST = 20                            # what is left to the last column at least, where it needs as much


class Tone(Enum):
    """What a piece of text is about; the value is its SGR parameter (ECMA-48)."""

    GOOD = "32"
    DOUBTFUL = "33"
    BAD = "31"
    FAINT = "2"
    HEADING = "1"


Paint = Callable[[str, Tone | None], str]


def plain(text: str, _: Tone | None) -> str:
    return text


def tint(text: str, tone: Tone | None) -> str:
    """The text between escape sequences, for a terminal."""
    return f"\x1b[{tone.value}m{text}\x1b[0m" if tone is not None and text else text


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table with its tone."""

    text: str
    tone: Tone | None = None


def format_table(rows: Sequence[Sequence[str | Cell]], paint: Paint = plain) -> str:
    """Columns as wide as their widest cell, two apart (one where they would not fit); the first row is a heading.

    The last column wraps to what the others leave of `WIDTH`, the others only where they leave too little; a path
    in the last column stays whole, to be pasted, even if it is longer.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(len(cell.text) for cell in column) for column in zip(*cells, strict=True)][:-1]
    last = [row[-1].text for row in cells]
    gap = "  " if sum(widths) + 2 * len(widths) + len(last[0]) <= WIDTH else " "
    word = max(len(word) for text in last for word in text.split() or [""])
    _shrink(widths, WIDTH - len(gap) * len(widths) - min(max(_LAST, word), WIDTH // 2, max(map(len, last))))
    widths.append(max(WIDTH - sum(widths) - len(gap) * len(widths), 1))
    lines = []
    for number, row in enumerate(cells):
        columns = [_fold(cell.text, width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        columns.append(split(row[-1].text, max(widths[-1], _LAST)))
        for part in range(max(map(len, columns))):
            line = ""
            for column, cell, width in zip(columns, row, widths, strict=True):
                text = column[part] if part < len(column) else ""
                tone = Tone.HEADING if number == 0 else cell.tone
                line += paint(text, tone) + " " * (width - len(text)) + gap
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def format_paragraph(text: str, first: str = "", rest: str | None = None) -> str:
    """A sentence over as many lines as it needs; `first` begins the first, `rest` the others: two columns more."""
    following = " " * (len(first) + 2) if rest is None else rest
    room = WIDTH - max(len(first), len(following))
    return first + f"\n{following}".join(split(printable(text), room)) + "\n"


def format_heading(text: str, paint: Paint = plain) -> str:
    """A line of its own, however long."""
    return paint(printable(text), Tone.HEADING) + "\n"


def split(text: str, width: int) -> list[str]:
    """Lines of this width; a path stays whole, to be pasted, even if it is longer."""
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False) or [""]


def _cell(cell: str | Cell) -> Cell:
    return Cell(printable(cell)) if isinstance(cell, str) else Cell(printable(cell.text), cell.tone)


def _fold(text: str, width: int) -> list[str]:
    if len(text) <= width:            # as it is: an indent is part of it
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _shrink(widths: list[int], room: int) -> None:
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
