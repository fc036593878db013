"""sriov-cni's files: what they say about a VF, whose it is, and files that say nothing."""

import json
import os
import time

import pytest

from cni.attach import Attachments
from cni.custody import Custody, Loss
from cni.detach import Detacher
from cni.invocation import Invocation
from cni.netns import netns_cookie
from cni.protocol import Command
from cni.record import Baseline, HomeLink, Phase
from cni.repair import Repair
from cni.takeover import Forerunner
from sriov.errors import Gone, HostError, Refused
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from tests.cni.test_ipam import NOW, opened
from tests.cni.test_protocol import request
from tests.cni.test_record import record

VF = PciAddress("0000:3b:02.1")
OWN, ADMIN, PODS = (MacAddress(f"02:00:00:00:00:0{digit}") for digit in "123")
NETNS, HERE = "/run/netns/dead", "/proc/self/ns/net"
STATE = {"HostIFName": "ens1f0v1", "SpoofChk": True, "Trust": False, "AdminMAC": "00:00:00:00:00:00",
         "EffectiveMAC": OWN, "Vlan": 7, "VlanQoS": 3, "VlanProto": 34984, "MinTxRate": 1, "MaxTxRate": 2,
         "LinkState": 2, "MTU": 1500}
# As version 2.10 writes them: absent numbers as null, absent texts not at all.
CACHE = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "ipam": {"type": "fake"}, "dns": {},
         "OrigVfState": STATE, "Master": "ens1f0", "MAC": "", "MTU": 1500,
         "vlan": None, "vlanQoS": None, "vlanProto": None, "deviceID": VF,
         "VFID": 1, "min_tx_rate": None, "max_tx_rate": None, "runtimeConfig": {}}
SET = {"vlan": 100, "vlanQoS": 0, "vlanProto": "802.1q", "spoofchk": "off", "trust": "on", "link_state": "enable",
       "min_tx_rate": None, "max_tx_rate": 50}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sriov/pci").mkdir(parents=True)
    return tmp_path / "sriov"


@pytest.fixture
def write(folder):
    """Writes the files of container c1's net1, with these keys otherwise."""
    def make(netns=NETNS, name="c1-net1", state=None, **keys):
        document = {**CACHE, "OrigVfState": {**STATE, **(state or {})}, **keys}
        (folder / name).write_text(json.dumps(document))
        if netns is not None:
            (folder / "pci" / VF).write_text(netns)

    return make


@pytest.fixture
def forerunner(folder):
    return Forerunner(NOW, folder)


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


ATTACHMENT = ("c1", "net1")


# ---- what they say ------------------------------------------------------------------------------------------


def test_only_what_the_network_had_set_is_given_back(forerunner, write):
    write()
    left = forerunner.find(ATTACHMENT, NETNS)
    assert (left.vf, left.network, left.netns, left.sets_mac) == (VF, "net", NETNS, False)
    link = HomeLink(name="ens1f0v1", mac=OWN, mtu=1500, up=False)
    assert left.baseline == Baseline(link=link, settings=VfSettings(mac=MacAddress.ZERO), admin_mac=False)
    write(**SET, MAC=PODS)
    left = forerunner.find(ATTACHMENT, NETNS)
    assert left.sets_mac
    assert left.baseline == Baseline(link=link, admin_mac=False, settings=VfSettings(
        mac=MacAddress.ZERO, vlan=7, vlan_qos=3, vlan_proto=0x88A8, spoofchk=True, trust=False, min_tx_rate=1,
        max_tx_rate=2, link_state=LinkState.DISABLE))


@pytest.mark.parametrize(("state", "mac", "own"), [
    ({}, PODS, OWN), ({"EffectiveMAC": PODS}, PODS, PODS),
    ({"EffectiveMAC": PODS, "AdminMAC": ADMIN}, PODS, ADMIN), ({"AdminMAC": ADMIN}, PODS, OWN),
    ({"EffectiveMAC": PODS, "AdminMAC": ADMIN}, "", PODS)])
def test_a_mac_that_was_read_too_late_is_not_the_vfs_own(forerunner, write, state, mac, own):
    write(state=state, MAC=mac)
    assert forerunner.find(ATTACHMENT, NETNS).baseline.link.mac == own


@pytest.mark.parametrize("state", [{"HostIFName": "", "EffectiveMAC": ""}, {"EffectiveMAC": ""}], ids=str)
def test_a_vf_that_a_program_drives_has_no_netdev(forerunner, write, state):
    write(state=state)
    assert forerunner.find(ATTACHMENT, NETNS).baseline.link is None


