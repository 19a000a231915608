"""Two provisioners with one owner id: the second does nothing until the first is gone, and then takes over from it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from controller import freestyle_xml

from tests import leaks
from tests.builds import build, create_job, result
from tests.faults.killing import config
from tests.sidecar_process import SidecarProcess
from tests.standin_process import StandinProcess

pytestmark = [pytest.mark.standin, pytest.mark.timeout(300)]


class Twins:
    """Two of one id, each with a state file of its own, at one controller and one place for instances."""

    def __init__(self, standin: StandinProcess, folder: Path, bridge: str) -> None:
        self.standin = standin
        self.owner = leaks.new_owner()
        self.jobs = 0
        self.first, self.second = (self._sidecar(folder / name, folder, bridge) for name in ("first", "second"))

    def _sidecar(self, folder: Path, place: Path, bridge: str) -> SidecarProcess:
        folder.mkdir()
        told: dict[str, Any] = config(self.standin, "process", self.owner)
        told["controllers"][0] |= {"bridge": bridge, "poll_interval": 0.2}
        told["providers"][0]["work_dir"] = str(place / "agents")
        return SidecarProcess(folder, told, token=self.standin.token)

    def build(self, shell: str) -> str:
        name = f"job-{self.jobs}"
        self.jobs += 1
        create_job(self.standin, name, freestyle_xml(shell, label="linux"))
        build(self.standin, name)
        return name

    def result(self, name: str) -> str | None:
        return result(self.standin, name)

    def ours(self) -> list[str]:
        return [name for name in self.standin.state()["nodes"] if name.startswith("any-")]

    def refused(self, sidecar: SidecarProcess) -> bool:
        return sidecar.get("/readyz")[0] == 503 and "another provisioner" in sidecar.ready()["controllers"]["main"]


@pytest.fixture(params=["auto", "off"])
def twins(request: pytest.FixtureRequest, standin: StandinProcess, tmp_path: Path) -> Iterator[Twins]:
    made = Twins(standin, tmp_path, request.param)
    yield made
    standin.knobs(reset=True)
    made.first.stop()
    made.second.stop()


def test_the_second_refuses_to_work_and_says_why(twins: Twins) -> None:
    twins.first.start()
    running = twins.build("sleep 3")
    twins.first.until(lambda: twins.first.metric("agents", state="running") == 1, "the first build runs")
    twins.second.start(ready=False)
    # with the bridge it is told so; without it another's new nodes tell it
    twins.second.until(lambda: twins.second.ready()["controllers"]["main"] != "not reached yet", "it has looked")
    more: list[str] = []
    while not twins.refused(twins.second):
        assert len(more) < 4, twins.second.log()
        more.append(twins.build("true"))
        twins.first.until(lambda: twins.result(more[-1]), f"{more[-1]} ended")
    assert twins.second.get("/healthz")[0] == 200
    more.append(twins.build("true"))
    for name in (running, *more):
        twins.first.until(partial(twins.result, name), f"{name} ended")
        assert twins.result(name) == "SUCCESS"
    twins.first.until(lambda: not twins.ours(), "no node is left")
    history = twins.standin.state()["history"]
    assert sorted(record["build"] for record in history) == sorted(f"job/{n}/1/" for n in (running, *more))
    assert twins.first.get("/readyz")[0] == 200
    assert twins.refused(twins.second)
    assert not leaks.left_of(twins.owner)


@pytest.mark.parametrize("twins", ["auto"], indirect=True)
@pytest.mark.parametrize("build_s", [0, pytest.param(50, marks=pytest.mark.slow)])  # two looks are 30 s apart
def test_the_second_takes_over_when_the_first_is_gone(twins: Twins, build_s: int) -> None:
    twins.standin.knobs(holder_gone_s=4.0)
    twins.first.start()
    jobs = [twins.build(f"sleep {build_s}")] if build_s else []
    if build_s:
        twins.first.until(lambda: twins.first.metric("agents", state="running") == 1, "the first build runs")
    twins.first.kill()
    twins.second.start()
    if build_s:
        twins.second.until(lambda: twins.second.metric("agents", state="running") == 1, "its agent is adopted")
    jobs.append(twins.build("true"))
    for name in jobs:
        twins.second.until(partial(twins.result, name), f"{name} ended")
        assert twins.result(name) == "SUCCESS"
    twins.second.until(lambda: not twins.ours(), "no node is left")
    twins.second.until(lambda: twins.second.metric("agents") == 0, "no agent is left")
    assert not leaks.left_of(twins.owner)


@pytest.mark.parametrize("twins", ["auto"], indirect=True)
def test_one_that_was_restarted_is_no_second_one(twins: Twins) -> None:
    twins.first.start()
    twins.first.kill()
    twins.first.start()
    for path in twins.first.folder.glob("state/state.db*"):
        if path.suffix != ".lock":
            path.unlink()
    twins.first.kill()
    twins.first.start()
    assert "another provisioner" not in twins.first.log(10_000)
