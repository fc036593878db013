"""The images that pods of the tests run: made here of static programs, without a registry."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cni.shim.build import FLAGS, find_compiler
from tests.e2e.oci import Entry, Layer, directory, file, link, write_archive
from tests.e2e.peers import Peers
from tests.lab.errors import LabError
from tests.lab.host import install_missing_packages

PAUSE = "vfpool.test/pause:1"          # keeps a pod's namespaces
BUSYBOX = "vfpool.test/busybox:1"      # what the tests' pods run: a shell, ip, ping and vfio_probe
MULTUS = "vfpool.test/multus:1"        # /usr/bin/multus-daemon and multus-shim
SRIOVDP = "vfpool.test/sriovdp:1"      # /usr/bin/sriovdp

# By its documentation, because /bin/busybox may be the other package's, which needs shared libraries.
PCI_IDS = Path("/usr/share/misc/pci.ids")      # without names of devices sriovdp ends at its start
PACKAGES = {"/usr/share/doc/busybox-static": "busybox-static", "musl-gcc": "musl-tools", str(PCI_IDS): "pci.ids"}
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
# The kernel's headers are in the C library's folders, which musl's compiler leaves out; its own come first.
_KERNEL_HEADERS = ("-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu")
BUSYBOX_PROGRAM = "/bin/busybox"
SOURCES = Path(__file__).parent


def build_images(peers: Peers, folder: Path) -> list[Path]:
    """Archives in `folder`, one of each image; those of peers that this machine lacks are left out."""
    install_missing_packages(PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pause = compile_static(SOURCES / "pause.c", Path(scratch))
        probe = compile_static(SOURCES / "vfio_probe.c", Path(scratch))
        shell = busybox_layer()
        images = [
            (PAUSE, [Layer({"pause": file(pause)})], ["/pause"]),
            (BUSYBOX, [shell, Layer({"usr/bin/vfio_probe": file(probe)})], []),
            *(
                (ref, [shell, Layer(programs | more)], [f"/usr/bin/{names[0]}"])
                for ref, names, more in (
                    (MULTUS, ("multus-daemon", "multus-shim"), {}),
                    (SRIOVDP, ("sriovdp",), {str(PCI_IDS)[1:]: file(PCI_IDS.resolve())}),
                )
                if (programs := _find_programs(peers, names))
            ),
        ]
        archives = []
        for ref, layers, entrypoint in images:
            archive = folder / f"{ref.rpartition('/')[2].replace(':', '-')}.tar"
            write_archive(archive, ref, layers, entrypoint, _ENVIRONMENT)
            archives.append(archive)
    return archives


def _find_programs(peers: Peers, names: Sequence[str]) -> dict[str, Entry]:
    """By their paths in the image; nothing where one is missing."""
    found = {f"usr/bin/{name}": path for name in names if (path := peers.find(name))}
    return {path: file(source, 0o755) for path, source in found.items()} if len(found) == len(names) else {}


def compile_static(source: Path, folder: Path) -> Path:
    """An executable that needs nothing of its image; LabError with what the compiler said."""
    output = folder / source.stem
    done = subprocess.run(
        [*find_compiler(), *FLAGS, *_KERNEL_HEADERS, "-o", str(output), str(source)],
        capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise LabError(f"{source} does not compile: {done.stderr.strip()}")
    return output


def busybox_layer() -> Layer:
    """Debian's static busybox as every program that it can be, and the files that those look for."""
    listed = subprocess.run([BUSYBOX_PROGRAM, "--list-full"], capture_output=True, text=True, check=True)
    return Layer({
        **{path: link("/bin/busybox") for path in listed.stdout.split()},
        "bin/busybox": file(Path(BUSYBOX_PROGRAM), 0o755),
        "etc/passwd": file("root:x:0:0:root:/root:/bin/sh\n"),
        "etc/group": file("root:x:0:\n"),
        "root": directory(0o700),
        "tmp": directory(0o1777),
        "run": directory(),
        "var/run": link("/run"),    # as in any Debian: mounts are found below both
    })
