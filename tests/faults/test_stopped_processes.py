"""Everything in turn is stopped (SIGSTOP) while a build is under way, and goes on, or is given up in bounded time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.plant import Plant
from tests.seen_processes import agents_of
from tests.standin_process import AgentProcess

pytestmark = [pytest.mark.standin, pytest.mark.timeout(400)]

Make = Callable[..., Plant]


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    tell(signal.SIGSTOP, *pids)
    try:
        yield
    finally:
        tell(signal.SIGCONT, *pids)


def tell(number: signal.Signals, *pids: int) -> None:
    """Send it to each that is still there: a build has processes that live for a moment."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def running(plant: Plant, shell: str = "sleep 2") -> str:
    """A build that has begun; the name of its agent."""
    plant.build(shell)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the build runs")
    (name,) = plant.ours()
    return name


@pytest.mark.parametrize(
    ("bridge", "for_s"),
    [("off", 8), pytest.param("auto", 75, marks=pytest.mark.slow)],  # a long poll is given up after 55 s
)
def test_a_controller_that_was_stopped_is_told_by_readiness_and_loses_nothing(
    make_plant: Make,
    bridge: str,
    for_s: float,
) -> None:
    plant = make_plant()
    plant.sidecar.config["controllers"][0] |= {"bridge": bridge, "poll_interval": 0.2, "timeout": "2s"}
    plant.sidecar.write()
    plant.sidecar.start()
    running(plant)
    with stopped(plant.standin.pid):
        began = time.monotonic()
        plant.sidecar.until(lambda: plant.sidecar.get("/readyz")[0] == 503, "readiness tells", within_s=for_s)
        assert "no answer within" in plant.sidecar.ready()["controllers"]["main"]
        assert plant.sidecar.get("/healthz")[0] == 200
        time.sleep(max(0.0, for_s - (time.monotonic() - began)))
    plant.build()
    plant.at_rest()
    plant.sidecar.until(lambda: plant.sidecar.get("/readyz")[0] == 200, "readiness is back")
    assert plant.sidecar.get("/healthz")[0] == 200


def test_an_agent_that_was_stopped_for_a_while_goes_on(make_plant: Make) -> None:
    plant = make_plant()
    plant.sidecar.start()
    running(plant)
    with stopped(*agents_of(plant.owner)):
        time.sleep(4)
    plant.at_rest()


def test_an_agent_that_hangs_for_ever_is_ended_by_the_limit_for_builds(make_plant: Make) -> None:
    plant = make_plant()
    plant.sidecar.config["templates"][0]["timeouts"] = {"build": "4s"}
    plant.sidecar.write()
    plant.sidecar.start()
    running(plant, "sleep 600")
    tell(signal.SIGSTOP, *agents_of(plant.owner))
    plant.sidecar.until(lambda: plant.result(plant.jobs[0]), "its build ended")
    assert plant.result(plant.jobs[0]) != "SUCCESS"
    plant.sidecar.until(lambda: not plant.ours(), "its node is gone")
    plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 0, "its record is closed")
    plant.sidecar.until(lambda: not agents_of(plant.owner), "its processes are gone")


def test_an_agent_that_hangs_before_it_connects_is_replaced(make_plant: Make) -> None:
    plant = make_plant()
    plant.sidecar.config["templates"][0] |= {"timeouts": {"connect": "5s"}, "retries": 9}  # the second may hang, too
    plant.sidecar.write()
    plant.standin.knobs(hang_agents=True)
    plant.sidecar.start()
    plant.build()
    plant.sidecar.until(plant.ours, "its agent is coming")
    (first,) = plant.ours()
    plant.sidecar.until(lambda: plant.ours() and plant.ours() != [first], "another one is coming")
    plant.standin.knobs(hang_agents=False)
    plant.at_rest()
    assert plant.sidecar.metric("launches_total", reason="connect_timeout") >= 1


def test_a_second_agent_of_the_same_name_is_refused_and_disturbs_nothing(
    make_plant: Make,
    tmp_path: Path,
) -> None:
    plant = make_plant()
    plant.sidecar.start()
    name = running(plant, "sleep 4")
    twin = AgentProcess(plant.standin, name, tmp_path / "twin", "-noReconnect")
    try:
        assert twin.wait() != 0
    finally:
        twin.end()
    plant.at_rest()
