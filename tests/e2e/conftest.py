"""One cluster for the whole suite; after each test every VF is home again, or the test has failed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack

import pytest

from sriov.errors import InputError
from tests.e2e.cluster import Cluster
from tests.e2e.libcni import Libcni
from tests.lab.cache import check_cache

_CLUSTER = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session")
def running_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Built and booted at the first test that needs it, its progress seen on the terminal."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        with capture.global_and_fixture_disabled():
            try:
                check_cache()
            except InputError as error:
                pytest.exit(f"cluster: {error}", returncode=2)
            cluster = stack.enter_context(Cluster())
            request.config.stash[_CLUSTER] = cluster
            stack.callback(request.config.stash.__delitem__, _CLUSTER)
            cluster.install()
            if cluster.peers.find("multus") is not None:
                cluster.multus.use("thin")
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    yield running_cluster
    running_cluster.clean()


@pytest.fixture
def multus(cluster: Cluster) -> Cluster:
    """The cluster, with Multus thin."""
    if cluster.peers.find("multus") is None:
        pytest.skip(cluster.peers.reason or "without Multus")
    cluster.multus.use("thin")
    return cluster


@pytest.fixture(scope="module")
def libcni(running_cluster: Cluster) -> Iterator[Libcni]:
    """For one module: a node that has been rebooted since has it no more."""
    with Libcni(running_cluster.node, running_cluster.components) as libcni:
        yield libcni


@pytest.fixture
def home(running_cluster: Cluster) -> Iterator[None]:
    """For tests that make no pods: every VF is home after them."""
    yield
    running_cluster.wait_home()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the node says stands below a failure."""
    report = yield
    if report.failed and (cluster := item.config.stash.get(_CLUSTER, None)) is not None:
        for title, text in cluster.post_mortem():
            report.sections.append((title, text))
    return report
