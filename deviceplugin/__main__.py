"""`vfpool-agent`: device plugin, CNI service and VF provisioning of one node, in one process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cni.attach import Attachments
from cni.install import SHIM, install_executable
from cni.kernel import Kernel, open_kernel
from cni.server import Server
from cni.store import Store
from cni.wire import SOCKET_PATH
from deviceplugin import deviceinfo
from deviceplugin.inventory import Inventory
from deviceplugin.kubeletdir import KubeletDirectory
from deviceplugin.service import ServiceConfig, serve
from sriov.errors import InputError, SriovError
from sriov.host.netlink import LinkEvents
from sriov.host.udev import Udev, Uevents
from sriov.model import VirtualFunction
from sriov.pci import PciAddress
from sriov.pools.assignment import Assignment, assign
from sriov.pools.poolfile import PoolFile, load_pool_file
from sriov.provision.apply import Terms, apply_pool_file, scan_host
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.makers import read_claims
from sriov.provision.plan import plan_host
from sriov.provision.steps import BindDriver

log = logging.getLogger("vfpool-agent")

NETDEV_REST = 2.0          # seconds from a scan that a netdev's event asked for to the next
PROVISION_RETRY = 30.0     # seconds
SWITCH_INTERVAL = 0.0005   # seconds; a CNI call must not wait 5 ms for a scan's turn after each system call


def main(argv: Sequence[str] | None = None, *, trace: Callable[[str], None] = log.debug) -> int:
    """`trace` hears of each step of an ADD or DEL: "record", "settings", "move" and so on."""
    args = _parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        pool_file = load_pool_file(args.pool_file)
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log to read
        return 2
    for warning in pool_file.warnings:
        log.warning("%s", warning)
    sys.setswitchinterval(SWITCH_INTERVAL)
    # Until Agent.run has its own: the kernel drops a signal without a handler for PID 1, as in a container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with open_kernel(settle=Udev().settle, trace=trace) as kernel, _attachments(kernel, args) as attachments:
            gc.freeze()      # what is there now stays: no collection looks at it again while a pod waits
            ledger = Ledger(args.state_dir, kernel.boot_id)
            for damaged in ledger.damaged:
                log.error("set aside a damaged record: %s", damaged)
            asyncio.run(Agent(kernel, attachments, pool_file, ledger).run(_service_config(args)))
    except InputError as error:
        log.error("%s", error)
        return 2
    except (SriovError, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vfpool-agent", description=__doc__)
    parser.add_argument("--pool-file", type=Path, default=Path("/etc/vfpool/pools.yaml"),
                        help="the pools of this node (default: %(default)s)")
    parser.add_argument("--state-dir", type=Path, default=Path("/var/lib/vfpool"),
                        help="records of VFs in pods; must survive a restart (default: %(default)s)")
    parser.add_argument("--socket", type=Path, default=Path(SOCKET_PATH),
                        help="where the CNI executable finds the agent (default: %(default)s)")
    parser.add_argument("--kubelet-dir", type=Path, default=Path("/var/lib/kubelet"),
                        help="the kubelet's folder (default: %(default)s)")
    parser.add_argument("--device-info-dir", type=Path, default=deviceinfo.DIRECTORY,
                        help="device-info files for Multus (default: %(default)s)")
    parser.add_argument("--install-cni", type=Path, action="append", default=[], metavar="PATH",
                        help="put the CNI executable there, /opt/cni/bin/vfpool say; may be given again")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


def _service_config(args: argparse.Namespace) -> ServiceConfig:
    return ServiceConfig(kubelet=KubeletDirectory(root=args.kubelet_dir), device_info=args.device_info_dir)


@contextmanager
def _attachments(kernel: Kernel, args: argparse.Namespace) -> Iterator[Attachments]:
    """The node's attachments, repaired, and served on the CNI socket for as long as the context lasts."""
    store = Store.open(args.state_dir)
    with ExitStack() as stack:
        stack.callback(store.close)
        attachments = Attachments(kernel, store)
        attachments.repair.reconcile()
        server = stack.enter_context(Server(args.socket, attachments))
        stack.callback(args.socket.unlink, missing_ok=True)
        thread = threading.Thread(target=server.serve_forever, name="cni")
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        stack.enter_context(attachments.repair.running())
        log.info("CNI calls are served on %s", args.socket)
        for target in args.install_cni:
            if install_executable(SHIM, target):
                log.info("installed the CNI executable as %s", target)
        yield attachments


