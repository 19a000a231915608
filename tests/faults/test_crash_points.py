"""The sidecar is killed at every point of every story: no build is lost, none runs twice, nothing is left."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.faults.estate import Broken
from tests.faults.mortal import Death
from tests.faults.scenarios import SCENARIOS, Scenario, run

#: How it dies, and for how long nobody takes its place.
DEATHS = ((Death.NOW, 2.0), (Death.LATE, 1.0), (Death.NOW, 40.0))


def sweep(
    scenario: Scenario, folder: Path, death: Death, down_s: float, *, stride: int = 1, state_lost: bool = False
) -> tuple[int, list[str]]:
    """Every point of a story in turn: how many there were, and what was broken where."""
    numbers = itertools.count()

    def fresh() -> Path:
        made = folder / str(next(numbers))
        made.mkdir()
        return made

    points = run(scenario, fresh())
    asked = "before save" if death is Death.LATE else ""  # what is written to the own disk cannot be late
    broken, runs = [], 0
    for number, point in enumerate(points):
        if number % stride != DEATHS.index((death, down_s)) % stride:
            continue
        if asked and (point.startswith(asked) or not point.startswith("before")):
            continue
        runs += 1
        try:
            run(scenario, fresh(), die_at=number, death=death, down_s=down_s, state_lost=state_lost)
        except Broken as error:
            broken.append(f"killed {death.value} at {number}, {point}, for {down_s:.0f} s: {error}")
    return runs, broken


@pytest.mark.parametrize(("death", "down_s"), DEATHS, ids=["at once", "with a call under way", "for long"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_at_every_point_nothing_is_lost_doubled_or_left(
    tmp_path: Path, scenario: Scenario, death: Death, down_s: float
) -> None:
    runs, broken = sweep(scenario, tmp_path, death, down_s, stride=scenario.stride)
    assert runs >= 5
    assert not broken, f"{len(broken)} of {runs}\n" + "\n\n".join(broken[:3])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_at_every_point_and_its_records_lost_everything_is_found_by_its_marks(
    tmp_path: Path, scenario: Scenario
) -> None:
    runs, broken = sweep(scenario, tmp_path, *DEATHS[0], stride=scenario.stride, state_lost=True)
    assert runs >= 5
    assert not broken, f"{len(broken)} of {runs}\n" + "\n\n".join(broken[:3])
