"""The guest's Debian: a tree and the disk image made of it, built once per recipe and kept in a cache.

Nothing is mounted on the host and no loop device is used. The tree stays beside the image, because the
host runs the tree's own QEMU: Debian 12's backported 10.0.2 loses the PF's mailbox interrupt, so that
igbvf finds its PF "still in reset state".
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.host import check_host, get_program, install_missing_packages
from tests.lab.progress import Progress

SUITE = "trixie"
PACKAGES = (
    "linux-image-amd64", "initramfs-tools", "kmod", "udev",
    "iproute2", "iputils-ping", "procps", "tcpdump", "strace",
    "qemu-system-x86", "seabios", "ipxe-qemu",    # run on the host
    "python3", "python3-pip-whl",
    "openssh-server", "containernetworking-plugins", "e2fsprogs",
)
INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")    # all that is between the kernel and its root disk
TEST_DEPENDENCIES = ("pytest", "hypothesis")             # of pyproject's dev extra
IMAGE_SIZE = "4G"                                        # sparse
UNUSED_DAYS = 14                                         # older images go when a new one has been built
GUEST_FILES = {
    "init": "usr/local/sbin/lab-init",
    "sshd_config": "etc/lab/sshd_config",
    "vfpool": "usr/local/bin/vfpool",
    "vfpool-agent": "usr/local/bin/vfpool-agent",
}
CHECKOUT = Path(__file__).resolve().parents[2]
_GUEST = Path(__file__).with_name("guest")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image: `root` holds `tree/` and `root.img`."""

    root: Path

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    @property
    def disk(self) -> Path:
        return self.root / "root.img"

    @property
    def kernel(self) -> Path:
        return self._boot("vmlinuz-*")

    @property
    def initrd(self) -> Path:
        return self._boot("initrd.img-*")

    def _boot(self, pattern: str) -> Path:
        found = sorted((self.tree / "boot").glob(pattern))
        if not found:
            raise LabError(f"no {pattern} in {self.tree}/boot", hint=f"remove {self.root} and build again")
        return found[-1]

    def qemu(self) -> list[str]:
        """QEMU of the tree, as a command for the host."""
        firmware = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
        return [
            # Without it QEMU loads the host's modules, which are of another version, and aborts.
            "env", f"QEMU_MODULE_DIR={self.tree}/{_LIBRARIES}/qemu",
            *_on_host(self.tree, "usr/bin/qemu-system-x86_64"),
            *(argument for folder in firmware for argument in ("-L", f"{self.tree}/{folder}")),
        ]


def _on_host(tree: Path, program: str) -> list[str]:
    """A program of the tree under the tree's own loader and libraries: the host's may be older."""
    loader = tree / "usr/lib64/ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(tree / _LIBRARIES), str(tree / program)]


def cache_folder() -> Path:
    if path := os.environ.get("VFPOOL_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfpool"


def load_requirements() -> tuple[str, ...]:
    """The project's dependency lines and the tests' own, as pyproject.toml has them."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    tests = [
        line for line in project["optional-dependencies"]["dev"]
        if line.startswith(TEST_DEPENDENCIES)
    ]
    return (*project["dependencies"], *tests)


def image_key(requirements: Sequence[str]) -> str:
    """A hash over all that determines the image: this recipe, the guest's files, the requirements."""
    digest = hashlib.sha256()
    for part in (
        Path(__file__).read_bytes(),
        *((_GUEST / name).read_bytes() for name in sorted(GUEST_FILES)),
        *(line.encode() for line in requirements),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def build_image() -> Image:
    """The image of this checkout's recipe, built where the cache has none; LabError where that fails.

    Built in a temporary folder and renamed: what has the final name is complete. Builders take turns.
    """
    requirements = load_requirements()
    cache = cache_folder()
    final = cache / f"lab-{image_key(requirements)}"
    if not final.is_dir():
        check_host()
        cache.mkdir(parents=True, exist_ok=True)
        with _turn(cache):
            if not final.is_dir():    # another builder may have had the turn before
                _build(cache, final, requirements)
                _remove_unused(cache, keep=final)
    os.utime(final)                   # last used: what _remove_unused goes by
    return Image(root=final)


@contextmanager
def _turn(cache: Path) -> Iterator[None]:
    with (cache / "lab.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Progress("lab").note("another process builds the image: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(cache: Path, final: Path, requirements: Sequence[str]) -> None:
    for stale in cache.glob("lab-*.tmp*"):    # of an interrupted build: whoever has the turn is alone
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix=f"{final.name}.tmp-", dir=cache))
    work.chmod(0o755)                         # apt's own user downloads into it
    progress = Progress("lab")
    progress.note(f"building the image, once, into {final}")
    tree, disk = work / "tree", work / "root.img"
    try:
        install_missing_packages()
        stages: tuple[tuple[str, Callable[[], list[str]]], ...] = (
            (f"Debian {SUITE}: {len(PACKAGES)} packages and what they need", lambda: _debian(tree)),
            (f"Python: {len(requirements)} requirements", lambda: _python(tree, requirements)),
            ("disk image", lambda: mkfs_command(tree, disk, label="root", size=IMAGE_SIZE)),
        )
        for title, command in stages:
            progress.run(title, command())
        work.rename(final)
    except BaseException:
        shutil.rmtree(work)
        raise
    progress.note("the image is ready")


def _debian(tree: Path) -> list[str]:
    before_packages = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"',
        'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/lab"',
        f'printf "%s\\n" {" ".join(INITRD_MODULES)} > "$1/usr/share/initramfs-tools/modules.d/lab"',
    )
    after_packages = tuple(
        f'install -D -m {mode:o} "{_GUEST / name}" "$1/{path}"'
        for name, path in GUEST_FILES.items()
        for mode in [0o755 if os.access(_GUEST / name, os.X_OK) else 0o644]
    )
    return debian_command(
        tree, PACKAGES, "--variant=minbase",
        *(f"--essential-hook={line}" for line in before_packages),
        *(f"--customize-hook={line}" for line in after_packages),
    )


