"""One stand-in for the tests of real processes here, emptied after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.plant import Plant
from tests.standin_process import StandinProcess


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandinProcess]:
    with StandinProcess("--bridge", "init") as running:
        yield running


@pytest.fixture
def standin(standin_process: StandinProcess) -> Iterator[StandinProcess]:
    yield standin_process
    standin_process.reset()


@pytest.fixture
def make_plant(standin: StandinProcess, tmp_path: Path) -> Iterator[Callable[..., Plant]]:
    """Makes a sidecar beside the stand-in; the stand-in's faults end with the test."""
    made: list[Plant] = []

    def make(**more: Any) -> Plant:
        plant = Plant(standin, tmp_path, **more)
        made.append(plant)
        return plant

    yield make
    standin.knobs(reset=True)
    for plant in made:
        plant.sidecar.stop()
