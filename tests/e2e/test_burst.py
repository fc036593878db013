"""Ten pods at once, force-deleted at once: no VF is lost, whether or not anybody calls our DEL."""

from __future__ import annotations

import pytest

from tests.e2e.burst import burst
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

VARIANTS = pytest.mark.parametrize("delete_namespace", [False, True], ids=["pods", "namespace"])


@VARIANTS
def test_burst(multus: Cluster, delete_namespace: bool) -> None:
    burst(multus, "burst", delete_namespace=delete_namespace)


@pytest.mark.long
def test_twenty_bursts(multus: Cluster) -> None:
    for number in range(20):
        burst(multus, f"burst-{number}", delete_namespace=number % 2 == 1)
