"""Test tiers: a tier that cannot run is skipped with its reason, or fails where VFPOOL_REQUIRE names it."""

from __future__ import annotations

import os

import pytest

from tests.support.tiers import TIERS, parse_required, unavailable

_REQUIRED = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    try:
        config.stash[_REQUIRED] = parse_required(os.environ.get("VFPOOL_REQUIRE", ""))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if not os.environ.get("VFPOOL_IN_LAB") and unavailable("lab") is None:
        from tests.lab.plugin import LabSession

        config.pluginmanager.register(LabSession(config), "lab")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for tier in TIERS:
        if item.get_closest_marker(tier) is not None and (reason := unavailable(tier)) is not None:
            if tier in item.config.stash[_REQUIRED]:
                pytest.fail(f"VFPOOL_REQUIRE names {tier}, but {reason}", pytrace=False)
            pytest.skip(reason)
