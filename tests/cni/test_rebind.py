"""A driver that is to make its netdev anew, and does not take the VF any more."""

import dataclasses
from typing import Any

import pytest

from cni.kernel import Vf
from cni.rebind import end_rebind, rebind
from cni.steps import MacOrder
from sriov.errors import HostError
from sriov.pci import PciAddress
from tests.cni.test_ipam import NOW

VF = Vf(address=PciAddress("0000:3b:02.1"), index=1, pf=PciAddress("0000:3b:00.0"), pf_name="ens1f0", pf_index=4,
        order=MacOrder.PF_FIRST)


class Device:
    """A VF as sysfs has it; `probes` says whether its driver's next probes succeed."""

    def __init__(self, *, driver: str | None = "iavf", override: str | None = None, autoprobe: bool = True) -> None:
        self.driver, self.override, self.autoprobe = driver, override, autoprobe
        self.probes = True
        self._fits = override or "iavf"

    def read_driver(self, _: object) -> str | None:
        return self.driver

    def read_driver_override(self, _: object) -> str | None:
        return self.override

    def set_driver_override(self, _: object, driver: str | None) -> None:
        self.override = driver

    def read_autoprobe(self, _: object) -> bool:
        return self.autoprobe

    def unbind(self, _: object) -> None:
        self.driver = None

    def probe(self, _: object) -> None:
        """As pci_device_can_probe and driver_match_device have it."""
        if self.probes and (self.autoprobe or self.override is not None):
            self.driver = self.override or self._fits

    def find_netdev(self, _: object) -> tuple[str, int] | None:
        return None if self.driver is None else ("ens1f0v1", 9)


def on(device: Any) -> Any:
    return dataclasses.replace(NOW, sysfs=device)


@pytest.mark.parametrize("autoprobe", [True, False])
def test_it_leaves_no_override(autoprobe):
    device = Device(autoprobe=autoprobe)
    rebind(on(device), VF)
    assert (device.driver, device.override) == ("iavf", None)


def test_an_admins_override_stays():
    device = Device(override="iavf", autoprobe=False)
    rebind(on(device), VF)
    assert (device.driver, device.override) == ("iavf", "iavf")


@pytest.mark.parametrize("autoprobe", [True, False])
def test_a_probe_that_fails_is_told_until_one_succeeds(autoprobe):
    device = Device(autoprobe=autoprobe)
    device.probes = False
    with pytest.raises(HostError, match="its driver iavf does not take it any more"):
        rebind(on(device), VF)
    for _ in range(2):
        with pytest.raises(HostError, match="its driver iavf does not take it any more"):
            end_rebind(on(device), VF)
    device.probes = True
    end_rebind(on(device), VF)
    assert device.driver == "iavf"
    assert device.override == (None if autoprobe else "iavf")


def test_without_a_driver_that_somebody_else_took_it_stays():
    device = Device(driver=None)
    device.probes = False
    end_rebind(on(device), VF)
    assert device.driver is None


def test_what_is_on_its_way_to_user_space_goes_there():
    device = Device(driver=None, override="vfio-pci")
    end_rebind(on(device), VF)
    assert (device.driver, device.override) == ("vfio-pci", "vfio-pci")
