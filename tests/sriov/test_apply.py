"""Applying pool files to a synthetic tree: its files keep what was written, a watcher keeps the order.

No driver lives in a folder: that VFs appear and drivers bind is for the lab tier.
"""

import os
import shutil
import threading
from unittest.mock import ANY

import pytest

from sriov.errors import Gone
from sriov.host.discovery import discover
from sriov.host.sysfs import Sysfs
from sriov.pools.override import Override
from sriov.pools.poolfile import parse_pool_file
from sriov.provision.apply import Terms, apply_pool_file, plan_jobs, pool_file_jobs
from sriov.provision.executor import Executor
from sriov.provision.steps import Disturbs
from sriov.views.plantext import format_plan, plan_document
from tests.support.tree import Pf, Tree

A, B = "0000:3b:00.0", "0000:5e:00.0"


class Recording(Sysfs):
    """Sysfs on a folder that keeps the order of writes, and plays the one part of the kernel that this needs."""

    def __init__(self, tree, *, takes=lambda driver: True):
        super().__init__(tree.root)
        self._tree, self._takes = tree, takes
        self._guard = threading.Lock()
        self.log = []

    def _write(self, operation, address, file, text):
        super()._write(operation, address, file, text)
        with self._guard:
            self.log.append((address, os.path.basename(file), text.strip()))
        device = self._tree.path(address)
        if file == "driver/unbind":
            (device / "driver").unlink()
            shutil.rmtree(device / "net", ignore_errors=True)
        if file.endswith("drivers_probe") and not (device / "driver").exists():
            override = (device / "driver_override").read_text().strip()
            driver = override or "igbvf"
            if self._takes(driver) and self.driver_exists(driver):
                os.symlink(f"../../../bus/pci/drivers/{driver}", device / "driver")
                if driver == "igbvf":
                    (device / "net/eth7").mkdir(parents=True)
                    (device / "net/eth7/ifindex").write_text("7\n")


def pool_file(body):
    return parse_pool_file(f"apiVersion: vfpool.io/v1alpha1\nkind: PoolFile\n{body}", "pools.yaml")


def entries(*lines):
    return "physicalFunctions:\n" + "".join(f"  - {line}\n" for line in lines)


def pools(driver, select="{vendor: 8086}"):
    return f"pools:\n  - resource: sriov\n    driver: {driver}\n    select: [{select}]\n"


ALL_OF_A = entries(f"{{match: {{address: '{A}'}}, numVfs: 2}}")
ONE_OF_A = entries(f"{{match: {{address: '{A}'}}, numVfs: 1}}")


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path / "sys")
    for driver in ("igbvf", "vfio-pci"):
        home = made.root / "bus/pci/drivers" / driver
        home.mkdir(parents=True)
        (home / "unbind").write_text("")
        (home / "bind").write_text("")
    return made


def apply(sysfs, body, used=()):
    terms = Terms(in_use=lambda vf: vf.address in used)
    return apply_pool_file(Executor(sysfs), pool_file(body), terms).problems


# ---- binding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "wanted", "override"), [
    ("igbvf", "vfio-pci", "vfio-pci"), (None, "vfio-pci", "vfio-pci"), (None, "kernel", "")])
def test_override_before_unbind_before_probe(tree, before, wanted, override):
    """Between unbind and probe another driver must not get the chance to take the VF."""
    tree.add(Pf(A, None, num_vfs=2, vf_driver=before, iommu=True))
    sysfs = Recording(tree)
    assert apply(sysfs, ALL_OF_A + pools(wanted)) == ()
    for index in (0, 1):
        vf = Pf(A, None).vf_address(index)
        unbind = [(vf, "unbind", vf)] if before else []
        assert [write for write in sysfs.log if write[0] == vf] == [
            (vf, "driver_override", override), *unbind, (vf, "drivers_probe", vf)]
        assert sysfs.read_driver(vf) == ("igbvf" if wanted == "kernel" else wanted)
    assert {write[0] for write in sysfs.log} == {Pf(A, None).vf_address(n) for n in (0, 1)}


def test_back_to_the_kernel_clears_the_override(tree):
    tree.add(Pf(A, None, num_vfs=2, vf_driver="vfio-pci"))
    sysfs = Recording(tree)
    vf = Pf(A, None).vf_address(0)
    tree.write(vf, "driver_override", "vfio-pci\n")
    assert apply(sysfs, ALL_OF_A + pools("kernel")) == ()
    assert (tree.read(vf, "driver_override"), sysfs.read_driver(vf)) == ("\n", "igbvf")


