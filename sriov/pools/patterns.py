"""Patterns for names and addresses: a glob like `ens1f*`, or a regular expression in slashes like `/ens[12]f0/`.

A slash tells them apart: no netdev, driver, node or PCI function has one in its name. Either form must match the
whole text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

from sriov.errors import InputError

_GLOB = re.compile(r"[*?[]")
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")


def matches(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """Whether the whole of `text` is what `pattern` says; raises re.error for what `check_pattern` refuses."""
    if is_literal(pattern):
        return pattern.lower() == text.lower() if ignore_case else pattern == text
    return _compile(pattern, ignore_case).fullmatch(text) is not None


def matches_any(patterns: Sequence[str], texts: Sequence[str], *, ignore_case: bool = False) -> bool:
    return any(matches(pattern, text, ignore_case=ignore_case) for pattern in patterns for text in texts)


@lru_cache(maxsize=4096)              # a scan asks about the same few patterns once for each of a thousand VFs
def is_literal(pattern: str) -> bool:
    """Whether it matches one text only, the one that it is."""
    return not is_expression(pattern) and _GLOB.search(pattern) is None


def is_expression(pattern: str) -> bool:
    return len(pattern) > 1 and pattern[0] == pattern[-1] == "/"


def check_pattern(pattern: str) -> str:
    """The pattern itself; raises InputError for a regular expression that Python's `re` does not take."""
    if pattern == "//":
        raise InputError("expected a regular expression in slashes, got '//': it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")    # what `re` only warns of will mean something else one day
            _compile(pattern, False)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise InputError(f"expected a regular expression in slashes, got {pattern!r}: {error}") from None
    return pattern


def exactly(text: str, *, ignore_case: bool = False) -> str:
    """The pattern that matches this text, whatever characters it has, and no other."""
    if is_literal(text) and not ignore_case:
        return text
    return f"/{'(?i)' if ignore_case else ''}{_SPECIAL.sub(_escape, text)}/"


def readable(pattern: str) -> str:
    """The text alone for a pattern that `exactly` made of it; else the pattern."""
    if not pattern.startswith("/"):
        return pattern
    ignore_case = pattern.startswith("/(?i)")
    text = re.sub(r"\\(.)", r"\1", pattern[5 if ignore_case else 1:-1])
    return text if exactly(text, ignore_case=ignore_case) == pattern else pattern


def _escape(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


@lru_cache(maxsize=4096)
def _compile(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    expression = pattern[1:-1] if is_expression(pattern) else translate(pattern)
    return re.compile(expression, re.IGNORECASE if ignore_case else 0)
