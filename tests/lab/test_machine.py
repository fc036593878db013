from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.disk import Disk
from tests.lab.errors import LabError
from tests.lab.image import mkfs_command
from tests.lab.machine import Machine, way_in


def test_without_forwards_the_guest_reaches_nothing_and_only_ssh_leads_in():
    options = way_in(2222, []).split(",")
    assert "restrict=on" in options
    assert [option for option in options if option.startswith("hostfwd=")] == [
        "hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22"
    ]


def test_forwarded_ports_are_the_same_on_both_sides_and_open_the_network_without_ipv6():
    options = way_in(2222, [30001, 30002]).split(",")
    assert {"restrict=off", "ipv6=off"} <= set(options)
    assert [option.removeprefix("hostfwd=") for option in options if option.startswith("hostfwd=")] == [
        "tcp:127.0.0.1:2222-10.0.2.15:22",
        "tcp:127.0.0.1:30001-10.0.2.15:30001",
        "tcp:127.0.0.1:30002-10.0.2.15:30002",
    ]


@pytest.mark.parametrize(
    ("disk", "mode"),
    [
        ({}, "readonly=on"),
        ({"writable": True}, "snapshot=on"),
        ({"writable": True, "kept": True}, "snapshot=off"),
    ],
)
def test_only_what_is_kept_is_written_to_the_image(disk, mode):
    _, drive, _, device = Disk(image=Path("i.img"), label="l", mount="/m", **disk).qemu_arguments()
    modes = {option for option in drive.split(",") if option.startswith(("readonly", "snapshot"))}
    assert modes == {mode}
    assert "drive=l" in device


def test_a_disk_that_outlives_its_boot_has_a_journal():
    folder, disk = Path("folder"), Path("disk.img")
    assert "^has_journal" in mkfs_command(folder, disk, label="l", size="1G")
    assert "^has_journal" not in mkfs_command(None, disk, label="l", size="1G", journal=True)
    assert "-d" not in mkfs_command(None, disk, label="l", size="1G")


def test_a_machine_that_is_not_running_cannot_be_reset():
    with pytest.raises(LabError, match="not running"):
        Machine().reset()
