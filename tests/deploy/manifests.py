"""The manifests of deploy/ as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"

Object = dict[str, Any]


class _UniqueKeys(yaml.SafeLoader):
    """yaml takes the last of two equal keys in silence; an API server in strict mode would not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        made = super().construct_mapping(node, deep=True)
        assert len(made) == len(node.value), f"a key twice in the mapping at {node.start_mark}"
        return made


def read(path: Path) -> list[Object]:
    """The documents of a file."""
    return [document for document in yaml.load_all(path.read_text(), _UniqueKeys) if document is not None]


def read_base() -> dict[tuple[str, str], Object]:
    """The base's objects by kind and name."""
    names = read(DEPLOY / "base/kustomization.yaml")[0]["resources"]
    objects = [document for name in names for document in read(DEPLOY / "base" / name)]
    found = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(found) == len(objects)
    return found


def pod_of(workload: Object) -> Object:
    """The pod's spec of a DaemonSet or Deployment."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec
