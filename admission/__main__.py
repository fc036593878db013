"""`vfpool-webhook`: the admission webhook. Exit status 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from admission.certificate import Certificate
from admission.handler import Handler
from admission.nads import NadCache
from admission.server import serving
from sriov.arguments import add_version
from sriov.errors import InputError, SriovError

log = logging.getLogger("vfpool-webhook")

_BIND = re.compile(r"(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^:]*)):(?P<port>\d{1,5})", re.ASCII)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(args))
    except InputError as error:
        log.error("%s", error)
        return 2
    except SriovError as error:
        log.error("%s", error)
        return 1
    return 0


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vfpool-webhook", description=__doc__, allow_abbrev=False)
    add_version(parser)
    parser.add_argument("--tls-cert-file", type=Path, required=True, metavar="FILE",
                        help="the server's certificate and its chain, PEM; read again when it changes")
    parser.add_argument("--tls-key-file", type=Path, required=True, metavar="FILE",
                        help="the certificate's key, PEM, not encrypted")
    parser.add_argument("--bind", type=_parse_bind, default=":8443", metavar="ADDRESS:PORT",
                        help="where to listen; every address without one (default: %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE",
                        help="how to reach the API server (default: as a pod of the cluster)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


def _parse_bind(text: str) -> tuple[str, int]:
    match = _BIND.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise argparse.ArgumentTypeError(f"expected ADDRESS:PORT like 127.0.0.1:8443 or [::1]:8443, got {text!r}")
    return match["v6"] or match["v4"] or "", int(match["port"])


async def _run(args: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    # Importing the Kubernetes client takes a quarter of a second: not before the arguments are known to be right.
    from admission.cluster import load_configuration, open_cluster

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    certificate = Certificate(args.tls_cert_file, args.tls_key_file)
    configuration = await load_configuration(args.kubeconfig)
    async with open_cluster(configuration) as cluster:
        nads = NadCache(cluster)

        def unready() -> str | None:
            return None if nads.synced.is_set() else "the NADs are not known yet"

        gc.freeze()      # what is there now stays: no collection looks at it again while a pod waits
        async with (serving(args.bind, certificate.context, Handler(nads).mutate, unready),
                    asyncio.TaskGroup() as tasks):
            running = [tasks.create_task(nads.run(), name="NADs"),
                       tasks.create_task(certificate.keep_fresh(), name="certificate")]
            await stop.wait()
            log.info("stopping")
            for task in running:
                task.cancel()


if __name__ == "__main__":
    sys.exit(main())
