"""Looks at a node: completed by what was known, and what is wrong said once."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from deviceplugin.lookout import Lookout
from sriov.errors import HostError
from sriov.host.knownfile import KnownFile
from sriov.host.sysfs import Sysfs
from sriov.model import Host
from tests.support.tree import Pf, Tree

BOOT = "b7a3c0de"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    tree = Tree(tmp_path / "sys").add(Pf("0000:3b:00.0", "ens1f0", num_vfs=2))
    return Sysfs(tree.root).scan(tree.links)


def away(host: Host) -> Host:
    """With all of its netdevs in pods."""
    return host.map_functions(lambda function: replace(function, link=None))


def test_netdevs_in_pods_stay_known_over_a_restart(host: Host, tmp_path: Path) -> None:
    Lookout(lambda: host, KnownFile(tmp_path / "known.json", BOOT)).look()
    lookout = Lookout(lambda: away(host), KnownFile(tmp_path / "known.json", BOOT))
    assert lookout.host == Host()
    seen = lookout.look()
    assert lookout.host is seen
    for before, now in zip(host.vfs, seen.vfs, strict=True):
        assert (now.link, now.known_link and now.known_link.name) == (None, before.link and before.link.name)
    other_boot = Lookout(lambda: away(host), KnownFile(tmp_path / "known.json", "another"))
    assert [vf.known_link for vf in other_boot.look().vfs] == [None, None]


def test_what_is_wrong_is_said_once_for_as_long_as_it_is_the_same(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "state"
    shown = [host, replace(host, unreadable=("a", "b"))]
    lookout = Lookout(lambda: shown[0], KnownFile(folder / "known.json", BOOT))

    def said() -> list[str]:
        lookout.look()
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    trouble = f"cannot keep what is known of netdevs: {folder}/.known.json.new: No such file or directory"
    assert said() == [trouble]
    assert [lookout.trouble] == [trouble]
    assert said() == []
    folder.mkdir()
    assert said() == []
    assert [lookout.trouble] == [None]
    shown.reverse()
    assert said() == ["a", "b"]
    assert said() == []
    shown.reverse()
    assert said() == []
    shown.reverse()
    assert said() == ["a", "b"]


def test_what_was_lost_is_said_although_the_first_look_mends_it(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "known.json").write_text("{")
    lookout = Lookout(lambda: host, KnownFile(tmp_path / "known.json", BOOT))
    lookout.look()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"what was known of netdevs in pods is lost: {tmp_path}/known.json: ")
    assert lookout.trouble is None


def test_a_node_that_cannot_be_seen_leaves_the_last_look(host: Host, tmp_path: Path) -> None:
    answers = [host]

    def discover() -> Host:
        if not answers:
            raise HostError("cannot list links", errno=105)
        return answers.pop()

    lookout = Lookout(discover, KnownFile(tmp_path / "known.json", BOOT))
    seen = lookout.look()
    with pytest.raises(HostError, match="ENOBUFS"):
        lookout.look()
    assert lookout.host is seen
