"""A controller that answers anything but what was asked, and processes that are stopped, while a build is under way."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.plant import Plant

pytestmark = [pytest.mark.standin, pytest.mark.timeout(300)]

#: Everything but the agents' own way and the stand-in's. The last one is late, and right for all that.
BAD_ANSWERS: dict[str, dict[str, Any]] = {
    "503": {"error_rate": 1.0, "error_status": 503},
    "500": {"error_rate": 1.0, "error_status": 500},
    "a redirect to the login": {"login_redirect": True},
    "half of an answer": {"truncate_rate": 1.0},
    "a page of HTML": {"html_for_json": True},
    "no answer at all": {"drop_rate": 1.0},
    "no answer although it was done": {"drop_rate": 1.0, "drop_after": True},
    "forbidden": {"forbid": True},
}
LATE = {"latency_ms": 31_000.0}


@pytest.mark.parametrize("bridge", ["auto", "off"])
@pytest.mark.parametrize("answer", [*BAD_ANSWERS, pytest.param("after 30 s", marks=pytest.mark.slow)])
def test_a_controller_that_answers_wrongly_for_a_while_loses_no_build(
    make_plant: Callable[..., Plant], answer: str, bridge: str
) -> None:
    plant = make_plant()
    plant.sidecar.config["controllers"][0] |= {"bridge": bridge, "poll_interval": 0.2}
    plant.sidecar.write()
    plant.sidecar.start()
    plant.build("sleep 2")
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the first build runs")
    plant.standin.knobs(**BAD_ANSWERS.get(answer, LATE))
    # a long poll that is late may still be answered; what follows on it is not
    plant.sidecar.until(lambda: plant.sidecar.get("/readyz")[0] == 503, "readiness tells", within_s=150)
    assert plant.sidecar.get("/healthz")[0] == 200
    assert plant.sidecar.ready()["controllers"]["main"] not in ("ok", "")
    assert plant.sidecar.metric("controller_up", controller="main") == 0
    plant.standin.knobs(reset=True)
    plant.build()
    plant.at_rest()
    assert plant.sidecar.get("/readyz")[0] == 200
    assert "Traceback" not in plant.sidecar.log(10_000)


def test_a_sidecar_that_was_stopped_for_a_while_goes_on(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    plant.sidecar.start()
    plant.build("sleep 1")
    plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 1, "an agent is coming")
    os.kill(plant.sidecar.pid, signal.SIGSTOP)
    try:
        plant.build()
        time.sleep(4)
    finally:
        os.kill(plant.sidecar.pid, signal.SIGCONT)
    plant.at_rest()


def test_without_free_descriptors_it_waits_and_goes_on(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    plant.sidecar.start()
    plant.build()
    plant.at_rest()
    pid = plant.sidecar.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    have = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(have, 9), before[1]))
    plant.build()
    time.sleep(4)
    assert Path(f"/proc/{pid}").exists(), plant.sidecar.log()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    plant.at_rest()
    assert plant.sidecar.get("/healthz")[0] == 200
