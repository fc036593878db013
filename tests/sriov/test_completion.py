"""What bash offers after a few words, as bash itself says."""

import argparse
import subprocess

import pytest

from sriov.views.completion import bash_script, read_commands


@pytest.fixture(scope="module")
def script():
    parser = argparse.ArgumentParser(prog="my-tool")
    commands = parser.add_subparsers()
    show = commands.add_parser("show")
    show.add_argument("-o", "--output", choices=("json", "yaml"))
    show.add_argument("--name")
    show.add_argument("--hidden", help=argparse.SUPPRESS)
    show.add_argument("--all", action="store_true")
    commands.add_parser("shell").add_argument("kind", choices=("bash", "zsh"))
    return bash_script("my-tool", read_commands(parser))


def complete(script, *words):
    """COMPREPLY for these words, the last of them unfinished."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _my_tool; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-euc", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(("words", "offered"), [
    (["my-tool", ""], ["show", "shell"]),
    (["my-tool", "she"], ["shell"]),
    (["my-tool", "show", "--"], ["--help", "--output", "--name", "--all"]),
    (["my-tool", "show", "--output", ""], ["json", "yaml"]),
    (["my-tool", "show", "-o", "y"], ["yaml"]),
    (["my-tool", "show", "--output", "=", "y"], ["yaml"]),    # bash splits --output=y so
    (["my-tool", "show", "--output", "="], ["json", "yaml"]),
    (["my-tool", "show", "--name", ""], []),
    (["my-tool", "show", "--all", "--o"], ["--output"]),
    (["my-tool", "shell", ""], ["bash", "zsh"]),
    (["my-tool", "unknown", ""], []),
])
def test_offers(script, words, offered):
    assert complete(script, *words) == offered


def test_a_word_that_the_shell_would_not_take_as_such_is_refused():
    parser = argparse.ArgumentParser(prog="my-tool")
    parser.add_subparsers().add_parser("show $(reboot)")
    with pytest.raises(ValueError, match="expected a plain word"):
        bash_script("my-tool", read_commands(parser))
