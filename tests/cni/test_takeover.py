"""sriov-cni's files: what they say about a VF, whose it is, and files that say nothing."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest

from cni.attach import Attachments
from cni.custody import Custody, Loss
from cni.detach import Detacher
from cni.invocation import Invocation
from cni.locks import Busy
from cni.netns import netns_cookie, open_netns
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


@pytest.fixture
def other_netns():
    """The path of a network namespace that is not this process's."""
    ready = "import ctypes, sys; print(ctypes.CDLL(None).unshare(0x40000000), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", ready], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        yield f"/proc/{process.pid}/ns/net"
        process.stdin.close()


@contextmanager
def here():
    with open_netns(HERE) as netns:
        yield netns


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


ATTACHMENT = ("c1", "net1")


# ---- what they say ------------------------------------------------------------------------------------------


def test_only_what_the_network_had_set_is_given_back(forerunner, write):
    write()
    left = forerunner.find(ATTACHMENT, None)
    assert (left.vf, left.network, left.netns, left.sets_mac) == (VF, "net", NETNS, False)
    link = HomeLink(name="ens1f0v1", mac=OWN, mtu=1500, up=False)
    assert left.baseline == Baseline(link=link, settings=VfSettings(mac=MacAddress.ZERO), admin_mac=False)
    write(**SET, MAC=PODS)
    left = forerunner.find(ATTACHMENT, None)
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
    assert forerunner.find(ATTACHMENT, None).baseline.link.mac == own


@pytest.mark.parametrize("state", [{"HostIFName": "", "EffectiveMAC": ""}, {"EffectiveMAC": ""}], ids=str)
def test_a_vf_that_a_program_drives_has_no_netdev(forerunner, write, state):
    write(state=state)
    assert forerunner.find(ATTACHMENT, None).baseline.link is None


@pytest.mark.parametrize("text", [
    "", "{", "[]", "5", "\udcff", json.dumps({**CACHE, "deviceID": "../../x"}),
    json.dumps({**CACHE, "OrigVfState": None}), json.dumps({**CACHE, "vlan": 5, "OrigVfState": {"AdminMAC": ""}}),
    "[" * 100_000, json.dumps({**CACHE, "link_state": "auto", "OrigVfState": {**STATE, "LinkState": 9}}),
    json.dumps({**CACHE, "OrigVfState": {**STATE, "EffectiveMAC": "x"}})])
def test_a_file_that_says_nothing_is_set_aside(forerunner, folder, text):
    (folder / "c1-net1").write_text(text, errors="surrogateescape")
    age(folder / "c1-net1", 2)
    assert forerunner.find(ATTACHMENT, None) is None
    assert files(folder) == ["c1-net1.damaged"]
    assert forerunner.find(ATTACHMENT, None) is None


def test_files_that_cannot_be_read_are_not_absent(forerunner, folder):
    (folder / "c1-net1").symlink_to(folder / "c1-net1")
    with pytest.raises(HostError, match="ELOOP"):
        forerunner.find(ATTACHMENT, None)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_waited_for_nor_absent(forerunner, folder, write, make):
    make(folder / "c1-net1")
    make(folder / "pci" / VF)
    for look in (lambda: forerunner.find(ATTACHMENT, None), lambda: forerunner.had(VF)):
        with pytest.raises(HostError, match=r"cannot read sriov-cni's file .*: it is no regular file"):
            look()
    (folder / "c1-net1").rmdir() if make is os.mkdir else (folder / "c1-net1").unlink()
    write(netns=None)
    with pytest.raises(HostError, match=f"pci/{VF}: it is no regular file"):
        forerunner.find(ATTACHMENT, None)


def test_what_is_no_file_of_libcnis_does_not_help(forerunner, folder, write):
    write(name="c1-my-net1", netns=None)
    (folder.parent / "results").mkdir()
    os.mkfifo(folder.parent / "results/net-c1-my-net1")
    (left,) = forerunner.of_network("net")
    assert not left.certain


