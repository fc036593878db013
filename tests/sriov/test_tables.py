"""Tables and sentences keep to their width, whatever is in them, and hold all of it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sriov.model import printable
from sriov.views.tables import WIDTH, Cell, Tone, format_paragraph, format_table, plain, tint

words = st.text(st.sampled_from("abc-/: "), max_size=15).map(lambda text: text.strip().replace("  ", " "))
ESCAPE = re.compile(r"\x1b\[\d+m")


def test_columns_and_a_last_one_that_wraps():
    rows = [("NAME", "WHY"), ("a", "word " * 30), ("bb", "-")]
    assert format_table(rows) == f"NAME  WHY\na     {'word ' * 18}word\n      {'word ' * 10}word\nbb    -\n"


def test_a_path_stays_whole():
    path = "/sys/bus/pci/devices/0000:3b:00.0/" + "x" * 90
    assert path in format_table([("A", "B"), ("a", f"cannot read {path}")])
    assert path in format_paragraph(f"cannot read {path}")


def test_a_column_that_is_too_wide_wraps_too():
    text = format_table([("A", "B", "C"), ("x" * 70, "y" * 70, "z")])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert (text.count("x"), text.count("y"), text.count("z")) == (70, 70, 1)


@given(st.integers(1, 8).flatmap(
    lambda columns: st.lists(st.lists(words, min_size=columns, max_size=columns), min_size=1, max_size=5)))
def test_every_table_of_short_words_fits_and_loses_nothing(rows):
    text = format_table(rows)
    assert max(map(len, text.splitlines())) <= WIDTH
    letters = "".join(cell for row in rows for cell in row).replace(" ", "")
    assert sorted(text.replace(" ", "").replace("\n", "")) == sorted(letters)


@given(st.lists(st.tuples(words, words, st.sampled_from([None, *Tone])), min_size=1, max_size=5))
def test_tints_change_nothing_but_the_tint(rows):
    toned = [(first, Cell(last, tone)) for first, last, tone in rows]
    assert ESCAPE.sub("", format_table(toned, tint)).split() == format_table(toned, plain).split()


def test_tint():
    assert tint("up", Tone.GOOD) == "\x1b[32mup\x1b[0m"
    assert (tint("up", None), tint("", Tone.GOOD), plain("up", Tone.GOOD)) == ("up", "", "up")


def test_what_a_terminal_would_obey_is_shown_instead():
    """The kernel lets a netdev have any name without spaces, slashes and colons."""
    assert printable("eth\x1b[2J0\u202e") == "eth\\x1b[2J0\\u202e"
    assert "\x1b" not in format_table([("NAME", "X"), ("eth\x1b[2J", "\x07")])
