"""The unit that makes VFs at boot: when it runs, and that what it runs is there to be run."""

import os
import shlex
import shutil
import subprocess

import pytest

from deviceplugin.__main__ import _parse_args
from sriov.__main__ import _parser
from sriov.provision.claims import parse_sections
from tests.deploy.manifests import DEPLOY

UNIT = DEPLOY / "systemd/vfpool-last-good.service"
SETTINGS = {f"{section}.{key}": value
            for section, pairs in parse_sections(UNIT.read_text()) for key, value in pairs}


def test_it_is_done_before_the_kubelet_starts():
    assert SETTINGS["Service.Type"] == "oneshot"
    assert {"kubelet.service", "network-pre.target"} <= set(SETTINGS["Unit.Before"].split())
    assert "Install.WantedBy" in SETTINGS


def test_it_reads_what_the_agent_keeps():
    state = str(_parse_args([]).state_dir)
    assert SETTINGS["Unit.ConditionPathExistsGlob"] == f"{state}/pfs/*.json"
    assert state == SETTINGS["Unit.RequiresMountsFor"] == SETTINGS["Service.ReadWritePaths"]


def test_a_command_that_it_may_run():
    program, *arguments = shlex.split(SETTINGS["Service.ExecStart"])
    assert program.endswith("/bin/vfpool")
    parsed = _parser().parse_args(arguments)
    assert (parsed.last_good, parsed.file, parsed.force) == (True, None, [])
    assert parsed.state_dir == _parse_args([]).state_dir


# What Ubuntu's cloud-init brings: it waits for the network before sysinit.target is reached.
CLOUD_INIT = """\
[Unit]
DefaultDependencies=no
Wants=systemd-networkd-wait-online.service
After=systemd-networkd-wait-online.service
Before=network-online.target sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/true
"""
WAIT_ONLINE = """\
[Unit]
DefaultDependencies=no
Requires=systemd-networkd.service
After=systemd-networkd.service
Before=network-online.target
[Service]
Type=oneshot
ExecStart=/bin/true
"""
NETWORKD = """\
[Unit]
DefaultDependencies=no
After=network-pre.target
Before=network.target
[Service]
ExecStart=/bin/true
"""


def verify(folder, unit, *options):
    """What systemd says of the unit, as far as it can without the program."""
    copy = folder / UNIT.name
    copy.write_text(unit.replace("/opt/vfpool/bin/vfpool", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *options, str(copy)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}, capture_output=True, text=True, check=False)
    return done.stderr


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_systemd_understands_it(tmp_path):
    assert UNIT.name not in verify(tmp_path, UNIT.read_text(), "--recursive-errors=no")


@needs_systemd
def test_a_host_whose_boot_waits_for_the_network(tmp_path):
    """No job of the boot is dropped for it, as one is for a unit with the default dependencies."""
    for name, text in (("cloud-init", CLOUD_INIT), ("systemd-networkd-wait-online", WAIT_ONLINE),
                       ("systemd-networkd", NETWORKD)):
        (tmp_path / f"{name}.service").write_text(text)
    wants = tmp_path / "sysinit.target.wants"
    wants.mkdir()
    (wants / "cloud-init.service").symlink_to(tmp_path / "cloud-init.service")
    assert "ordering cycle" not in verify(tmp_path, UNIT.read_text())
    assert "ordering cycle" in verify(tmp_path, UNIT.read_text().replace("DefaultDependencies=no\n", ""))


def test_a_shutdown_stops_it():
    """As the default dependencies would have it."""
    assert "shutdown.target" in SETTINGS["Unit.Before"].split()
    assert SETTINGS["Unit.Conflicts"] == "shutdown.target"