@pytest.mark.parametrize("content", ["", "\0\0\0", "run/netns/x"], ids=repr)
def test_a_path_that_is_none_says_nothing(forerunner, write, content):
    write(netns=content)
    assert (forerunner.find(ATTACHMENT, None).netns, forerunner.of_vf(VF)) == (None, [])


def test_a_file_that_is_half_written_is_waited_for(forerunner, folder, write):
    write()
    text = (folder / "c1-net1").read_text()
    (folder / "c1-net1").write_text(text[:100])
    writer = threading.Timer(0.3, (folder / "c1-net1").write_text, [text])
    writer.start()
    try:
        assert forerunner.find(ATTACHMENT, None).vf == VF
    finally:
        writer.join()
    assert files(folder) == [VF, "c1-net1"]


@pytest.mark.parametrize("look", [
    lambda found: found.find(ATTACHMENT, None), lambda found: list(found.of_network("net")),
    lambda found: found.of_vf(VF)], ids=["DEL", "GC", "ADD"])
def test_folders_as_sriov_cni_makes_them(forerunner, folder, write, look):
    """Which an agent without CAP_DAC_OVERRIDE could not look into."""
    write()
    folders = [folder / "pci/vf_lock", folder / "pci", folder]
    folders[0].mkdir()
    for each in folders:
        each.chmod(0o600)
    assert look(forerunner)
    assert [each.stat().st_mode & 0o777 for each in folders] == [0o700] * 3


def test_a_name_that_no_file_can_have(forerunner):
    assert forerunner.find(("x" * 300, "net1"), None) is None


# ---- before the boot, and a clock that is set -----------------------------------------------------------------


def make_older(folder, *names):
    """Than the boot is by the clock."""
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1
    for name in names:
        os.utime(folder / name, (before, before))


def test_files_of_before_the_boot_are_about_vfs_that_went_with_it(forerunner, folder, write):
    write()
    make_older(folder, "c1-net1")
    assert forerunner.of_vf(VF) == []
    assert files(folder) == ["c1-net1.outdated"]
    write()
    make_older(folder, "c1-net1")
    assert forerunner.find(ATTACHMENT, None) is None
    assert list(forerunner.of_network("net")) == []
    assert files(folder) == [VF, "c1-net1.outdated"]


def test_a_living_pods_files_are_of_this_boot_whatever_their_time(forerunner, folder, write, tmp_path):
    (tmp_path / "netns").symlink_to(HERE)
    write(netns=str(tmp_path / "netns"))
    make_older(folder, "c1-net1", f"pci/{VF}")
    with pytest.raises(Refused, match=f"VF {VF} is in use"):
        forerunner.of_vf(VF)
    (left,) = forerunner.of_network("net")
    assert forerunner.find(ATTACHMENT, None) == left
    write(netns="/proc/this/process/does/not/see")
    make_older(folder, "c1-net1")
    with here() as netns:
        assert forerunner.find(ATTACHMENT, netns) is not None
    assert files(folder) == [VF, "c1-net1"]


@pytest.mark.parametrize(("netns", "sysfs"), [
    (HERE, {}), ("/proc/999999999/ns/net", {"find_netdev": lambda vf: None, "read_driver": lambda vf: "vfio-pci"}),
    (NETNS, {"find_netdev": lambda vf: None, "read_driver": lambda vf: "iavf"})],
    ids=["pid given out again", "vfio", "netdev elsewhere"])
def test_a_file_of_before_the_boot_refuses_no_vf(forerunner, folder, write, monkeypatch, netns, sysfs):
    """Nor has its pod's successor by PID, which is whoever came, a VF by it."""
    for name, read in sysfs.items():
        monkeypatch.setattr(NOW.sysfs, name, read, raising=False)
    write(netns=netns)
    with pytest.raises(Refused, match=f"VF {VF} is in use"):
        forerunner.had(VF)
    make_older(folder, "c1-net1", f"pci/{VF}")
    assert forerunner.had(VF)
    assert forerunner.of_vf(VF) == []
    assert files(folder) == ["c1-net1.outdated"]
    assert not forerunner.had(VF)


