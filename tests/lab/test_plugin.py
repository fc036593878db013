from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.plugin import LabSession, divide, topology_of
from tests.lab.topology import FULL, Topology

SMALL = Topology(pfs=())


def item(name: str, *marks: pytest.MarkDecorator, module: str = "test_it.py") -> Any:
    """As much of a test as the plugin asks for."""
    found = {decorator.mark.name: decorator.mark for decorator in marks}
    return SimpleNamespace(name=name, get_closest_marker=found.get, path=Path(module))


def test_a_test_that_names_no_machine_gets_the_default_one():
    assert topology_of(item("a", pytest.mark.lab)) == Topology()
    assert topology_of(item("a")) == Topology()
    assert topology_of(item("a", pytest.mark.long, pytest.mark.lab(topology=FULL))) == FULL


def test_tests_of_other_machines_come_last_and_together_all_else_as_it_was():
    lab, full, small = pytest.mark.lab, pytest.mark.lab(topology=FULL), pytest.mark.lab(topology=SMALL)
    items = [item("a", full), item("b"), item("c", small), item("d", lab), item("e", full), item("f")]
    config: Any = None
    LabSession(config).pytest_collection_modifyitems(items)
    assert [each.name for each in items] == ["b", "d", "f", "a", "e", "c"]


def test_a_guest_has_whole_modules_of_one_machine_and_two_have_about_as_many_tests():
    lab, full = pytest.mark.lab, pytest.mark.lab(topology=FULL)
    items = [item("a", lab, module="one"), item("b", lab, module="two"), item("c", lab, module="two"),
             item("d", lab, module="two"), item("e", lab, module="three"), item("f", full, module="one")]
    shares = [[each.name for each in share] for share in divide(items, 2)]
    assert shares == [["a", "e"], ["b", "c", "d"], ["f"]]
    assert [[each.name for each in share] for share in divide(items[1:4], 2)] == [["b", "c", "d"]]
    assert [[each.name for each in share] for share in divide(items, 1)] == [["a", "b", "c", "d", "e"], ["f"]]
    assert divide([], 2) == []
