"""What is decided about an ADD before any VF is touched: whose the VF is, and whether it was done already."""

import dataclasses
import logging
import os
import threading
import time

import pytest

from cni.allocation import check_allocation
from cni.attach import Attachments
from cni.custody import Loss
from cni.invocation import Invocation
from cni.netns import netns_cookie
from cni.protocol import PodRef
from cni.queue import FairQueue
from cni.record import Phase, Wanted
from sriov.errors import Refused, SriovError
from sriov.model import VfSettings
from tests.cni.test_ipam import NOW, kernel, opened
from tests.cni.test_protocol import request
from tests.cni.test_record import record

VF = record().vf
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u"
HERE = "/proc/self/ns/net"


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path) as store:
        yield store


def add(attachments, **config):
    config = {"cniVersion": "1.0.0", "name": "net", "type": "vfpool", "deviceID": VF, "vlan": 5, **config}
    asked = request(config, CNI_NETNS=HERE, CNI_ARGS=ARGS)
    netns = os.open(HERE, os.O_RDONLY)
    try:
        return attachments.handle(Invocation(request=asked, netns_fd=netns, gone=lambda: False,
                                             deadline=time.monotonic() + 10))
    finally:
        os.close(netns)


def failure(attachments, **config):
    with pytest.raises(SriovError) as caught:
        add(attachments, **config)
    return caught.value.message


def test_a_vf_of_which_nobody_knows_how_it_was_is_refused_before_anything_is_done(store, tmp_path):
    aside = tmp_path / f"vfs/{VF}.damaged"
    aside.write_text("{")
    attachments = Attachments(NOW, store)
    with pytest.raises(Refused, match=f"VF {VF} is not given to a pod: .* {aside}: by an earlier agent"):
        add(attachments)
    assert list(store) == []
    aside.unlink()
    assert failure(attachments) == f"CNI_NETNS: {HERE} is the host's own"


# ---- whose it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, None, False])
def test_the_kubelet_is_asked_whose_a_vf_is(store, answer):
    asked = []

    def allocated(pod, vf):
        asked.append((pod, vf))
        return answer

    message = failure(Attachments(NOW, store, allocated=allocated))
    assert asked == [(PodRef(namespace="ns", name="pod", uid="u"), VF)]
    refused = message == f"VF {VF} is not allocated to pod ns/pod"
    assert refused is (answer is False)          # else it goes on to where this test's namespace is the host's
    assert refused or message == f"CNI_NETNS: {HERE} is the host's own"
    assert list(store) == []


def test_who_waits_for_the_kubelet_keeps_nobody_from_a_place(store):
    kernel = dataclasses.replace(NOW, calls=FairQueue(1))

    def allocated(pod, vf):
        other = threading.Thread(target=kernel.calls.run, args=(lambda: None,))
        other.start()
        other.join(10)
        return other.is_alive()

    message = failure(Attachments(kernel, store, allocated=allocated))
    assert message == f"VF {VF} is not allocated to pod ns/pod"


def test_nobody_is_asked_where_the_admin_does_not_want_it(store, caplog):
    assert failure(Attachments(NOW, store)) == f"CNI_NETNS: {HERE} is the host's own"
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


def test_a_call_that_names_no_pod(caplog):
    caplog.set_level(logging.INFO)
    check_allocation(lambda pod, vf: False, None, VF)
    assert f"VF {VF} is taken for a container that CNI_ARGS names no pod of" in caplog.text


def test_another_pods_vf_is_refused():
    with pytest.raises(Refused):
        check_allocation(lambda pod, vf: False, PodRef(namespace="ns", name="pod"), VF)


# ---- an ADD again -------------------------------------------------------------------------------------------


RESULT = {"cniVersion": "1.0.0", "interfaces": []}