def test_files_that_name_no_namespace_are_told_by_where_the_vf_is(forerunner, folder, write):
    write(netns=None)
    make_older(folder, "c1-net1")
    left = forerunner.find(ATTACHMENT, None)
    assert forerunner.make_record(left, None, None, "") is None
    assert files(folder) == ["c1-net1"]


@pytest.mark.parametrize("step", [7200, -7200])
def test_a_clock_that_is_set_after_the_start_makes_no_file_older(forerunner, folder, write, monkeypatch, step):
    write()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    boot = now() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(folder / "c1-net1", (boot + min(step, 0) + 1, boot + min(step, 0) + 1))
    assert forerunner.find(ATTACHMENT, None) is not None


def test_a_node_that_never_had_it(tmp_path):
    absent = Forerunner(NOW, tmp_path / "none")
    assert absent.find(ATTACHMENT, None) is None
    assert list(absent.of_network("net")) == []


def test_the_attachments_of_a_network(forerunner, folder, write):
    write(name="c1-net1")
    write(name="cnitool-77-net1")
    (folder / "c2-net1").write_text(json.dumps({**CACHE, "name": "other"}))
    (folder / "c3-net1").write_text("{")
    assert [left.attachment for left in forerunner.of_network("net")] == [("c1", "net1"), ("cnitool-77", "net1")]


# ---- whose it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "asked", "its"), [
    (NETNS, NETNS, True), (NETNS, "", True), (HERE, HERE, True), (None, NETNS, True), (None, "", True),
    ("/var/run/netns/c", "/run/netns/c", True), ("/run/netns/c", "/var/run/netns/c", True),
    (HERE, f"/proc/{os.getpid()}/ns/net", True), (HERE, "{link}", True), ("{link}", HERE, True),
    ("{gone}", "{linked}/gone", True), (NETNS, "/run/netns/other", True), (HERE, "", True), (HERE, NETNS, True),
    (HERE, "{other}", False)])
def test_a_vf_is_whose_namespace_sriov_cni_noted(forerunner, write, tmp_path, other_netns, said, asked, its):
    """However it is written; where a name leads nowhere, by whose files there are."""
    (tmp_path / "link").symlink_to(HERE)
    (tmp_path / "linked").symlink_to(tmp_path)
    names = {"link": tmp_path / "link", "gone": tmp_path / "gone", "linked": tmp_path / "linked",
             "other": other_netns}
    write(netns=said and said.format(**names))
    left = forerunner.find(ATTACHMENT, None)
    assert forerunner.is_anothers(left, asked.format(**names), None) is not its


@pytest.mark.parametrize("asked", ["", "/run/netns/gone"])
@pytest.mark.parametrize("said", [HERE, NETNS])
def test_the_last_that_had_a_vf_wrote_its_files_together(forerunner, folder, write, said, asked):
    write(netns=said, name="c2-net1")
    write(netns=said)
    age(folder / "c2-net1", 60)
    (old, new) = forerunner.find(("c2", "net1"), None), forerunner.find(ATTACHMENT, None)
    assert forerunner.is_anothers(old, asked, None)
    assert not forerunner.is_anothers(new, asked, None)
    age(folder / "c2-net1", -60)           # the clock was set back before the second ADD
    assert forerunner.is_anothers(forerunner.find(("c2", "net1"), None), asked, None)


def tell(folder, name, text):
    """As libcni, to whoever called sriov-cni."""
    (folder.parent / "results").mkdir(exist_ok=True)
    (folder.parent / f"results/net-{name}").write_text(text)


@pytest.mark.parametrize(("told", "its"), [
    (json.dumps({"netns": HERE}), True), ("{", False), ("[]", False), (json.dumps({"netns": 5}), False)])
