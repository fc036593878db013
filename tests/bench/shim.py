"""What one run of the CNI executable costs, beside /bin/true and the smallest Python, in the same run.

`python -m tests.bench.shim [runs]`. Memory is Rss of smaps_rollup, looked at while the process waits with
everything done: the kernel's ru_maxrss would include the pages of the process that started it (it survives
exec), and its per-CPU counters are off by more than the executable uses.
"""

import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cni import wire
from cni.record import format_record
from cni.shim import build
from tests.cni.test_record import record

RECORDS = 56
PYTHON = [sys.executable, "-I", "-S", "-c", "pass"]
CONFIG = b'{"cniVersion":"1.0.0","name":"sriov-net","type":"vfpool","vlan":100,"deviceID":"0000:3b:02.1"}'
CALL = {"CNI_CONTAINERID": "c0", "CNI_IFNAME": "net1", "CNI_NETNS": "/proc/self/ns/net", "CNI_PATH": "/opt/cni/bin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds from the start of the process to its exit seen by its parent; Rss in KiB where it was read."""

    name: str
    p50: float
    p99: float
    rss: int | None = None


def run(runs: int = 500) -> list[Row]:
    """Measure all cases, taking turns, `runs` times each after a warm-up."""
    shim = str(build.update_shim())
    with tempfile.TemporaryDirectory(prefix="vf") as directory:
        path, config = f"{directory}/cni.sock", Path(directory, "config")
        config.write_bytes(CONFIG)
        with echo_server(path) as memory:
            env = {"VFPOOL_SOCKET": path, **CALL}
            lonely = {**CALL, "VFPOOL_SOCKET": f"{path}.absent", "VFPOOL_STATE": write_records(directory)}
            cases = {
                "/bin/true": (["/bin/true"], env),
                "python3 -I -S -c pass": (PYTHON, env),
                "vfpool VERSION": ([shim], {**env, "CNI_COMMAND": "VERSION"}),
                "vfpool ADD, echo server": ([shim], {**env, "CNI_COMMAND": "ADD"}),
                "vfpool DEL, no agent": ([shim], {**lonely, "CNI_COMMAND": "DEL"}),
            }
            times: dict[str, list[float]] = {name: [] for name in cases}
            for turn in range(-10, runs):
                for name, (command, environment) in cases.items():
                    took = measure(command, environment, config)
                    if turn >= 0:
                        times[name].append(took * 1e3)
    rss = {"vfpool ADD, echo server": max(memory), "python3 -I -S -c pass": python_memory()}
    return [Row(name=name, p50=statistics.median(took), p99=statistics.quantiles(took, n=100)[98],
                rss=rss.get(name)) for name, took in times.items()]


def write_records(directory: str) -> str:
    """A state folder with the records of others, which a DEL looks through where no agent lives."""
    folder = Path(directory, "vfs")
    folder.mkdir()
    for number in range(RECORDS):
        (folder / f"{number}.json").write_text(format_record(record(container=f"other{number}")))
    return directory


def measure(command: list[str], env: dict[str, str], stdin: Path) -> float:
    """Seconds from posix_spawn to waitpid."""
    files = [(os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
             (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    begin = time.perf_counter()
    _, status = os.waitpid(os.posix_spawn(command[0], command, env, file_actions=files), 0)
    took = time.perf_counter() - begin
    if status != 0:
        raise RuntimeError(f"{command} ended with wait status {status}")
    return took


@contextmanager
def echo_server(path: str):
    """Answer every call with its own configuration; the value is what Rss the first clients had, in KiB."""
    memory: list[int] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=echo, args=(listener, memory))
        thread.start()
        try:
            yield memory
        finally:
            listener.shutdown(socket.SHUT_RDWR)    # accept returns EINVAL: the thread ends
            thread.join()


def echo(listener: socket.socket, memory: list[int]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, wire.CallReader() as reader:
            while (call := reader.receive(connection)) is None:
                pass
            if len(memory) < 10:    # the warm-up's
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                memory.append(rss_kib(Path(f"/proc/{struct.unpack('3i', peer)[0]}/smaps_rollup").read_text()))
            connection.sendall(wire.encode_answer(wire.Answer(status=0, document=call.stdin)))


def rss_kib(smaps_rollup: str) -> int:
    return next(int(line.split()[1]) for line in smaps_rollup.splitlines() if line.startswith("Rss:"))


def python_memory() -> int:
    reading, writing = os.pipe()
    script = "print(open('/proc/self/smaps_rollup').read())"
    child = os.posix_spawn(PYTHON[0], [*PYTHON[:-1], script], {},
                           file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
    os.close(writing)
    with open(reading) as output:
        text = output.read()
    os.waitpid(child, 0)
    return rss_kib(text)


def main() -> None:
    rows = run(*(int(argument) for argument in sys.argv[1:]))
    true, python = (row.p50 for row in rows[:2])
    print(f"{'':26}{'p50 ms':>9}{'p99 ms':>9}{'x true':>9}{'x python':>10}{'Rss KiB':>9}")    # noqa: T201
    for row in rows:
        print(f"{row.name:26}{row.p50:9.3f}{row.p99:9.3f}{row.p50 / true:9.2f}{row.p50 / python:10.3f}"    # noqa: T201
              f"{row.rss if row.rss is not None else '-':>9}")


if __name__ == "__main__":
    main()
