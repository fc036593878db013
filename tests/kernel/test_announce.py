"""Announcements on this machine's kernel: what the other end of a veth pair hears, and when."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from cni.announce import PATIENCE, Arrival, announcement, start_announcing
from cni.netns import call_in, find_place, set_up_interface
from sriov.errors import HostError
from tests.support.node import wait_for

pytestmark = pytest.mark.kernel


class Ear:
    """A packet socket on an interface of a namespace."""

    def __init__(self, namespace, ifname):
        everything = socket.htons(3)       # ETH_P_ALL
        self._socket = call_in(namespace.fd, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything))
        self._socket.bind((ifname, 3))
        self._socket.settimeout(0.05)
        self.heard = []

    def count(self, frame):
        with contextlib.suppress(TimeoutError):
            # An interface that is down, or goes down, is told once.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            while True:
                self.heard.append(self._socket.recv(2048))
        return self.heard.count(frame)

    def close(self):
        self._socket.close()


@pytest.fixture
def arrive(host, pod):
    """An interface in the pod, its peer on the host; called with addresses, gives the arrival and an ear."""
    with contextlib.ExitStack() as stack:
        def make(*addresses, peer_up=True):
            host.add_veth("outside", "inside")
            host.run("link", "set", "inside", "netns", pod.name, "name", "net1")
            if peer_up:
                host.run("link", "set", "outside", "up")
            pod.run("link", "add", "eth0", "type", "veth", "peer", "name", "eth0-peer")
            for name in ("net1", "eth0", "eth0-peer"):
                pod.run("link", "set", name, "up")
            link = pod.links.find("net1")
            set_up_interface(pod.fd, "net1", ipv6=True)
            for address in addresses:
                pod.links.add_address(link.index, ip_interface(address))
            ear, other = Ear(host, "outside"), Ear(pod, "eth0-peer")
            stack.callback(ear.close)
            stack.callback(other.close)
            ips = [ip_interface(address).ip for address in addresses]
            return Arrival(netns=pod.path, index=link.index, addresses=ips), ear, other

        yield make
        wait_for("the announcing threads to end", lambda: not announcing())


def announcing():
    return [thread for thread in threading.enumerate() if thread.name == "announce"]


def frame_of(pod, address):
    return announcement(pod.links.find("net1").mac, address)


def test_each_address_is_announced_twice_by_its_own_interface(pod, arrive):
    arrival, ear, other = arrive("10.9.0.1/24", "fd00::1/64")
    started = time.monotonic()
    start_announcing(pod.fd, arrival)
    assert time.monotonic() - started < 2.0
    for address in arrival.addresses:
        frame = frame_of(pod, address)
        wait_for(f"two announcements of {address}", lambda: ear.count(frame) == 2)      # noqa: B023 - called at once
        assert other.count(frame) == 0
    wait_for("the thread to end", lambda: not announcing())
    assert [ear.count(frame_of(pod, address)) for address in arrival.addresses] == [2, 2]


def test_it_waits_for_a_carrier(host, pod, arrive):
    arrival, ear, _ = arrive("10.9.0.1/24", peer_up=False)
    start_announcing(pod.fd, arrival)
    wait_for("the thread to wait", announcing)
    assert not pod.links.find("net1").carrier
    host.run("link", "set", "outside", "up")
    wait_for("the announcement", lambda: ear.count(frame_of(pod, ip_address("10.9.0.1"))))


def test_the_mac_is_the_one_that_it_has_by_then(pod, arrive):
    """A later plugin of the chain changes it (tuning). By arp_notify the kernel says the same for IPv4."""
    arrival, ear, _ = arrive("10.9.0.1/24", "fd00::1/64")
    old = [frame_of(pod, address) for address in arrival.addresses]
    start_announcing(pod.fd, arrival)
    wait_for("the first announcement", lambda: ear.count(old[0]))
    pod.run("link", "set", "net1", "address", "02:00:00:00:21:02")
    before = [ear.count(frame) for frame in old]
    for address in arrival.addresses:
        frame = frame_of(pod, address)
        wait_for(f"two announcements of {address}", lambda: ear.count(frame) >= 2)      # noqa: B023 - called at once
    assert [ear.count(frame) for frame in old] == before


def test_an_address_that_is_in_dad_again_is_not_announced_again_before_its_end(pod, arrive, monkeypatch):
    """A later plugin of the chain takes it away and gives it back (vrf); some NICs hand a VF its own frames."""
    monkeypatch.setattr("cni.announce.PATIENCE", 30.0)
    monkeypatch.setattr("cni.announce._REPEAT", 3.0)      # time to take it away, and less than DAD then takes
    arrival, ear, _ = arrive("fd00::1/64")
    frame = frame_of(pod, ip_address("fd00::1"))
    looks = []

    def look(path):
        looks.append(path)
        return find_place(path)

    monkeypatch.setattr("cni.announce.find_place", look)
    start_announcing(pod.fd, arrival)
    wait_for("the first announcement", lambda: ear.count(frame))
    call_in(pod.fd, lambda: Path("/proc/sys/net/ipv6/conf/net1/dad_transmits").write_text("4"))
    pod.run("address", "del", "fd00::1/64", "dev", "net1")
    pod.run("address", "add", "fd00::1/64", "dev", "net1")

    def is_tentative():
        (found,) = [found for found in pod.links.dump_addresses() if str(found.address) == "fd00::1/64"]
        return found.tentative

    while True:
        said = ear.count(frame)       # before the look: DAD may end at any moment
        if not is_tentative():
            break
        assert said == 1
    wait_for("the second announcement", lambda: ear.count(frame) == 2)
    assert len(looks) < 60        # it waits for the end of DAD, and does not ask all the time


def test_ipv6_can_be_used_during_dad_and_is_announced_after_it(pod, arrive):
    arrival, ear, _ = arrive("fd00::1/64")
    (found,) = [found for found in pod.links.dump_addresses() if str(found.address) == "fd00::1/64"]
    assert found.tentative

    def bind():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("fd00::1", 4711))

    call_in(pod.fd, bind)
    start_announcing(pod.fd, arrival)
    frame = frame_of(pod, ip_address("fd00::1"))
    assert ear.count(frame) == 0
    wait_for("the announcement", lambda: ear.count(frame))
    (found,) = [found for found in pod.links.dump_addresses() if str(found.address) == "fd00::1/64"]
    assert not found.tentative


def test_an_address_that_somebody_has_is_said_and_not_announced(host, pod, arrive, caplog):
    host.run("link", "add", "outside", "type", "veth", "peer", "name", "inside")
    host.run("link", "set", "outside", "up")
    host.run("address", "add", "fd00::1/64", "dev", "outside", "nodad")
    host.run("link", "set", "inside", "netns", pod.name, "name", "net1")
    pod.run("link", "set", "net1", "up")
    link = pod.links.find("net1")
    wait_for("a carrier", lambda: pod.links.find("net1").carrier)
    set_up_interface(pod.fd, "net1", ipv6=True)
    pod.links.add_address(link.index, ip_interface("fd00::1/64"))
    start_announcing(pod.fd, Arrival(netns=pod.path, index=link.index, addresses=[ip_address("fd00::1")]))
    wait_for("the thread to end", lambda: not announcing())
    assert "somebody else on the link has fd00::1" in caplog.text
    assert [found.duplicate for found in pod.links.dump_addresses() if str(found.address) == "fd00::1/64"] == [True]


@pytest.mark.parametrize("end", ["link", "namespace"])
def test_a_pod_that_goes_is_not_held(host, pod, arrive, end):
    arrival, _, _ = arrive("10.9.0.1/24", peer_up=False)
    descriptors = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    start_announcing(pod.fd, arrival)
    if end == "link":
        host.run("link", "del", "outside")
    else:
        pod.remove()
    wait_for("the thread to end", lambda: not announcing())
    assert time.monotonic() - started < PATIENCE / 2
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_ipv6_is_set_up_where_the_namespace_was_made_without(pod):
    pod.add_veth("net1", "peer")
    conf = "/proc/sys/net/ipv6/conf"

    def read():
        keys = ("disable_ipv6", "keep_addr_on_down", "optimistic_dad")
        return [Path(f"{conf}/net1/{key}").read_text().strip() for key in keys]

    def disable():
        for name in ("net1", "lo"):
            Path(f"{conf}/{name}/disable_ipv6").write_text("1")

    call_in(pod.fd, disable)
    index = pod.links.find("net1").index
    with pytest.raises(HostError):
        pod.links.add_address(index, ip_interface("fd00::1/64"))
    set_up_interface(pod.fd, "net1", ipv6=True)
    assert call_in(pod.fd, read) == ["0", "1", "1"]
    pod.links.add_address(index, ip_interface("fd00::1/64"))
    for state in ("up", "down", "up"):
        pod.run("link", "set", "net1", state)
    assert "fd00::1" in str(pod.ip("addr", "show", "net1"))
    assert sysctls_of_a_container(pod.path) == ["0", "1", "1"]
    with pytest.raises(HostError, match=r"cannot set net.ipv6.conf.gone.disable_ipv6 to 0 in the pod: ENOENT"):
        set_up_interface(pod.fd, "gone", ipv6=True)


@pytest.mark.parametrize("ipv6", [False, True])
def test_an_interface_tells_of_itself_for_as_long_as_it_is_in_the_pod(host, pod, ipv6, caplog):
    """Whoever gives it addresses: each move between namespaces makes the sysctls anew.

    Not by IPv6, while DAD may be under way: a NIC that hands the VF its own advertisement would end it.
    """
    def read():
        return [Path(f"/proc/sys/net/{key}").read_text().strip()
                for key in ("ipv4/conf/net1/arp_notify", "ipv6/conf/net1/ndisc_notify")]

    host.add_veth("net1", "peer")
    index = host.links.find("net1").index
    at_home = call_in(host.fd, read)
    host.links.change(index, "move", netns_fd=pod.fd)
    set_up_interface(pod.fd, "net1", ipv6=ipv6)
    assert call_in(pod.fd, read) == ["1", "0"]
    pod.links.change(pod.links.find("net1").index, "move", netns_fd=host.fd)
    assert call_in(host.fd, read) == at_home == ["0", "0"]
    assert caplog.text == ""


def test_what_cannot_be_set_is_told_and_no_more(pod, caplog):
    set_up_interface(pod.fd, "gone", ipv6=False)
    assert "cannot set net.ipv4.conf.gone.arp_notify to 1 in the pod: ENOENT" in caplog.text


def sysctls_of_a_container(path):
    """The same where /proc/sys is read-only, as in a container that is not privileged."""
    program = (
        "import sys; from cni.netns import open_netns, set_up_interface, call_in; from pathlib import Path\n"
        "with open_netns(sys.argv[1]) as fd:\n"
        "    def put(value): [Path(f'/proc/sys/net/ipv6/conf/net1/{key}').write_text(value) for key in keys]\n"
        "    def get(): return [Path(f'/proc/sys/net/ipv6/conf/net1/{key}').read_text().strip() for key in keys]\n"
        "    keys = ('disable_ipv6', 'keep_addr_on_down', 'optimistic_dad')\n"
        "    import subprocess, os, errno\n"
        "    call_in(fd, lambda: put('0'))\n"
        "    call_in(fd, lambda: Path('/proc/sys/net/ipv6/conf/net1/disable_ipv6').write_text('1'))\n"
        "    subprocess.run(['mount', '-o', 'bind,ro', '/proc/sys', '/proc/sys'], check=True)\n"
        "    try: call_in(fd, lambda: put('0'))\n"
        "    except OSError as error: assert error.errno == errno.EROFS\n"
        "    else: raise AssertionError('/proc/sys can be written')\n"
        "    set_up_interface(fd, 'net1', ipv6=True); print(*call_in(fd, get))\n"
    )
    done = subprocess.run(["unshare", "--mount", "--propagation=private", sys.executable, "-c", program, path],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_interface_whose_name_is_no_text_is_not_announced(pod, arrive, caplog):
    caplog.set_level("INFO")
    arrival, _, _ = arrive("10.7.0.5/24")
    pod.links.change(arrival.index, "set it down", up=False)
    pod.links.change(arrival.index, "rename it", name="\udcff")
    start_announcing(pod.fd, arrival)
    wait_for("the thread's end", lambda: not announcing())
    assert f"index {arrival.index} of {pod.path}: not announced: " in caplog.text
