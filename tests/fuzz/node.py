"""A node's attachments without a kernel and without IPAM plugins, and what an answer of theirs has to be."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

from cni.attach import Attachments
from cni.check import compare_link, own_addresses
from cni.ipam import ipam_add, ipam_forward, remember_ipam
from cni.netconf import find_ipam, parse_netconf
from cni.protocol import VERSIONS, Command
from cni.record import Wanted, format_record, parse_record
from cni.result import Addresses, Interface, find_previous, format_result, join_results
from cni.takeover import Forerunner
from cni.wire import encode_answer, parse_answer
from sriov.errors import SriovError
from sriov.model import Link
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_ipam import NOW
from tests.cni.test_record import record

_LINK = Link(index=5, name="net1", mac=MacAddress("02:00:00:00:00:01"), mtu=1500, up=True, carrier=True,
             pci=PciAddress("0000:3b:02.1"))


class Reading(Attachments):
    """Of a node without VFs. Of ADD, CHECK and STATUS all is done that does not ask the kernel."""

    def __init__(self, store, folder):
        super().__init__(NOW, store, forerunner=Forerunner(NOW, folder / "sriov"))

    def handle(self, call):
        request = call.request
        match request.command:
            case Command.ADD:
                return _read_add(request)
            case Command.CHECK:
                return _read_check(request)
            case Command.STATUS:
                plugin = find_ipam(request.config)
                if plugin is not None:
                    ipam_forward(plugin, request, 1)
                return None
            case _:
                return super().handle(call)


def _read_add(request):
    conf = parse_netconf(request.config, request.args)
    previous = find_previous(request.config, request.version)
    assert len(conf.warnings) <= 100
    made = record(vf=conf.device, wanted=Wanted(settings=conf.settings, mtu=conf.mtu),
                  ipam=None if conf.ipam is None else remember_ipam(conf.ipam, request))
    _check_survives(made)
    addresses = Addresses() if conf.ipam is None else ipam_add(conf.ipam, request, 1)
    interface = Interface(name=request.ifname, mac=conf.mac, mtu=conf.mtu, sandbox=request.netns, pci=conf.device)
    result = join_results(previous, format_result(interface, addresses, request.version))
    kept = made.attached(result)
    _check_survives(kept)
    with suppress(SriovError):
        own_addresses(kept)
    return result


def _read_check(request):
    previous = find_previous(request.config, request.version) or {}
    for told in previous.get("interfaces") or ():
        list(compare_link(record(), told, _LINK))
    own_addresses(record().attached(previous))


def _check_survives(made):
    """Nothing of a call makes a record that is damaged when it is read again."""
    assert parse_record(format_record(made)) == made


class Plugins:
    """Stands where `subprocess` does: an IPAM plugin that is run says what comes next of `outputs`."""

    PIPE = None

    def __init__(self, outputs):
        self._outputs = outputs

    def Popen(self, *args, **kwargs):
        return _Process(next(self._outputs))


class _Process:
    def __init__(self, stdout):
        self._stdout = stdout
        self.returncode = int(b"code" in stdout or len(stdout) % 10 == 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def communicate(self, stdin, timeout):
        return self._stdout, b""


def check_answer(reply):
    """What libcni reads: a result, or an error with a code and words that are not a bug's."""
    assert parse_answer(encode_answer(reply)) == replace(reply, undo=None)
    if reply.status == 0 and reply.document == b"":
        return
    document = json.loads(reply.document.decode("ascii"), parse_constant=_refuse)
    if reply.status == 0:
        assert isinstance(document["cniVersion"], str)
        return
    assert reply.status == 1
    assert document.keys() - {"details"} == {"cniVersion", "code", "msg"}
    assert document["cniVersion"] in VERSIONS
    assert type(document["code"]) is int
    assert 0 < document["code"] < 2**32
    assert type(document["msg"]) is str
    assert document["msg"]
    assert "internal error" not in document["msg"]


def _refuse(constant):
    raise AssertionError(f"{constant} is no JSON")