@pytest.mark.parametrize("text", [
    "", "{", "[]", "5", "\udcff", json.dumps({**CACHE, "deviceID": "../../x"}),
    json.dumps({**CACHE, "OrigVfState": None}), json.dumps({**CACHE, "vlan": 5, "OrigVfState": {"AdminMAC": ""}}),
    "[" * 100_000, json.dumps({**CACHE, "link_state": "auto", "OrigVfState": {**STATE, "LinkState": 9}}),
    json.dumps({**CACHE, "OrigVfState": {**STATE, "EffectiveMAC": "x"}})])
def test_a_file_that_says_nothing_is_set_aside(forerunner, folder, text):
    (folder / "c1-net1").write_text(text, errors="surrogateescape")
    assert forerunner.find(ATTACHMENT, NETNS) is None
    assert files(folder) == ["c1-net1.damaged"]
    assert forerunner.find(ATTACHMENT, NETNS) is None


def test_files_that_cannot_be_read_are_not_absent(forerunner, folder):
    (folder / "c1-net1").mkdir()
    with pytest.raises(HostError, match="EISDIR"):
        forerunner.find(ATTACHMENT, NETNS)


def test_files_of_before_the_boot_are_about_vfs_that_went_with_it(forerunner, folder, write):
    write()
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1
    os.utime(folder / "pci" / VF, (before, before))
    assert forerunner.of_vf(VF) == []
    assert files(folder) == ["c1-net1"]
    os.utime(folder / "c1-net1", (before, before))
    assert forerunner.find(ATTACHMENT, NETNS) is None
    assert files(folder) == []


@pytest.mark.parametrize("look", [
    lambda found: found.find(ATTACHMENT, NETNS), lambda found: list(found.of_network("net")),
    lambda found: found.of_vf(VF)], ids=["DEL", "GC", "ADD"])
def test_folders_as_sriov_cni_makes_them(forerunner, folder, write, look):
    """Which an agent without CAP_DAC_OVERRIDE could not look into."""
    write()
    for each in (folder / "pci", folder):
        each.chmod(0o600)
    assert look(forerunner)
    assert [each.stat().st_mode & 0o777 for each in (folder, folder / "pci")] == [0o700, 0o700]


def test_a_node_that_never_had_it(tmp_path):
    absent = Forerunner(NOW, tmp_path / "none")
    assert absent.find(ATTACHMENT, "") is None
    assert absent.find(("c" * 1000, "net1"), "") is None      # longer than a file's name may be
    assert list(absent.of_network("net")) == []


def test_the_attachments_of_a_network(forerunner, folder, write):
    write(name="c1-net1")
    write(name="cnitool-77-net1")
    (folder / "c2-net1").write_text(json.dumps({**CACHE, "name": "other"}))
    (folder / "c3-net1").write_text("{")
    assert [left.attachment for left in forerunner.of_network("net")] == [("c1", "net1"), ("cnitool-77", "net1")]


# ---- whose it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "asked", "its"), [
    (NETNS, NETNS, True), (NETNS, "", True), (NETNS, "/run/netns/other", False), (HERE, HERE, True),
    (HERE, "", False),          # a namespace that lives is no dead pod's
    (None, NETNS, True), (None, "", True)])
def test_a_vf_is_whose_namespace_sriov_cni_noted(forerunner, folder, write, said, asked, its):
    write(netns=said)
    assert (forerunner.find(ATTACHMENT, asked) is not None) is its
    assert ("c1-net1" in files(folder)) is its       # another's DEL leaves nothing to try again
    assert (VF in files(folder)) is (said is not None)


def delete(store, folder, netns="", args="", **config):
    config = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", **config}
    asked = request(config, CNI_COMMAND=Command.DEL, CNI_NETNS=netns, CNI_ARGS=args)
    call = Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10)
    Attachments(NOW, store, forerunner=Forerunner(NOW, folder)).handle(call)


def test_it_has_a_record_of_ours_before_its_files_go_and_repair_can_end_it(tmp_path, folder, write):
    """This machine's PF has no netdev to ask, so the VF does not come home now."""
    write(**SET)
    with opened(tmp_path / "state") as store:
        with pytest.raises(Gone, match="there is no link"):
            delete(store, folder)
        (made,) = store
        assert (made.phase, made.attachment, made.owner.netns) == (Phase.DETACHING, ATTACHMENT, NETNS)
        assert (made.owner.network, made.vf, made.pf, made.index) == ("net", VF, record().pf, 1)
        assert made.ipam is None
        assert made.owner.pod == ""
        assert files(folder) == []
        assert Custody(NOW, store).find_loss(made) is not None
        Repair(Custody(NOW, store), store).reconcile()
        assert [left.vf for left in store] == [VF]


