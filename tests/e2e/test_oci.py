from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import pytest

from tests.e2e.oci import Layer, directory, file, link, write_archive
from tests.lab.errors import LabError

REF = "vfpool.test/some:1"


def read_archive(path):
    """Content of the files by name; every blob's name is checked to be its digest."""
    with tarfile.open(path) as archive:
        content = {
            member.name: stream.read() for member in archive if (stream := archive.extractfile(member)) is not None
        }
    for name, blob in content.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"
    return content


def read_image(path):
    """Descriptor in the index, manifest, configuration, and the archive's content."""
    content = read_archive(path)

    def blob(descriptor):
        data = content["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        return json.loads(data)

    [descriptor] = json.loads(content["index.json"])["manifests"]
    manifest = blob(descriptor)
    return descriptor, manifest, blob(manifest["config"]), content


def members(layer):
    stream = io.BytesIO()
    layer.write(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        return archive.getmembers()


def test_an_image_is_complete_and_names_itself(tmp_path):
    layers = [Layer({"a": file("1")}), Layer({"a": file("2")})]
    write_archive(tmp_path / "i.tar", REF, layers, ["/a", "-x"], {"PATH": "/bin", "A": ""})
    descriptor, manifest, config, content = read_image(tmp_path / "i.tar")
    assert descriptor["annotations"]["io.containerd.image.name"] == REF
    assert descriptor["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert config["config"] == {"Entrypoint": ["/a", "-x"], "Env": ["PATH=/bin", "A="]}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(manifest["layers"]) == 2
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.tar"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name, paths in (("one", ("b", "a/c", "a-")), ("two", ("a-", "b", "a/c"))):
        tree = tmp_path / name
        (tree / "a").mkdir(parents=True)
        for number, path in enumerate(paths):
            (tree / path).write_text(path)
            os.utime(tree / path, (number, number))
        write_archive(tmp_path / f"{name}.tar", REF, [Layer.of_tree(tree)], [])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_layer_has_every_folder_before_what_is_in_it_and_belongs_to_root():
    found = members(Layer({
        "usr/bin/x": file("x", 0o755), "usr/bin": directory(0o700), "usr-a": file(b"a"), "bin": link("usr/bin"),
    }))
    assert [(member.name, member.mode) for member in found] == [
        ("bin", 0o777), ("usr", 0o755), ("usr/bin", 0o700), ("usr/bin/x", 0o755), ("usr-a", 0o644)]
    assert {(member.uid, member.gid, member.mtime) for member in found} == {(0, 0, 0)}
    assert found[0].linkname == "usr/bin"


def test_a_tree_keeps_modes_and_links_and_leaves_out_what_is_no_content(tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub").chmod(0o1777)
    (tree / "sub/run").write_text("#!/bin/sh")
    (tree / "sub/run").chmod(0o755)
    (tree / "dangling").symlink_to("/nowhere")
    os.mkfifo(tree / "pipe")
    found = members(Layer.of_tree(tree, "opt"))
    assert [(member.name, member.mode) for member in found] == [
        ("opt", 0o755), ("opt/dangling", 0o777), ("opt/sub", 0o1777), ("opt/sub/run", 0o755)]
    assert found[1].linkname == "/nowhere"


def test_an_image_upon_another_has_its_layers_by_digest_alone(tmp_path):
    write_archive(tmp_path / "base.tar", REF, [Layer({"a": file("1")})], [])
    write_archive(tmp_path / "over.tar", REF, [Layer({"b": file("2")})], [], base=tmp_path / "base.tar")
    _, below, _, _ = read_image(tmp_path / "base.tar")
    _, manifest, config, content = read_image(tmp_path / "over.tar")
    assert manifest["layers"][:-1] == below["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert not {name for name in content if below["layers"][0]["digest"].endswith(name.rpartition("/")[2])}


@pytest.mark.parametrize("ref", ["pause", "host:5000/pause", "pause:", ":1"])
def test_a_reference_without_name_or_tag_is_refused(tmp_path, ref):
    with pytest.raises(LabError, match=r"expected a reference like .*, got "):
        write_archive(tmp_path / "i.tar", ref, [], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", "a/"])
def test_a_path_that_is_not_below_the_root_is_refused(path):
    with pytest.raises(LabError, match="expected a path below the root"):
        Layer({path: file("")}).write(io.BytesIO())
