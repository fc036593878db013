"""Whether the cache can be used at all: asked before anything is built into it."""

from __future__ import annotations

import os
import tempfile

from sriov.errors import InputError
from tests.lab.image import cache_folder

NAMED = "VFPOOL_CACHE"


def check_cache() -> None:
    """Make the cache's folder where it is not there; InputError where there can be none."""
    folder = cache_folder()
    if not folder.is_absolute():
        raise InputError(f"{NAMED}: expected an absolute path, got {os.fspath(folder)!r}",
                         hint=f"{NAMED}={folder.absolute()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be the cache: {error.strerror}",
                         hint=f"{NAMED} names a folder of yours, or one that can be made") from None
