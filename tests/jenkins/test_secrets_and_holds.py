"""Secrets, caches, workspaces of jobs and held agents, with containers and a real controller."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.jenkins.docker_plant import BUSYBOX, WAITS, DockerPlant
from tests.leaks import OWNER_LABEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

HUSH = f"hush-{uuid.uuid4().hex}"


def agents_of(plant: DockerPlant) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plant.sidecar.verb("list", "--json"))["agents"]
    return found


def built(plant: DockerPlant, job: str, number: int = 1) -> str:
    """The result."""
    plant.jenkins.queue_build(job)
    return str(plant.jenkins.wait_build(job, number)["result"])


def test_a_build_has_its_secrets_its_cache_and_the_workspace_of_its_job(plant: DockerPlant) -> None:
    secret = plant.folder / "settings"
    secret.write_text(HUSH)
    plant.start(
        run_as="1000:1000",
        secrets=[{"file": str(secret), "at": "/home/jenkins/.m2/settings.xml", "env": "SETTINGS"}],
        volumes=[{"cache": "repo", "at": "/home/jenkins/.m2/repository"}, {"workspace": "per-job"}],
    )
    shell = (
        'test "$(wc -c < /home/jenkins/.m2/settings.xml)" = 37 && test "$SETTINGS" = /home/jenkins/.m2/settings.xml\n'
        "touch /home/jenkins/.m2/own /home/jenkins/.m2/repository/$BUILD_NUMBER before-$BUILD_NUMBER\n"
        "ls /home/jenkins/.m2/repository before-*"
    )
    freestyle = plant.freestyle("freestyle", f"{shell}\n[ $BUILD_NUMBER != 1 ] || {WAITS}")
    pipeline = plant.node_step("pipeline", f"sh '''{shell}'''")
    plant.jenkins.queue_build(freestyle)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "it runs")
    (container,) = plant.engine.containers.list(filters={"label": f"{OWNER_LABEL}={plant.owner}"})
    assert HUSH not in json.dumps([container.attrs, container.top()])
    plant.let_go(str(container.name))
    assert plant.jenkins.wait_build(freestyle, 1)["result"] == "SUCCESS", plant.jenkins.console(freestyle)
    plant.nothing_left()  # a workspace that an agent still has is not given to another one
    assert built(plant, freestyle, 2) == "SUCCESS"
    assert "\nbefore-1\nbefore-2\n" in plant.jenkins.console(freestyle, 2)
    assert built(plant, pipeline) == "SUCCESS", plant.jenkins.console(pipeline)
    plant.nothing_left()
    assert built(plant, pipeline, 2) == "SUCCESS"
    told = plant.jenkins.console(pipeline, 2)
    assert "\nbefore-1\nbefore-2\n" in told
    plant.nothing_left()
    everything = told + plant.jenkins.console(freestyle, 2) + plant.sidecar.log(10_000)
    assert HUSH not in everything
    for file in (plant.folder / "state").iterdir():
        assert HUSH.encode() not in file.read_bytes()


def test_the_console_of_a_build_that_cannot_start_tells_every_attempt(plant: DockerPlant) -> None:
    plant.start(image=BUSYBOX, retries=1)
    job = plant.freestyle("no-java", "true")
    assert built(plant, job) == "NOT_BUILT"
    told = [line for line in plant.jenkins.console(job).splitlines() if line.startswith("[provisioner] ")]
    assert sum("Launch failed: the instance ended with exit code 127" in line for line in told) == 2, told
    assert "[provisioner] Trying again with a new agent" in told
    assert "(attempt 2)" in told[told.index("[provisioner] Trying again with a new agent") + 1]
    plant.nothing_left()


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_an_agent_whose_build_failed_is_held_until_it_is_released(plant: DockerPlant, bridge: str) -> None:
    plant.start(bridge=bridge, hold_on_failure=1)
    fine = plant.freestyle("fine", "true")
    freestyle = plant.freestyle("freestyle", "false")
    pipeline = plant.node_step("pipeline", "sh 'false'")
    assert built(plant, fine) == "SUCCESS"
    plant.sidecar.until(lambda: not agents_of(plant), "the agent of a build that went well goes")
    for job in (freestyle, pipeline):
        assert built(plant, job) == "FAILURE"
        (held,) = plant.sidecar.until(
            lambda: [a for a in agents_of(plant) if a["held_until"]], f"{job} keeps its agent"
        )
        assert held["hold_reason"] == "its build failed"
        inside = plant.engine.containers.get(held["name"]).exec_run(["ls", f"/home/jenkins/agent/workspace/{job}"])
        assert inside.exit_code == 0, inside.output
        assert f"provisioner release {held['name']}" in plant.sidecar.verb("logs", held["name"])
        plant.sidecar.verb("release", held["name"])
        plant.nothing_left()
