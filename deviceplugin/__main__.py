"""`vfpool-agent`: device plugin, CNI service and VF provisioning of one node, in one process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from cni.allocation import Allocated
from cni.attach import Attachments
from cni.install import SHIM, install_executable
from cni.kernel import Kernel, open_kernel
from cni.owners import describe_repairs, list_owners
from cni.server import Server
from cni.store import Store
from cni.wire import SOCKET_PATH
from deviceplugin import deviceinfo
from deviceplugin.agent import Agent, Node
from deviceplugin.grants import Grants
from deviceplugin.kubeletdir import KubeletDirectory
from deviceplugin.lookout import Lookout
from deviceplugin.nodestatus import Agent as Process
from deviceplugin.podresources import PodResources
from deviceplugin.poolsource import PoolSource
from deviceplugin.service import ServiceConfig
from sriov.arguments import add_version, parse_path, parse_socket, read_version
from sriov.clock import now
from sriov.errors import InputError, SriovError
from sriov.host.discovery import discover
from sriov.host.knownfile import KnownFile
from sriov.host.packages import PackageMemory
from sriov.host.udev import Udev
from sriov.log import LineFormatter
from sriov.provision.executor import Executor
from sriov.provision.ledger import Ledger
from sriov.provision.makers import read_claims
from sriov.status import SOCKET_PATH as STATUS_PATH

log = logging.getLogger("vfpool-agent")

SWITCH_INTERVAL = 0.0005   # seconds; a CNI call must not wait 5 ms for a scan's turn after each system call


def main(argv: Sequence[str] | None = None, *, trace: Callable[[str], None] = log.debug) -> int:
    """`trace` hears of each step of an ADD or DEL: "record", "settings", "move" and so on."""
    args = _parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=args.log_level.upper(), handlers=[handler])
    try:
        _check_places(args)
        source = PoolSource(args.pool_file, args.node_name)
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log to read
        return 2
    sys.setswitchinterval(SWITCH_INTERVAL)
    # Until Agent.run has its own: the kernel drops a signal without a handler for PID 1, as in a container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with (
            open_kernel(settle=Udev().settle, trace=trace) as kernel, closing(Store.open(args.state_dir)) as store,
            _attachments(kernel, store, args) as attachments,
        ):
            gc.freeze()      # what is there now stays: no collection looks at it again while a pod waits
            asyncio.run(_run(args, source, _node(args, kernel, store, attachments)))
    except InputError as error:
        log.error("%s", error)
        return 2
    except SriovError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("%s", f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)
        return 1
    return 0


async def _run(args: argparse.Namespace, source: PoolSource, node: Node) -> None:
    config = ServiceConfig(kubelet=KubeletDirectory(root=args.kubelet_dir), device_info=args.device_info_dir)
    process = Process(version=read_version(), started=now())
    await Agent(process, node, source, config).run(args.status_socket)


def _node(args: argparse.Namespace, kernel: Kernel, store: Store, attachments: Attachments) -> Node:
    ledger = Ledger(args.state_dir, kernel.boot_id)
    for damaged in ledger.damaged:
        log.error("set aside a damaged record: %s", damaged)
    known = KnownFile(args.state_dir / "known.json", kernel.boot_id)
    return Node(
        lookout=Lookout(partial(discover, kernel.sysfs, PackageMemory(kernel.sysfs.identify)), known),
        executor=Executor(kernel.sysfs), ledger=ledger,
        pods=attachments, kubelet=PodResources(args.kubelet_dir), owners=lambda: list_owners(store),
        repairs=partial(describe_repairs, attachments.repair),
        spoiled=store.find_spoiled, stuck=attachments.repair.find_stuck,
        read_claims=partial(read_claims, root=args.host_root), changed=attachments.repair.hint,
    )


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vfpool-agent", description=__doc__, allow_abbrev=False)
    add_version(parser)
    parser.add_argument("--pool-file", type=parse_path, default=Path("/etc/vfpool/pools.yaml"),
                        help="the pools of this node; followed when it changes (default: %(default)s)")
    parser.add_argument("--node-name", type=_name, default=os.environ.get("NODE_NAME") or socket.gethostname(),
                        help="the node's in Kubernetes, which pool files may speak of (default: NODE_NAME of the "
                             "environment, or else the host's name)")
    parser.add_argument("--state-dir", type=parse_path, default=Path("/var/lib/vfpool"),
                        help="records of VFs in pods; must survive a restart (default: %(default)s)")
    parser.add_argument("--socket", type=parse_socket, default=Path(SOCKET_PATH),
                        help="where the CNI executable finds the agent (default: %(default)s)")
    parser.add_argument("--status-socket", type=parse_socket, default=Path(STATUS_PATH),
                        help="where `vfpool status` asks (default: %(default)s)")
    parser.add_argument("--kubelet-dir", type=parse_path, default=Path("/var/lib/kubelet"),
                        help="the kubelet's folder (default: %(default)s)")
    parser.add_argument("--device-info-dir", type=parse_path, default=deviceinfo.DIRECTORY,
                        help="device-info files for Multus (default: %(default)s)")
    parser.add_argument("--host-root", type=parse_path, default=os.environ.get("VFPOOL_HOST_ROOT") or "/",
                        help="where the host's /etc, /run and /usr are, to read who else is to make VFs "
                             "(default: VFPOOL_HOST_ROOT of the environment, or else /)")
    parser.add_argument("--install-cni", type=parse_path, action="append", default=[], metavar="PATH",
                        help="put the CNI executable there, /opt/cni/bin/vfpool say; may be given again")
    parser.add_argument("--any-vf", action="store_true",
                        help="let a CNI call name any VF; otherwise one that the kubelet did not give to its pod "
                             "is refused")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a node's name, got ''")
    return text


def _check_places(args: argparse.Namespace) -> None:
    """Raise InputError for a folder that cannot be one, and for a file that is a folder."""
    for option, folder in (("--state-dir", args.state_dir), ("--kubelet-dir", args.kubelet_dir),
                           ("--device-info-dir", args.device_info_dir), ("--socket", args.socket.parent),
                           ("--status-socket", args.status_socket.parent)):
        above = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
        if not above.is_dir():
            raise InputError(f"cannot use {option} {folder}: {above} is not a folder")
    if not args.host_root.is_dir():
        raise InputError(f"cannot use --host-root {args.host_root}: there is no such folder")
    for option, file in (*(("--install-cni", each) for each in args.install_cni), ("--pool-file", args.pool_file),
                         ("--socket", args.socket), ("--status-socket", args.status_socket)):
        if file.is_dir():
            raise InputError(f"cannot use {option} {file}: it is a folder, expected the path of a file")


def _ask_kubelet(folder: Path) -> Allocated:
    grants = Grants(PodResources(folder))
    return lambda pod, vf: grants.covers(pod.namespace, pod.name, pod.uid, vf)


@contextmanager
def _attachments(kernel: Kernel, store: Store, args: argparse.Namespace) -> Iterator[Attachments]:
    """The node's attachments, repaired, and served on the CNI socket for as long as the context lasts."""
    with ExitStack() as stack:
        attachments = Attachments(kernel, store, allocated=None if args.any_vf else _ask_kubelet(args.kubelet_dir))
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


if __name__ == "__main__":
    sys.exit(main())