def attached(**changes):
    made = record(phase=Phase.ATTACHED, boot_id=NOW.boot_id, result=RESULT, sets_mac=False,
                  wanted=Wanted(settings=VfSettings(vlan=5, vlan_proto=0x8100)))
    owner = {"netns": HERE, "cookie": netns_cookie(HERE)} | changes.pop("owner", {})
    return dataclasses.replace(made, owner=dataclasses.replace(made.owner, **owner), **changes)


def test_the_same_again_is_answered_from_the_record(store):
    store.write(attached())
    again = Attachments(NOW, store, allocated=lambda pod, vf: pytest.fail("the kubelet was asked"))
    assert add(again) == RESULT


def test_a_pods_own_limit_is_asked_for_again(store):
    """The record has what came of it: less than the VF had."""
    made = attached(wanted=Wanted(settings=VfSettings(vlan=5, vlan_proto=0x8100, max_tx_rate=70)))
    store.write(dataclasses.replace(made, baseline=dataclasses.replace(
        made.baseline, settings=VfSettings(max_tx_rate=70))))
    assert add(Attachments(NOW, store), runtimeConfig={"bandwidth": {"egressRate": 90_000_000}}) == RESULT


def undo(attachments, result):
    asked = request({"cniVersion": "1.0.0", "name": "net"}, CNI_COMMAND="DEL", CNI_NETNS=HERE)
    attachments.handle(Invocation(request=asked, netns_fd=None, gone=lambda: False, deadline=time.monotonic() + 10,
                                  undoes=result))


def test_an_add_that_nobody_heard_of_is_undone(store):
    store.write(attached(identity=5))            # made anew since: it is owed nothing
    undo(Attachments(NOW, store), dict(RESULT))
    assert len(list(store)) == 1                 # that is of another ADD, which says the same
    undo(Attachments(NOW, store), RESULT)
    assert list(store) == []


def test_an_add_that_another_one_heard_of_is_not_undone(store):
    store.write(attached())
    attachments = Attachments(NOW, store)
    assert add(attachments) == RESULT
    undo(attachments, RESULT)
    assert list(store) == [attached()]


@pytest.mark.parametrize("config", [
    {"vlan": 6}, {"mtu": 1400}, {"name": "other"}, {"cniVersion": "0.4.0"}, {"deviceID": "0000:3b:02.7"}], ids=str)
def test_something_else_for_the_same_interface_needs_a_del_first(store, config):
    made = attached()
    store.write(made)
    assert failure(Attachments(NOW, store), **config) == f"the container has VF {VF} as net1 already"
    assert list(store) == [made]


def test_another_namespace_with_the_same_container_and_interface_needs_a_del_first(store):
    """The record's does not open here, so it may live; this call's is another one."""
    store.write(attached(owner={"netns": "/run/netns/x", "cookie": 1}))
    assert failure(Attachments(NOW, store)) == f"the container has VF {VF} as net1 already"


def test_something_else_while_the_namespace_is_dead_but_held(store, tmp_path):
    """A DEL would not help: the kernel hands the VF back once nothing holds that open."""
    here = kernel(NOW.boot_id, driver="igbvf")
    gone = {"netns": str(tmp_path / "gone"), "file_system": tmp_path.stat().st_dev}
    made = attached(owner=gone)
    store.write(made)
    with pytest.raises(Refused) as caught:
        add(Attachments(here, store), vlan=6)
    assert (caught.value.message, caught.value.hint) == (f"the container has VF {VF} as net1 already", Loss.HELD)
    assert list(store) == [made]


@pytest.mark.parametrize("changes", [{"result": None, "phase": Phase.ATTACHING}, {"boot_id": "earlier"}], ids=str)
def test_what_is_left_of_an_earlier_add_is_undone_first(store, changes):
    store.write(attached(identity=5, **changes))      # made anew since: it is owed nothing
    assert failure(Attachments(NOW, store), vlan=6) == f"CNI_NETNS: {HERE} is the host's own"
    assert list(store) == []
