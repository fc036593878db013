"""The image's recipe: no builder runs here, so what can be read is held to the package, the manifests and the image
that the cluster tests make by hand.
"""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY, pod_of, read_base
from tests.e2e import agentimage
from tests.lab.image import SUITE

CHECKOUT = DEPLOY.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
# Of Debian's packages those that every installation has: its base image has them, the hand-made one names them.
ESSENTIAL = {"base-files", "coreutils", "dash", "libc-bin"}


def read_stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, words after the first as they stand there, joined over lines."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, "\n".join(lines).replace("\\\n", "").splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            stages.append([])
        stages[-1].append((keyword, " ".join(rest.split())))
    return stages


BUILD, FINAL = read_stages()


def all_of(stage: list[tuple[str, str]], keyword: str) -> list[str]:
    return [rest for found, rest in stage if found == keyword]


def installed(stage: list[tuple[str, str]]) -> set[str]:
    """Debian packages of the stage."""
    (command,) = [part for line in all_of(stage, "RUN") for part in line.split(" && ") if "apt-get install" in part]
    return {word for word in command.split()[2:] if not word.startswith("-")}


def test_both_stages_are_of_the_suite_that_is_tested():
    base = f"docker.io/library/debian:{SUITE}-slim"
    assert all_of(BUILD, "FROM") + all_of(FINAL, "FROM") == [f"{base} AS build", base]


def test_packages_and_environment_are_those_of_the_image_that_the_cluster_runs():
    assert installed(FINAL) == set(agentimage.PACKAGES) - ESSENTIAL
    assert dict(line.split("=", 1) for line in all_of(FINAL, "ENV")) == agentimage.ENVIRONMENT


def test_the_compiler_is_there_and_the_first_choice():
    assert {"musl-tools", "gcc", "libc6-dev", "python3", "python3-pip"} == installed(BUILD)


def test_users_are_those_of_the_manifests():
    """The image's own is the webhook's; whoever needs root says so."""
    objects = read_base()
    webhook = pod_of(objects["Deployment", "vfpool-webhook"])["securityContext"]
    assert all_of(FINAL, "USER") == [f"{webhook['runAsUser']}:{webhook['runAsGroup']}"]
    (agent,) = pod_of(objects["DaemonSet", "vfpool-agent"])["containers"]
    assert (agent["securityContext"]["runAsUser"], agent["securityContext"]["runAsGroup"]) == (0, 0)


def test_commands_of_the_manifests_are_scripts_of_the_package():
    objects = read_base()
    containers = [each for workload in (("DaemonSet", "vfpool-agent"), ("Deployment", "vfpool-webhook"))
                  for each in pod_of(objects[workload])["containers"]]
    commands = [*(each["command"] for each in containers), *map(json.loads, all_of(FINAL, "CMD"))]
    assert {command[0] for command in commands} == set(PROJECT["project"]["scripts"])
    assert all_of(FINAL, "ENTRYPOINT") == []      # it would come before the commands of manifests that name `args`


def test_the_readme_builds_it_with_the_version_of_the_package():
    version = PROJECT["project"]["version"]
    command = f"podman build -f deploy/Containerfile -t registry.example.com/vfpool:{version} ."
    for path in ("README.md", "Containerfile"):
        assert command in (DEPLOY / path).read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of what the recipe copies and nothing else, without the executable that may lie in the checkout."""
    source = tmp_path_factory.mktemp("src")
    for line in all_of(BUILD, "COPY"):
        *names, target = line.split()
        for name in names:
            if (CHECKOUT / name).is_dir():
                shutil.copytree(CHECKOUT / name, source / target)    # as COPY does, the content
            else:
                shutil.copy(CHECKOUT / name, source / target)
    (source / "cni/shim/vfpool").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check",
         "--wheel-dir", "wheels", "."],
        cwd=source, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "wheels").glob("vfpool-*.whl")      # as the recipe names it
    return path


def test_the_wheel_has_every_module_the_executable_and_the_scripts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(entries).decode())
        executable = archive.getinfo("cni/shim/vfpool")
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    modules = {str(path.relative_to(CHECKOUT)) for name in packages for path in (CHECKOUT / name).rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    assert executable.external_attr >> 16 & 0o111
    assert dict(scripts["console_scripts"]) == PROJECT["project"]["scripts"]
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_the_hand_made_image_has_the_same_packages(wheel, monkeypatch, tmp_path):
    """What it copies of the checkout is what the wheel has."""
    monkeypatch.setattr(agentimage, "site_folder", lambda lab: lab / "site")
    monkeypatch.setattr(agentimage, "_compile_command", lambda *_: ["true"])
    agentimage._install_checkout(Path("/lab"), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    made = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert made == {name for name in packed if not name.endswith(".c")}
    assert {path.name for path in (tmp_path / "usr/local/bin").iterdir()} == set(PROJECT["project"]["scripts"])