def test_twice_is_nothing_the_second_time(tree):
    tree.add(Pf(A, None, num_vfs=2, iommu=True))
    sysfs = Recording(tree)
    assert apply(sysfs, ALL_OF_A + pools("vfio-pci")) == ()
    before = len(sysfs.log)
    assert apply(sysfs, ALL_OF_A + pools("vfio-pci")) == ()
    assert len(sysfs.log) == before


@pytest.mark.parametrize(("iommu", "words"), [
    (False, ("vfio-pci did not take it, and it has no IOMMU group (hint: enable the IOMMU in firmware and on the "
             "kernel's command line)")),
    (True, ("the kernel bound nothing (hint: vfpool explain says what stands in the way; if nothing does, dmesg "
            "may)"))])
def test_a_driver_that_does_not_take_it(tree, iommu, words):
    tree.add(Pf(A, None, num_vfs=2, iommu=iommu))
    tree.set_noiommu("Y")
    sysfs = Recording(tree, takes=lambda driver: driver != "vfio-pci")
    assert apply(sysfs, ALL_OF_A + pools("vfio-pci")) == tuple(
        f"cannot bind VF 0000:3b:02.{n} to vfio-pci (now igbvf): {words}" for n in (0, 1))


@pytest.mark.parametrize("noiommu", ["N", None])
@pytest.mark.parametrize("made", [2, 0])
def test_vfio_without_an_iommu_takes_a_reboot(tree, noiommu, made):
    tree.add(Pf(A, None, num_vfs=made, vf_driver=None))
    if noiommu is not None:
        tree.set_noiommu(noiommu)
    sysfs = Recording(tree)
    host = sysfs.scan(tree.links)
    file = pool_file(ALL_OF_A + pools("vfio-pci", "{vendor: 8086, vfs: 0}"))
    plan = plan_jobs(Executor(sysfs), pool_file_jobs(host, file), Terms(in_use=lambda vf: False))
    (refused,) = plan.refused
    assert refused.disturbs is Disturbs.REBOOT
    assert str(refused).startswith(
        f"cannot bind VF 0 of PF {A} to vfio-pci: no IOMMU, so no IOMMU group [needs a reboot] (hint: turn on "
        "the IOMMU (VT-d, AMD-Vi) in the machine's firmware setup and boot without iommu=off")
    if made:
        assert plan.describe()[:-1] == (f"bind VF {Pf(A, None).vf_address(1)} to kernel (now none)",)
        report = apply_pool_file(Executor(sysfs), file, Terms(in_use=lambda vf: False), host)
        assert report.refused == (refused,)
        assert sysfs.read_driver(Pf(A, None).vf_address(0)) is None


@pytest.mark.parametrize("made", [3, 0])
@pytest.mark.parametrize(("driver", "has", "says"), [
    ("netdevice", False, ", did you mean kernel?"), ("frobnicate", False, ""), ("netdevice", None, None),
    ("frobnicate", True, None), ("igbvf", False, None),                                # is loaded
])
def test_a_driver_that_the_node_has_not(tree, driver, has, says, made):
    tree.add(Pf(A, None, num_vfs=made))
    sysfs = Recording(tree)
    host = sysfs.scan(tree.links)
    entry = entries(f"{{match: {{address: '{A}'}}, numVfs: 3}}")
    file = pool_file(entry + pools(driver, "{vendor: 8086, vfs: 0-1}"))
    executor = Executor(sysfs, has_module=lambda name: has)
    plan = plan_jobs(executor, pool_file_jobs(host, file), Terms(in_use=lambda vf: False))
    place = file.pools[0].driver_place
    assert list(map(str, plan.refused)) == ([] if says is None else [
        (f"cannot bind 2 VFs of PF {A} to {driver}: no driver {driver} on this node ({place}){says} (hint: it is "
         "neither loaded nor a module of the running kernel)")])
    if says is not None and made:
        report = apply_pool_file(executor, file, Terms(in_use=lambda vf: False), host)
        assert (report.done, report.refused, report.failed, sysfs.log) == ((), plan.refused, (), [])


