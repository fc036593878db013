"""IPAM plugins that are small scripts, and what attachments left of them."""

import dataclasses
import sys

import pytest

from cni import takeover
from cni.ipam import remember_ipam
from cni.protocol import Command, Request
from cni.record import Phase
from tests.cni.test_record import record


@pytest.fixture(autouse=True)
def _no_files_of_this_machine(tmp_path, monkeypatch):
    """Where sriov-cni runs, a test must not end what that attached."""
    monkeypatch.setattr(takeover, "FOLDER", tmp_path / "nothing of sriov-cni")


@pytest.fixture
def plugin(tmp_path):
    """Writes the plugin `fake`, a script with this body; returns its path."""
    def write(body, interpreter=sys.executable, mode=0o755, name="fake"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def request_of(tmp_path):
    def make(command=Command.ADD, stdin=b'{"name": "net"}', **env):
        environment = {"CNI_COMMAND": command.value, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x",
                       "CNI_IFNAME": "net1", "CNI_PATH": f"{tmp_path}/none::{tmp_path}/bin", **env}
        return Request(command=command, container_id="c1", ifname="net1", netns="/x", args={}, version="1.0.0",
                       network="net", environment=environment, config={}, stdin=stdin)

    return make


@pytest.fixture
def counted(plugin, tmp_path):
    """Writes a plugin that notes the container of each DEL that it did, after so many seconds; or fails."""
    def write(seconds=0.0, status=0):
        plugin(f"import os, sys, time\ntime.sleep({seconds})\n"
               f"{status} or print(os.environ['CNI_CONTAINERID'], file=open({str(tmp_path / 'done')!r}, 'a'))\n"
               f"sys.exit({status})")

    return write


@pytest.fixture
def done(tmp_path):
    return lambda: (tmp_path / "done").read_text().split() if (tmp_path / "done").exists() else []


@pytest.fixture
def lost(request_of):
    """A record of the boot before, with IPAM."""
    def make(container="c1", **changes):
        asked = dataclasses.replace(request_of(CNI_CONTAINERID=container),
                                    config={"name": "net", "ipam": {"type": "fake"}})
        delegation = remember_ipam("fake", asked)
        return record(container=container, phase=Phase.ATTACHED, ipam=delegation, **changes)

    return make
