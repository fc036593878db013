"""Who else makes a PF's VFs, by the files of NetworkManager, udev, systemd-networkd and netplan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sriov.provision.claims import find_ifcfg_claim, find_keyfile_claim, find_systemd_claim, parse_sections
from sriov.provision.makers import FOLDERS, read_claims
from tests.sriov.fakenode import make_pf

FIRST = make_pf("0000:3b:00.0", 1)       # ens1, igb, 02:00:00:00:01:ff
SECOND = make_pf("0000:5e:00.0", 2)


@pytest.fixture
def claims(tmp_path):
    """Who claims what once these files are there: the numbers of the PFs."""
    def read(**files):
        for name, text in files.items():
            write(tmp_path, *PLACES[name], text)
        found = read_claims([FIRST, SECOND], tmp_path)
        return {number: found[pf.address] for number, pf in ((1, FIRST), (2, SECOND)) if pf.address in found}

    return read


def write(root, folder, name, text):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


PLACES = {
    "profile": ("etc/NetworkManager/system-connections", "nic.nmconnection"),
    "link": ("etc/systemd/network", "10-nic.link"), "vendor_link": ("usr/lib/systemd/network", "10-nic.link"),
    "drop_in": ("run/systemd/network/10-nic.link.d", "vfs.conf"),
    "network": ("etc/systemd/network", "10-nic.network"),
    "ifcfg": ("etc/sysconfig/network-scripts", "ifcfg-ens1"),
    "netplan": ("etc/netplan", "50-nic.yaml"), "more": ("etc/netplan", "60-vfs.yaml"),
    "volatile": ("run/netplan", "50-nic.yaml"),
}


def place(file):
    """As the host names it."""
    return "/" + "/".join(PLACES[file])


SRIOV = "[sriov]\ntotal-vfs=8\n"
MAKES = "[Link]\nSR-IOVVirtualFunctions=8\n"


def test_a_node_without_any(tmp_path):
    assert read_claims([FIRST], tmp_path) == {}


@pytest.mark.parametrize(("text", "whom"), [
    (f"[connection]\ntype=ethernet\ninterface-name=ens2\n{SRIOV}", {2}),
    (f"[connection]\ntype=802-3-ethernet\n[ethernet]\nmac-address=02:00:00:00:01:FF\n{SRIOV}", {1}),
    (f"[connection]\ntype=802-3-ethernet\n[802-3-ethernet]\nmac-address=02:00:00:00:01:FF\n{SRIOV}", {1}),
    (f"[connection]\ntype=ethernet\n[match]\ninterface-name=ens*;!ens1;\n{SRIOV}", {2}),
    (f"[match]\ninterface-name=|ens1;\n{SRIOV}", {1}),
    (f"[match]\npath=pci-0000:5e:00.0\n{SRIOV}", {2}),
    (f"[match]\ndriver=ixgbe\n{SRIOV}", set()),
    (f"[connection]\ntype=ethernet\n{SRIOV}", {1, 2}),
    (f"[connection]\ntype=bond\n{SRIOV}", set()),
    ("[connection]\ninterface-name=ens1\n# [sriov]\n", set()),
])
def test_networkmanager(claims, text, whom):
    found = claims(profile=text)
    assert set(found) == whom
    for sentences in found.values():
        assert sentences == (f"NetworkManager makes its VFs: {place('profile')}",)


@pytest.mark.parametrize(("match", "whom"), [
    ("OriginalName=ens1", {1}), ("OriginalName=*", {1, 2}), ("OriginalName=!ens1", {1, 2}),
    ("OriginalName=eth7", {1, 2}), ("OriginalName=ens7", set()),
    ("OriginalName=!* eth7", set()),
    ("Path=pci-0000:3b:00.0 pci-0000:5e:*", {1, 2}), ("MACAddress=02-00-00-00-02-FF", {2}),
    ("Driver=igb\nOriginalName=ens2", {2}), ("Driver=i40e", set()), ("Driver=i40e\nDriver=\nDriver=igb", {1, 2}),
])
def test_udev(claims, match, whom):
    found = claims(link=f"[Match]\n{match}\n{MAKES}")
    assert set(found) == whom
    assert all(said == (f"udev makes its VFs: {place('link')}",) for said in found.values())


def test_a_name_of_the_kernel_s_is_that_of_one_nic_only():
    """Where udev renames nothing eth0 is still eth0; a NIC that udev has named may have been any."""
    claim = find_systemd_claim(f"[Match]\nOriginalName=eth0\n{MAKES}", "x")
    assert claim is not None
    assert FIRST.link is not None
    assert claim.matches(replace(FIRST, link=replace(FIRST.link, name="eth0")))
    assert not claim.matches(replace(FIRST, link=replace(FIRST.link, name="eth1")))
    assert claim.matches(FIRST)
    assert claim.matches(replace(FIRST, link=None))


@pytest.mark.parametrize(("text", "whom"), [
    ("TYPE=Ethernet\nDEVICE=ens1\nSRIOV_TOTAL_VFS=8\n", {1}),
    ("TYPE='Ethernet'\nHWADDR=\"02:00:00:00:02:FF\"\nSRIOV_VF0=\"mac=02:00:00:00:02:01\"\n", {2}),
    ("MATCH_PATH=pci-0000:5e:00.0\nSRIOV_TOTAL_VFS=8\n", {2}), ("SRIOV_TOTAL_VFS=8\n", {1, 2}),
    ("DEVICE=ens1\n#SRIOV_TOTAL_VFS=8\n", set()), ("TYPE=Bond\nSRIOV_TOTAL_VFS=8\n", set()), ("", set()),
])
def test_red_hat_s_scripts(claims, text, whom):
    found = claims(ifcfg=text)
    assert set(found) == whom
    assert all(said == (f"NetworkManager makes its VFs: {place('ifcfg')}",) for said in found.values())


def test_a_backup_of_a_script_is_none(tmp_path):
    write(tmp_path, "etc/sysconfig/network-scripts", "ifcfg-ens1.bak", "SRIOV_TOTAL_VFS=8\n")
    assert read_claims([FIRST], tmp_path) == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_cannot_be_read_may_hold_a_claim(tmp_path, folder):
    """A file in its place; one that only root may read is as bad, and root are these tests."""
    (tmp_path / folder).parent.mkdir(parents=True)
    (tmp_path / folder).touch()
    assert read_claims([FIRST], tmp_path)[FIRST.address] == (
        f"something may make its VFs: cannot tell from /{folder}: Not a directory",)


def test_a_folder_that_is_elsewhere_on_the_host_may_hold_a_claim(tmp_path):
    """Where a container sees a part of its host only, links may lead out of that."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/netplan").symlink_to("/nowhere/netplan")
    assert read_claims([FIRST], tmp_path)[FIRST.address] == (
        "something may make its VFs: cannot tell from /etc/netplan: No such file or directory",)


