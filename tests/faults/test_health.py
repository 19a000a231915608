"""What `/healthz` and `/readyz` say during each outage is true, and true again after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.model.errors import ControllerError
from provisioner.web.health import health, readiness
from tests.faults.estate import Estate

#: Within so many seconds whatever is wrong is told, with a queue that is empty: no launch finds out.
TOLD_WITHIN_S = 70.0

Act = Callable[[Estate], None]


def controller_gone(estate: Estate) -> None:
    estate.jenkins.outage(ControllerError("the connection was refused", retryable=True))


def engines_down(estate: Estate) -> None:
    for engine in estate.engines.values():
        engine.outage()


def engines_hang(estate: Estate) -> None:
    for engine in estate.engines.values():
        engine.hanging = True


def back(estate: Estate) -> None:
    estate.jenkins.recover()
    for engine in estate.engines.values():
        engine.recover()


OUTAGES: dict[str, tuple[Act, str, str]] = {
    "controller": (controller_gone, "controllers", "the connection was refused"),
    "engine down": (engines_down, "providers", "the engine does not answer"),
    "engine hangs": (engines_hang, "providers", "the engine gave no answer"),
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with builds"])
def test_readiness_tells_what_does_not_answer_and_health_that_the_loops_are_alive(
    tmp_path: Path, outage: str, busy: bool
) -> None:
    act, part, said = OUTAGES[outage]
    with Estate(tmp_path) as estate:
        estate.start()
        if busy:
            estate.jenkins.queue(build_s=200)
        estate.pass_s(10)
        assert readiness(estate.engine).ok
        act(estate)
        estate.until(lambda: not readiness(estate.engine).ok, "readiness tells", TOLD_WITHIN_S)
        assert said in str(readiness(estate.engine).detail[part])
        for _ in range(30):
            estate.pass_s(20)
            assert health(estate.engine).ok
            assert not readiness(estate.engine).ok
        back(estate)
        estate.until(lambda: readiness(estate.engine).ok, "readiness is back", 120)
        if busy:
            estate.finish()
            assert estate.outcomes() == {0: "ran"}


def test_one_engine_of_two_is_named_and_the_other_one_goes_on_serving(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(5)
        estate.box.hanging = True
        estate.pass_s(TOLD_WITHIN_S)
        found = readiness(estate.engine)
        assert found.ok
        assert found.detail["providers"] == {"box": "the engine gave no answer", "den": "ok"}
        estate.jenkins.queue()
        estate.finish(within_s=60)
        assert estate.outcomes() == {0: "ran"}


def test_a_loop_that_hangs_is_told_by_health(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.start()
        estate.pass_s(5)
        assert health(estate.engine).ok
        next(task for task in asyncio.all_tasks(estate.loop) if task.get_name() == "planner").cancel()
        estate.pass_s(200)
        assert not health(estate.engine).ok
        assert health(estate.engine).detail["stale"] == ["planner"]
