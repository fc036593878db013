"""The way home of a VF's netdev, on a kernel without VFs: a veth stands for it; to unbind its driver deletes it."""

import errno
import os
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from cni.home import bring_home, describe_home
from cni.kernel import Kernel, Vf
from cni.netns import call_in
from cni.queue import FairQueue
from cni.record import Baseline
from cni.steps import MacOrder
from sriov.errors import HostError
from sriov.host.bpf import TCX, read_tcx
from sriov.host.linkinfo import LinkTraits
from sriov.model import VfSettings
from sriov.pci import PciAddress
from tests.cni.test_record import record
from tests.kernel.conftest import Namespace
from tests.support.bpf import attach_tcx, load_program, make_tcx_link, make_xdp_link

pytestmark = pytest.mark.kernel

PF, VF = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:02.1")
SETTINGS = VfSettings(vlan=0)


@dataclass
class Device:
    """What sysfs tells of the VF; its driver makes the veth pair vf0 and wire."""

    netns: Namespace
    index: int | None = None
    driver: str | None = "igbvf"
    autoprobe: bool = True
    override: str | None = None
    log: list[str] = field(default_factory=list)

    def probe(self, address):
        self.log.append("probe")
        if not self.autoprobe and self.override is None:
            return                               # pci_device_can_probe
        self.netns.run("link", "add", "dev", "vf0", "numtxqueues", "4", "numrxqueues", "4", "address",
                       "02:00:00:00:00:01", "type", "veth", "peer", "wire")
        made = self.netns.links.find("vf0")
        assert made is not None
        self.index, self.driver = made.index, "igbvf"

    def unbind(self, address):
        self.log.append("unbind")
        assert self.index is not None
        self.netns.links.delete(self.index, "delete the netdev")
        self.index, self.driver = None, None

    def read_driver(self, address):
        return self.driver

    def read_driver_override(self, address):
        return self.override

    def set_driver_override(self, address, driver):
        self.override = driver

    def read_autoprobe(self, pf):
        return self.autoprobe

    def find_netdev(self, address):
        return None if self.index is None or self.netns.links.find(self.index) is None else ("?", self.index)


class VethKernel(Kernel):
    def locate(self, address):
        pf = cast("Device", self.sysfs).netns.links.find("pf0")
        assert pf is not None
        return Vf(address=VF, index=1, pf=PF, pf_name="pf0", pf_index=pf.index, order=MacOrder.PF_FIRST)

    def inspect_vf(self, host, vf):
        return host.find(vf.pf_index), SETTINGS


@pytest.fixture
def device(host):
    host.add_veth("pf0", "switch")
    host.run("link", "set", "pf0", "up")
    device = Device(host)
    device.probe(VF)
    device.log.clear()
    return device


@pytest.fixture
def kernel(host, device):
    return VethKernel(sysfs=device, changes=FairQueue(), netns_fd=host.fd, boot_id="b",
                      settle=lambda index: False, trace=lambda step: None)


def at_home(kernel):
    host = kernel.sysfs.netns
    return describe_home(*call_in(host.fd, lambda: kernel.inspect(host.links, "vf0")))


@pytest.fixture
def home(host, kernel):
    """Brings it home; how it was there when the fixture was made is the baseline."""
    baseline = Baseline(link=at_home(kernel), settings=SETTINGS, admin_mac=False)

    def bring(pod=None, **changes):
        made = record(sets_mac=False, baseline=replace(baseline, **changes))
        return call_in(host.fd, lambda: bring_home(kernel, made, pod, time.monotonic() + 1))

    return bring


@pytest.mark.parametrize("name", ["net1", "\udcff", "a\x1b[31mX"])
def test_under_whatever_name_it_came_back(host, device, home, name):
    host.links.change(device.index, "rename", name=name)
    assert home().name == "vf0"
    assert device.log == []


def test_a_program_that_can_be_taken_off(host, device, home):
    program = load_program(verdict=1)
    host.links.attach_program(device.index, 1 << 1, program)
    os.close(program)
    assert home().index == device.index
    assert host.links.inspect("vf0")[1].programs == ()
    assert device.log == []


