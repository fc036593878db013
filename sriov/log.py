"""The log of a process that others tell what to log: pods, NADs, runtimes."""

from __future__ import annotations

import logging

from sriov.model import printable

LONGEST = 4000       # characters of a message


class LineFormatter(logging.Formatter):
    """One line for each message, whatever is in it, of bounded length; tracebacks follow as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = printable(record.message[:LONGEST]) + ("..." if len(record.message) > LONGEST else "")
        record.message = text
        return super().formatMessage(record)

