"""What no VF is taken away for: PFs whose VFs would not work in a pod."""

import dataclasses
import errno
import threading
import time
from dataclasses import replace
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from cni.away import Pod, check_supported, check_untied, find_usable_link, find_userspace_mtu, take_away
from cni.kernel import Vf
from cni.netconf import NetConf, parse_netconf
from cni.protocol import CniError, Code
from cni.queue import FairQueue
from cni.steps import MacOrder
from sriov.errors import HostError, Refused
from sriov.host.linkinfo import LinkTraits
from sriov.host.routes import Address, Route
from sriov.model import Link, VfSettings
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_ipam import NOW

PF, ADDRESS = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:02.1")
VF = Vf(address=ADDRESS, index=1, pf=PF, pf_name="ens1f0", pf_index=4, order=MacOrder.PF_FIRST)


def link(index, name, kind="ether", pci=None):
    return Link(index=index, name=name, mac=MacAddress("02:00:00:00:00:01"), mtu=1500, up=True, carrier=True,
                kind=kind, pci=pci)


def find(mode=None, kind="ether", driver="iavf"):
    links = {4: link(4, "ens1f0", kind), 9: link(9, "ens1f0v1", pci=ADDRESS)}

    def eswitch_mode(pf):
        assert pf == PF
        if isinstance(mode, Exception):
            raise mode
        return mode

    kernel: Any = SimpleNamespace(
        sysfs=SimpleNamespace(read_driver=lambda vf: driver), eswitch_mode=eswitch_mode,
        inspect_link=lambda host, vf: (links[9], LinkTraits()), await_udev=lambda index: False)
    found = find_usable_link(kernel, ANY, VF, None)
    check_supported(kernel, VF, links[4])
    return found


@pytest.mark.parametrize("mode", [None, "legacy"])
def test_a_vf_of_a_plain_ethernet_pf_is_usable(mode):
    link, _ = find(mode)
    assert link.name == "ens1f0v1"


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci", "hisi_acc_vfio_pci", "uio_pci_generic", "igb_uio"])
def test_every_driver_that_hands_it_to_user_space_leaves_no_netdev_to_move(driver):
    assert find(driver=driver) is None


@pytest.mark.parametrize("driver", ["iavf", "vfio-pci"])
def test_switchdev_mode_is_refused_with_the_way_out(driver):
    with pytest.raises(Refused, match=r"^VF 0000:3b:02.1 \(ens1f0 vf 1\) is of a PF whose eswitch mode is "
                                      "switchdev: only legacy is supported so far") as caught:
        find("switchdev", driver=driver)
    assert caught.value.hint == "devlink dev eswitch set pci/0000:3b:00.0 mode legacy"


@pytest.mark.parametrize("driver", ["mlx5_core", "vfio-pci"])
def test_infiniband_is_refused(driver):
    with pytest.raises(Refused, match="is of a PF with link type infiniband: only ether is supported so far"):
        find(kind="infiniband", driver=driver)


def test_a_mode_that_cannot_be_read_is_not_legacy():
    with pytest.raises(HostError, match="cannot read eswitch modes"):
        find(HostError("cannot read eswitch modes"))


@pytest.mark.parametrize("before", [None, link(9, "eth0", pci=ADDRESS)])
def test_a_netdev_is_looked_at_again_after_waiting_for_udev(before):
    looks = [link(9, "eth0", pci=ADDRESS), link(9, "ens1f0v1", pci=ADDRESS)]
    sysfs = SimpleNamespace(read_driver=lambda vf: "iavf")
    kernel: Any = SimpleNamespace(sysfs=sysfs, await_udev=lambda index: True,
                                  inspect_link=lambda host, vf: (looks.pop(0), LinkTraits()))
    found = find_usable_link(kernel, ANY, VF, before)
    assert found is not None
    assert found[0].name == ("ens1f0v1" if before is None else "eth0")


def test_a_netdev_that_leaves_while_udev_is_waited_for_is_refused():
    looks = [(link(9, "eth0", pci=ADDRESS), LinkTraits()), None]
    sysfs = SimpleNamespace(read_driver=lambda vf: "iavf")
    kernel: Any = SimpleNamespace(sysfs=sysfs, await_udev=lambda index: True,
                                  inspect_link=lambda host, vf: looks.pop(0))
    with pytest.raises(Refused, match="is not on the host"):
        find_usable_link(kernel, ANY, VF, None)


def test_a_vf_without_a_driver_is_refused():
    with pytest.raises(Refused, match="has no driver"):
        find(driver=None)


def tie(netdev=None, upper=None, addresses=(), routes=()):
    """With a bond that it may be a port of; of other links only where anything stands on it."""
    links = [link(4, "ens1f0"), netdev or link(9, "ens1f0v1", pci=ADDRESS),
             replace(link(12, "bond0"), software="bond")]
    if upper is not None:
        links.append(upper)
    narrow = upper is None and links[1].master is None

    def dump():
        assert not narrow
        return links

    def of(index, given):
        assert index == (9 if narrow else 0)
        return given

    host: Any = SimpleNamespace(dump=dump, dump_addresses=lambda index=0: of(index, addresses),
                                dump_routes=lambda index=0: of(index, routes))
    kernel: Any = SimpleNamespace(sysfs=SimpleNamespace(is_stacked_on=lambda vf: upper is not None))
    check_untied(kernel, host, VF, links[1])


