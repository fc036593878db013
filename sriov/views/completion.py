"""Completion for bash, made from argparse's own tree: commands, options, choices, files."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command's words. `values`: what follows an option, None: anything, and `FILE`: the name of a file."""

    name: str
    options: tuple[str, ...]
    values: tuple[tuple[str, str | None], ...]    # option; words to choose from
    operands: tuple[str | None, ...]              # in their order


_FILES = "FILE", "DIR", "PATH"         # metavars
FILE = "/"                            # no choice could be this


def read_commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """The commands below a parser that has subparsers, in its order."""
    # argparse has no public way to list what was added to a parser.
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return tuple(_read(name, command) for each in subparsers for name, command in each.choices.items())


def bash_script(program: str, commands: Sequence[Command]) -> str:
    """A script to be sourced. Raises ValueError for words that the shell would not take as such."""
    for command in commands:
        for word in (command.name, *command.options):
            if _WORD.fullmatch(word) is None:
                raise ValueError(f"expected a plain word, got {word!r}")
    return "\n".join(_lines(program, commands)) + "\n"


def _lines(program: str, commands: Sequence[Command]) -> Iterator[str]:
    function = "_" + re.sub(r"\W", "_", program)
    yield f"# bash completion for {program}: source <({program} completion bash)"
    yield f"{function}() {{"
    yield "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}"
    yield "    COMPREPLY=()"
    # "=" is a word of its own for bash: of --output=json, "json" is the third.
    yield "    if [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi"
    yield "    if [[ $word == = ]]; then word=; fi"
    yield "    if ((COMP_CWORD == 1)); then"
    yield f"        {_words([command.name for command in commands])}"
    yield "        return"
    yield "    fi"
    yield "    case $command:$before in"
    for command in commands:
        for option, choices in command.values:
            reply = ":" if choices is None else _files() if choices == FILE else _words(choices.split())
            yield f"    {command.name}:{option}) {reply}; return ;;"
    yield "    esac"
    yield "    if [[ $word == -* ]]; then"
    yield "        case $command in"
    for command in commands:
        yield f"        {command.name}) {_words(command.options)} ;;"
    yield "        esac"
    yield "        return"
    yield "    fi"
    yield "    case $command in"
    for command in commands:
        replies = dict.fromkeys(_files() if each == FILE else _words(each.split())
                                for each in command.operands if each is not None)
        for reply in replies:
            yield f"    {command.name}) {reply} ;;"
    yield "    esac"
    yield "}"
    yield f"complete -o filenames -F {function} {shlex.quote(program)}"


def _words(words: Sequence[str]) -> str:
    return f"mapfile -t COMPREPLY < <(compgen -W {shlex.quote(' '.join(words))} -- \"$word\")"


def _files() -> str:
    return 'mapfile -t COMPREPLY < <(compgen -f -- "$word")'


def _read(name: str, command: argparse.ArgumentParser) -> Command:
    shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
    return Command(
        name=name,
        options=tuple(option for action in shown for option in action.option_strings),
        values=tuple((option, _choices(action)) for action in shown if action.nargs != 0
                     for option in action.option_strings),
        operands=tuple(_choices(action) for action in shown if not action.option_strings),
    )


def _choices(action: argparse.Action) -> str | None:
    if action.choices is not None:
        return " ".join(str(choice) for choice in action.choices)
    return FILE if action.type is Path or action.metavar in _FILES else None
