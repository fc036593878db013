"""The time as a status tells it."""

from __future__ import annotations

import time

from sriov.status import Moment


def now() -> Moment:
    return moment(time.time())


def boot_time() -> float:
    """When the node booted, in seconds since the epoch, by the clock as it is now: it moves when that is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def moment(seconds: float) -> Moment:
    """Of seconds since the epoch."""
    return Moment(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)))
