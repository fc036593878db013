"""The unit that makes VFs at boot: when it runs, and that what it runs is there to be run."""

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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_it(tmp_path):
    """As far as it does without the program."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/vfpool/bin/vfpool", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
                          capture_output=True, text=True, check=False)
    assert UNIT.name not in done.stderr
