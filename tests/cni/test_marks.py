"""Which VFs' MACs their PF had set, over a restart of the agent."""

import pytest

from cni.marks import Marks
from sriov.pci import MacAddress, PciAddress

MAC, OTHER = MacAddress("02:00:00:00:00:01"), MacAddress("02:00:00:00:00:02")
ONE, TWO = PciAddress("0000:3b:02.1"), PciAddress("0000:3b:02.2")


def test_marks_outlive_the_process_but_neither_the_boot_nor_the_vf(tmp_path):
    path = tmp_path / "marked.json"
    marks = Marks(path, "this boot")
    assert not marks.check(ONE, 7, MAC)
    marks.add(ONE, 7, MAC)
    marks.add(TWO, None, MAC)
    again = Marks(path, "this boot")
    assert [again.check(ONE, 7, MAC), again.check(ONE, 8, MAC), again.check(TWO, None, MAC)] == [True, False, True]
    again.add(ONE, 8, MAC)
    assert Marks(path, "this boot").check(ONE, 8, MAC)
    assert not Marks(path, "the next boot").check(ONE, 8, MAC)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"boot_id": "b"}', '{"boot_id": "b", "vfs": 5}', "\0"])
def test_a_damaged_file_is_said_and_counts_for_nothing(tmp_path, caplog, text):
    path = tmp_path / "marked.json"
    path.write_text(text)
    marks = Marks(path, "b")
    assert not marks.check(ONE, None, MAC)
    assert f"cannot use {path}" in caplog.text
    marks.add(ONE, 7, MAC)
    assert Marks(path, "b").check(ONE, 7, MAC)


def test_what_cannot_be_written_is_known_all_the_same(tmp_path, caplog):
    marks = Marks(tmp_path / "missing/marked.json", "b")
    marks.add(ONE, 7, MAC)
    assert marks.check(ONE, 7, MAC)
    assert "cannot write" in caplog.text


@pytest.mark.parametrize("seen", [OTHER, MacAddress.ZERO, None])
def test_a_mac_that_the_administrator_took_back_is_marked_no_more(tmp_path, seen):
    """Once home the netdev's own is shown again: the same, but set by nobody."""
    marks = Marks(tmp_path / "marked.json", "b")
    marks.add(ONE, 7, MAC)
    assert not marks.check(ONE, 7, seen)
    assert not marks.check(ONE, 7, MAC)
    assert not Marks(tmp_path / "marked.json", "b").check(ONE, 7, MAC)
