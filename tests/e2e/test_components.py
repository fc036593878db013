from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e import peers
from tests.e2e.components import RECIPES, Components
from tests.e2e.gobuild import (
    GO,
    GO_HINT,
    Recipe,
    build,
    build_arguments,
    executable_name,
    find_go_fault,
    go_mod,
    staged_modules,
)
from tests.e2e.store import Store
from tests.lab import host
from tests.lab.errors import LabError
from tests.lab.progress import Progress

RECIPE = Recipe(
    name="some", module="example.org/some/v2", version="v2.0.1", programs={"some": "", "tool": "cmd/tool"},
)


@pytest.fixture
def go(monkeypatch, tmp_path):
    """go(script): the only go on PATH; its calls are lines in the file that this returns."""
    folder, calls = tmp_path / "path", tmp_path / "calls"
    folder.mkdir()
    calls.write_text("")
    monkeypatch.delenv("GOTOOLCHAIN", raising=False)
    monkeypatch.setattr(host, "SEARCH", str(folder))
    monkeypatch.setenv("VFPOOL_CACHE", str(tmp_path / "cache"))

    def install(script, version="go version go1.24.4 linux/amd64"):
        (folder / "go").write_text(f'#!/bin/sh\n[ "$*" = version ] && {{ echo "{version}"; exit; }}\n'
                                   f'echo "$@" >> {calls}\n{script}\n')
        (folder / "go").chmod(0o755)
        return calls

    return install


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("VFPOOL_CACHE", str(tmp_path / "cache"))
    return Store("kind")


