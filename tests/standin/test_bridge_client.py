"""The bridge's checks of the jenkins tier, over the twin: client, protocol and behaviour are the same."""

# ruff: noqa: F401  (pytest collects the imported checks from here)

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.jenkins.bridge_rig import Agents, Rig
from tests.jenkins.test_bridge_builds import (
    test_a_barred_node_takes_not_even_its_own,
    test_a_cancelled_item_is_told,
    test_a_declarative_pipeline_runs_on_its_node,
    test_a_freestyle_build_gets_its_node_and_shows_the_launch_at_the_top,
    test_a_node_takes_only_its_own_item_and_never_a_second,
    test_a_standby_node_takes_nothing_until_it_is_given_an_item,
    test_a_waiting_node_step_shows_the_launch_live,
    test_removing_a_dead_agents_node_ends_its_build_at_once,
)
from tests.jenkins.test_bridge_failures import (
    test_a_freestyle_build_gets_a_record_that_says_why,
    test_a_node_step_fails_with_the_message,
    test_a_second_node_of_ours_spares_nothing,
    test_the_next_build_of_a_failed_job_is_numbered_on,
)
from tests.jenkins.test_bridge_presence import (
    test_a_bad_call_gets_a_clear_refusal,
    test_a_bad_op_does_not_stop_the_next,
    test_a_replacement_keeps_what_the_nodes_are_for,
    test_a_running_build_keeps_its_log_over_a_replacement,
    test_two_owners_do_not_disturb_each_other,
)
from tests.standin_process import STANDIN, StandinController


@pytest.fixture(scope="module")
def real_jenkins() -> Iterator[StandinController]:
    """What those tests call so is the stand-in here."""
    controller = StandinController()
    controller.start()
    yield controller
    controller.stop()


@pytest.fixture
def agents(real_jenkins: StandinController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agents]:
    monkeypatch.setenv("PATH", f"{STANDIN}{os.pathsep}{os.environ['PATH']}")  # its `java` before any other
    started = Agents(real_jenkins, tmp_path / "agents")
    yield started
    started.end()


@pytest.fixture
async def rig(real_jenkins: StandinController, agents: Agents) -> AsyncIterator[Any]:
    """The twin, put in through the script console, and the product's client with a running long poll."""
    rig = Rig(real_jenkins, agents)
    try:
        await rig.open()
        yield rig
    finally:
        await rig.close()
        real_jenkins.process.reset()