def test_its_record_has_the_pod_that_the_del_names(tmp_path, folder, write):
    write(**SET)
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0"
    with opened(tmp_path / "state") as store:
        with pytest.raises(Gone, match="there is no link"):
            delete(store, folder, args=args)
        (made,) = store
    assert made.owner.pod == "shop/cart-0"


def test_the_namespace_that_the_caller_has_open_is_known_by_its_cookie(forerunner, write):
    write(netns=HERE)
    left = forerunner.find(ATTACHMENT, HERE)
    netns = os.open(HERE, os.O_RDONLY)
    try:
        made = forerunner.make_record(left, netns, None)
    finally:
        os.close(netns)
    assert made.owner.cookie == netns_cookie(HERE)


def test_an_add_that_ended_before_it_noted_whose_the_vf_is(forerunner, write):
    """Neither its namespace nor anything else says so: the VF may be anybody's."""
    write(netns=None)
    left = forerunner.find(ATTACHMENT, NETNS)
    assert forerunner.make_record(left, None, None) is None
    netns = os.open(HERE, os.O_RDONLY)
    try:
        assert forerunner.make_record(left, netns, None) is None
    finally:
        os.close(netns)


def test_a_vf_that_we_gave_to_a_pod_since_is_let_be(tmp_path, folder, write):
    write()
    ours = record(container="c2", boot_id=NOW.boot_id, phase=Phase.ATTACHED)
    with opened(tmp_path / "state") as store:
        store.write(ours)
        delete(store, folder)
        assert (list(store), files(folder)) == ([ours], [])


def test_a_vf_that_is_gone(tmp_path, folder, write, monkeypatch):
    def gone(vf):
        raise Gone("there is no such PCI device")

    write()
    monkeypatch.setattr(NOW.sysfs, "locate_vf", gone)
    with opened(tmp_path / "state") as store:
        delete(store, folder)
        assert (list(store), files(folder)) == ([], [])


def test_addresses_are_given_back_whatever_the_files_say(tmp_path, folder, plugin, counted, done):
    counted()
    with opened(tmp_path / "state") as store:
        for text in ("{", None):
            if text is not None:
                (folder / "c1-net1").write_text(text)
            config = {"cniVersion": "1.0.0", "name": "net", "ipam": {"type": "fake"}}
            asked = request(config, CNI_COMMAND="DEL", CNI_NETNS="", CNI_PATH=f"{tmp_path}/bin")
            Attachments(NOW, store, forerunner=Forerunner(NOW, folder)).handle(Invocation(
                request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10))
    assert done() == ["c1", "c1"]


# ---- an ADD for such a VF -----------------------------------------------------------------------------------


def test_a_vf_that_a_living_pod_of_its_has_is_refused(forerunner, write):
    write(netns=HERE)
    with pytest.raises(Refused, match=f"VF {VF} is in use: sriov-cni gave it to {HERE}"):
        forerunner.of_vf(VF)


def test_the_first_of_several_dead_pods_found_it_clean(tmp_path, folder, write):
    write(name="c2-net1")
    write(name="c1-net1", state={"HostIFName": "clean"})
    (folder / "c3-net1").write_text(json.dumps({**CACHE, "deviceID": "0000:3b:02.7"}))
    earlier = time.time() - 5
    os.utime(folder / "c1-net1", (earlier, earlier))
    with opened(tmp_path / "state") as store:
        detacher = Detacher(Custody(NOW, store), store, Forerunner(NOW, folder))
        detacher.clear(VF, time.monotonic() + 10)
        detacher.clear(VF, time.monotonic() + 10)
        (made,) = store
        assert (made.attachment, made.baseline.link.name, made.ipam) == (ATTACHMENT, "clean", None)
        assert Custody(NOW, store).find_loss(made) is Loss.UNFINISHED
    assert files(folder) == ["c3-net1"]


def test_a_dead_pod_of_which_no_file_tells_how_the_vf_was(forerunner, folder, write, caplog):
    write()
    (folder / "c1-net1").write_text("{")
    assert forerunner.of_vf(VF) == []
    assert f"VF {VF}: sriov-cni gave it to {NETNS}, which is gone, and left no word" in caplog.text
    assert files(folder) == ["c1-net1.damaged"]


def test_a_vf_that_it_never_had(forerunner, write):
    write(netns=None)
    assert forerunner.of_vf(VF) == []
