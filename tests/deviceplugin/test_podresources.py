"""Which VFs pods have from the kubelet: as it lists them, as its checkpoint has them, or not known."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from deviceplugin import podresources
from deviceplugin.inventory import Inventory
from deviceplugin.podresources import PodResources
from sriov.errors import HostError
from sriov.pci import PciAddress
from tests.deviceplugin.harness import RESOURCE, agent, assign_members, configure, make_members, make_vf, run
from tests.support.kubelet import Kubelet


@pytest.fixture(autouse=True)
def never_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "FRESH_SECONDS", 0.0)


def write_checkpoint(root: Path, text: str) -> Path:
    folder = root / "device-plugins"
    folder.mkdir(exist_ok=True)
    path = folder / "kubelet_internal_checkpoint"
    path.write_text(text)
    return path


def checkpoint(*ids: str, by_node: bool = True) -> str:
    devices = {"-1": list(ids)} if by_node else list(ids)
    entry = {"PodUID": "6c1f", "ContainerName": "app", "ResourceName": RESOURCE, "DeviceIDs": devices}
    return json.dumps({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {}}, "Checksum": 1})


def serve(root: Path) -> tuple[Kubelet, PodResources]:
    return Kubelet(root), PodResources(root)


def test_a_pod_has_its_vf_from_allocate_to_its_end(root: Path) -> None:
    async def scenario() -> None:
        inventory = Inventory()
        inventory.publish(assign_members(*make_members(2)))
        kubelet, known = serve(root)
        async with kubelet, agent(configure(root), inventory):
            await kubelet.wait_allocatable(RESOURCE, 2)
            assert await asyncio.to_thread(known.list_owners) == {}
            given = await kubelet.admit("shop/cart-0", {"app": {RESOURCE: 1}})
            mine, = given["app"].device_ids[RESOURCE]
            other, = {make_vf(0).address, make_vf(1).address} - {PciAddress(mine)}
            assert await asyncio.to_thread(known.list_owners) == {mine: "shop/cart-0, container app"}
            vfs = {vf.address: vf for vf in (make_vf(0), make_vf(1))}
            assert await asyncio.to_thread(known.holds, vfs[PciAddress(mine)])
            assert not await asyncio.to_thread(known.holds, vfs[other])
            await kubelet.stop()                     # the kubelet restarts, its pods live on
            assert await asyncio.to_thread(known.holds, vfs[PciAddress(mine)])
            assert not await asyncio.to_thread(known.holds, vfs[other])
            await kubelet.start()
            kubelet.remove("shop/cart-0")
            assert await asyncio.to_thread(known.list_owners) == {}
            assert not await asyncio.to_thread(known.holds, vfs[PciAddress(mine)])
            assert known.trouble is None

    run(scenario)


def test_where_no_kubelet_ever_was_nobody_has_any(root: Path) -> None:
    assert PodResources(root).list_owners() == {}
    assert PodResources(root / "nowhere").list_owners() == {}
    assert not PodResources(root).holds(make_vf(0))


@pytest.mark.parametrize("by_node", [True, False])
def test_a_kubelet_that_is_down_wrote_down_who_has_what(root: Path, by_node: bool) -> None:
    write_checkpoint(root, checkpoint(make_vf(0).address, "GPU-7", by_node=by_node))
    assert PodResources(root).list_owners() == {make_vf(0).address: "pod 6c1f, container app"}
    assert PodResources(root).holds(make_vf(0))
    assert not PodResources(root).holds(make_vf(1))


def test_a_kubelet_without_pods_writes_null(root: Path) -> None:
    write_checkpoint(root, json.dumps({"Data": {"PodDeviceEntries": None, "RegisteredDevices": {}}, "Checksum": 1}))
    assert PodResources(root).list_owners() == {}


def test_a_kubelet_that_hangs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "ANSWER_SECONDS", 0.2)
    write_checkpoint(root, checkpoint(make_vf(0).address))
    (root / "pod-resources").mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(root / "pod-resources/kubelet.sock"))
        silent.listen()
        assert PodResources(root).holds(make_vf(0))
        assert not PodResources(root).holds(make_vf(1))


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "7", '{"Data": 7}', '{"Data": {}}', '{"Data": {"PodDeviceEntries": 7}}',
    '{"Data": {"PodDeviceEntries": [7]}}', '{"Data": {"PodDeviceEntries": [{"DeviceIDs": 7}]}}',
    '{"Data": {"PodDeviceEntries": [{"DeviceIDs": {"0": 7}}]}}',
    '{"Data": {"PodDeviceEntries": [{"DeviceIDs": {"0": [7]}, "PodUID": "a", "ContainerName": "b"}]}}',
    "[" * 100_000,
])
def test_what_cannot_be_read_is_not_none(root: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write_checkpoint(root, text)
    kubelet = PodResources(root)
    with pytest.raises(HostError, match="cannot tell which VFs the kubelet gave to pods") as caught:
        kubelet.list_owners()
    assert str(path) in str(caught.value)
    assert "pod-resources/kubelet.sock: UNAVAILABLE" in str(caught.value)
    assert [kubelet.holds(make_vf(index)) for index in range(3)] == [True, True, True]
    assert kubelet.trouble == str(caught.value)
    assert len(caplog.records) == 1
    path.unlink()
    assert not kubelet.holds(make_vf(0))
    assert kubelet.trouble is None


def test_what_cannot_be_opened_is_not_none(root: Path) -> None:
    write_checkpoint(root, "").unlink()
    (root / "device-plugins/kubelet_internal_checkpoint").mkdir()
    with pytest.raises(HostError, match="Is a directory"):
        PodResources(root).list_owners()


def test_a_vf_without_a_driver_serves_nobody(root: Path) -> None:
    """After a reboot VFs are new, and the kubelet's checkpoint is not."""
    write_checkpoint(root, checkpoint(make_vf(0).address))
    assert not PodResources(root).holds(make_vf(0, driver=None))


def test_one_question_serves_many_vfs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "FRESH_SECONDS", 60.0)
    path = write_checkpoint(root, checkpoint(make_vf(0).address))
    kubelet = PodResources(root)
    assert kubelet.holds(make_vf(0))
    path.unlink()
    assert kubelet.holds(make_vf(0))
