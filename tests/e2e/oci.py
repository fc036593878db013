"""OCI images written by hand: as archives that `ctr images import` reads, the same bytes for the same content.

Formats: OCI image specification 1.1 (image layout, manifest, configuration). Layers are not compressed, so a
layer's digest is its diff id; everything belongs to root and is of the epoch.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, BinaryIO

from tests.lab.errors import LabError

_MEDIA_TYPE = "application/vnd.oci.image"
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, link or folder of a layer. `source`: a file's content, or where the host has it; a link's target."""

    kind: bytes                     # as tarfile has it
    mode: int
    source: bytes | Path | str = b""


def file(source: bytes | str | Path, mode: int | None = None) -> Entry:
    """A file with that content; of a path, with that file's content and, without `mode`, its mode."""
    if isinstance(source, Path):
        return Entry(tarfile.REGTYPE, stat.S_IMODE(source.stat().st_mode) if mode is None else mode, source)
    content = source.encode() if isinstance(source, str) else source
    return Entry(tarfile.REGTYPE, 0o644 if mode is None else mode, content)


def link(target: str) -> Entry:
    return Entry(tarfile.SYMTYPE, 0o777, target)


def directory(mode: int = 0o755) -> Entry:
    return Entry(tarfile.DIRTYPE, mode)


@dataclass(frozen=True, slots=True)
class Layer:
    """What the layer has, by path below the root of the image; folders between need not be told."""

    entries: Mapping[str, Entry]

    @classmethod
    def of_tree(cls, tree: Path, at: str = "") -> Layer:
        """All of a host's folder, below the path `at`; without device nodes and sockets, which a runtime makes."""
        entries = {}
        for path in tree.rglob("*"):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                entry = link(str(path.readlink()))
            elif stat.S_ISDIR(mode):
                entry = directory(stat.S_IMODE(mode))
            elif stat.S_ISREG(mode):
                entry = file(path)
            else:
                continue
            entries[str(PurePosixPath(at, path.relative_to(tree)))] = entry
        return cls(entries)

    def write(self, stream: BinaryIO) -> None:
        """The layer as a tar archive; LabError where a path is not one below the root."""
        entries = dict(self.entries)
        for name in self.entries:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name:
                raise LabError(f"layer: expected a path below the root like etc/passwd, got {name!r}")
            for parent in path.parents[:-1]:
                entries.setdefault(str(parent), directory())
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(entries, key=lambda name: PurePosixPath(name).parts):
                _add(archive, name, entries[name])


def _add(archive: tarfile.TarFile, name: str, entry: Entry) -> None:
    info = tarfile.TarInfo(name)    # by its defaults uid, gid and mtime are 0
    info.type, info.mode = entry.kind, entry.mode
    match entry.source:
        case Path() as path:
            info.size = path.stat().st_size
            with path.open("rb") as stream:
                archive.addfile(info, stream)
        case str() as target:
            info.linkname = target
            archive.addfile(info)
        case bytes() as content:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_archive(
    path: Path, ref: str, layers: Sequence[Layer], entrypoint: Sequence[str],
    env: Mapping[str, str] = _NO_VARIABLES, *, base: Path | None = None,
) -> None:
    """An archive of one image, for amd64, that is imported under the name `ref`, such as vfpool.test/pause:1.

    Appears under `path` when it is complete. Of layers that have the same path, the last wins. The layers of
    `base`, another such archive, come below them by their digests alone: the importer must have that image.
    """
    name, colon, tag = ref.rpartition(":")
    if not (name and colon and tag) or "/" in tag:
        raise LabError(f"image {path}: expected a reference like vfpool.test/pause:1, got {ref!r}")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        store = _Blobs(Path(scratch))
        stored = [*(_read_layers(base) if base else ()), *(store.add_layer(layer) for layer in layers)]
        config = store.add_json("config.v1+json", {
            "created": "1970-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": [f"{key}={value}" for key, value in env.items()]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in stored]},
        })
        manifest = store.add_json("manifest.v1+json", {
            "schemaVersion": 2, "mediaType": f"{_MEDIA_TYPE}.manifest.v1+json", "config": config, "layers": stored,
        })
        # containerd takes the first for the image's name; the second is the specification's, and is the tag only.
        manifest["annotations"] = {"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": tag}
        index = {"schemaVersion": 2, "mediaType": f"{_MEDIA_TYPE}.index.v1+json", "manifests": [manifest]}
        archive = Layer({
            "oci-layout": file('{"imageLayoutVersion":"1.0.0"}'), "index.json": file(_encode(index)),
            **{_blob_path(f"sha256:{blob.name}"): file(blob, 0o644) for blob in store.blobs()},
        })
        complete = Path(scratch, "archive")
        with complete.open("wb") as stream:
            archive.write(stream)
        complete.replace(path)


def _read_layers(path: Path) -> list[dict[str, Any]]:
    """The descriptors of the layers of an archive that write_archive has written."""
    with tarfile.open(path) as archive:
        def read(name: str) -> dict[str, Any]:
            stream = archive.extractfile(name)
            assert stream is not None    # every name here is a file's
            value: dict[str, Any] = json.load(stream)
            return value

        [manifest] = read("index.json")["manifests"]
        layers: list[dict[str, Any]] = read(_blob_path(manifest["digest"]))["layers"]
        return layers


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


class _Blobs:
    """Blobs in a folder, named by their SHA-256; each `add` gives the blob's descriptor."""

    def __init__(self, scratch: Path) -> None:
        self._folder = scratch / "blobs"
        self._folder.mkdir()

    def blobs(self) -> list[Path]:
        return sorted(self._folder.iterdir())

    def add_layer(self, layer: Layer) -> dict[str, Any]:
        written = self._folder / "new"
        with written.open("wb") as stream:
            layer.write(stream)
        return self._store(written, "layer.v1.tar")

    def add_json(self, media_type: str, value: Mapping[str, Any]) -> dict[str, Any]:
        written = self._folder / "new"
        written.write_bytes(_encode(value))
        return self._store(written, media_type)

    def _store(self, written: Path, media_type: str) -> dict[str, Any]:
        with written.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        blob = written.rename(self._folder / digest)
        size = blob.stat().st_size
        return {"mediaType": f"{_MEDIA_TYPE}.{media_type}", "digest": f"sha256:{digest}", "size": size}


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
