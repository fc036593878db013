"""The time as a status tells it."""

from __future__ import annotations

import time

from sriov.status import Moment


def now() -> Moment:
    return moment(time.time())


def moment(seconds: float) -> Moment:
    """Of seconds since the epoch."""
    return Moment(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)))