def test_vfs_that_are_only_configured(claims):
    settings = "[Match]\nName=ens1\n[SR-IOV]\nVirtualFunction=0\n[SR-IOV]\nVirtualFunction=1\nTrust=yes\n"
    assert claims(network=settings) == {
        1: (f"systemd-networkd configures its VFs: {place('network')}",)}


def test_a_drop_in_counts_and_a_file_hides_the_vendors(claims):
    assert set(claims(vendor_link=f"[Match]\nOriginalName=ens1\n{MAKES}")) == {1}
    assert claims(link="") == {}
    assert set(claims(drop_in=MAKES)) == {1, 2}


@pytest.mark.parametrize(("text", "whom"), [
    ("network: {ethernets: {ens1: {virtual-function-count: 8}}}", {1}),
    ("network: {ethernets: {x: {match: {name: 'ens*'}, virtual-function-count: 8}}}", {1, 2}),
    ("network: {ethernets: {x: {match: {macaddress: '02:00:00:00:02:ff'}, virtual-function-count: 8}}}", {2}),
    ("network: {ethernets: {x: {match: {driver: [ixgbe, igb], name: ens2}, virtual-function-count: 8}}}", {2}),
    ("network: {ethernets: {ens1: {dhcp4: true}, ens2: {}}}", set()),
    ("network: {vlans: {v: {link: ens1, id: 4}}}", set()),
    ("network: {ethernets: [ens1]}", set()), ("[1]", set()), ("", set()),
])
def test_netplan(claims, text, whom):
    found = claims(netplan=text)
    assert set(found) == whom
    for sentences in found.values():
        assert sentences == (f"netplan makes its VFs: {place('netplan')}",)


def test_a_vf_of_netplans_in_another_file(claims):
    found = claims(netplan="network: {ethernets: {nic: {match: {name: ens2}}}}",
                   more="network: {ethernets: {nic-vf0: {link: nic}, nic-vf1: {link: nic}}}")
    assert found == {2: (f"netplan makes its VFs: {place('more')}",)}
    assert claims(volatile="network: {ethernets: {}}", more="") == {}


def test_what_cannot_be_understood_may_claim_any(claims, tmp_path):
    found = claims(netplan="network: {ethernets: {ens1: &x {}, ens2: *x}}")
    path, said = tmp_path.joinpath(*PLACES["netplan"]), place("netplan")
    assert set(found) == {1, 2}
    assert found[1][0].startswith(f"something may make its VFs: cannot tell from {said}: {said}:1:29: anchors")
    path.unlink()
    path.mkdir()
    assert read_claims([FIRST], tmp_path) == {FIRST.address: (
        f"something may make its VFs: cannot tell from {said}: Is a directory",)}


def test_a_pf_whose_name_is_not_known_is_claimed_by_what_is():
    claim = find_keyfile_claim(f"[match]\npath=pci-0000:3b:*\n{SRIOV}", "x")
    assert claim is not None
    assert claim.matches(replace(FIRST, link=None))


@given(st.text(alphabet=st.sampled_from("[]sriovSR-IOMatchLink=!#; \n\\ab*"), max_size=60))
def test_any_text_has_sections(text):
    for section, pairs in parse_sections(text):
        assert not any("\n" in part for pair in pairs for part in (section, *pair))
    for find in (find_keyfile_claim, find_ifcfg_claim, find_systemd_claim):
        claim = find(text, "x")
        assert claim is None or claim.matches(FIRST) in (True, False)
