"""The main job on a real controller with a real engine: a queued build gets a fresh agent, runs, leaves nothing."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker.fake_registry import Registry
from tests.jenkins.docker_plant import WAITS, DockerPlant
from tests.leaks import OWNER_LABEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture
def registry() -> Iterator[str]:
    """The address of a registry that answers "manifest unknown" for all but one image."""
    made = Registry()
    yield made.host
    made.close()


class Watcher:
    """Counts the containers of one owner, all the time."""

    def __init__(self, client: docker.DockerClient, owner: str) -> None:
        self.most = 0
        self._client = client
        self._filter = {"label": f"{OWNER_LABEL}={owner}"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.most = max(self.most, len(self._client.api.containers(all=True, filters=self._filter)))
            time.sleep(0.05)

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.most


def wait_all(plant: DockerPlant, jobs: list[str], *, within_s: float = 240.0) -> dict[str, dict[str, Any]]:
    return {job: plant.jenkins.wait_build(job, within_s=within_s) for job in jobs}


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_twenty_builds_at_once_each_on_its_own_node_within_the_cap(plant: DockerPlant, bridge: str) -> None:
    plant.start(bridge=bridge, max_agents=4)
    # without the bridge a build that ends between two polls leaves its node to any other
    shell = "echo hello; " + (WAITS if bridge == "off" else "sleep 1")
    jobs = [plant.freestyle(f"f{n}", shell) for n in range(10)]
    jobs += [plant.node_step(f"p{n}", f"sh '{shell}'") for n in range(10)]
    watcher = Watcher(plant.engine, plant.owner)

    def over() -> bool:
        if bridge == "off":
            plant.let_go_of_barred()
        builds = [plant.jenkins.build(job, 1) for job in jobs]
        return all(b is not None and not b["building"] for b in builds)

    try:
        for job in jobs:
            plant.jenkins.queue_build(job)
        plant.sidecar.until(over, "all have ended", within_s=300)
        builds = wait_all(plant, jobs)
        plant.nothing_left()
    finally:
        most = watcher.end()
    assert {job: b["result"] for job, b in builds.items()} == dict.fromkeys(jobs, "SUCCESS")
    nodes = Counter(plant.node_of(job) for job in jobs)
    assert max(nodes.values()) == 1, f"a node took more than one build: {nodes}"
    assert 1 <= most <= 4
    if bridge != "off":
        for job in jobs:
            console = plant.jenkins.console(job)
            node = plant.node_of(job)
            assert f"[provisioner] Template one on provider box serves this build with the agent {node}" in console
            assert "[provisioner] Instance started" in console


def test_a_missing_image_ends_both_kinds_of_build_with_the_reason(plant: DockerPlant, registry: str) -> None:
    plant.start(image=f"{registry}/no/such:image")
    freestyle = plant.freestyle("f", "true", parameters={"COLOUR": "red"})
    pipeline = plant.node_step("p", "sh 'true'")
    queue_id = plant.jenkins.queue_build(freestyle, {"COLOUR": "blue"})
    plant.jenkins.queue_build(pipeline)
    builds = wait_all(plant, [freestyle, pipeline])
    assert builds[freestyle]["result"] == "NOT_BUILT"
    assert builds[pipeline]["result"] == "FAILURE"
    assert builds[freestyle]["queueId"] == queue_id
    parameters = [a["parameters"] for a in builds[freestyle]["actions"] if "parameters" in a]
    assert [(p["name"], p["value"]) for p in parameters[0]] == [("COLOUR", "blue")]
    for job in (freestyle, pipeline):
        assert "(image_not_found)" in plant.jenkins.console(job), plant.jenkins.console(job)
    plant.nothing_left()
    assert plant.sidecar.metric("launches_total", result="failed", reason="image_not_found") == 2
    assert plant.jenkins.queue_items() == []


def test_an_item_cancelled_before_the_launch_leaves_nothing(plant: DockerPlant) -> None:
    plant.start(max_agents=1)
    busy = plant.freestyle("busy", WAITS)
    waiting = plant.freestyle("waiting", "true")
    plant.jenkins.queue_build(busy)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the first build runs")
    item = plant.jenkins.queue_build(waiting)
    plant.sidecar.until(lambda: plant.sidecar.metric("requests", state="waiting") == 1, "the second one waits")
    assert plant.jenkins.cancel(item) == 204
    plant.let_go(plant.node_of(busy))
    wait_all(plant, [busy])
    plant.nothing_left()
    assert plant.jenkins.build(waiting, 1) is None


def test_an_item_cancelled_during_the_launch_leaves_nothing(plant: DockerPlant) -> None:
    plant.start()
    job = plant.freestyle("f", "true")
    item = plant.jenkins.queue_build(job)
    plant.sidecar.until(lambda: plant.ours()["nodes"], "the node is there")
    plant.jenkins.cancel(item)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 0, "the agent is gone")
    plant.nothing_left()


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_a_build_stopped_by_a_person_leaves_nothing(plant: DockerPlant, kind: str) -> None:
    plant.start()
    if kind == "freestyle":
        plant.stop_in_shell(job := plant.queued(plant.freestyle("f", "sleep 300")))
    else:
        job = plant.queued(plant.node_step("p", "sh 'sleep 300'"))
        plant.says(job, "\n+ sleep 300\n")  # Jenkins may lose a stop that comes while the step starts
        plant.jenkins.request("POST", f"job/{job}/1/stop")
    assert plant.jenkins.wait_build(job)["result"] == "ABORTED"
    plant.nothing_left()


def test_killed_at_random_moments_while_twelve_builds_run_all_end_well(plant: DockerPlant) -> None:
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    plant.start(max_agents=4)
    jobs = [plant.freestyle(f"f{n}", "sleep 2; echo done") for n in range(6)]
    jobs += [plant.node_step(f"p{n}", "sh 'sleep 2; echo done'") for n in range(6)]
    for job in jobs:
        plant.jenkins.queue_build(job)
    kills = 0

    def over() -> bool:
        builds = [plant.jenkins.build(job, 1) for job in jobs]
        return all(b is not None and not b["building"] for b in builds)

    while not over() and kills < 30:
        time.sleep(dice.uniform(0.1, 3.0))
        plant.sidecar.kill()
        plant.sidecar.start(ready=False)
        kills += 1
    builds = wait_all(plant, jobs)
    results = {job: b["result"] for job, b in builds.items()}
    assert results == dict.fromkeys(jobs, "SUCCESS"), f"seed {seed}, {kills} kills: {results}"
    plant.nothing_left()
    nodes = Counter(plant.node_of(job) for job in jobs)
    assert max(nodes.values()) == 1, f"seed {seed}: {nodes}"
    assert all(plant.jenkins.begun(job)["number"] == 1 for job in jobs)
    assert kills >= 3


def test_a_hundred_short_builds_take_a_hundred_agents(plant: DockerPlant) -> None:
    plant.start(max_agents=8)
    job = plant.freestyle("f", "sleep 1", parameters={"N": "0"})
    plant.jenkins.script(
        f"jenkins.model.Jenkins.get().getItemByFullName({job!r}).setConcurrentBuild(true); println 'ok'"
    )
    for number in range(100):
        plant.jenkins.queue_build(job, {"N": str(number)})
    builds = [plant.jenkins.wait_build(job, number, within_s=400) for number in range(1, 101)]
    assert {b["result"] for b in builds} == {"SUCCESS"}
    assert len({b["builtOn"] for b in builds}) == 100
    plant.nothing_left()


def test_a_clean_end_leaves_busy_agents_to_their_builds(plant: DockerPlant) -> None:
    plant.start()
    job = plant.freestyle("f", "sleep 8; echo survived")
    plant.jenkins.queue_build(job)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the build runs")
    assert plant.sidecar.stop() < 10
    assert len(plant.ours()["containers"]) == 1
    plant.sidecar.start()
    assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
    plant.nothing_left()


def test_a_restart_of_the_controller_keeps_the_running_pipeline_and_the_queue(plant: DockerPlant) -> None:
    plant.start(max_agents=1)
    running = plant.node_step(
        "p", "sh 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo tick; sleep 1; done; echo survived'"
    )
    queued = [plant.freestyle(f"f{n}", "echo hello") for n in range(2)]
    plant.jenkins.queue_build(running)
    plant.sidecar.until(lambda: "tick" in plant.jenkins.console(running), "the Pipeline runs")
    node = plant.node_of(running)
    for job in queued:
        plant.jenkins.queue_build(job)
    plant.jenkins.restart()
    builds = wait_all(plant, [running, *queued])
    assert {job: b["result"] for job, b in builds.items()} == dict.fromkeys([running, *queued], "SUCCESS")
    console = plant.jenkins.console(running)
    assert "survived" in console
    assert set(re.findall(r"one-[a-z0-9]+", console)) == {node}
    plant.nothing_left()


def test_an_unreachable_engine_is_told_and_recovers_without_a_restart(plant: DockerPlant, tmp_path: Path) -> None:
    socket_file = tmp_path / "engine.sock"
    config: Callable[[], dict[str, Any]] = lambda: plant.sidecar.config  # noqa: E731
    plant.start()
    plant.sidecar.stop()
    config()["providers"][0]["endpoint"] = f"unix://{socket_file}"
    plant.sidecar.write()
    plant.sidecar.start(ready=False)
    job = plant.freestyle("f", "echo hello")
    plant.jenkins.queue_build(job)
    plant.sidecar.until(lambda: plant.sidecar.metric("requests", state="waiting") == 1, "the request waits")
    plant.sidecar.until(lambda: "engine.sock" in plant.sidecar.ready()["providers"]["box"], "the problem is told")
    socket_file.symlink_to("/var/run/docker.sock")
    assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
    plant.nothing_left()
