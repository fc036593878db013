"""Records of VFs: their form on disk, and a store that loses none and lets nobody else in."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import string
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni.record import Baseline, Delegation, HomeLink, Owner, Phase, Record, Wanted, format_record, parse_record
from cni.store import Store
from sriov.errors import HostError, Refused, SriovError
from sriov.host.linkinfo import LinkTraits
from sriov.model import LinkState, VfSettings
from sriov.pci import MacAddress, PciAddress
from tests.sriov.test_pci import macs, pci_addresses

texts = st.text(max_size=20)
settings = st.builds(
    VfSettings, mac=st.none() | macs, vlan=st.none() | st.integers(0, 4094), vlan_qos=st.none() | st.integers(0, 7),
    vlan_proto=st.none() | st.integers(0, 65535), spoofchk=st.none() | st.booleans(),
    trust=st.none() | st.booleans(),
    min_tx_rate=st.none() | st.integers(0, 2**32 - 1), max_tx_rate=st.none() | st.integers(0, 2**32 - 1),
    link_state=st.none() | st.sampled_from(LinkState))
results = st.dictionaries(texts, st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5))
words = st.none() | st.integers(0, 2**32 - 1)
names = st.text(st.characters(codec="ascii") | st.sampled_from("\udcff\udc80"))     # a pod names by any bytes
traits = st.builds(
    LinkTraits, altnames=st.none() | st.lists(names).map(tuple), alias=st.none() | names, flags=words,
    broadcast=st.none() | macs, mode=words, queue_length=words, group=words, gso_max_size=words, gro_max_size=words,
    **dict.fromkeys(("programs", "tcx"),
                    st.none() | st.lists(st.tuples(st.integers(0, 47), st.integers(1))).map(tuple)),
    **dict.fromkeys(("features", "channels", "rings", "coalescing"),
                    st.none() | st.lists(st.integers(0, 2**32 - 1)).map(tuple)))
records = st.builds(
    Record, vf=pci_addresses, pf=pci_addresses, index=st.integers(0, 65535), boot_id=texts,
    phase=st.sampled_from(Phase), sets_mac=st.booleans(), result=st.none() | results,
    owner=st.builds(Owner, container_id=texts, ifname=texts, network=texts, netns=texts,
                    cookie=st.integers(0, 2**64 - 1), file_system=st.none() | st.integers(0, 2**64 - 1), pod=texts),
    identity=st.none() | st.integers(0, 2**64 - 1),
    wanted=st.builds(Wanted, settings=settings, mtu=st.none() | st.integers(68, 65535)),
    ipam=st.none() | st.builds(Delegation, plugin=texts, environment=st.dictionaries(texts, texts), config=results),
    baseline=st.builds(Baseline, settings=settings, admin_mac=st.booleans(), link=st.none() | st.builds(
        HomeLink, name=texts | names, mac=macs, mtu=st.integers(68, 65535), up=st.booleans(), traits=traits)))


def record(vf="0000:3b:02.1", container="c1", **changes):
    made = Record(
        vf=PciAddress(vf), pf=PciAddress("0000:3b:00.0"), index=1, boot_id="b", phase=Phase.ATTACHING,
        sets_mac=True,
        owner=Owner(container_id=container, ifname="net1", network="net", netns="/run/netns/c1", cookie=7),
        baseline=Baseline(link=HomeLink(name="ens1f0v1", mac=MacAddress("02:00:00:00:00:01"), mtu=1500, up=False),
                          settings=VfSettings(vlan=0, trust=False), admin_mac=False))
    return dataclasses.replace(made, **changes)


# ---- the form -------------------------------------------------------------------------------------------


@given(records)
def test_a_record_survives_formatting(made):
    read = parse_record(format_record(made))
    assert read == made
    kinds = (type(read.vf), type(read.phase), type(read.baseline.settings.link_state))
    assert kinds == (type(made.vf), type(made.phase), type(made.baseline.settings.link_state))


def attempt(text):
    try:
        return parse_record(text)
    except SriovError as error:
        return error


@given(records, st.data())
def test_a_torn_record_is_never_read_as_another(made, data):
    text = format_record(made)
    torn = text[: data.draw(st.integers(0, len(text) - 2))]    # without the newline it is whole
    assert isinstance(attempt(torn), SriovError)


DOCUMENT_PARTS = ("vf", "pf", "index", "phase", "owner", "baseline", "format", "boot_id", "sets_mac")
wrong_values: st.SearchStrategy[object] = st.sampled_from(
    [None, 5, float("inf"), "", "x", [], {}, {"link": 3, "settings": {}, "admin_mac": 1}])


def test_a_record_without_what_came_later():
    document = json.loads(format_record(record()))
    del document["identity"], document["ipam"], document["wanted"], document["owner"]["file_system"]
    del document["owner"]["pod"], document["baseline"]["link"]["traits"]
    assert parse_record(json.dumps(document)) == record()


@given(st.sampled_from(("altnames", "alias", "broadcast", "programs", "tcx", "features", "channels", "rings",
                        "coalescing", "flags", "new")), wrong_values)
def test_any_damage_of_traits_is_a_record_or_a_sriov_error(part, value):
    document = json.loads(format_record(record()))
    document["baseline"]["link"]["traits"][part] = value
    attempt(json.dumps(document))
    document["baseline"]["link"]["traits"] = value
    attempt(json.dumps(document))


def test_an_owner_is_shown_with_its_pod_where_that_is_known():
    owner = record().owner
    assert str(owner) == "container c1, net1 of network net"
    assert str(dataclasses.replace(owner, pod="shop/cart")) == "pod shop/cart, container c1, net1 of network net"


@given(st.sampled_from(DOCUMENT_PARTS), wrong_values)
@example("vf", 5)
@example("index", float("inf"))
def test_any_damage_is_a_record_or_a_sriov_error(part, value):
    document = json.loads(format_record(record()))
    document[part] = value
    attempt(json.dumps(document))
    del document[part]
    assert isinstance(attempt(json.dumps(document)), SriovError)


@pytest.mark.parametrize(("path", "value"), [
    ("owner.netns", 5), ("owner.container_id", None), ("owner.cookie", "x"), ("owner.pod", []), ("index", None),
    ("baseline.link.name", 7), ("baseline.link.mtu", "1500"), ("baseline.link.up", "no"),
    ("baseline.link.traits.alias", 7), ("baseline.settings.vlan", "x"), ("baseline.settings.trust", "on"),
    ("ipam.plugin", 5), ("ipam.environment", []), ("ipam.config", "x"), ("result", []), ("wanted.mtu", "x"),
    ("wanted.settings.max_tx_rate", 1.5)])
def test_a_value_of_another_type_is_damage(path, value):
    """It would fail whoever uses it, again and again."""
    plugin = Delegation(plugin="host-local", environment={"CNI_IFNAME": "net1"}, config={"name": "net"})
    document = json.loads(format_record(record(ipam=plugin)))
    assert not isinstance(attempt(json.dumps(document)), SriovError)
    *way, last = path.split(".")
    place = document
    for key in way:
        place = place[key]
    place[last] = value
    assert isinstance(attempt(json.dumps(document)), SriovError)


def test_a_file_of_another_vfs_name_is_damage(tmp_path):
    """Its record would never go: what is deleted is the file of that name."""
    with opened(tmp_path) as store:
        store.write(record())
    copy = file_of(tmp_path, record("0000:3b:02.2"))
    copy.write_text(format_record(record()))
    with opened(tmp_path) as store:
        assert list(store) == [record()]
        assert store.damaged == [f"{copy.with_suffix('.damaged')}: not the record of this file: {record().vf}"]


@pytest.mark.parametrize("text", ["", "null", "[]", "5", '"x"', "{}", '{"format": 1}', "[" * 100_000])
def test_what_is_no_record(text):
    with pytest.raises(SriovError, match="not a record: "):
        parse_record(text)


def test_a_form_that_a_later_version_wrote():
    with pytest.raises(Refused, match="its format is 4, this version knows 1, 2, 3"):
        parse_record(format_record(record()).replace('"format": 3', '"format": 4'))


def test_the_form_that_the_first_version_wrote():
    document = json.loads(format_record(record()))
    document["format"] = 1
    del document["wanted"], document["baseline"]["link"]["traits"]
    assert parse_record(json.dumps(document)) == record()


def test_the_form_of_before_tcx_and_channels():
    kept = LinkTraits(alias="a", programs=((2, 7),), rings=(256, 0, 0, 256))
    link = HomeLink(name="ens1f0v1", mac=MacAddress("02:00:00:00:00:01"), mtu=1500, up=False, traits=kept)
    made = record(baseline=dataclasses.replace(record().baseline, link=link))
    document = json.loads(format_record(made))
    document["format"] = 2
    del document["baseline"]["link"]["traits"]["tcx"], document["baseline"]["link"]["traits"]["channels"]
    assert parse_record(json.dumps(document)) == made


def test_a_store_that_a_later_version_wrote_is_not_opened_nor_touched(tmp_path):
    with opened(tmp_path) as store:
        store.write(record())
    path = file_of(tmp_path, record())
    path.write_text(path.read_text().replace('"format": 3', '"format": 4'))
    for _ in range(2):
        with pytest.raises(Refused, match="cannot use the record"):
            Store.open(tmp_path)
    assert path.exists()


def test_another_record_of_the_same_vf_is_not_deleted(store):
    store.write(record(container="next"))
    store.delete(record(container="before"))
    assert store.find(record().vf) == record(container="next")


# ---- the store ------------------------------------------------------------------------------------------


@contextmanager
def opened(state):
    store = Store.open(state)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path) as store:
        yield store


def file_of(state, made):
    return state / f"vfs/{made.vf}.json"


def on_disk(state):
    with opened(state) as store:
        return list(store)


def test_write_find_delete(tmp_path):
    one, two = record("0000:3b:02.1", "c1"), record("0000:3b:02.2", "c2")
    with opened(tmp_path) as store:
        assert (list(store), store.find(one.vf), store.find_attachment(one.attachment)) == ([], None, None)
        store.write(one)
        store.write(two)
        assert (store.find(one.vf), store.find(two.vf)) == (one, two)
        assert store.find_attachment(("c2", "net1")) is two
        assert store.find_attachment(("c2", "net2")) is None
        attached = one.attached({"cniVersion": "1.0.0"})
        store.write(attached)
        assert store.find(one.vf) is attached
    assert on_disk(tmp_path) == [attached, two]
    with opened(tmp_path) as store:
        store.delete(attached)
        store.delete(attached)
        assert list(store) == [two]
    assert on_disk(tmp_path) == [two]


def test_only_root_reads_records(tmp_path, store):
    store.write(record())
    assert (tmp_path / "vfs").stat().st_mode & 0o777 == 0o700


def test_a_write_replaces_the_file_and_never_changes_it(tmp_path, store):
    old, new = record(), record(container="another")
    store.write(old)
    with file_of(tmp_path, old).open() as reader:
        store.write(new)
        assert parse_record(reader.read()) == old
    assert parse_record(file_of(tmp_path, new).read_text()) == new
    assert [path.name for path in (tmp_path / "vfs").iterdir()] == [f"{new.vf}.json"]


@pytest.mark.parametrize(("owes", "synced"), [(False, 0), (True, 2)], ids=["no IPAM", "IPAM"])
def test_what_outlasts_a_reboot_is_made_to(tmp_path, store, monkeypatch, owes, synced):
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    ipam = Delegation(plugin="host-local", environment={}, config={}) if owes else None
    store.write(record(ipam=ipam))
    assert len(calls) == synced
    store.delete(record(ipam=ipam))
    assert (len(calls), list(store)) == (synced, [])


def test_a_draft_that_was_never_finished_is_nothing(tmp_path):
    with opened(tmp_path) as store:
        store.write(record())
    drafts = [path.with_name(f".{path.name}.new") for path in (
        file_of(tmp_path, record("0000:3b:02.2")), file_of(tmp_path, record()))]
    drafts[0].write_text(format_record(record("0000:3b:02.2")))
    drafts[1].write_text("{")
    with opened(tmp_path) as store:
        assert (list(store), store.damaged) == ([record()], [])
        store.write(record("0000:3b:02.2"))
        assert not drafts[0].exists()


@pytest.mark.parametrize("left", [b"", bytes(700), format_record(record()).encode()[:99] + bytes(600)],
                         ids=["empty", "zeros", "half"])
def test_what_a_power_cut_left_is_no_trouble(tmp_path, left):
    with opened(tmp_path) as store:
        store.write(record())
    path = file_of(tmp_path, record("0000:3b:02.2"))
    path.write_bytes(left)
    os.utime(path, (0, 0))         # before the node booted
    with opened(tmp_path) as store:
        assert (list(store), store.damaged) == ([record()], [])
    assert not path.exists()


@pytest.mark.parametrize("damage", [b"", bytes(700), b"{", b"\xff\xfe", b"null", b'{"format": 1, "vf": 5}'])
def test_damaged_files_are_set_aside_and_the_others_read(tmp_path, damage):
    with opened(tmp_path) as store:
        store.write(record())
    bad = file_of(tmp_path, record("0000:3b:02.2"))
    aside = bad.with_suffix(".damaged")
    bad.write_bytes(damage)
    with opened(tmp_path) as store:
        assert list(store) == [record()]
        (entry,) = store.damaged
        assert entry.startswith((f"{aside}: not a record: ", f"{aside}: 'utf-8' codec can't decode byte"))
    assert not bad.exists()
    assert aside.read_bytes() == damage
    with opened(tmp_path) as store:
        assert (list(store), store.damaged) == ([record()], [f"{aside}: by an earlier agent"])
        aside.unlink()
        assert store.damaged == []


def set_aside(state, name="0000:3b:02.2", written=None):
    """What an earlier agent set aside, of a record that was written then; now if not said."""
    path = state / "vfs" / f"{name}.damaged"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    if written is not None:
        os.utime(path, (written, written))
    return path


def test_a_vf_whose_record_was_damaged_is_spoiled_until_the_file_is_gone(tmp_path):
    vf = PciAddress("0000:3b:02.2")
    with opened(tmp_path):
        pass
    (tmp_path / f"vfs/{vf}.json").write_text("{")
    aside = tmp_path / f"vfs/{vf}.damaged"
    with opened(tmp_path) as store:
        assert list(store.find_spoiled()) == [vf]
        with pytest.raises(Refused) as caught:
            store.check_sound(vf)
        assert caught.value.message.startswith(
            f"VF {vf} is not given to a pod: how it was before its pod is not known any more, since its record was "
            f"damaged: {aside}: not a record: ")
        assert caught.value.message.endswith("; then delete that file")
        store.check_sound(PciAddress("0000:3b:02.1"))
    with opened(tmp_path) as store:
        assert f"{aside}: by an earlier agent; set the VF's VLAN, " in store.find_spoiled()[vf]
        aside.unlink()
        assert store.find_spoiled() == {}
        store.check_sound(vf)


def test_damaged_records_of_before_the_boot_spoil_nothing(tmp_path, monkeypatch, caplog):
    """A reboot makes VFs anew; nor does the executable find them any more. A clock that is set is no reboot."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    old = set_aside(tmp_path, written=booted - 5)
    copy = set_aside(tmp_path, "somebody's copy")
    with opened(tmp_path) as store:
        assert store.find_spoiled() == {}
        assert store.damaged == [f"{copy}: by an earlier agent"]
        assert (old.exists(), old.with_suffix(".outdated").read_text()) == (False, "{")
        assert f"put away as .outdated: {old}: by an earlier agent" in caplog.text
        set_aside(tmp_path, written=booted + 5)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 7200)
        assert list(store.find_spoiled()) == ["0000:3b:02.2"]


