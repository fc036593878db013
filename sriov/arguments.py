"""What the arguments of our programs have in common: paths, unix sockets, `--version`.

Parsers raise argparse.ArgumentTypeError.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_SOCKET_PATH = 107      # bytes: sun_path of linux/un.h, less the NUL


def parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return Path(text)


def parse_folder(text: str) -> Path:
    """A folder that is there."""
    path = parse_path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot use {text!r}: there is no such folder")
    return path


def parse_socket(text: str) -> Path:
    """A path that a unix socket can have."""
    path = parse_path(text)
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise argparse.ArgumentTypeError(
            f"expected a path of at most {MAX_SOCKET_PATH} bytes, a unix socket has no longer one; got {size}")
    return path


def read_version() -> str:
    """Of the package that is installed; unknown where it is run from its sources alone."""
    # Importing it takes longer than most commands do.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vfpool")
    except PackageNotFoundError:
        return "unknown"


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="say which version this is, and exit")


class _ShowVersion(argparse.Action):
    # argparse's own wants the text before it is known that anybody asks.
    def __call__(self, parser: argparse.ArgumentParser, _: argparse.Namespace, __: str | Sequence[Any] | None,
                 ___: str | None = None) -> None:
        sys.stdout.write(f"{parser.prog} {read_version()}\n")
        parser.exit()