def test_libcni_may_tell_what_a_runtime_does_not(forerunner, folder, write, told, its):
    write(netns=HERE)
    write(netns=HERE, name="c2-net1")
    age(folder / "c1-net1", 60)
    tell(folder, "c1-net1", told)
    assert forerunner.is_anothers(forerunner.find(ATTACHMENT, None), "", None) is not its


def test_libcni_may_tell_that_the_vf_is_anothers(forerunner, folder, write, other_netns):
    write(netns=HERE)
    tell(folder, "c1-net1", json.dumps({"netns": other_netns}))
    assert forerunner.is_anothers(forerunner.find(ATTACHMENT, None), "", None)


def test_the_callers_descriptor_tells_where_the_name_leads_nowhere(forerunner, write, other_netns):
    write(netns=HERE)
    left = forerunner.find(ATTACHMENT, None)
    with here() as own, open_netns(other_netns) as other:
        assert not forerunner.is_anothers(left, NETNS, own)
        assert forerunner.is_anothers(left, NETNS, other)


# ---- DEL ----------------------------------------------------------------------------------------------------


def handle(store, folder, command, netns_fd=None, *, config=None, **env):
    config = {"cniVersion": "1.1.0", "name": "net", "type": "sriov", **(config or {})}
    call = Invocation(request=request(config, CNI_COMMAND=command, **env), netns_fd=netns_fd, gone=lambda: False,
                      deadline=time.monotonic() + 1)
    Attachments(NOW, store, forerunner=Forerunner(NOW, folder)).handle(call)


def delete(store, folder, netns="", **env):
    handle(store, folder, Command.DEL, CNI_NETNS=netns, **env)


def test_it_has_a_record_of_ours_before_its_files_go_and_repair_can_end_it(tmp_path, folder, write):
    """This machine's PF has no netdev to ask, so the VF does not come home now."""
    write(**SET)
    with opened(tmp_path / "state") as store:
        with pytest.raises(Gone, match="there is no link"):
            delete(store, folder, CNI_ARGS="K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod")
        (made,) = store
        assert made.owner.pod == "ns/pod"
        assert (made.phase, made.attachment, made.owner.netns) == (Phase.DETACHING, ATTACHMENT, NETNS)
        assert (made.owner.network, made.vf, made.pf, made.index) == ("net", VF, record().pf, 1)
        assert made.ipam is None
        assert files(folder) == []
        assert Custody(NOW, store).find_loss(made) is not None
        Repair(Custody(NOW, store), store).reconcile()
        assert [left.vf for left in store] == [VF]


def test_the_namespace_that_the_caller_has_open_is_known_by_its_cookie(forerunner, write):
    write(netns=HERE)
    left = forerunner.find(ATTACHMENT, None)
    with here() as netns:
        made = forerunner.make_record(left, netns, None, "")
    assert made.owner.cookie == netns_cookie(HERE)


def test_an_add_that_ended_before_it_noted_whose_the_vf_is(forerunner, write):
    """Neither its namespace nor anything else says so: the VF may be anybody's."""
    write(netns=None)
    left = forerunner.find(ATTACHMENT, None)
    assert forerunner.make_record(left, None, None, "") is None
    with here() as netns:
        assert forerunner.make_record(left, netns, None, "") is None


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


@pytest.fixture
def ipam(counted, tmp_path):
    """What a call has that asks an IPAM plugin; `done` says for whom it did."""
    counted()
    return {"config": {"ipam": {"type": "fake"}}, "CNI_PATH": f"{tmp_path}/bin"}


def break_file(folder):
    (folder / "c1-net1").write_text("{")
    age(folder / "c1-net1", 2)


@pytest.mark.parametrize(("damage", "error"), [
    (break_file, None), (lambda folder: None, None),
    (lambda folder: (folder / "c1-net1").mkdir(), "no regular file"),
    (lambda folder: (folder / "pci" / VF).mkdir(), "no regular file")])