@pytest.mark.parametrize(("given", "words"), [
    ({"addresses": [Address(index=9, address=ip_interface("192.0.2.7/24"))]}, "has address 192.0.2.7/24"),
    ({"routes": [Route(version=6, links=(9,))]}, "carries the IPv6 default route"),
    ({"netdev": replace(link(9, "ens1f0v1"), master=12)}, "port of bond0 (bond)"),
    ({"upper": replace(link(10, "v\x1b5"), lower=9),
      "addresses": [Address(index=10, address=ip_interface("2001:db8::7/64"))]},
     "has address 2001:db8::7/64 (via v\\x1b5)"),
])
def test_what_the_node_uses_is_refused(given, words):
    with pytest.raises(Refused) as caught:
        tie(**given)
    assert caught.value.message == (
        f"VF 0000:3b:02.1 (ens1f0 vf 1) is not for pods: the node itself needs ens1f0v1: {words}")
    assert caught.value.hint == "move that to another NIC, or leave the VF out of the pools"


@pytest.mark.parametrize("given", [
    {}, {"upper": replace(link(10, "v5"), lower=9)}, {"routes": [Route(version=4, links=(9,), prefix=24)]},
    {"addresses": [Address(index=9, address=ip_interface("fe80::1/64")),
                   Address(index=9, address=ip_interface("192.0.2.7/24"), lasting=False)]}])
def test_what_nobody_meant_is_not(given):
    tie(**given)


UPLINK = link(4, "ens1f0")


def userspace_mtu(mtu=None, ipam=None):
    conf = NetConf(network="net", device=ADDRESS, settings=VfSettings(), mtu=mtu, ipam=ipam)
    return find_userspace_mtu(VF, UPLINK, conf)


def test_the_mtu_of_a_vf_without_a_netdev_is_its_pfs_or_less():
    assert [userspace_mtu(), userspace_mtu(mtu=1400), userspace_mtu(mtu=1500)] == [1500, 1400, 1500]
    with pytest.raises(Refused, match="mtu: 9000 is more than ens1f0 carries, which has 1500"):
        userspace_mtu(mtu=9000)


def test_an_address_that_is_asked_for_through_the_interface_needs_one():
    assert userspace_mtu(ipam="host-local") == 1500
    with pytest.raises(Refused, match=r"ipam\.type: dhcp asks through the pod's interface, and VF 0000:3b:02\.1"):
        userspace_mtu(ipam="dhcp")


def test_a_call_whose_caller_left_while_it_waited_in_the_queue_moves_nothing():
    moves: list[str] = []
    waiting, gone = threading.Event(), threading.Event()

    def check() -> None:
        left = gone.is_set()
        waiting.set()
        if left:
            raise CniError(Code.TRY_AGAIN_LATER, "the caller went away")

    kernel: Any = SimpleNamespace(changes=FairQueue(1), trace=lambda step: None)
    host: Any = SimpleNamespace(change=lambda index, what, **_: moves.append(what))
    inside: Any = SimpleNamespace(find=lambda key: None)
    pod = Pod(links=inside, netns_fd=-1, ifname="net1")
    conf = parse_netconf({"name": "net", "type": "vfpool", "deviceID": ADDRESS}, {})

    def add() -> None:
        with pytest.raises(CniError, match="the caller went away"):
            take_away(kernel, host, VF, link(9, "ens1f0v1", pci=ADDRESS), conf, VfSettings(), pod,
                      time.monotonic() + 10, check)

    caller = threading.Thread(target=add)

    def another_change() -> None:
        caller.start()
        assert waiting.wait(10)
        gone.set()

    kernel.changes.run(another_change)
    caller.join()
    assert moves == []


def test_a_vf_that_is_in_reset_once_it_has_moved_is_waited_for_there():
    """The move is the first that a message does, and `up` the last: iavf_open answers EBUSY for as long."""
    changes: list[Any] = []

    def change(index, what, **values):
        changes.append((index, values))
        if len(changes) < 4:
            raise HostError(what, errno=errno.EBUSY)

    there = link(3, "net1", pci=ADDRESS)
    host: Any = SimpleNamespace(change=change)
    inside: Any = SimpleNamespace(change=change, find=lambda key: there if changes else None,
                                  find_pci=lambda address: there)
    conf = parse_netconf({"name": "net", "type": "vfpool", "deviceID": ADDRESS}, {})
    kernel = dataclasses.replace(NOW)
    kernel.__dict__["settings"] = lambda host, vf: VfSettings()
    moved = take_away(kernel, host, VF, link(9, "ens1f0v1", pci=ADDRESS), conf, VfSettings(),
                      Pod(links=inside, netns_fd=-1, ifname="net1"), time.monotonic() + 10, lambda: None)
    assert moved == there
    wanted = {"name": "net1", "mac": None, "mtu": None, "up": True}
    assert changes == [(9, {**wanted, "netns_fd": -1}), *[(3, wanted)] * 3]