def test_what_cannot_be_taken_off_goes_with_the_netdev(host, device, home, caplog):
    """A BPF link keeps its program on the netdev for as long as somebody has it open."""
    with make_xdp_link(host.fd, device.index):
        assert host.links.inspect(device.index)[1].programs != ()
        host.links.change(device.index, "rename", name="\udcff")
        found = home()
        assert (found.name, host.links.inspect("vf0")[1].programs) == ("vf0", ())
    assert device.log == ["unbind", "probe"]
    assert "is not as it was: XDP program" in caplog.text
    assert "XDP link" in caplog.text            # the kernel's own words


@pytest.fixture
def moved(host, pod, device, monkeypatch):
    """The index of the netdev in its pod, where it is net1."""
    host.links.change(device.index, "move", netns_fd=pod.fd, name="net1")
    # A veth is on no PCI bus.
    monkeypatch.setattr(pod.links, "inspect_pci", lambda address: (*pod.links.inspect("net1"), ()))
    return pod.links.find("net1").index


@pytest.fixture(params=TCX, ids=lambda place: f"tcx {TCX[place]}")
def place(request):
    return request.param


def tcx(netns, index):
    return call_in(netns.fd, lambda: read_tcx(index))


def test_a_tcx_program_is_taken_off(host, pod, device, home, moved, place):
    """The kernel leaves it on a netdev that moves, where it would see the next pod's packets."""
    attach_tcx(pod.fd, moved, place)
    assert tcx(pod, moved) != ()
    made = home(pod.links)
    assert (made.name, tcx(host, made.index), device.log) == ("vf0", (), [])


def test_a_tcx_program_that_a_bpf_link_holds_is_taken_off(host, pod, device, home, moved, place):
    with make_tcx_link(pod.fd, moved, place):
        made = home(pod.links)
        assert (made.name, tcx(host, made.index), device.log) == ("vf0", (), [])


def test_a_tcx_program_on_what_came_back_by_itself_is_taken_off(host, device, home, place):
    """Even if nothing else differs: the pod's namespace is dead, and the netdev has its own name."""
    attach_tcx(host.fd, device.index, place)
    assert (home().name, tcx(host, device.index), device.log) == ("vf0", (), [])


def test_a_tcx_program_of_the_admins_stays(host, pod, kernel, device, home, monkeypatch, place):
    attach_tcx(host.fd, device.index, place)
    before, own = at_home(kernel), tcx(host, device.index)
    host.links.change(device.index, "move", netns_fd=pod.fd, name="net1")
    monkeypatch.setattr(pod.links, "inspect_pci", lambda address: (*pod.links.inspect("net1"), ()))
    attach_tcx(pod.fd, pod.links.find("net1").index, place)
    made = home(pod.links, link=before)
    assert (tcx(host, made.index), before.traits.tcx, device.log) == (own, own, [])


def test_a_tcx_program_that_cannot_be_taken_off_goes_with_the_netdev(host, pod, device, home, moved, place,
                                                                     monkeypatch, caplog):
    attach_tcx(pod.fd, moved, place)

    def refuse(index, place, program):
        raise HostError(f"cannot take {program} off", errno=errno.EPERM)

    monkeypatch.setattr("sriov.host.bpf.detach_tcx", refuse)
    made = home(pod.links)
    assert (made.name, tcx(host, made.index), device.log) == ("vf0", (), ["unbind", "probe"])
    assert f"is not as it was: tcx {TCX[place]} program " in caplog.text
    assert " off: EPERM" in caplog.text


def test_tcx_programs_that_cannot_be_read_any_more_are_not_none(host, pod, device, home, moved, monkeypatch):
    def refuse(index):
        raise HostError(f"cannot read the tcx programs of link {index}", errno=errno.EPERM)

    monkeypatch.setattr("cni.kernel.read_tcx", refuse)
    assert home(pod.links).name == "vf0"
    assert device.log == ["unbind", "probe"]             # on a new netdev there are none


def test_channels_that_the_pod_changed(host, pod, kernel, device, home, moved):
    pod.links.tune("net1", LinkTraits(channels=(1, 2, 0, 0)))
    assert pod.links.inspect("net1")[1].channels == (1, 2, 0, 0)
    assert home(pod.links).name == "vf0"
    assert at_home(kernel).traits.channels == (4, 4, 0, 0)
    assert device.log == []


def test_a_netdev_that_is_nowhere_is_made_anew(host, pod, device, home, new_netns):
    """Its pod moved it into a namespace of its own."""
    nested = new_netns()
    gone = device.index
    host.links.change(gone, "move", netns_fd=nested.fd)
    device.unbind = lambda vf: (device.log.append("unbind"), nested.run("link", "del", "vf0"))
    assert home(pod.links).name == "vf0"
    assert device.log == ["unbind", "probe"]
    assert device.index != gone


