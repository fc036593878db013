"""tcx programs on netdevs of this machine's own kernel: they are seen, and taken off whoever holds them."""

import pytest

from cni.netns import call_in
from sriov.errors import Gone, HostError
from sriov.host.bpf import TCX, detach_tcx, read_tcx
from tests.support.bpf import attach_tcx, make_tcx_link

pytestmark = pytest.mark.kernel

INGRESS, EGRESS = TCX


def read(netns, index):
    return call_in(netns.fd, lambda: read_tcx(index))


def detach(netns, index, place, program):
    call_in(netns.fd, lambda: detach_tcx(index, place, program))


def test_a_netdev_without_any(host):
    assert read(host, host.add_veth("v0", "v1")) == ()


def test_a_netdev_that_is_not_there(host):
    index = host.add_veth("v0", "v1")
    with pytest.raises(Gone, match=rf"^cannot read the tcx ingress programs of link {index + 100}: there"):
        read(host, index + 100)


def test_all_are_seen_in_the_order_of_packets_and_each_is_taken_off_alone(host):
    index = host.add_veth("v0", "v1")
    attach_tcx(host.fd, index, EGRESS)
    attach_tcx(host.fd, index, INGRESS)
    with make_tcx_link(host.fd, index, INGRESS):
        attach_tcx(host.fd, index, INGRESS)
        first, held, last, out = found = read(host, index)
        assert [place for place, _ in found] == [INGRESS, INGRESS, INGRESS, EGRESS]
        assert out[1] < first[1] < held[1] < last[1]         # by age
        detach(host, index, *last)
        assert read(host, index) == (first, held, out)
        detach(host, index, *held)
        assert read(host, index) == (first, out)
        with pytest.raises(HostError, match=rf"take the tcx ingress program {held[1]} off link {index}: ENOENT"):
            detach(host, index, *held)
    detach(host, index, *first)
    detach(host, index, *out)
    assert read(host, index) == ()


def test_they_stay_on_a_netdev_that_moves_and_are_not_known_by_its_index_elsewhere(host, pod):
    index = host.add_veth("v0", "v1")
    attach_tcx(host.fd, index, INGRESS)
    before = read(host, index)
    host.links.change(index, "move", netns_fd=pod.fd, name="net1")
    assert read(pod, pod.links.find("net1").index) == before != ()
    with pytest.raises(Gone):
        read(host, index)


def test_as_many_as_there_can_be(host):
    """More than the kernel has room for in one place (bpf_mprog_max)."""
    index = host.add_veth("v0", "v1")
    for _ in range(63):
        attach_tcx(host.fd, index, EGRESS)
    assert len({program for _, program in read(host, index)}) == 63
    with pytest.raises(AssertionError, match="out of range"):
        attach_tcx(host.fd, index, EGRESS)