def test_addresses_are_given_back_whatever_the_files_say(tmp_path, folder, write, ipam, done, damage, error):
    if damage(folder) is None and (folder / "pci" / VF).exists():
        write(netns=None)
    with opened(tmp_path / "state") as store:
        if error is None:
            delete(store, folder, **ipam)
        else:
            with pytest.raises(HostError, match=error):
                delete(store, folder, **ipam)
    assert done() == ["c1"]


def test_both_failures_are_told(tmp_path, folder, plugin):
    (folder / "c1-net1").mkdir()
    plugin("import sys; sys.exit(1)")
    with opened(tmp_path / "state") as store, pytest.raises(HostError, match="no regular") as failure:
        delete(store, folder, config={"ipam": {"type": "fake"}}, CNI_PATH=f"{tmp_path}/bin")
    assert failure.value.__notes__ == ["IPAM plugin fake: DEL failed: exit status 1"]


def test_a_del_with_a_longer_name_than_a_file_can_have(tmp_path, folder, ipam, done):
    with opened(tmp_path / "state") as store:
        delete(store, folder, CNI_CONTAINERID="a" * 300, **ipam)
    assert done() == ["a" * 300]


@pytest.mark.parametrize("netns", ["", "/proc/thread-self/ns/net"])
def test_a_del_names_the_living_namespace_otherwise_or_not_at_all(tmp_path, folder, write, netns):
    """No success is claimed while the VF is in the pod; what there is to do is in the record."""
    write(netns=HERE)
    with opened(tmp_path / "state") as store:
        with pytest.raises(Gone, match="there is no link"):
            delete(store, folder, netns)
        (made,) = store
        assert (made.owner.netns, made.owner.cookie, files(folder)) == (HERE, netns_cookie(HERE), [])


def test_a_late_del_ends_nothing_of_the_pod_that_has_the_vf_now(tmp_path, folder, write, ipam, done):
    write(netns=HERE)
    write(netns=HERE, name="c2-net1")
    age(folder / "c1-net1", 60)
    with opened(tmp_path / "state") as store:
        delete(store, folder, **ipam)
        assert (list(store), files(folder), done()) == ([], [VF, "c2-net1"], ["c1"])


# ---- sriov-cni beside ---------------------------------------------------------------------------------------


