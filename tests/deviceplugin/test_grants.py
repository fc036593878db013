"""Whether a VF is the pod's: asked of the stand-in kubelet, and of one that answers as a test says."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from deviceplugin import grants, podresources
from deviceplugin.grants import Grants
from deviceplugin.inventory import Inventory
from deviceplugin.kubelet import podresources_pb2 as api
from deviceplugin.kubelet.podresources_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)
from deviceplugin.podresources import PodResources
from sriov.pci import PciAddress
from tests.deviceplugin.harness import RESOURCE, agent, assign_members, configure, make_members, make_vf, run
from tests.deviceplugin.test_podresources import checkpoint, write_checkpoint
from tests.support.kubelet import Kubelet
from tests.support.node import wait_for

MINE, OTHER = make_vf(0).address, make_vf(1).address


def pod(name: str, *containers: api.ContainerResources) -> api.PodResources:
    return api.PodResources(namespace="shop", name=name, containers=containers)


def container(*ids: str) -> api.ContainerResources:
    return api.ContainerResources(name="app", devices=[
        api.ContainerDevices(resource_name=RESOURCE, device_ids=[each]) for each in ids])


def claimed(device: str = "", cdi: str = "") -> api.ContainerResources:
    resource = api.ClaimResource(device_name=device, cdi_devices=[api.CDIDevice(name=cdi)] if cdi else [])
    return api.ContainerResources(name="app", dynamic_resources=[
        api.DynamicResource(claim_name="c", claim_namespace="shop", claim_resources=[resource])])


class Lister(PodResourcesListerServicer):
    """Answers List with `pods`, or as `answer` does; counts the questions."""

    def __init__(self) -> None:
        self.pods: list[api.PodResources] = []
        self.questions = 0
        self.answer: Callable[[grpc.ServicerContext], None] = lambda _: None

    def List(self, _: api.ListPodResourcesRequest, context: grpc.ServicerContext) -> api.ListPodResourcesResponse:
        self.questions += 1
        pods = list(self.pods)
        self.answer(context)
        return api.ListPodResourcesResponse(pod_resources=pods)


@pytest.fixture
def lister(root: Path) -> Iterator[Lister]:
    lister = Lister()
    server = grpc.server(ThreadPoolExecutor(4))
    add_PodResourcesListerServicer_to_server(lister, server)
    (root / "pod-resources").mkdir()
    server.add_insecure_port(f"unix:{root}/pod-resources/kubelet.sock")
    server.start()
    yield lister
    server.stop(None).wait()


@pytest.fixture
def ask(root: Path) -> Callable[..., bool | None]:
    """Whether the pod shop/cart-0 was given the VF, or another one."""
    known = Grants(PodResources(root))

    def covers(vf: PciAddress = MINE, name: str = "cart-0", uid: str = "6c1f") -> bool | None:
        return known.covers("shop", name, uid, vf)

    return covers


def test_from_allocate_to_the_pods_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "FRESH_SECONDS", 0.0)

    async def scenario() -> None:
        inventory = Inventory()
        inventory.publish(assign_members(*make_members(2)))
        kubelet, known = Kubelet(root), Grants(PodResources(root))

        async def covers(name: str, vf: str) -> bool | None:
            return await asyncio.to_thread(known.covers, "shop", name, "", PciAddress(vf))

        async with kubelet, agent(configure(root), inventory):
            await kubelet.wait_allocatable(RESOURCE, 2)
            assert await covers("cart-0", MINE) is False
            given = await kubelet.admit("shop/cart-0", {"init": {}, "app": {}, "sidecar": {RESOURCE: 1}})
            vf, = given["sidecar"].device_ids[RESOURCE]
            other, = {MINE, OTHER} - {PciAddress(vf)}
            assert [await covers("cart-0", vf), await covers("cart-0", other), await covers("cart-1", vf)] == [
                True, False, False]
            kubelet.remove("shop/cart-0")
            assert await covers("cart-0", vf) is False

    run(scenario)


@pytest.mark.parametrize(("claim", "expected"), [
    (claimed(device="0000-3b-02-0"), True),
    (claimed(cdi="k8s.cni.cncf.io/vf=0000:3b:02.0"), True),
    (claimed(cdi="sriovnetwork.example/vf=123e4567-e89b-12d3-a456-426614174000-0000-3b-02-0"), True),
    (claimed(device="0000-3b-02-1"), False),
    (claimed(device="10000-3b-02-0"), False),
    (claimed(device="0000-3b-02-01"), False),
    (claimed(device="gpu-0", cdi="nvidia.com/gpu=0"), False),
], ids=str)
def test_what_a_dra_driver_gave(lister: Lister, ask: Callable[..., bool | None], claim: api.ContainerResources,
                                expected: bool) -> None:
    lister.pods = [pod("cart-0", claim)]
    assert ask() is expected


def test_an_init_containers_vf_is_in_the_checkpoint_alone(
        root: Path, lister: Lister, ask: Callable[..., bool | None]) -> None:
    write_checkpoint(root, checkpoint(MINE))
    lister.pods = [pod("cart-0")]
    assert [ask(), ask(uid="another"), ask(OTHER)] == [True, False, False]


def test_the_api_and_the_file_of_a_static_pod_have_different_uids(
        root: Path, lister: Lister, ask: Callable[..., bool | None]) -> None:
    write_checkpoint(root, checkpoint(MINE))
    lister.pods = [pod("cart-0", container(MINE))]
    assert ask(uid="another") is True


def test_a_kubelet_that_is_silent_refuses_nobody_and_is_said_so_once(
        root: Path, ask: Callable[..., bool | None], caplog: pytest.LogCaptureFixture) -> None:
    """Its checkpoint may have the pod of before a restart under another UID."""
    write_checkpoint(root, checkpoint(MINE))
    assert [ask(), ask(uid="another"), ask(OTHER)] == [True, None, None]
    (message,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert message.startswith("CNI calls may name any VF for now: cannot tell which ones the kubelet gave to pods: "
                              f"{root}/pod-resources/kubelet.sock: UNAVAILABLE")


def test_a_list_that_says_no_while_the_checkpoint_cannot_be_read(
        root: Path, lister: Lister, ask: Callable[..., bool | None], caplog: pytest.LogCaptureFixture) -> None:
    path = write_checkpoint(root, json.dumps({"Data": 7}))
    assert ask() is None
    assert f"{path}: not the kubelet's" in caplog.text
    lister.pods = [pod("cart-0", container(MINE))]
    assert ask() is True


@pytest.mark.parametrize("trouble", ["hangs", "is busy", "cannot"])
def test_a_kubelet_in_trouble_does_not_keep_a_burst_waiting(
        lister: Lister, ask: Callable[..., bool | None], monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(grants, "ANSWER_SECONDS", 0.3)
    ended = threading.Event()
    codes = {"is busy": grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot": grpc.StatusCode.UNIMPLEMENTED}

    def answer(context: grpc.ServicerContext) -> None:
        if trouble in codes:
            context.abort(codes[trouble], "no")
        ended.wait(20)

    lister.answer = answer
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(32) as calls:
            assert set(calls.map(lambda _: ask(), range(32))) == {None}
    finally:
        ended.set()
    assert time.monotonic() - started < 5


def test_a_kubelet_that_is_asked_too_much_is_asked_again(lister: Lister, ask: Callable[..., bool | None]) -> None:
    def answer(context: grpc.ServicerContext) -> None:
        if lister.questions < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    lister.answer = answer
    lister.pods = [pod("cart-0", container(MINE))]
    assert ask() is True
    assert lister.questions == 3


def test_a_burst_shares_its_questions(lister: Lister, ask: Callable[..., bool | None]) -> None:
    """One for the first call, and one for those that came after that; a thread that is late may need another."""
    lister.pods = [pod(f"p{number}", container(make_vf(number).address)) for number in range(64)]
    held = threading.Event()

    def answer(_: grpc.ServicerContext) -> None:
        held.wait(20)

    lister.answer = answer
    with ExitStack() as stack:
        calls = stack.enter_context(ThreadPoolExecutor(64))
        stack.callback(held.set)
        answers = [calls.submit(ask, make_vf(number).address, f"p{number}") for number in range(32)]
        answers += [calls.submit(ask, make_vf(number).address, f"p{number + 1}") for number in range(32)]
        wait_for("the question", lambda: lister.questions)
        wait_for("all calls", lambda: calls._work_queue.empty())
        held.set()
        assert [answer.result() for answer in answers] == [True] * 32 + [False] * 32
    assert lister.questions <= 4


def test_what_was_asked_before_a_call_came_does_not_refuse_it(
        lister: Lister, ask: Callable[..., bool | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "FRESH_SECONDS", 3600.0)
    under_way, held = threading.Event(), threading.Event()

    def answer(_: grpc.ServicerContext) -> None:
        under_way.set()
        held.wait(20)

    lister.answer = answer
    with ThreadPoolExecutor() as calls:
        first = calls.submit(ask, OTHER)
        assert under_way.wait(20)                              # its answer is made up
        lister.pods = [pod("cart-0", container(MINE))]
        second = calls.submit(ask)
        held.set()
        assert (first.result(), second.result()) == (False, True)
    assert lister.questions == 2
    assert ask() is True
    assert lister.questions == 2                               # the next one is allowed by the same answer
    lister.pods = []
    assert ask(OTHER) is False
    assert lister.questions == 3


def test_a_fresh_answer_gets_stale(lister: Lister, ask: Callable[..., bool | None],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    lister.pods = [pod("cart-0", container(MINE))]
    monkeypatch.setattr(grants, "FRESH_SECONDS", 0.0)
    assert ask() is True
    lister.pods = []
    assert ask() is False


def test_what_pods_have_by_claims_is_in_use_too(root: Path, lister: Lister) -> None:
    lister.pods = [pod("cart-0", claimed(device="0000-3b-02-0"))]
    assert podresources.PodResources(root).list_owners() == {MINE: "shop/cart-0, container app"}
