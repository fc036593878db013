"""The NAD cache against an API server on loopback: it keeps up, whatever that one does."""

from __future__ import annotations

import asyncio
import datetime
import difflib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from kubernetes.aio.config import incluster_config

from admission.cluster import load_configuration, open_cluster
from admission.mutation import Absent, Nad, Unknown
from admission.nads import NadCache, Patience, find_nearest, read_nad
from sriov.errors import InputError
from tests.admission.apiserver import ApiServer, nad, tls_context
from tests.deviceplugin.harness import run, until
from tests.e2e.pki import Authority

FAST, SLOW = Nad(resource="intel.com/sriov"), Nad(resource=None)
PATIENCE = Patience(get=0.5, retry=(0.01, 0.05))

Scenario = Callable[[ApiServer, NadCache], Awaitable[None]]


@asynccontextmanager
async def cache_of(api: ApiServer, tmp_path, *, patience: Patience = PATIENCE) -> AsyncIterator[NadCache]:
    configuration = await load_configuration(api.kubeconfig(tmp_path / "kubeconfig"))
    async with open_cluster(configuration) as cluster:
        yield NadCache(cluster, patience)


@asynccontextmanager
async def running(nads: NadCache) -> AsyncIterator[None]:
    task = asyncio.create_task(nads.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


def play(scenario: Scenario, tmp_path, *documents, patience: Patience = PATIENCE, start: bool = True) -> None:
    """Run the scenario with a cache that has just become aware of `documents`."""

    async def whole() -> None:
        async with ApiServer.start() as api:
            await api.put(*documents)
            async with cache_of(api, tmp_path, patience=patience) as nads:
                if not start:
                    await scenario(api, nads)
                    return
                async with running(nads):
                    await nads.synced.wait()
                    await until(lambda: api.watching == 1)
                    await scenario(api, nads)

    run(whole)


def test_what_is_listed_is_known_without_a_call(tmp_path):
    async def scenario(api, nads):
        keys = [("a", "fast"), ("b", "fast"), ("a", "slow")]
        assert await nads.find(keys) == dict(zip(keys, (FAST, FAST, SLOW), strict=True))
        assert dict(api.calls) == {"list": 1, "watch": 1}

    fast = [nad(namespace, "fast", "intel.com/sriov") for namespace in ("a", "b")]
    play(scenario, tmp_path, *fast, nad("a", "slow"))


def test_a_long_list_comes_in_pages(tmp_path):
    async def scenario(api, nads):
        assert api.calls["list"] == 13
        assert nads.get("a", "n0") == nads.get("a", "n1200") == SLOW
        assert nads.get("a", "n1201") is None

    play(scenario, tmp_path, *(nad("a", f"n{n}") for n in range(1201)))


def test_the_watch_brings_changes(tmp_path):
    async def scenario(api, nads):
        await api.put(nad("a", "new", "intel.com/sriov"))
        await until(lambda: nads.get("a", "new") == FAST)
        await api.put(nad("a", "new"))
        await until(lambda: nads.get("a", "new") == SLOW)
        await api.delete("a", "new")
        await until(lambda: nads.get("a", "new") is None)
        assert dict(api.calls) == {"list": 1, "watch": 1}

    play(scenario, tmp_path)


@pytest.mark.parametrize("how", ["ended", "cut"])
def test_a_watch_that_ends_goes_on_where_it_was(tmp_path, how):
    async def scenario(api, nads):
        await api.put(nad("a", "one"))
        await until(lambda: nads.get("a", "one") is not None)
        await api.bookmark()
        await api.put(nad("a", "two"))
        await until(lambda: nads.get("a", "two") is not None)
        api.forget_history()        # only from the version of the last event it can go on
        if how == "ended":
            await api.end_watches()
        else:
            api.cut_watches()
        await until(lambda: api.calls["watch"] == 2)
        await api.put(nad("a", "three"))
        await until(lambda: nads.get("a", "three") is not None)
        assert api.calls["list"] == 1
        assert api.versions == ["100", "112"]

    play(scenario, tmp_path)


def test_a_bookmark_moves_the_version_on(tmp_path):
    async def scenario(api, nads):
        await api.bookmark()
        await api.put(nad("a", "seen"))
        await until(lambda: nads.get("a", "seen") is not None)
        await api.delete("a", "seen")
        await until(lambda: nads.get("a", "seen") is None)
        await api.bookmark()
        await api.put(nad("a", "last"))
        await until(lambda: nads.get("a", "last") is not None)
        assert api.calls["watch"] == 1

    play(scenario, tmp_path)


@pytest.mark.parametrize("by_event", [True, False])
def test_410_gone_lists_again_and_sees_deletions_that_were_missed(tmp_path, by_event):
    async def scenario(api, nads):
        api.gone_by_event = by_event
        api.fail["watch"] = 503      # nobody watches while this happens
        api.cut_watches()
        await until(lambda: len(api.versions) > 1)
        await api.delete("a", "old")
        await api.put(nad("a", "new"))
        api.forget_history()
        del api.fail["watch"]
        await until(lambda: nads.get("a", "new") is not None)
        assert nads.get("a", "old") is None
        assert nads.get("a", "kept") == SLOW
        assert api.calls["list"] == 2

    play(scenario, tmp_path, nad("a", "old"), nad("a", "kept"))


def test_an_api_server_that_goes_away_is_tried_again_and_what_is_known_stays(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    async def whole() -> None:
        api = ApiServer()
        async with AsyncExitStack() as stack:
            async with api.serve():
                port = api.port
                await api.put(nad("a", "fast", "intel.com/sriov"))
                nads = await stack.enter_async_context(cache_of(api, tmp_path))
                await stack.enter_async_context(running(nads))
                await until(lambda: api.watching == 1)
                caplog.clear()
            await until(lambda: any("cannot watch NADs: " in line for line in said(caplog)))
            assert nads.synced.is_set()
            assert await nads.find([("a", "fast")]) == {("a", "fast"): FAST}
            async with api.serve(port):
                await api.put(nad("a", "new"))
                await until(lambda: nads.get("a", "new") is not None)

    run(whole)
    assert "the API server answers again" in said(caplog)


def test_the_same_trouble_is_logged_once(tmp_path, caplog):
    async def scenario(api, nads):
        api.fail["watch"] = 500
        api.cut_watches()
        await until(lambda: len(api.versions) > 5)

    play(scenario, tmp_path)
    assert [line for line in said(caplog) if "500" in line] == ["cannot watch NADs: not now (500); trying again"]


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "admission.nads"]


def test_it_waits_for_an_api_server_that_is_not_there_yet(tmp_path):
    async def whole() -> None:
        api = ApiServer()
        async with api.serve():
            port = api.port
        async with cache_of(api, tmp_path) as nads, running(nads):
            found = await nads.find([("a", "fast")])
            assert isinstance(found["a", "fast"], Unknown)
            assert "cannot get NAD a/fast: " in found["a", "fast"].reason
            assert not nads.synced.is_set()
            async with api.serve(port):
                await nads.synced.wait()

    run(whole)


def test_a_slow_list_holds_up_nothing(tmp_path):
    async def scenario(api, nads):
        api.open["list"].clear()
        async with running(nads):
            await until(lambda: api.calls["list"] == 1)
            assert await nads.find([("a", "fast")]) == {("a", "fast"): FAST}
            assert not nads.synced.is_set()
            api.open["list"].set()
            await nads.synced.wait()

    play(scenario, tmp_path, nad("a", "fast", "intel.com/sriov"), start=False)


# ---- misses ---------------------------------------------------------------------------------------------


def test_a_miss_is_confirmed_by_one_get_for_all_who_ask(tmp_path):
    async def scenario(api, nads):
        api.open["get"].clear()
        asking = [asyncio.create_task(nads.find([("a", "new"), ("a", "none")])) for _ in range(10)]
        await until(lambda: api.calls["get"] == 2)
        asking[0].cancel()
        await asyncio.wait([asking[0]])
        api.open["get"].set()
        answers = await asyncio.gather(*asking[1:])
        assert answers == [{("a", "new"): FAST, ("a", "none"): Absent()}] * 9
        assert api.calls["get"] == 2
        assert await nads.find([("a", "new")]) == {("a", "new"): FAST}     # nothing was kept
        assert api.calls["get"] == 3

    play(scenario, tmp_path, nad("a", "new", "intel.com/sriov"), start=False)


def test_what_is_nearest_to_a_name_that_is_not_there(tmp_path):
    async def scenario(_, nads):
        keys = [("default", "fats"), ("default", "other"), ("elsewhere", "fast"), ("default", "zzz")]
        assert list((await nads.find(keys)).values()) == [
            Absent(nearest="fast"), Absent(elsewhere=("a", "b")), Absent(elsewhere=("default",)), Absent()]

    play(scenario, tmp_path, nad("default", "fast"), nad("default", "slow"), nad("b", "other"), nad("a", "other"))


def test_a_get_that_takes_too_long(tmp_path):
    async def scenario(api, nads):
        api.open["get"].clear()
        assert await nads.find([("a", "fast")]) == {
            ("a", "fast"): Unknown(reason="the API server did not answer within 0.05 s")}

    play(scenario, tmp_path, patience=Patience(get=0.05, retry=(0.01, 0.05)), start=False)


def test_absent_nads_cost_little(tmp_path, monkeypatch):
    """However many of them a pod names: anybody who may create pods can do that."""
    search = Mock(wraps=difflib.get_close_matches)
    monkeypatch.setattr(difflib, "get_close_matches", search)

    async def scenario(api, nads):
        api.open["get"].clear()
        keys = [("a", f"net-{n}") for n in range(3000, 3064)]
        asking = asyncio.create_task(nads.find(keys))
        await until(lambda: api.calls["get"] == 8)
        api.open["get"].set()
        found = await asking
        assert [*found] == keys
        assert found["a", "net-3000"] == Absent(nearest="net-300")
        assert found["a", "net-3063"] == Absent()
        assert (api.calls["get"], api.most) == (64, 8)

    play(scenario, tmp_path, *(nad("a", f"net-{n}") for n in range(1000)), nad("a", "x" * 200),
         patience=Patience(get=30, retry=(0.01, 0.05)))
    assert search.call_count == 5
    assert max(len(call.args[1]) for call in search.call_args_list) == 10


def test_the_nearest_name():
    many = [f"{first}-{n}" for first in ("blue", "green") for n in range(500)]
    assert find_nearest("gren-77", many) == "green-77"
    assert find_nearest("afst", ["slow", "fast", "of"]) == "fast"
    assert find_nearest("zzz", many) is None
    assert find_nearest("x" * 63, ["x" * 62 + "y"]) == "x" * 62 + "y"
    assert find_nearest("x" * 64, ["x" * 63]) is None          # too long to be compared


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_a_get_that_is_refused_says_nothing_about_the_nad(tmp_path, status):
    """A 404 too: one that is not about this NAD means that the definition of NADs is missing."""
    async def scenario(api, nads):
        api.fail["get"] = status
        assert await nads.find([("a", "fast")]) == {
            ("a", "fast"): Unknown(reason=f"cannot get NAD a/fast: as the test wants ({status})")}

    play(scenario, tmp_path, start=False)


def test_missing_rights_are_named(tmp_path, caplog):
    allowed = ("vfpool-webhook is not allowed to, see its ClusterRole and ClusterRoleBinding: "
               "as the test wants (403)")

    async def scenario(api, nads):
        api.fail = {"get": 403, "list": 403}
        for name in ("one", "two"):
            assert await nads.find([("a", name)]) == {
                ("a", name): Unknown(reason=f"cannot get NAD a/{name}: {allowed}")}
        assert said(caplog) == [f"cannot get NAD a/one: {allowed}"]
        async with running(nads):
            await until(lambda: api.calls["list"] > 3)
        assert said(caplog)[1:] == [f"cannot list NADs: {allowed}; trying again"]

    play(scenario, tmp_path, start=False)


def test_only_metadata_travels(tmp_path):
    async def scenario(api, nads):
        await api.put(nad("a", "watched", "intel.com/sriov", "x" * 1_000_000))
        await until(lambda: nads.get("a", "watched") == FAST)
        await api.bookmark()
        cold = NadCache(nads._source)
        assert await cold.find([("a", "listed")]) == {("a", "listed"): FAST}
        assert api.calls == {"list": 1, "watch": 1, "get": 1}
        assert api.sent_configs == 0

    play(scenario, tmp_path, nad("a", "listed", "intel.com/sriov"))


@pytest.mark.parametrize("document", [
    {}, {"metadata": None}, {"metadata": {"annotations": None}}, {"metadata": 5},
    {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/resourceName": 5}}}])
def test_nads_of_odd_shape(document):
    assert read_nad(document) == Nad(resource=None)


# ---- configuration --------------------------------------------------------------------------------------


def test_in_a_cluster_a_renewed_token_is_used(tmp_path, monkeypatch):
    authority = Authority.make(tmp_path)
    pair = authority.issue("server", common_name="api", hosts=("127.0.0.1",))
    token, now = tmp_path / "token", datetime.datetime(2026, 1, 1)
    token.write_text("first")
    clock = SimpleNamespace(now=lambda: now)
    # The client has the service account's folder as constants, and reads its token again after a minute.
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.certificate))
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=clock, timedelta=datetime.timedelta))

    async def whole() -> None:
        nonlocal now
        async with ApiServer.start(tls=tls_context(pair.certificate, pair.key)) as api:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
            async with open_cluster(await load_configuration(None)) as cluster:
                assert await cluster.get("a", "none") is None
                token.write_text("second")
                now += datetime.timedelta(minutes=2)
                assert await cluster.get("a", "none") is None
            assert [sent.lower() for sent in api.tokens] == ["bearer first", "bearer second"]

    run(whole)


def test_outside_of_a_cluster_there_is_no_service_account(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError) as caught:
        asyncio.run(load_configuration(None))
    assert str(caught.value) == (
        "not in a cluster: Service host/port is not set (hint: give --kubeconfig outside of one)")