def test_a_pod_with_namespaces_of_its_own_gives_back_another_netdev(host, pod, device, home, new_netns):
    nested = new_netns()
    host.links.change(device.index, "move", netns_fd=pod.fd, name="net1")
    pod.run("link", "add", "m0", "link", "net1", "type", "macvlan", "mode", "bridge")
    pod.run("link", "set", "m0", "netns", nested.name)
    device.unbind = lambda vf: (device.log.append("unbind"), pod.run("link", "del", "net1"))
    assert home(pod.links).name == "vf0"
    assert device.log == ["unbind", "probe"]
    assert nested.links.find("m0") is None


@pytest.mark.parametrize("pf", ["up", "down"])
@pytest.mark.parametrize("again", [False, True])
def test_a_program_of_the_hosts_that_ended_meanwhile_is_no_difference(host, device, kernel, home, place, caplog, pf,
                                                                      again):
    """A daemon of the host's was restarted: its BPF links end with it. What it attached to what was away goes."""
    with make_tcx_link(host.fd, device.index, place), make_xdp_link(host.fd, device.index):
        before = at_home(kernel)
    assert before.traits.tcx
    caplog.set_level("INFO")
    host.run("link", "set", "pf0", pf)
    host.links.change(device.index, "rename", name="net1")
    with make_tcx_link(host.fd, device.index, place) if again else nullcontext():
        assert home(link=before).name == "vf0"
        assert tcx(host, device.index) == ()
    assert device.log == []
    assert re.search(r"not on its netdev any more: XDP program \d+, tcx program \d+$", caplog.text, re.MULTILINE)
    assert bool(re.search(rf"taken off: tcx {TCX[place]} program \d+$", caplog.text, re.MULTILINE)) is again


def test_traits_that_a_new_netdev_cannot_have_are_logged(kernel, device, home, caplog):
    """What no driver takes keeps the others from nothing."""
    before = at_home(kernel)
    lost = replace(before, traits=replace(before.traits, channels=(4711, 1, 0, 0), queue_length=4711))
    assert home(link=lost).name == "vf0"
    assert device.log == ["unbind", "probe"]
    assert at_home(kernel).traits.queue_length == 4711
    assert "not all is as it was: channels: expected (4711, 1, 0, 0), found " in caplog.text


def test_a_pf_that_is_down_makes_no_netdev(host, device, home):
    """Its VF's driver would get no answer: later."""
    host.run("link", "set", "pf0", "down")
    with make_xdp_link(host.fd, device.index):
        host.links.change(device.index, "rename", name="a\x1b[31mX")
        with pytest.raises(HostError, match=r"is not as it was: XDP program \d+ \(mode 0x\d\) is ") as caught:
            home()
        assert host.links.find("vf0").index == device.index       # named for all that
    assert "LinkTraits" not in str(caught.value)
    assert device.log == []
    home()
    assert host.links.inspect("vf0")[1].programs == ()


def test_a_name_that_another_link_has_is_no_reason_for_a_new_netdev(host, device, home):
    host.links.change(device.index, "rename", name="net1")
    host.add_veth("vf0", "other")
    assert home().name == "dev0"
    assert device.log == []


def test_a_driver_that_was_not_bound_again_is(host, device, home):
    """The agent died between the two."""
    device.unbind(VF)
    assert home().name == "vf0"
    assert device.log == ["unbind", "probe"]


@pytest.mark.parametrize("override", [None, "igbvf"])
def test_a_vf_that_no_driver_may_probe_by_itself(host, device, home, override):
    device.autoprobe, device.override = False, override
    with make_xdp_link(host.fd, device.index):
        assert home().name == "vf0"
    assert (device.log, device.override) == (["unbind", "probe"], override)


def test_a_driver_that_makes_no_netdev(host, device, home, monkeypatch):
    monkeypatch.setattr("cni.rebind._PATIENCE", 0.1)
    works = device.probe
    device.probe = lambda vf: setattr(device, "driver", "igbvf")
    with (make_xdp_link(host.fd, device.index),
          pytest.raises(HostError, match="was bound anew, and made no netdev") as caught):
        home()
    assert "that was to help where" in str(caught.value)
    device.probe, device.unbind = works, lambda vf: None
    assert home().name == "vf0"                  # the next try