def test_what_vfs_get_that_are_still_to_be_made(tree):
    tree.add(Pf(A, "ens1"))
    tree.set_noiommu("Y")
    sysfs = Recording(tree)
    file = pool_file(
        entries(f"{{match: {{address: '{A}'}}, numVfs: 6, vfMacs: ['02:00:00:00:00:01', '02:00:00:00:00:02']}}")
        + pools("vfio-pci", "{pf: ens1, vfs: 2-3}")
        + "  - {resource: dpdk, select: [{pf: ens1, vfs: '1,5'}], driver: kernel,\n"
          "     defaults: {mtu: 9000, trust: on}}\n")
    plan = plan_jobs(Executor(sysfs), pool_file_jobs(sysfs.scan(tree.links), file), Terms(in_use=lambda vf: False))
    (of_pf,) = plan.pfs
    assert of_pf.later == (
        "VF 0: a MAC of its own", "VF 1: driver kernel, MTU 9000, a MAC of its own, trust on",
        "VFs 2-3: driver vfio-pci", "VF 5: driver kernel, MTU 9000, trust on")
    assert "  + then VFs 2-3: driver vfio-pci\n" in format_plan(plan)
    assert plan_document(plan) == {"physicalFunctions": [{
        "address": A, "steps": ANY, "later": list(of_pf.later), "refused": []}]}


@pytest.mark.parametrize(("match", "count", "barred"), [
    ("name: ens9", 2, True), ("address: '0000:09:00.0'", 2, True), ("name: 'ens*'", 2, False),
    ("name: ens9", 0, False)])
def test_a_nic_whose_sriov_is_off_takes_a_reboot(tree, match, count, barred):
    """Where the file names it: a pattern is about the PFs that there are."""
    tree.add_other("0000:09:00.0", "020000", netdev="ens9", driver="ice")
    sysfs = Recording(tree)
    host = sysfs.scan(tree.links)
    file = pool_file(entries(f"{{match: {{{match}}}, numVfs: {count}}}"))
    terms = Terms(in_use=lambda vf: False, overrides=set(Override))
    plan = plan_jobs(Executor(sysfs), pool_file_jobs(host, file), terms)
    report = apply_pool_file(Executor(sysfs), file, terms, host)
    assert (plan.steps, report.done, report.failed, sysfs.log) == ((), (), (), [])
    assert report.refused == plan.refused
    says = [str(refused) for refused in plan.refused]
    assert says == [(
        "pools.yaml:4:5: numVfs 2 on PF ens9 (0000:09:00.0): its driver ice makes VFs, but it shows no SR-IOV "
        "capability (no sriov_totalvfs in sysfs): SR-IOV is off in its firmware, or the card has none [needs a "
        "reboot] (hint: turn on SR-IOV for the card, and for the machine, in the firmware setup (BIOS, UEFI), then "
        "reboot)")] * barred


def test_one_vf_that_fails_stops_no_other(tree):
    tree.add(Pf(A, None, num_vfs=2, iommu=True)).add(Pf(B, None, num_vfs=1, iommu=True))
    first, second, third = (Pf(pf, None).vf_address(n) for pf, n in ((A, 0), (A, 1), (B, 0)))
    tree.make_unreadable(first, "driver_override")
    sysfs = Recording(tree)
    (problem,) = apply(sysfs, ALL_OF_A + f"  - {{match: {{address: '{B}'}}, numVfs: 1}}\n" + pools("vfio-pci"))
    assert problem == (
        f"cannot bind VF {first} to vfio-pci (now igbvf): cannot read the driver override of {first}: "
        f"{tree.path(first, 'driver_override')}: EISDIR")
    assert [sysfs.read_driver(vf) for vf in (first, second, third)] == ["igbvf", "vfio-pci", "vfio-pci"]


def test_a_probe_that_the_kernel_ignored_is_repeated(tree):
    tree.add(Pf(A, None, num_vfs=1, iommu=True))
    answers = iter([False, True])
    sysfs = Recording(tree, takes=lambda driver: next(answers))
    vf = Pf(A, None).vf_address(0)
    assert apply(sysfs, ONE_OF_A + pools("vfio-pci")) == ()
    assert [(file, text) for _, file, text in sysfs.log] == [
        ("driver_override", "vfio-pci"), ("unbind", vf), ("drivers_probe", vf), ("drivers_probe", vf)]


def test_a_driver_that_exists_nowhere(tree):
    tree.add(Pf(A, None, num_vfs=1))
    (problem,) = apply(Recording(tree), ONE_OF_A + pools("no_such_driver"))
    assert problem.startswith(f"cannot bind VF {Pf(A, None).vf_address(0)} to no_such_driver (now igbvf): driver "
                              "no_such_driver is not loaded and modprobe failed: ")


