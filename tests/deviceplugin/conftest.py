from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def root() -> Iterator[Path]:
    """The kubelet's folder. Not tmp_path: the path of a unix socket has 107 bytes at most."""
    with TemporaryDirectory(prefix="kubelet-") as folder:
        yield Path(folder)


@pytest.fixture(params=[True, False], ids=["watcher", "register-call"])
def plugin_watcher(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
