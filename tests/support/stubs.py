"""Makes the Python stubs of deviceplugin/kubelet/*.proto: `python -m tests.support.stubs`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = tuple(sorted(p.relative_to(ROOT) for p in (ROOT / "deviceplugin/kubelet").glob("*.proto")))


def generate(into: Path) -> None:
    """Write `into`/deviceplugin/kubelet/*_pb2.py, *_pb2.pyi, *_pb2_grpc.py; raise RuntimeError if it fails.

    Compiled from the root of the repository, so that imports read `from deviceplugin.kubelet import x_pb2`.
    """
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    well_known = f"--proto_path={files('grpc_tools') / '_proto'}"
    status = protoc.main(["protoc", f"--proto_path={ROOT}", well_known, *outputs, *map(str, PROTOS)])
    if status != 0:
        raise RuntimeError(f"protoc of {', '.join(map(str, PROTOS))} ended with status {status}")


if __name__ == "__main__":
    generate(ROOT)
