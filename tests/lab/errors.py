"""The lab's one error: what was tried, what was seen, what to do."""

from __future__ import annotations

from sriov.errors import SriovError


class LabError(SriovError):
    """The lab could not be built, booted or reached, or a command in it did not end in time."""
