"""A controller that answers anything but what was asked, and processes that are stopped, while a build is under way."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leaks
import pytest

from tests.faults.test_kill_for_real import TOOLS, config
from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess, ask

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


class Plant:
    """A sidecar beside the stand-in, with one job."""

    def __init__(self, standin: StandinProcess, folder: Path, **more: Any) -> None:
        self.standin = standin
        self.owner = leaks.new_owner()
        self.sidecar = SidecarProcess(folder, {**config(standin, "process", self.owner), **more}, token=standin.token)
        self.jobs: list[str] = []

    def build(self, shell: str = "true") -> str:
        name = f"job-{len(self.jobs)}"
        self.jobs.append(name)
        xml = TOOLS.freestyle_xml(shell, label="linux")
        made = ask(self.standin, "POST", f"createItem?name={name}", body=xml, headers={"Content-Type": "text/xml"})
        assert made.status == 200
        assert ask(self.standin, "POST", f"job/{name}/build?delay=0sec").status == 201
        return name

    def result(self, name: str) -> str | None:
        reply = ask(self.standin, "GET", f"job/{name}/1/api/json")
        return None if reply.status != 200 or reply.json()["building"] else reply.json()["result"]

    def ours(self) -> list[str]:
        return [name for name in self.standin.state()["nodes"] if name.startswith("any-")]

    def at_rest(self) -> None:
        """Every build ran, once; nothing is left."""
        for name in self.jobs:
            self.sidecar.until(lambda n=name: self.result(n) == "SUCCESS", f"{name} ends well")  # type: ignore[misc]
        self.sidecar.until(lambda: not self.ours(), "no node is left")
        self.sidecar.until(lambda: self.sidecar.metric("agents") == 0, "no agent is left")
        ran = [record["build"] for record in self.standin.state()["history"]]
        assert sorted(ran) == sorted(f"job/{name}/1/" for name in self.jobs)
        assert not [line for line in leaks.marked("") if self.owner in line and "provisioner" not in line]


@pytest.fixture
def make_plant(standin: StandinProcess, tmp_path: Path) -> Any:
    made: list[Plant] = []

    def make(**more: Any) -> Plant:
        plant = Plant(standin, tmp_path, **more)
        made.append(plant)
        return plant

    yield make
    standin.knobs(reset=True)
    for plant in made:
        plant.sidecar.stop()


@pytest.mark.parametrize("bridge", ["auto", "off"])
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_a_controller_that_answers_wrongly_for_a_while_loses_no_build(
    make_plant: Callable[..., Plant], answer: str, bridge: str
) -> None:
    plant = make_plant()
    plant.sidecar.config["controllers"][0] |= {"bridge": bridge, "poll_interval": 0.2}
    plant.sidecar.write()
    plant.sidecar.start()
    plant.build("sleep 2")
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the first build runs")
    plant.standin.knobs(**BAD_ANSWERS[answer])
    plant.sidecar.until(lambda: plant.sidecar.get("/readyz")[0] == 503, "readiness tells")
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
