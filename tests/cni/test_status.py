"""STATUS: what makes a node unfit for ADDs, and what does not."""

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from cni.attach import Attachments
from cni.invocation import Invocation
from cni.protocol import Command
from cni.status import raise_if_unfit
from sriov.host.sysfs import Sysfs
from tests.cni.test_ipam import NOW, opened
from tests.cni.test_protocol import refusal, request
from tests.support.tree import Pf, Tree

ONE, TWO = "0000:3b:00.0", "0000:5e:00.0"


def unfit(tree, dark=()):
    links = [dataclasses.replace(link, carrier=link.name not in dark) for link in tree.links]
    return refusal(raise_if_unfit, Sysfs(tree.root).scan(links))


def test_a_node_without_vfs(tmp_path):
    tree = Tree(tmp_path)
    assert unfit(tree) == (50, "this node has no VF")
    assert unfit(tree.add(Pf(ONE, "ens1f0"))) == (50, "this node has no VF")


def test_a_node_whose_vfs_cannot_be_read(tmp_path):
    tree = Tree(tmp_path).add(Pf(ONE, "ens1f0", num_vfs=2))
    tree.write(ONE, "sriov_numvfs", "many")
    code, message = unfit(tree)
    assert code == 50
    assert message.startswith(f"this node has no VF that can be read (cannot read PF {ONE}: ")


def test_only_where_no_pf_has_a_way_out(tmp_path):
    tree = Tree(tmp_path).add(Pf(ONE, "ens1f0", num_vfs=2, away={0, 1})).add(Pf(TWO, "ens2f0", num_vfs=1))
    tree.add(Pf("0000:af:00.0", "ens3f0"))
    assert unfit(tree, {"ens1f0", "ens2f0"}) == (51, "no PF with VFs has a carrier: ens1f0, ens2f0")
    for dark in (set(), {"ens1f0"}, {"ens3f0"}):
        links = [dataclasses.replace(link, carrier=link.name not in dark) for link in tree.links]
        raise_if_unfit(Sysfs(tree.root).scan(links))


def test_a_pf_that_has_no_netdev_has_no_carrier_to_look_at(tmp_path):
    tree = Tree(tmp_path).add(Pf(ONE, None, num_vfs=2, driver="vfio-pci")).add(Pf(TWO, "ens2f0", num_vfs=1))
    links = [dataclasses.replace(link, carrier=False) for link in tree.links]
    raise_if_unfit(Sysfs(tree.root).scan(links))


def test_two_calls_may_try_the_state_folder_at_once(tmp_path):
    with opened(tmp_path / "state") as store, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(store.check_writable) for _ in range(200)]:
            done.result()
    assert sorted((tmp_path / "state/vfs").iterdir()) == []


def test_a_state_folder_that_takes_no_record(tmp_path):
    asked = request({"cniVersion": "1.1.0", "name": "net"}, CNI_COMMAND=Command.STATUS)
    call = Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10)
    with opened(tmp_path / "state") as store:
        store.check_writable()
        assert sorted(path.name for path in (tmp_path / "state/vfs").iterdir()) == []
        shutil.rmtree(tmp_path / "state/vfs")
        assert refusal(Attachments(NOW, store).handle, call) == (
            50, f"cannot write records in {tmp_path}/state/vfs: ENOENT")
