"""What a log line looks like, whoever chose its words."""

import logging
import sys

from sriov.log import LONGEST, LineFormatter

FORMATTER = LineFormatter("%(levelname)s %(name)s: %(message)s")


def line(message, *args, exc_info=None):
    return FORMATTER.format(logging.LogRecord("cni", logging.INFO, "x.py", 1, message, args, exc_info))


def test_nobody_forges_a_line_or_talks_to_the_terminal():
    assert line("got %s", "x\n2026-11-21 INFO cni: done\x1b[31m\u2028\udcff") == (
        "INFO cni: got x\\n2026-11-21 INFO cni: done\\x1b[31m\\u2028\\udcff")
    assert line("plain \u00e9 %d", 5) == "INFO cni: plain \u00e9 5"


def test_no_line_is_longer_than_that():
    assert line("x" * LONGEST) == "INFO cni: " + "x" * LONGEST
    assert line("x" * 3_000_000) == "INFO cni: " + "x" * LONGEST + "..."


def test_a_traceback_keeps_its_lines():
    try:
        raise ValueError("no")
    except ValueError:
        shown = line("failed", exc_info=sys.exc_info())
    assert shown.startswith("INFO cni: failed\nTraceback")
    assert shown.endswith("\nValueError: no")
