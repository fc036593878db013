"""Network namespaces by path and descriptor; nothing here may leave a thread of ours in another one."""

import contextlib
import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cni.netns import call_in, is_netns, links_in, netns_cookie, open_netns, setns
from sriov.errors import Gone, HostError
from sriov.host.netlink import Links
from tests.support.node import run

pytestmark = pytest.mark.kernel


def threads_elsewhere():
    """Threads of this process whose network namespace is not its own; one that ends meanwhile is nowhere."""
    own, found = os.readlink("/proc/self/ns/net"), []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/task/{thread}/ns/net") != own:
                found.append(thread)
    return found


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def test_no_thread_is_left_in_another_namespace(host):
    threads, before = threading.active_count(), descriptors()
    for _ in range(20):
        with links_in(host.fd) as links:
            assert links.find("lo")
            assert not threads_elsewhere()
    assert (threading.active_count(), descriptors()) == (threads, before)


def test_a_thread_that_cannot_come_back_ends_the_process(host):
    script = (
        "import os, sys, cni.netns\n"
        "real, calls = cni.netns.setns, []\n"
        "def setns(fd):\n"
        "    calls.append(fd)\n"
        "    if len(calls) > 1: raise MemoryError\n"
        "    real(fd)\n"
        "cni.netns.setns = setns\n"
        "try: cni.netns.call_in(int(sys.argv[1]), lambda: print('there', flush=True))\n"
        "finally: print('went on', flush=True)\n")
    done = subprocess.run([sys.executable, "-c", script, str(host.fd)], pass_fds=[host.fd], capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "there\n")
    assert "a thread cannot leave a pod's network namespace" in done.stderr


def test_what_fails_there_is_raised_here(host):
    own = os.readlink("/proc/thread-self/ns/net")

    def fail():
        raise LookupError(os.readlink("/proc/thread-self/ns/net"))

    with pytest.raises(LookupError) as caught:
        call_in(host.fd, fail)
    assert str(caught.value) != own
    assert os.readlink("/proc/thread-self/ns/net") == own


def test_without_a_descriptor_no_namespace_is_entered(host):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(HostError, match="cannot open /proc/thread-self/ns/net") as caught:
            call_in(host.fd, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE


def test_many_threads_at_once_see_their_own_namespace(new_netns):
    made = [new_netns() for _ in range(8)]
    for number, namespace in enumerate(made):
        namespace.add_veth(f"v{number}", f"w{number}")
    seen: dict[int, set[tuple[str, ...]]] = {}

    def look(number, namespace):
        for _ in range(10):
            with links_in(namespace.fd) as links:
                seen.setdefault(number, set()).add(tuple(sorted(link.name for link in links.dump())))

    workers = [threading.Thread(target=look, args=item) for item in enumerate(made)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    expected = {number: {tuple(sorted(link.name for link in made[number].links.dump()))} for number in range(8)}
    assert seen == expected
    assert len({names for sets in seen.values() for names in sets}) == 8


def test_links_of_what_is_no_namespace(tmp_path):
    before = descriptors()
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as file:
        assert not is_netns(file.fileno())
        with (pytest.raises(HostError, match="cannot enter the network namespace: EINVAL") as caught,
              links_in(file.fileno())):
            pytest.fail("entered a file")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(HostError, match="EBADF"):
        setns(-1)
    assert descriptors() == before


@pytest.mark.parametrize(("kind", "yes"), [("net", True), ("mnt", False), ("uts", False), ("user", False)])
def test_only_network_namespaces_are(kind, yes):
    with open(f"/proc/self/ns/{kind}") as file:
        assert is_netns(file.fileno()) is yes


def test_sockets_and_closed_descriptors_are_none():
    with socket.socket(socket.AF_UNIX) as sock:
        descriptor = sock.fileno()
        assert not is_netns(descriptor)
    assert not is_netns(descriptor)


def test_open_and_close(host):
    before = descriptors()
    with open_netns(host.path) as fd:
        assert is_netns(fd)
        assert os.get_inheritable(fd) is False
        assert os.fstat(fd).st_ino == os.fstat(host.fd).st_ino
    assert descriptors() == before


@pytest.mark.parametrize(("path", "reason"), [
    ("{tmp}/nothing", "No such file or directory"), ("", "No such file or directory"),
    ("{tmp}/file", "the path is not a network namespace"), ("{tmp}", "the path is not a network namespace"),
    ("{tmp}/dangling", "No such file or directory"), ("{tmp}/file/x", "Not a directory"),
    ("/proc/self/ns/mnt", "the path is not a network namespace"),
    ("{tmp}/fifo", "the path is not a network namespace")])
def test_paths_of_no_namespace(tmp_path, path, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo")
    path = path.format(tmp=tmp_path)
    before = descriptors()
    with pytest.raises(Gone, match=re.escape(f"network namespace {path}: {reason}")), open_netns(path):
        pytest.fail("opened it")
    assert netns_cookie(path) is None
    assert descriptors() == before


def test_a_path_outlives_its_namespace_as_a_file(host):
    """After `umount` and before `unlink`, or after a crash in between."""
    assert netns_cookie(host.path)
    run("umount", "--lazy", host.path)    # our own descriptor is still open
    assert Path(host.path).exists()
    assert netns_cookie(host.path) is None


def test_a_cookie_is_of_the_namespace_and_not_of_the_path(host, pod, tmp_path):
    cookie = netns_cookie(host.path)
    assert cookie == netns_cookie(host.path) == host.links.cookie
    with Links.open() as own:
        assert len({cookie, netns_cookie(pod.path), own.cookie}) == 3
    (tmp_path / "other").symlink_to(host.path)
    assert netns_cookie(str(tmp_path / "other")) == cookie


def test_the_next_namespace_under_a_path_has_another_cookie(new_netns):
    first = new_netns()
    cookie = netns_cookie(first.path)
    first.remove()
    assert netns_cookie(first.path) is None
    run("ip", "netns", "add", first.name)
    assert netns_cookie(first.path) not in (None, cookie)
