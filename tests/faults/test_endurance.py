"""The long runs of `endurance.py`, short: builds by the hundred, faults at random, nothing lost and nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.endurance import burst, soak

pytestmark = [pytest.mark.standin, pytest.mark.timeout(600)]


def test_a_hundred_builds_by_ten_agents_are_all_served(tmp_path: Path) -> None:
    found = burst(tmp_path / "site", items=100, agents=10, build_s=0.2)  # fails by itself if one is lost or left
    assert found["agents_at_once"] <= 10


@pytest.mark.slow
def test_a_soak_of_processes_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    found = soak(tmp_path, minutes=2, builds=800, seed=11)
    assert (found["lost"], found["doubled"], found["left"]) == (0, 0, [])
    early, late = (found["flat"]["threads"][when] for when in ("early", "late"))
    assert late <= early + 1
