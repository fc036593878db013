"""A pool file that changes under a running agent, in every way that files change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deviceplugin.folders import folders_behind
from deviceplugin.poolsource import PoolSource
from sriov.errors import InputError
from tests.deviceplugin.harness import run, until

REST = 0.02
HEAD = "apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"


def text(*resources: str, node: str = "*") -> str:
    pools = (f"  - resource: {name}\n    select: [{{pf: {name}, node: '{node}'}}]\n" for name in resources)
    return f"{HEAD}pools:\n{''.join(pools)}"


def resources(source: PoolSource) -> list[str]:
    return [pool.resource.removeprefix("intel.com/") for pool in source.wish.file.pools]


class Changes:
    """How often a source said that it wants something else."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@asynccontextmanager
async def following(
    path: Path, poll: float = 60.0, rest: float = REST
) -> AsyncIterator[tuple[PoolSource, Changes]]:
    """A source, watching already. The poll is far away: what a test sees was noticed by an event."""
    source, changes = PoolSource(path, "n1"), Changes()
    task = asyncio.create_task(source.follow(changes, poll=poll, rest=rest))
    await asyncio.sleep(0)
    await asyncio.sleep(REST)
    try:
        yield source, changes
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


class ConfigMap:
    """A ConfigMap's volume as the kubelet writes it (AtomicWriter in pkg/volume/util/atomic_writer.go).

    A folder with a name of its own for each version, `..data` a link to it, renamed over the one before, and the
    files links through `..data`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._versions = 0
        self.path = root / "pools.yaml"
        root.mkdir(exist_ok=True)

    def write(self, content: str) -> None:
        self._versions += 1
        old = os.readlink(self._root / "..data") if self._versions > 1 else None
        version = self._root / f"..2026_11_21_18_00_00.{self._versions}"
        version.mkdir()
        (version / "pools.yaml").write_text(content)
        (self._root / "..data_tmp").symlink_to(version.name)
        (self._root / "..data_tmp").replace(self._root / "..data")
        if old is None:
            self.path.symlink_to("..data/pools.yaml")
        else:
            (self._root / old / "pools.yaml").unlink()
            (self._root / old).rmdir()


def rewrite(path: Path, content: str) -> None:
    path.write_text(content)


def rename_over(path: Path, content: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(content)
    draft.replace(path)


def delete_and_create(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content)


def as_vim_does(path: Path, content: str) -> None:
    """With 'backupcopy' no: the old file becomes the backup, a new one takes its name."""
    backup = path.with_name(f"{path.name}~")
    path.replace(backup)
    path.write_text(content)
    backup.unlink()


WAYS = [rewrite, rename_over, delete_and_create, as_vim_does]


@pytest.mark.parametrize("write", WAYS)
def test_a_changed_file_counts(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(text("a"))

    async def scenario() -> None:
        async with following(path) as (source, changes):
            for number, names in enumerate((["a", "b"], ["b"], ["c", "b"]), 1):
                write(path, text(*names))
                await until(lambda number=number: changes.count == number)  # type: ignore[misc]
                assert resources(source) == names
                assert source.wish.generation == number + 1
                assert source.wish.problem is None

    run(scenario)


def test_a_config_map_counts_when_its_link_is_renamed(tmp_path: Path) -> None:
    volume = ConfigMap(tmp_path)
    volume.write(text("a"))

    async def scenario() -> None:
        async with following(volume.path) as (source, changes):
            for number, names in enumerate((["a", "b"], ["c"], ["d"]), 1):
                volume.write(text(*names))
                await until(lambda number=number: changes.count == number)  # type: ignore[misc]
                assert resources(source) == names

    run(scenario)


def test_equal_content_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    volume = ConfigMap(tmp_path)
    volume.write(text("a"))

    async def scenario() -> None:
        async with following(volume.path) as (source, changes):
            before = source.wish
            volume.write(text("a"))
            volume.write(text("a"))
            await asyncio.sleep(5 * REST)
            assert source.wish is before
            assert changes.count == 0
            volume.write("# a remark moves every place\n" + text("a"))
            await until(lambda: changes.count == 1)
            assert (source.wish.generation, source.wish.since) == (1, before.since)
            assert source.wish.file.pools[0].place == f"{volume.path}:5:5"

    run(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        f"the pool file wants what it wanted before: {volume.path}"]


def test_a_bad_file_leaves_the_last_good_one_and_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(text("a"))
    bad = text("a").replace("resource", "resourse").replace("select", "selekt")

    async def scenario() -> None:
        async with following(path, poll=REST) as (source, _):
            rename_over(path, bad)
            await until(lambda: source.wish.problem is not None)
            assert source.wish.problem is not None
            assert f"{path}:4:5: pools[0]: unknown key 'resourse', did you mean 'resource'?" in source.wish.problem
            assert (resources(source), source.wish.generation) == (["a"], 1)
            await asyncio.sleep(5 * REST)
            path.unlink()
            missing = f"cannot read pool file {path}: No such file or directory"
            await until(lambda: source.wish.problem == missing)
            rename_over(path, text("a"))
            await until(lambda: source.wish.problem is None)
            assert source.wish.generation == 1
            rename_over(path, bad)
            await until(lambda: source.wish.problem is not None)
            rename_over(path, text("b"))
            await until(lambda: source.wish.generation == 2)
            assert (resources(source), source.wish.problem is None) == (["b"], True)

    run(scenario)
    errors = [record.getMessage().splitlines() for record in caplog.records if record.levelno == logging.ERROR]
    assert [len(lines) for lines in errors] == [3, 2, 3]      # a line for each mistake
    assert {lines[0] for lines in errors} == {
        "the pool file has changed and cannot be used, what it last said stays:"}


def test_half_a_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Its first half is a right pool file: without the second, a resource would go from under its pods."""
    path = tmp_path / "pools.yaml"
    path.write_text(text("a", "b"))

    async def scenario() -> None:
        seen: list[list[str]] = []
        async with following(path, poll=REST, rest=50 * REST) as (source, changes):
            with path.open("w") as file:
                for line in text("a", "b", "c").splitlines(keepends=True):
                    file.write(line)
                    file.flush()
                    await asyncio.sleep(REST)
                    seen.append(resources(source))
            await until(lambda: changes.count == 1)
            assert resources(source) == ["a", "b", "c"]
            assert source.wish.problem is None
        assert all(names == ["a", "b"] for names in seen)

    run(scenario)


