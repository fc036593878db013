"""What PyYAML says of text that is no YAML, in an admin's words. Pure: it knows the sentences, not the parser."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_ALIASES = "anchors and aliases are not supported; quote text that starts with * or &"
NO_TAGS = "tags are not supported; quote text that starts with !"
NO_MERGES = "merge keys are not supported; write the keys here themselves"


@dataclass(frozen=True, slots=True)
class Wording:
    """`at_start`: the mistake is where what the parser was at begins, and not where it stopped."""

    message: str
    at_start: bool = False


# By a pattern of what the parser says, which is "problem, context". {0} is the pattern's group, {start} the place
# where the context begins: what the parser was at.
_WORDINGS = {
    r".*while scanning an (?:alias|anchor)": Wording(NO_ALIASES, at_start=True),
    r".*while scanning a tag": Wording(NO_TAGS, at_start=True),
    r"found character '\\t' that": Wording("a tab, where YAML has spaces only"),
    r"found character ['\"](.)['\"] that": Wording("text cannot start with {0} here: quote it"),
    r"mapping values are not allowed": Wording(
        "a ':' that ends no key: quote text that has one, or look for a missing ':' or a wrong indentation above"),
    r"sequence entries are not allowed": Wording("the '-' of a list's item has to begin a line"),
    r"could not find expected ':'": Wording("expected a key, a ':' and a space, got no such ':'", at_start=True),
    r"found unexpected end of stream, while scanning a quoted": Wording("nothing closes this quote", at_start=True),
    r"expected ',' or '[\]}]', but got '<stream end>'": Wording("nothing closes this bracket", at_start=True),
    r"expected ',' or '([\]}])', but got '[\[{]'": Wording(
        "expected ',' or '{0}' in what begins at {start}; quote text that has a bracket in it"),
    r"expected ',' or '([\]}])', but got": Wording("expected ',' or '{0}' in what begins at {start}"),
    r"expected the node content, but found '<stream end>'": Wording("expected a value, got the end of the file"),
    r"expected the node content, but found ('.')": Wording("expected a value, got {0}"),
    r"expected <block end>": Wording(
        "this fits nothing in what begins at {start}: check indentation, '-' and quotes"),
    r"expected '<document start>'": Wording("expected the one document to begin with --- here, or the file to end"),
}


def reword(problem: str | None, context: str | None, start: str) -> Wording:
    """The parser's own words where none of ours fit; `start` is the place where the context begins."""
    said = ", ".join(part for part in (problem, context) if part)
    for pattern, wording in _WORDINGS.items():
        if (match := re.match(pattern, said)) is not None:
            return Wording(wording.message.format(*match.groups(), start=start), wording.at_start)
    return Wording(said)
