from __future__ import annotations

from pathlib import Path

from deviceplugin.kubelet import deviceplugin_pb2, pluginregistration_pb2, podresources_pb2
from tests.support import stubs


def test_committed_stubs_are_what_the_protos_give(tmp_path: Path) -> None:
    stubs.generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    committed = (stubs.ROOT / "deviceplugin/kubelet").glob("*_pb2*")
    assert fresh == {path.relative_to(stubs.ROOT): path.read_bytes() for path in committed}
    assert len(fresh) == 3 * len(stubs.PROTOS) == 9


def test_packages_are_the_bare_names_that_are_on_the_wire() -> None:
    services = {
        service.full_name
        for module in (deviceplugin_pb2, pluginregistration_pb2, podresources_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    assert services == {
        "v1beta1.Registration",
        "v1beta1.DevicePlugin",
        "pluginregistration.Registration",
        "v1.PodResourcesLister",
    }
