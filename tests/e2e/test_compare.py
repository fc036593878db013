"""The table of the comparison, of figures that no cluster has measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.compare import BEGIN, BURSTS, END, Burst, Figures, format_table, put_into
from tests.e2e.trials import Kills, Storm, Trials
from tests.lab.errors import LabError
from tests.trials.vfs import Loss

KEPT = {"ADD": Kills(damaged=0, trials=20), "DEL": Kills(damaged=0, trials=20)}
LOST = {"ADD": Kills(damaged=12, trials=20), "DEL": Kills(damaged=3, trials=20)}


def figures(stack: str, trials: Trials) -> Figures:
    bursts = (Burst(seconds=None, astray=2, names=("dev4", "net1")),) * (BURSTS - 1)
    return Figures(stack=stack, bursts=(*bursts, Burst(seconds=61.4, astray=0, names=())), trials=trials,
                   calls={"VLAN": {"ADD": [100.0, 120.0, 900.0], "DEL": [50.0]}})


def storm(**losses: int) -> Storm:
    return Storm(attached=280, put_off=3, losses={Loss[name]: number for name, number in losses.items()})


def rows(*found: Trials) -> dict[str, list[str]]:
    """The cells of each row by its title; cells are at least two columns apart."""
    table = format_table([figures(f"stack {number}", trials) for number, trials in enumerate(found)])
    return {cells[0]: cells[1:] for line in table.splitlines()
            for cells in [[cell.strip() for cell in line.split("  ") if cell]]}


def test_bursts_and_calls():
    found = rows(Trials(storm=storm(), executable=KEPT))
    assert found["burst 1: 10 pods Running after"] == ["never"]
    assert found[f"burst {BURSTS}: 10 pods Running after"] == ["61 s"]
    assert found["VLAN, ADD p50"] == ["120 ms"]


def test_losses_stand_beside_each_other_by_kind():
    found = rows(Trials(storm=storm(NAME=3, ADDRESS=1), executable=LOST),
                 Trials(storm=storm(), executable=KEPT, agent=KEPT))
    assert found["storm of 75 s: pods that had a VF"] == ["280", "280"]
    assert found["ADDs told to try again later"] == ["3", "3"]
    assert found["wrong name"] == ["3", "0"]
    assert found["address still reserved"] == ["1", "0"]
    assert "not on the host" not in found
    assert "losses" not in found
    assert found["kill -9 in ADD: VFs left changed"] == ["12 of 20", "0 of 20"]
    assert found["kill -9 in DEL: VFs left changed"] == ["3 of 20", "0 of 20"]
    assert found["of the agent, in ADD"] == ["no agent", "0 of 20"]


def test_no_losses_are_said_too():
    found = rows(Trials(storm=storm(), executable=KEPT))
    assert found["losses"] == ["0"]
    assert "of the agent, in ADD" not in found


@pytest.mark.parametrize("number", [1, 3])
def test_columns_line_up(number):
    trials = Trials(storm=storm(**{loss.name: 1234 for loss in Loss}), executable=LOST, agent=LOST)
    table = format_table([figures("a stack", trials)] * number)
    assert {len(line) for line in table.splitlines() if "dev4" not in line} == {40 + 24 * number}


def test_the_table_replaces_the_last_one(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}    old\n{END}\nafter\n")
    put_into(readme, "new  1\n")
    assert readme.read_text() == f"before\n{BEGIN}    new  1\n{END}\nafter\n"
    readme.write_text("nothing")
    with pytest.raises(LabError, match="no place for the table"):
        put_into(readme, "new")
