"""`kill -9` of a real process with real agents, at a sample of the points; the next process puts everything right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killing import killed_at
from tests.standin_process import StandinProcess

pytestmark = [pytest.mark.standin, pytest.mark.timeout(600)]


#: Points at which the quick run kills; the slow one takes every one.
SAMPLE = (1, 5, 12, 19, 27, 37)


@pytest.mark.parametrize("backend", ["process"])
@pytest.mark.parametrize("at", SAMPLE)
def test_killed_at_a_point_its_build_runs_once_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, backend: str, at: int
) -> None:
    killed_at(standin, tmp_path, backend, at)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["process"])
def test_killed_at_every_point_its_build_runs_once_and_nothing_is_left(
    standin: StandinProcess, tmp_path: Path, backend: str
) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        points = killed_at(standin, folder, backend, at)
        if len(points) <= at:  # it lived to the end
            break
        at += 1
    assert at > 30