def test_a_vf_in_use_keeps_its_driver(tree):
    tree.add(Pf(A, None, num_vfs=2, iommu=True))
    sysfs = Recording(tree)
    used, free = Pf(A, None).vf_address(0), Pf(A, None).vf_address(1)
    (refused,) = apply(sysfs, ALL_OF_A + pools("vfio-pci"), used=[used])
    assert refused.startswith(f"VF {used} is bound to igbvf, its pool wants vfio-pci: it is in use")
    assert {write[0] for write in sysfs.log} == {free}


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci"])
def test_a_vf_that_a_process_has_open_keeps_its_vfio_driver(tree, driver):
    """Unbinding it would block until that process closes it."""
    tree.add(Pf(A, None, num_vfs=2, vf_driver=driver))
    opened, closed = (Pf(A, None).vf_address(n) for n in (0, 1))
    tree.write(opened, "enable", "1\n")
    sysfs = Recording(tree)
    (refused,) = apply(sysfs, ALL_OF_A + pools("kernel"))
    assert refused == (f"cannot bind VF {opened} to kernel (now {driver}): a process has it open (hint: end the "
                       "pod or the process that uses it)")
    assert {write[0] for write in sysfs.log} == {closed}
    assert (sysfs.read_driver(opened), sysfs.read_driver(closed)) == (driver, "igbvf")


def test_a_uio_driver_enables_its_device_used_or_not(tree):
    tree.add(Pf(A, None, num_vfs=1, vf_driver="uio_pci_generic", iommu=True))
    sysfs = Recording(tree)
    assert apply(sysfs, ONE_OF_A + pools("vfio-pci")) == ()
    assert sysfs.read_driver(Pf(A, None).vf_address(0)) == "vfio-pci"


# ---- making VFs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "words"), [
    (entries(f"{{match: {{address: '{A}'}}, numVfs: 3}}"), "it has 2, none in use"),
    (entries(f"{{match: {{address: '{A}'}}, numVfs: 0}}"), "it has 2, none in use"),
    (entries(f"{{match: {{address: '{A}'}}, numVfs: 8}}"), "it can have 7 at most")])
def test_refused_wishes_touch_nothing(tree, wish, words):
    tree.add(Pf(A, None, num_vfs=2))
    sysfs = Recording(tree)
    (refused,) = apply(sysfs, wish)
    assert words in refused
    assert sysfs.log == []


def test_a_pf_without_netdev_is_named_and_stops_no_other(tree):
    tree.add(Pf(A, None)).add(Pf(B, None, num_vfs=1, vf_driver=None))
    sysfs = Recording(tree)
    (problem,) = apply(sysfs, ALL_OF_A + f"  - {{match: {{address: '{B}'}}, numVfs: 1}}\n")
    assert problem == (f"cannot make 2 VFs on PF {A}: it has no netdev on the host (hint: bind the PF to its "
                       "kernel driver)")
    assert tree.read(A, "sriov_numvfs") == "0\n"
    assert sysfs.read_driver(Pf(B, None).vf_address(0)) == "igbvf"


def test_no_entries_no_writes(tree):
    tree.add(Pf(A, None, num_vfs=2, vf_driver=None))
    sysfs = Recording(tree)
    assert apply(sysfs, pools("vfio-pci")) == ()
    assert sysfs.log == []


def test_a_look_joins_the_trees_devices_with_this_machines_links(tree):
    tree.add(Pf(A, None, num_vfs=1))
    (pf,) = discover(Sysfs(tree.root)).pfs
    assert (pf.address, pf.num_vfs, pf.link) == (A, 1, None)


# ---- what sysfs tells of VFs ----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "override"), [("(null)\n", None), ("\n", None), ("vfio-pci\n", "vfio-pci")])
def test_driver_override(tree, text, override):
    tree.add(Pf(A, None, num_vfs=1))
    vf = Pf(A, None).vf_address(0)
    tree.write(vf, "driver_override", text)
    assert Sysfs(tree.root).read_driver_override(vf) == override


def test_a_vf_made_anew_is_another(tree):
    tree.add(Pf(A, None, num_vfs=2))
    first, second = (Pf(A, None).vf_address(n) for n in (0, 1))
    sysfs = Sysfs(tree.root)
    assert sysfs.identify(first) == sysfs.identify(first) != sysfs.identify(second)
    tree.unplug(first)
    for read in (sysfs.identify, sysfs.read_driver_override):
        with pytest.raises(Gone, match="there is no such PCI device"):
            read(first)
