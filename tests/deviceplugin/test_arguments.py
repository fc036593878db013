"""What the agent is started with: wrong arguments end it with one clear sentence, before it touches anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from deviceplugin.__main__ import main

GOOD = "apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n"


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    path = tmp_path / "pools.yaml"
    path.write_text(GOOD)
    return path


def complain(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What the agent says on stderr as it ends with status 2: by argparse, without its usage, or by itself."""
    try:
        status = main([*map(str, argv)])
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else -1
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    *usage, line = err.splitlines()
    assert not usage or usage[0].startswith("usage: vfpool-agent ")
    assert "Traceback" not in err
    return line.removeprefix("vfpool-agent: error: ")


def test_a_host_that_is_not_there_has_no_claims_to_be_read(
    capsys: pytest.CaptureFixture[str], pool_file: Path, tmp_path: Path
) -> None:
    for where in (tmp_path / "none", pool_file):
        said = complain(capsys, "--pool-file", pool_file, "--state-dir", tmp_path, "--host-root", where)
        assert said == f"cannot use --host-root {where}: there is no such folder"


def test_an_option_that_is_not_written_out(capsys: pytest.CaptureFixture[str], pool_file: Path) -> None:
    """What was mistyped must not start an agent on this node's own folders."""
    assert complain(capsys, "--pool-fil", pool_file) == f"unrecognized arguments: --pool-fil {pool_file}"


PLACES = ("--host-root", "--install-cni", "--state-dir", "--socket", "--status-socket", "--kubelet-dir",
          "--device-info-dir", "--pool-file")


@pytest.mark.parametrize("option", PLACES)
def test_an_empty_path(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert complain(capsys, option, "") == f"argument {option}: expected a path, got ''"


@pytest.mark.parametrize("option", ["--socket", "--status-socket"])
def test_a_path_that_no_unix_socket_can_have(capsys: pytest.CaptureFixture[str], option: str) -> None:
    said = complain(capsys, option, "/run/" + "é" * 52)
    assert said == (f"argument {option}: expected a path of at most 107 bytes, a unix socket has no longer one; "
                    "got 109")


@pytest.mark.parametrize(("option", "end"), [
    ("--state-dir", ""), ("--state-dir", "/below/it"), ("--kubelet-dir", ""), ("--device-info-dir", "/x"),
    ("--socket", "/cni.sock"), ("--status-socket", "/status.sock")])
def test_a_folder_that_is_a_file(
    capsys: pytest.CaptureFixture[str], pool_file: Path, tmp_path: Path, option: str, end: str
) -> None:
    (tmp_path / "f").write_text("")
    given = f"{tmp_path}/f{end}"
    folder = Path(given).parent if "socket" in option else given
    assert complain(capsys, "--pool-file", pool_file, option, given) == (
        f"cannot use {option} {folder}: {tmp_path}/f is not a folder")
    assert (tmp_path / "f").read_text() == ""


@pytest.mark.parametrize("option", ["--install-cni", "--pool-file", "--socket", "--status-socket"])
def test_a_file_that_is_a_folder(
    capsys: pytest.CaptureFixture[str], pool_file: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "d").mkdir()
    assert complain(capsys, "--pool-file", pool_file, option, tmp_path / "d") == (
        f"cannot use {option} {tmp_path}/d: it is a folder, expected the path of a file")


def test_a_link_to_nowhere_is_no_folder(
    capsys: pytest.CaptureFixture[str], pool_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert complain(capsys, "--pool-file", pool_file, "--state-dir", tmp_path / "link").endswith(
        f"{tmp_path}/link is not a folder")


def test_a_node_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(capsys, "--node-name", "") == "argument --node-name: expected a node's name, got ''"


def test_a_pool_file_that_is_missing_or_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    assert complain(capsys, "--pool-file", path) == f"cannot read pool file {path}: No such file or directory"
    path.write_text(f"{GOOD}pools: 1\n")
    assert complain(capsys, "--pool-file", path) == f"{path}:3:8: pools: expected a list, got '1'"