@pytest.fixture
def its_lock(folder):
    """What sriov-cni has while it works on the VF."""
    (folder / "pci/vf_lock").mkdir()
    with (folder / f"pci/vf_lock/{VF}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def test_nothing_is_taken_over_while_sriov_cni_is_at_it(tmp_path, folder, write, its_lock):
    write()
    with opened(tmp_path / "state") as store:
        detacher = Detacher(Custody(NOW, store), store, Forerunner(NOW, folder))
        for work in (partial(delete, store, folder), partial(detacher.clear, VF, time.monotonic())):
            with pytest.raises(Busy, match=f"VF {VF} is busy with sriov-cni"):
                work()
        assert list(store) == []
    assert "c1-net1" in files(folder)


@contextmanager
def changed_meanwhile(lock, change):
    """It works on for a moment, and lets go then."""
    def let_go():
        change()
        fcntl.flock(lock, fcntl.LOCK_UN)

    timer = threading.Timer(0.3, let_go)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_what_sriov_cni_ended_meanwhile_is_not_ended_again(tmp_path, folder, write, its_lock):
    write()
    with opened(tmp_path / "state") as store, changed_meanwhile(its_lock, (folder / "c1-net1").unlink):
        delete(store, folder)
        assert list(store) == []
    assert VF in files(folder)


def test_what_sriov_cni_attached_meanwhile_is_another_matter(tmp_path, folder, write, its_lock):
    write()
    other = json.dumps({**CACHE, "deviceID": "0000:3b:02.2"})
    with opened(tmp_path / "state") as store:
        with (changed_meanwhile(its_lock, partial((folder / "c1-net1").write_text, other)),
              pytest.raises(Busy, match=f"VF {VF}: sriov-cni has changed")):
            delete(store, folder)
        assert list(store) == []
    assert "c1-net1" in files(folder)


# ---- GC -----------------------------------------------------------------------------------------------------


VALID = "cni.dev/valid-attachments"


def collect(store, folder, valid=(), **env):
    config = {VALID: [{"containerID": container, "ifname": ifname} for container, ifname in valid],
              **env.pop("config", {})}
    handle(store, folder, Command.GC, config=config, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, **env)


def test_gc_ends_nothing_of_a_living_pod_that_has_a_dead_ones_vf(tmp_path, folder, write, plugin):
    calls = tmp_path / "calls"
    plugin(f"import os\nprint(os.environ['CNI_COMMAND'], os.environ.get('CNI_CONTAINERID'), "
           f"file=open({str(calls)!r}, 'a'))")
    write(netns=HERE)
    write(netns=HERE, name="c2-net1")
    age(folder / "c1-net1", 60)
    with opened(tmp_path / "state") as store:
        collect(store, folder, [("c2", "net1")], config={"ipam": {"type": "fake"}}, CNI_PATH=f"{tmp_path}/bin")
        assert (list(store), files(folder)) == ([], [VF, "c2-net1"])
    assert calls.read_text().splitlines() == ["DEL c1", "GC None"]


SANDBOX = "0123456789abcdef" * 4


@pytest.mark.parametrize(("name", "told", "attachment", "certain"), [
    ("c1-net1", None, ("c1", "net1"), True), ("c1-my-net1", None, ("c1-my", "net1"), False),
    ("c1-my-net1", {"containerId": "c1", "ifName": "my-net1"}, ("c1", "my-net1"), True),
    ("c1-my-net1", {"containerId": "c1-my", "ifName": "net1"}, ("c1-my", "net1"), True),
    ("c1-my-net1", {"containerId": "c1", "ifName": "net1"}, ("c1-my", "net1"), False),
    ("c1-my-net1", {"containerId": 5}, ("c1-my", "net1"), False),
    (f"{SANDBOX}-my-net1", None, (SANDBOX, "my-net1"), True),
    (f"{SANDBOX}-longer-than-a-name", None, (f"{SANDBOX}-longer-than-a", "name"), False)])
def test_whose_a_file_is_by_its_name(forerunner, folder, write, name, told, attachment, certain):
    write(name=name)
    if told is not None:
        tell(folder, name, json.dumps(told))
    (left,) = forerunner.of_network("net")
    assert (left.attachment, left.certain) == (attachment, certain)


@pytest.mark.parametrize(("told", "owed"), [
    (None, []), ({"containerId": "c1", "ifName": "my-net1"}, ["c1"])], ids=["unknown", "told"])
def test_gc_leaves_the_addresses_of_an_unknown_attachment_to_its_del(tmp_path, folder, write, plugin, told, owed):
    """This machine's VF does not come home, so what is to be done stands in records."""
    plugin("import sys; sys.exit(1)")
    write(name="c1-my-net1")
    if told is not None:
        tell(folder, "c1-my-net1", json.dumps(told))
    with opened(tmp_path / "state") as store:
        with pytest.raises(Gone, match="there is no link"):
            collect(store, folder, config={"ipam": {"type": "fake"}}, CNI_PATH=f"{tmp_path}/bin")
        assert [made.vf for made in store] == [VF]
        assert [made.ipam.environment["CNI_CONTAINERID"] for made in store.owed] == owed
        assert [made.ipam.environment["CNI_IFNAME"] for made in store.owed] == ["my-net1"] * len(owed)


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
    break_file(folder)
    assert forerunner.of_vf(VF) == []
    assert f"VF {VF}: sriov-cni gave it to a pod that is gone, and left no word" in caplog.text
    assert files(folder) == ["c1-net1.damaged"]


def test_a_vf_that_it_never_had(forerunner, write):
    write(netns=None)
    assert forerunner.of_vf(VF) == []
