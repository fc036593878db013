"""Files that are whole or not there, and one process at a time that writes them."""

import errno
import os
import stat
from pathlib import Path

import pytest

from sriov.durable import delete_file, discard_draft, holding, list_records, write_file
from sriov.errors import HostError, Refused


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path):
    path = tmp_path / "record.json"
    write_file(path, b"old")
    with path.open("rb") as reader:
        write_file(path, b"new")
        assert (reader.read(), path.read_bytes()) == (b"old", b"new")
    assert names(tmp_path) == ["record.json"]


@pytest.mark.parametrize("call", ["fsync", "fchmod", "replace"])
def test_what_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "record.json"
    write_file(path, b"old")
    if call == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new", mode=0o755)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["record.json"])


def test_file_and_folder_are_on_disk_in_this_order(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def note(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_file(tmp_path / "record.json", b"x")
    assert synced == [False, True]
    delete_file(tmp_path / "record.json")
    assert synced == [False, True, True]
    write_file(tmp_path / "record.json", b"y", lasting=False)
    assert len(synced) == 3
    assert (tmp_path / "record.json").read_bytes() == b"y"


def test_a_link_in_the_draft_s_place_leads_nowhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    draft = discard_draft(tmp_path / "record.json")
    draft.symlink_to(victim)
    write_file(tmp_path / "record.json", b"x")
    assert (victim.read_bytes(), names(tmp_path)) == (b"mine", ["record.json", "victim"])


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o755, 0o755)])
def test_permissions(tmp_path, mode, expected):
    umask = os.umask(0o077)
    try:
        write_file(tmp_path / "x", b"", mode=mode)
    finally:
        os.umask(umask)
    assert (tmp_path / "x").stat().st_mode & 0o7777 == expected


def test_nothing_to_delete(tmp_path):
    delete_file(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        delete_file(tmp_path / "none/x")


def test_records_are_listed_without_their_drafts(tmp_path):
    for name in ("b.json", "a.json", ".c.json.new", "d.damaged"):
        (tmp_path / name).touch()
    assert list_records(tmp_path) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert list_records(tmp_path, ".damaged") == [tmp_path / "d.damaged"]
    assert list_records(tmp_path / "none") == []
    with pytest.raises(NotADirectoryError):
        list_records(tmp_path / "a.json")


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError):
        list_records(tmp_path)


def test_one_process_at_a_time(tmp_path):
    state = tmp_path / "new/state"
    with holding(state, hint="wait"):
        with pytest.raises(Refused, match="another process has it open") as caught, holding(state, hint="wait"):
            pass
        assert caught.value.hint == "wait"
    with holding(state, hint="wait"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot use"), holding(tmp_path / "file", hint=""):
        pass