def test_damaged_records_that_cannot_be_looked_for_are_not_absent(tmp_path):
    with opened(tmp_path) as store:
        folder = tmp_path / "vfs"
        folder.rmdir()
        folder.symlink_to(folder)
        with pytest.raises(HostError, match=f"cannot look for damaged records in {tmp_path}/vfs: ELOOP"):
            store.check_sound(PciAddress("0000:3b:02.2"))


def check_refused(store, state, reason):
    """Neither a write nor what was there before is in memory half way; the disk still has the old record."""
    new = record(container="another")
    with pytest.raises(HostError, match=f"cannot write the record .*: {errno.errorcode[reason]}") as caught:
        store.write(new)
    assert caught.value.errno == reason
    assert store.find(new.vf) == record()
    with pytest.raises(HostError):
        store.write(record("0000:3b:02.2"))
    assert list(store) == [record()]


@contextmanager
def file_size_limit(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_is_cut_short_leaves_the_old_record(tmp_path):
    with opened(tmp_path) as store:
        store.write(record())
        with file_size_limit(100):
            check_refused(store, tmp_path, errno.EFBIG)
    assert on_disk(tmp_path) == [record()]


def test_a_folder_that_is_gone(tmp_path):
    with opened(tmp_path) as store:
        store.write(record())
        shutil.rmtree(tmp_path / "vfs")
        check_refused(store, tmp_path, errno.ENOENT)
        store.delete(record())
        assert list(store) == []


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 64 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.kernel
def test_a_full_disk(disk):
    with opened(disk) as store:
        store.write(record())
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(1 << 20))
        check_refused(store, disk, errno.ENOSPC)
        detaching = store.mark_detaching(record())
        assert list(store) == [detaching] == [record().detaching()]      # this process knows at least
        store.delete(detaching)         # deleting must work on a full disk
        filler.unlink()
    assert on_disk(disk) == []


