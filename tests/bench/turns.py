"""Cases that take turns in one run, each beside its floor: the least that the same result costs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`work` is timed. `floor` names another case; `budget` is in milliseconds."""

    name: str
    work: Callable[[], object]
    floor: str | None = None
    budget: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds; `ratio` of the p50 to the floor's, None where there is no floor."""

    name: str
    p50: float
    best: float
    ratio: float | None = None
    budget: float | None = None


def take_turns(cases: Sequence[Case], runs: int) -> list[Row]:
    """Measure all cases one after another, `runs` times each after a warm-up."""
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    for turn in range(-2, runs):
        for case in cases:
            took = timed(case.work)
            if turn >= 0:
                times[case.name].append(took)
    p50 = {name: statistics.median(took) for name, took in times.items()}
    return [Row(name=case.name, p50=p50[case.name], best=min(times[case.name]), budget=case.budget,
                ratio=p50[case.name] / p50[case.floor] if case.floor else None) for case in cases]


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def show_rows(rows: Sequence[Row]) -> bool:
    """A line for each; whether all are within their budgets."""
    show(f"{'milliseconds':46}{'p50':>8}{'best':>9}{'x floor':>9}{'budget':>8}")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        budget = "-" if row.budget is None else f"{row.budget:.0f}"
        late = "  OVER" if _is_late(row) else ""
        show(f"{row.name:46}{row.p50:8.2f}{row.best:9.2f}{ratio:>9}{budget:>8}{late}")
    return not any(map(_is_late, rows))


def _is_late(row: Row) -> bool:
    """By the best run: a machine that is busy with something else decides nothing."""
    return row.budget is not None and row.best > row.budget


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