def test_our_module_asks_for_one_release_and_replaces_what_that_release_has_in_its_tree():
    staged = staged_modules({"Replace": [
        {"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
        {"Old": {"Path": "k8s.io/other"}, "New": {"Path": "k8s.io/fork", "Version": "v1.0.0"}},
    ]})
    lines = go_mod(replace(RECIPE, staged="v0.0.1"), staged).splitlines()
    assert "require example.org/some/v2 v2.0.1" in lines
    assert {"tool example.org/some/v2", "tool example.org/some/v2/cmd/tool"} <= set(lines)
    assert [line for line in lines if line.startswith("replace")] == ["replace k8s.io/api => k8s.io/api v0.0.1"]
    assert staged_modules({"Replace": None}) == []


def test_the_key_follows_what_determines_the_executables(tmp_path):
    own, other = tmp_path / "own.go", tmp_path / "other.go"
    own.write_text("package main")
    other.write_text("package main // another")
    changes: list[dict[str, Any]] = [
        {"version": "v2.0.2"}, {"programs": {"some": ""}}, {"tags": ("x",)}, {"variables": ("a.b=c",)},
        {"static_cgo": True}, {"staged": "v0.0.1"}, {"folder": "cni"},
        {"sources": {"own": own}}, {"sources": {"own": other}}, {"sources": {"another": own}},
    ]
    assert replace(RECIPE, probe=("some",)).key == RECIPE.key
    assert len({RECIPE.key, *(replace(RECIPE, **change).key for change in changes)}) == 1 + len(changes)


def test_the_linker_sets_the_version():
    recipe = replace(RECIPE, variables=("a/b.Version={version}", "a/b.Major=2"))
    assert "-ldflags=-s -w -X a/b.Version=v2.0.1 -X a/b.Major=2" in build_arguments(recipe)


def test_an_executable_is_named_as_go_names_it():
    assert executable_name("go.etcd.io/etcd/server/v3") == "server"
    assert executable_name("k8s.io/kubernetes/cmd/kubelet") == "kubelet"


def test_no_two_components_have_an_executable_of_the_same_name():
    names = [name for recipe in RECIPES for name in recipe.executables]
    assert len(names) == len(set(names))
    assert len({recipe.key for recipe in RECIPES}) == len(RECIPES)


def test_components_tell_what_there_is(tmp_path):
    for folder in ("bin", "cni"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin/kubelet").touch()
    (tmp_path / "cni/bridge").touch()
    components = Components(tmp_path)
    assert components.program("bridge") == components.cni / "bridge"
    with pytest.raises(LabError, match=r"'kubelt'.*bridge, kubelet"):
        components.program("kubelt")


def test_without_go_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "SEARCH", str(tmp_path))
    with pytest.raises(LabError) as caught:
        build(RECIPE, tmp_path, Progress("test"))
    assert str(caught.value) == ("the cluster's executables need Go 1.21 or newer, and no go is on PATH "
                                 f"(hint: install it: {GO_HINT})")


@pytest.mark.parametrize(("toolchain", "version", "fault"), [
    (None, "1.19.8", ("need Go 1.21 or newer, and {go} is 1.19.8 (hint: "
                      f"install a newer one: {GO_HINT})")),
    ("local", "1.24", (f"need Go {GO} or newer, and {{go}} is 1.24 (hint: unset GOTOOLCHAIN, and Go fetches what "
                       f"it needs; or install a newer one: {GO_HINT})")),
    (None, "1.21", None), (None, "1.100", None), ("local", GO, None), ("local", "2.0", None)])
def test_a_go_that_is_too_old_is_named_before_anything_is_asked_for(go, monkeypatch, tmp_path, toolchain, version,
                                                                    fault):
    calls = go("exit 1", f"go version go{version} linux/amd64")
    if toolchain:
        monkeypatch.setenv("GOTOOLCHAIN", toolchain)
    found = find_go_fault()
    assert found == (fault and "the cluster's executables " + fault.format(go=tmp_path / "path/go"))
    if fault:
        with pytest.raises(LabError) as caught:
            build(RECIPE, tmp_path, Progress("test"))
        assert str(caught.value) == found
    assert calls.read_text() == ""


def test_a_go_without_a_number_is_taken_for_a_new_one(go):
    go("exit 1", "go version devel +abc linux/amd64")
    assert find_go_fault() is None


@pytest.mark.parametrize("script", [
    """echo '{"Error": "proxy.example: no such host"}'; exit 1""",
    "echo 'go: settings are wrong' >&2; echo 'proxy.example: no such host' >&2; exit 1",
])
def test_without_the_module_proxy_one_line_says_so(go, tmp_path, script):
    calls = go(script)
    with pytest.raises(LabError, match=r"^[^\n]*some/v2 v2.0.1: proxy.example: no such host \(hint: [^\n]*$"):
        build(RECIPE, tmp_path, Progress("test"))
    assert calls.read_text().splitlines() == [
        f"-C {tmp_path}/module mod download -json example.org/some/v2@v2.0.1"]


def test_executables_of_another_version_are_refused(go, tmp_path):
    go("""case "$*" in
        *download*) echo '{"GoMod": "/nowhere"}' ;;
        *build*) while [ "$1" != -o ]; do shift; done
                 printf '#!/bin/sh\\necho "version unknown" >&2\\n' > "$2/some"; chmod 755 "$2/some" ;;
    esac""")
    recipe = replace(RECIPE, programs={"mine": ""}, probe=("mine", "--version"))
    with pytest.raises(LabError, match=r"expected mine --version to say v2.0.1, got 'version unknown"):
        build(recipe, tmp_path, Progress("test"))


def test_programs_of_ours_are_built_in_the_same_module(go, tmp_path):
    calls = go("""case "$*" in
        *download*) echo '{"GoMod": "/nowhere"}' ;;
        *build*) while [ "$1" != -o ]; do shift; done; : > "$2/some"; : > "$2/own" ;;
    esac""")
    (tmp_path / "own.go").write_text("package main")
    recipe = replace(RECIPE, programs={"some": ""}, sources={"own": tmp_path / "own.go"})
    build(recipe, tmp_path, Progress("test"))
    assert recipe.executables == ("some", "own")
    assert (tmp_path / "module/own/main.go").read_text() == "package main"
    assert calls.read_text().splitlines()[-1].endswith(f" -o {tmp_path}/bin/ tool ./own")


def test_a_debian_package_is_missing_where_its_program_or_file_is(tmp_path):
    wanted = {"sh": "dash", str(tmp_path): "here", f"{tmp_path}/seccomp.h": "headers", "no-such-program": "program"}
    assert host.missing_packages(wanted) == ("headers", "program")


# ---- the cache --------------------------------------------------------------------------------------------


def test_a_folder_is_built_once(store):
    def build_it(work):
        (work / "content").write_text("x")

    first = store.get("1", build_it)
    assert (first / "content").read_text() == "x"
    assert store.get("1", lambda work: pytest.fail("built again")) == first
    assert store.get("2", build_it) != first


def test_a_failed_or_interrupted_build_leaves_nothing(store, tmp_path):
    def fail(work):
        (work / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("1", fail)
    (tmp_path / "cache/kind-1.tmp-killed").mkdir()
    store.get("2", lambda work: None)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["kind-2", "kind.lock"]


def test_what_was_not_used_for_long_goes_with_the_next_build(store, tmp_path):
    for key in ("old", "used", "new"):
        store.get(key, lambda work: None)
    for key in ("old", "used"):
        os.utime(tmp_path / "cache" / f"kind-{key}", (0, 0))
    store.get("used", lambda work: pytest.fail("built again"))
    store.get("newest", lambda work: None)
    left = sorted(path.name for path in (tmp_path / "cache").glob("kind-*"))
    assert left == ["kind-new", "kind-newest", "kind-used"]


# ---- peers ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_refusals():
    """A refusal is remembered for the process: none of before is seen here, and none of here afterwards."""
    peers.install.cache_clear()
    yield
    peers.install.cache_clear()


def put_executables(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch(mode=0o755)


def test_peers_are_those_of_the_named_folder(go, monkeypatch, tmp_path):
    calls = go("exit 1")
    names = ("multus", "multus-daemon", "multus-shim", "sriov", "sriovdp", "webhook")
    put_executables(tmp_path / "peers", *names)
    monkeypatch.setenv("VFPOOL_PEERS", str(tmp_path / "peers"))
    found = peers.find_peers()
    assert found.reason is None
    assert {name: found.find(name) for name in names} == {name: tmp_path / "peers" / name for name in names}
    assert found.find("flannel") is None
    assert calls.read_text() == ""


def test_a_refusal_is_told_in_one_line_and_not_asked_for_again(go, monkeypatch, tmp_path):
    calls = go("echo 'go: something' >&2; echo 'go: not allowed here' >&2; exit 1")
    put_executables(tmp_path / "peers", "multus", "sriov", "sriovdp", "webhook")
    (tmp_path / "peers/webhook").chmod(0o644)
    monkeypatch.setenv("VFPOOL_PEERS", str(tmp_path / "peers"))
    for _ in range(2):
        found = peers.find_peers()
        assert found.find("multus") == tmp_path / "peers/multus"
        assert found.find("multus-daemon") is None
        assert found.find("webhook") is None
        assert found.reason == (
            f"without Multus, network-resources-injector: VFPOOL_PEERS ({tmp_path}/peers) does not have all of it "
            "and go install of gopkg.in/k8snetworkplumbingwg/multus-cni.v4 failed: go: not allowed here")
    assert len(calls.read_text().splitlines()) == 2    # once for each of the two projects


def test_what_is_missing_is_installed_once(go, monkeypatch, tmp_path):
    calls = go('for package; do name=${package##*/}; case $name in *@*) : > "$GOBIN/${name%@*}";; esac; done')
    monkeypatch.delenv("VFPOOL_PEERS", raising=False)
    for _ in range(2):
        peers.install.cache_clear()
        found = peers.find_peers()
        assert found.reason is None
        assert sorted(path.name for path in found.programs.values()) == sorted(found.programs)
        assert all(path.is_file() for path in found.programs.values())
    assert len(calls.read_text().splitlines()) == len(peers.PROJECTS)
