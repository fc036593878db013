"""The way into a running guest: ssh over one kept connection, with keys made for this boot."""

from __future__ import annotations

import shlex
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tests.lab.child import bound_to_parent
from tests.lab.errors import LabError
from tests.lab.host import get_program

Stdio = int | IO[bytes] | None
LOST = 255    # ssh's own exit status: no connection (or, rarely, the command's own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A command's end: exit status (128 + n where signal n killed it) and all that it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """ed25519 keys of the guest's sshd and of this machine, as paths of private keys; `.pub` beside them."""

    host: Path
    user: Path

    @classmethod
    def make(cls, folder: Path) -> Keys:
        keys = cls(host=folder / "host_key", user=folder / "user_key")
        for path in (keys.host, keys.user):
            subprocess.run(
                [get_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
                stdin=subprocess.DEVNULL, check=True,
            )
        return keys


class Channel:
    """Commands, files and shells in the guest. `environment` is set for every command."""

    def __init__(self, folder: Path, keys: Keys, port: int, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        host_key = keys.host.with_suffix(".pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        options = {
            "ControlPath": str(folder / "ssh"), "IdentityFile": str(keys.user), "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(folder / "known_hosts"), "StrictHostKeyChecking": "yes",
            "BatchMode": "yes", "LogLevel": "ERROR", "ConnectTimeout": "60",
        }
        self._ssh = [get_program("ssh"), "-F", "none", "-p", str(port), "-l", "root"]
        for name, value in options.items():
            self._ssh += ["-o", f"{name}={value}"]
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Connect once; every command is a session of this connection. LabError with ssh's words."""
        self._master = subprocess.Popen(
            bound_to_parent([*self._ssh, "-M", "-N", "-o", "PermitLocalCommand=yes",
                             "-o", "LocalCommand=echo connected", "127.0.0.1"]),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        assert self._master.stdout is not None
        line = self._master.stdout.readline()
        if line != b"connected\n":
            words = line + self._master.stdout.read()
            self.close()
            raise LabError(f"ssh into the lab: {words.decode(errors='replace').strip() or 'closed at once'}")

    def close(self) -> None:
        if self._master is not None:
            self._master.kill()
            self._master.communicate()
            self._master = None

    def popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/vfpool",
        tty: bool = False, stdin: Stdio = subprocess.DEVNULL, stdout: Stdio = None,
        stderr: Stdio = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command; the child is the ssh client, which ends as the command does."""
        variables = [f"{name}={value}" for name, value in {**self._environment, **(env or {})}.items()]
        # `exit $?` keeps the shell: a command killed by a signal then ends as 128 + n, and not as ssh's 255.
        script = f"cd {shlex.quote(cwd)} && env {shlex.join([*variables, *argv])}; exit $?"
        return subprocess.Popen(
            [*self._ssh, "-tt" if tty else "-T", "127.0.0.1", script],
            stdin=stdin, stdout=stdout, stderr=stderr,
        )

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None,
        timeout: float | None = None, cwd: str = "/vfpool",
    ) -> Result:
        """Run a command to its end. LabError after `timeout` seconds (it is killed) or a lost guest."""
        if timeout is not None:
            argv = ["timeout", "--signal=KILL", f"{timeout:g}", *argv]    # the guest's end of the limit
        child = self.popen(
            argv, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            stdout, stderr = child.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            words = (expired.stdout or b"") + (expired.stderr or b"")
            raise LabError(
                f"{shlex.join(argv)} in the lab did not end within {expired.timeout:g} s; its last words: "
                f"{words[-2000:].decode(errors='replace')}"
            ) from None
        finally:
            # No second communicate: the kept connection holds the pipes for as long as the guest writes.
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        if child.returncode == LOST:
            self.check()
        return Result(status=child.returncode, stdout=stdout, stderr=stderr)

    def stream(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "/vfpool",
        tty: bool = False,
    ) -> int:
        """Run a command on this process's own stdin, stdout and stderr; its exit status."""
        child = self.popen(argv, env=env, cwd=cwd, tty=tty, stdin=None)
        try:
            status = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        if status == LOST:
            self.check()
        return status

    def check(self) -> None:
        """Raise LabError where the connection is lost."""
        if self._master is None or self._master.poll() is not None:
            raise LabError("the connection into the lab is lost")

    def copy_in(self, source: Path, target: str) -> None:
        """A file or folder of this machine as `target` in the guest; its parents are made."""
        where = PurePosixPath(target)
        child = self.popen(
            ["sh", "-c", 'mkdir -p "$1" && tar -C "$1" -xf -', "sh", str(where.parent)], cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stderr is not None
        with child, tarfile.open(fileobj=child.stdin, mode="w|") as archive:
            archive.add(source, arcname=where.name)
            archive.close()
            child.stdin.close()
            words = child.stderr.read().decode(errors="replace").strip()
        if child.returncode != 0:
            raise LabError(f"cannot copy {source} to {target} in the lab: {words}")

    def copy_out(self, source: str, target: Path) -> None:
        """A file or folder of the guest as `target` here; into `target` where that is a folder."""
        where = PurePosixPath(source)
        if target.is_dir():
            target = target / where.name
        child = self.popen(
            ["tar", "-C", str(where.parent), "-cf", "-", where.name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        with child:
            try:
                with tarfile.open(fileobj=child.stdout, mode="r|") as archive:
                    for member in archive:
                        inside = PurePosixPath(member.name).relative_to(where.name)
                        member.name = str(PurePosixPath(target.name) / inside)
                        archive.extract(member, target.parent, filter="data")
                child.stdout.read()
            except tarfile.ReadError:
                pass    # no archive at all: tar says why
            words = child.stderr.read().decode(errors="replace").strip()
        if child.returncode != 0:
            raise LabError(f"cannot copy {source} out of the lab: {words}")

    def shell(self) -> int:
        """An interactive shell on this terminal; its exit status."""
        return self.stream(["bash", "-l"], tty=True)