class Agent:
    """Keeps the host as the pool file says and the kubelet told of it."""

    def __init__(self, kernel: Kernel, attachments: Attachments, pool_file: PoolFile, ledger: Ledger) -> None:
        self._kernel = kernel
        self._ledger = ledger
        self._attachments = attachments
        self._pool_file = pool_file
        self._inventory = Inventory()
        self._planned = asyncio.Event()
        # The same is not tried again in vain. None: a scan does not see what PFs enforce on VFs, so the first try
        # is made whatever it finds.
        self._planned_last: tuple[str, ...] | None = None
        self._unreadable: tuple[str, ...] = ()
        self._tended: frozenset[PciAddress] = frozenset()      # VFs that have the driver that this agent chose
        self._tending = threading.Lock()                       # scans and provisioning change them in their threads

    async def run(self, config: ServiceConfig) -> None:
        """Until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        with _Watch(loop, self._changed):
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._inventory.run(lambda: self._scan(loop)), name="inventory"),
                    tasks.create_task(self._provision(), name="provision"),
                    tasks.create_task(serve(config, self._pool_file.pools, self._inventory), name="serve"),
                ]
                await stop.wait()
                log.info("stopping")
                for task in running:
                    task.cancel()

    def _changed(self) -> None:
        self._inventory.rescan()
        self._attachments.repair.hint()

    def _scan(self, loop: asyncio.AbstractEventLoop) -> Assignment:
        known = self._tended
        host = scan_host(self._kernel.sysfs)
        for sentence in host.unreadable if host.unreadable != self._unreadable else ():
            log.warning("%s", sentence)
        self._unreadable = host.unreadable
        with self._tending:
            # A VF that goes and comes again is a new one. Those that came since the look are not gone.
            self._tended -= known - {vf.address for vf in host.vfs}
        plan = plan_host(host, self._pool_file.physical_functions, self._pool_file.pools, self._in_use,
                         self._tended).describe()
        if plan != self._planned_last:
            self._planned_last = plan
            loop.call_soon_threadsafe(self._planned.set)
        return assign(host, self._pool_file.pools)

    async def _provision(self) -> None:
        """Make the host fit the file whenever a scan finds that it does not: at the start, after hot-plug."""
        loop = asyncio.get_running_loop()
        reported: tuple[str, ...] = ()
        retry: asyncio.TimerHandle | None = None
        while True:
            await self._planned.wait()
            self._planned.clear()
            if retry is not None:
                retry.cancel()
            problems = await asyncio.to_thread(self._apply)
            for problem in problems if problems != reported else ():
                log.error("%s", problem)
            reported = problems
            if problems:
                retry = loop.call_later(PROVISION_RETRY, self._planned.set)
            else:
                log.info("the host is as the pool file says")
            self._inventory.rescan()

    def _apply(self) -> tuple[str, ...]:
        entries, pools = self._pool_file.physical_functions, self._pool_file.pools
        terms = Terms(in_use=self._in_use, tended=self._tended, ledger=self._ledger, read_claims=read_claims)
        try:
            problems = apply_pool_file(Executor(self._kernel.sysfs), self._pool_file, terms).problems
            host = scan_host(self._kernel.sysfs)
        except (SriovError, OSError) as error:
            return (f"cannot make the host fit the pool file: {error}",)
        # A VF that is in use has the wrong driver until its pod is gone: nobody chose that one.
        plan = plan_host(host, entries, pools, lambda _: False)
        wrong = {step.vf.address for step in plan.steps if isinstance(step, BindDriver)}
        with self._tending:
            self._tended |= {vf.address for vf in host.vfs if vf.address not in wrong}
        return problems

    def _in_use(self, vf: VirtualFunction) -> bool:
        return vf.away or self._attachments.holds(vf.address)


class _Watch:
    """Calls `changed` on kernel uevents and link messages. They are hints: what changed is read anew.

    A PCI function that comes, goes, or changes its driver matters at once. A netdev that moves or is set up
    says nothing about a VF's health, and each ADD and DEL makes several such events: after the first, the next
    is looked at NETDEV_REST later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._pci = Uevents("pci")
        self._netdevs = Uevents("net")
        self._links = LinkEvents()
        self._due: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._loop.add_reader(self._pci.fileno(), self._on_pci)
        self._listen()

    def __exit__(self, *_: object) -> None:
        if self._due is not None:
            self._due.cancel()
        for source in (self._pci, self._netdevs, self._links):
            self._loop.remove_reader(source.fileno())
        self._links.close()

    def _on_pci(self) -> None:
        self._pci.drain()
        self._changed()

    def _listen(self) -> None:
        for source in (self._netdevs, self._links):
            source.drain()
            self._loop.add_reader(source.fileno(), self._rest)

    def _rest(self) -> None:
        for source in (self._netdevs, self._links):
            self._loop.remove_reader(source.fileno())
        self._due = self._loop.call_later(NETDEV_REST, self._fire)
        self._changed()

    def _fire(self) -> None:
        self._listen()
        self._changed()


if __name__ == "__main__":
    sys.exit(main())