def debian_command(tree: Path, packages: Sequence[str], *options: str) -> list[str]:
    """mmdebstrap (half of debootstrap's time, and apt's own resolver) of the suite into `tree`."""
    return [
        # A mount and PID namespace of its own: when we are killed, so is all of it, and no mount of
        # /dev or /proc is left in a folder that the next builder removes.
        get_program("setpriv"), "--pdeathsig", "KILL",
        get_program("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        get_program("mmdebstrap"), "--mode=root", f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"', '--aptopt=APT::Sandbox::User "root"',
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "doc", "locale")),
        *options,
        SUITE, str(tree), *find_mirror(),
    ]


def find_mirror() -> list[str]:
    """The mirror that this Debian's apt uses; nothing, for the tool's default, where there is none."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Identifier: Packages",
         "Origin: Debian", "Component: main"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    )
    lines = [line.split() for line in found.stdout.splitlines()]
    return [uri for uri, codename in lines if "-" not in codename][:1]


def _python(tree: Path, requirements: Sequence[str]) -> list[str]:
    return pip_command(tree, tree, requirements)


def python_command(tree: Path) -> list[str]:
    """The tree's interpreter, as a command for the host."""
    return ["env", f"PYTHONHOME={tree}/usr", *_on_host(tree, f"usr/bin/{_interpreter(tree)}")]


def site_folder(tree: Path) -> Path:
    """Where the tree's interpreter looks for what pip installs."""
    return tree / "usr/local/lib" / _interpreter(tree) / "dist-packages"


def _interpreter(tree: Path) -> str:
    """python3.N"""
    found = sorted((tree / "usr/bin").glob("python3.[0-9]*"))
    if not found:
        raise LabError(f"no interpreter in {tree}")
    return found[0].name


def pip_command(tree: Path, target: Path, requirements: Sequence[str]) -> list[str]:
    """pip under the tree's interpreter, so that markers and wheel tags are the guest's, on our network.

    `target` is the tree, or another of the same suite that has no pip of its own.
    """
    wheels = sorted((tree / "usr/share/python-wheels").glob("pip-*.whl"))
    if not wheels:
        raise LabError(f"no pip wheel in {tree}")
    return [
        *python_command(tree), f"{wheels[-1]}/pip", "install",
        "--quiet", "--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--target", str(site_folder(target)), *requirements,
    ]


def mkfs_command(
    folder: Path | None, disk: Path, *, label: str, size: str, journal: bool = False
) -> list[str]:
    """A sparse ext4 image of the folder's content, or empty. A journal is for an image that outlives its boot."""
    return [
        get_program("mkfs.ext4"), "-q", "-F", "-L", label, "-m", "0",
        *([] if journal else ["-O", "^has_journal"]),
        "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", *(["-d", str(folder)] if folder else []),
        str(disk), size,
    ]


def _remove_unused(cache: Path, *, keep: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in cache.glob("lab-*"):
        if folder.is_dir() and folder != keep and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder)
