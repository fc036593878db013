"""The NAD cache against an API server on loopback: it keeps up, whatever that one does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from admission.cluster import load_configuration, open_cluster
from admission.mutation import Absent, Nad, Unknown
from admission.nads import NadCache, Patience, read_nad
from sriov.errors import InputError
from tests.admission.apiserver import ApiServer, nad
from tests.deviceplugin.harness import run, until

FAST, SLOW = Nad(resource="intel.com/sriov", config="{}"), Nad(resource=None, config="{}")
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
        assert api.calls["list"] == 3
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


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_get_that_is_refused_says_nothing_about_the_nad(tmp_path, status):
    """A 404 too: one that is not about this NAD means that the definition of NADs is missing."""
    async def scenario(api, nads):
        api.fail["get"] = status
        assert await nads.find([("a", "fast")]) == {
            ("a", "fast"): Unknown(reason=f"cannot get NAD a/fast: as the test wants ({status})")}

    play(scenario, tmp_path, start=False)


@pytest.mark.parametrize("document", [
    {}, {"metadata": None, "spec": None}, {"metadata": {"annotations": None}}, {"spec": {"config": 5}},
    {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/resourceName": 5}}}])
def test_nads_of_odd_shape(document):
    assert read_nad(document) == Nad(resource=None, config=None)


# ---- configuration --------------------------------------------------------------------------------------


def test_kubeconfigs_that_are_none(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def refusal(path):
        with pytest.raises(InputError) as caught:
            asyncio.run(load_configuration(path))
        return str(caught.value)

    assert refusal(None) == (
        "not in a cluster: Service host/port is not set (hint: give --kubeconfig outside of one)")
    assert refusal(tmp_path / "no") == f"cannot read kubeconfig: {tmp_path / 'no'}: No such file or directory"
    for text in ("", "[]", "{", "{}", "clusters: []\ncurrent-context: x\n"):
        (tmp_path / "bad").write_text(text)
        assert refusal(tmp_path / "bad").startswith(f"cannot use kubeconfig {tmp_path / 'bad'}: ")
