"""Which VFs' MACs their PF had set, over a restart of the agent."""

import pytest

from cni.marks import Marks
from sriov.pci import PciAddress

ONE, TWO = PciAddress("0000:3b:02.1"), PciAddress("0000:3b:02.2")


def test_marks_outlive_the_process_but_neither_the_boot_nor_the_vf(tmp_path):
    path = tmp_path / "marked.json"
    marks = Marks(path, "this boot")
    assert not marks.holds(ONE, 7)
    marks.add(ONE, 7)
    marks.add(TWO, None)
    again = Marks(path, "this boot")
    assert [again.holds(ONE, 7), again.holds(ONE, 8), again.holds(TWO, None), again.holds(TWO, 7)] == [
        True, False, True, False]
    again.add(ONE, 8)
    assert [Marks(path, "this boot").holds(ONE, identity) for identity in (7, 8)] == [False, True]
    assert not Marks(path, "the next boot").holds(ONE, 8)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"boot_id": "b"}', '{"boot_id": "b", "vfs": 5}', "\0"])
def test_a_damaged_file_is_said_and_counts_for_nothing(tmp_path, caplog, text):
    path = tmp_path / "marked.json"
    path.write_text(text)
    marks = Marks(path, "b")
    assert not marks.holds(ONE, None)
    assert f"cannot use {path}" in caplog.text
    marks.add(ONE, 7)
    assert Marks(path, "b").holds(ONE, 7)


def test_what_cannot_be_written_is_known_all_the_same(tmp_path, caplog):
    marks = Marks(tmp_path / "missing/marked.json", "b")
    marks.add(ONE, 7)
    assert marks.holds(ONE, 7)
    assert "cannot write" in caplog.text