@pytest.mark.kernel
def test_a_disk_that_turned_read_only(tmp_path):
    with opened(tmp_path) as store:
        store.write(record())
        subprocess.run(["mount", "--bind", tmp_path / "vfs", tmp_path / "vfs"], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "vfs"], check=True)
            check_refused(store, tmp_path, errno.EROFS)
            detaching = store.mark_detaching(record())
            with pytest.raises(HostError, match=r"cannot delete the record .*: EROFS"):
                store.delete(detaching)
            assert list(store) == [detaching]
        finally:
            subprocess.run(["umount", tmp_path / "vfs"], check=True)
    assert on_disk(tmp_path) == [record()]


def test_state_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=f"cannot use {tmp_path}/file: "):
        Store.open(tmp_path / "file")
    (tmp_path / "state/vfs/0000:3b:02.1.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "state/vfs/0000:3b:02.2.json")
    with opened(tmp_path / "state") as store:
        assert store.damaged == [f"{tmp_path}/state/vfs/0000:3b:02.{n}.json: it is no regular file" for n in (1, 2)]


HOLDER = """\
import pathlib, sys
from cni.store import Store
store = Store.open(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_writes(tmp_path):
    state = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", HOLDER, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Refused, match=f"cannot use {state}: another process has it open") as caught:
            Store.open(state)
        assert caught.value.hint
        holder.send_signal(signal.SIGKILL)
    with opened(state) as store:         # the lock goes with its process, however that ends
        store.write(record())
        with subprocess.Popen([sys.executable, "-c", HOLDER, state], stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert "Refused" in second.stderr.read()
        assert second.returncode == 1
    assert on_disk(state) == [record()]


def test_names_in_the_folder_are_addresses(tmp_path, store):
    """Nothing that a caller says becomes part of a path."""
    store.write(record(container="../../x"))
    (path,) = (tmp_path / "vfs").iterdir()
    assert set(path.name) <= set(string.hexdigits + ":.json")