def test_warnings_are_told_of_once_per_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pools.yaml"
    twice = f"{HEAD}pools:\n  - resource: a\n    select: [{{pf: x}}, {{pf: x}}]\n"
    path.write_text(twice)

    def warnings() -> int:
        return sum("never gets a VF" in record.getMessage() for record in caplog.records)

    async def scenario() -> None:
        async with following(path, poll=REST) as (_, changes):
            assert warnings() == 1
            await asyncio.sleep(5 * REST)
            assert warnings() == 1
            rename_over(path, twice.replace("resource: a", "resource: b"))
            await until(lambda: changes.count == 1)
            assert warnings() == 2

    run(scenario)


def test_only_what_is_for_this_node_counts(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(text("a", node="n1"))

    async def scenario() -> None:
        async with following(path) as (source, changes):
            rename_over(path, text("a", node="n1") + text("b", node="n2").split("pools:\n")[1])
            await until(lambda: changes.count == 1)
            assert (resources(source), source.wish.generation) == (["a"], 1)
            rename_over(path, text("b", node="n[12]"))
            await until(lambda: source.wish.generation == 2)
            assert resources(source) == ["b"]

    run(scenario)


def test_without_inotify_polling_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("deviceplugin.folders.Inotify", exhausted)
    volume = ConfigMap(tmp_path)
    volume.write(text("a"))

    async def scenario() -> None:
        async with following(volume.path, poll=REST) as (source, changes):
            volume.write(text("b"))
            await until(lambda: changes.count == 1)
            assert resources(source) == ["b"]

    run(scenario)
    assert f"cannot watch {volume.path}, falling back to polling: Too many open files" in caplog.text


def test_at_a_start_there_is_no_last_good_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read pool file .*: No such file or directory"):
        PoolSource(tmp_path / "pools.yaml", "n1")
    (tmp_path / "pools.yaml").write_text("pools: 1")
    with pytest.raises(InputError, match=r"pools\.yaml:1:1: "):
        PoolSource(tmp_path / "pools.yaml", "n1")


def test_folders_behind_a_path(tmp_path: Path) -> None:
    volume = ConfigMap(tmp_path)
    volume.write("")
    version = tmp_path / os.readlink(tmp_path / "..data")
    assert {tmp_path, version} <= set(folders_behind(volume.path))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "link").symlink_to(f"../{version.name}/pools.yaml")
    assert {other, version} <= set(folders_behind(other / "link"))
    (other / "absolute").symlink_to(volume.path)
    assert {other, tmp_path, version} <= set(folders_behind(other / "absolute"))
    (other / "loop").symlink_to("loop")
    assert other in folders_behind(other / "loop")
    assert other / "none" in folders_behind(other / "none/pools.yaml")
