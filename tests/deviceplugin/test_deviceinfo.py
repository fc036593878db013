from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deviceplugin.deviceinfo import DeviceInfo, write_device_info
from sriov.errors import HostError
from sriov.pci import PciAddress

INFO = DeviceInfo(resource="intel.com/sriov", address=PciAddress("0000:3b:02.1"))
NAME = "intel.com-sriov-0000:3b:02.1-device.json"
CONTENT = b'{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:3b:02.1"}}'


def test_file_has_the_name_the_bytes_and_the_mode_that_multus_expects(tmp_path: Path) -> None:
    directory = tmp_path / "devinfo" / "dp"
    write_device_info(directory, INFO)
    assert [path.name for path in directory.iterdir()] == [NAME]
    assert (directory / NAME).read_bytes() == CONTENT
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o444


def test_a_file_of_an_earlier_pod_is_replaced_and_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"older")
    (tmp_path / NAME).chmod(0o444)
    with (tmp_path / NAME).open("rb") as reader:
        write_device_info(tmp_path, INFO)
        assert reader.read() == b"older"
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_directory_that_cannot_be_written_is_a_host_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "occupied").touch()
    with pytest.raises(HostError, match=r"cannot write .*-device.json: Is a directory: EISDIR"):
        write_device_info(tmp_path, INFO)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
