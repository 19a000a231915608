"""Secrets, caches, workspaces of jobs and held agents, with containers and a real controller."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.sidecar_process import SidecarProcess

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

IMAGE = "jenkins-provisioner-test/agent:latest"
HUSH = f"hush-{uuid.uuid4().hex}"


class Plant:
    """One controller, one engine, one sidecar."""

    def __init__(self, jenkins: Any, tools: Any, folder: Path) -> None:
        self.jenkins = jenkins
        self.tools = tools
        self.folder = folder
        self.owner = f"t{random.randrange(16**6):06x}"
        self.engine = docker.from_env(timeout=60)
        self.jobs: list[str] = []

    def start(self, bridge: str = "auto", **template: Any) -> None:
        main = {"name": "main", "url": self.jenkins.url, "user": self.jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
        one = {"name": "one", "labels": [self.owner], "providers": ["box"], "image": IMAGE, "pull": "never"}
        config = {
            "id": self.owner,
            "controllers": [{**main, "bridge": bridge}],
            "providers": [{"name": "box", "backend": "docker", "network": "host", "max_agents": 2}],
            "templates": [one | template],
        }
        self.sidecar = SidecarProcess(self.folder, config, token=self.jenkins.token)
        self.sidecar.start()

    def job(self, name: str, xml: str) -> str:
        job = f"{self.owner}-{name}"
        self.jenkins.create_job(job, xml)
        self.jobs.append(job)
        return job

    def built(self, job: str, number: int = 1) -> dict[str, Any]:
        self.jenkins.queue_build(job)
        build: dict[str, Any] = self.jenkins.wait_build(job, number)
        return build

    def verb(self, *words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "provisioner", *words, "-c", str(self.sidecar.config_file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def agents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.verb("list", "--json"))["agents"]
        return found

    def until(self, true: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
        deadline = time.monotonic() + within_s
        while not (found := true()):
            assert time.monotonic() < deadline, f"never: {what}\n{self.sidecar.log()}"
            time.sleep(0.2)
        return found

    def ours(self) -> list[str]:
        mark = {"label": f"jenkins-provisioner.owner={self.owner}"}
        containers = [c["Names"][0] for c in self.engine.api.containers(all=True, filters=mark)]
        return containers + [v["Name"] for v in self.engine.api.volumes(filters=mark)["Volumes"] or []]

    def close(self) -> None:
        for agent in self.agents():
            self.verb("delete", agent["name"], "--now")
        self.until(lambda: not self.ours(), "nothing with our mark is left")
        self.sidecar.stop()
        for job in self.jobs:
            self.jenkins.delete_job(job)
        for volume in self.engine.volumes.list(filters={"label": "jenkins-provisioner.cache"}):
            if f"-{self.owner}-" in volume.name:
                volume.remove()
        self.engine.close()


@pytest.fixture
def plant(real_jenkins: Any, jenkins_tools: Any, tmp_path: Path) -> Iterator[Plant]:
    try:
        made = Plant(real_jenkins, jenkins_tools, tmp_path)
        made.engine.images.get(IMAGE)
    except docker.errors.ImageNotFound as error:
        pytest.skip(f"{error.explanation}; run jenkins-test/images.sh")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine here: {error}")
    yield made
    made.close()


def test_a_build_has_its_secrets_its_cache_and_the_workspace_of_its_job(plant: Plant) -> None:
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
        "ls /home/jenkins/.m2/repository before-*; sleep 2"
    )
    freestyle = plant.job("freestyle", plant.tools.freestyle_xml(shell, label=plant.owner))
    pipeline = plant.job("pipeline", plant.tools.pipeline_xml(f"node('{plant.owner}') {{ sh '''{shell}''' }}"))
    plant.jenkins.queue_build(freestyle)
    plant.until(lambda: [a for a in plant.agents() if a["state"] == "running"], "it runs")
    (container,) = plant.engine.containers.list(filters={"label": f"jenkins-provisioner.owner={plant.owner}"})
    assert HUSH not in json.dumps([container.attrs, container.top()])
    assert plant.jenkins.wait_build(freestyle, 1)["result"] == "SUCCESS", plant.jenkins.console(freestyle)
    gone = lambda: not plant.ours()  # noqa: E731  (a workspace that an agent still has is not given to another one)
    plant.until(gone, "the first agent is gone")
    assert plant.built(freestyle, 2)["result"] == "SUCCESS"
    assert "\nbefore-1\nbefore-2\n" in plant.jenkins.console(freestyle, 2)
    assert plant.built(pipeline)["result"] == "SUCCESS", plant.jenkins.console(pipeline)
    plant.until(gone, "the first agent is gone")
    assert plant.built(pipeline, 2)["result"] == "SUCCESS"
    told = plant.jenkins.console(pipeline, 2)
    assert "\nbefore-1\nbefore-2\n" in told
    plant.until(lambda: not plant.ours(), "nothing with our mark is left")
    everything = told + plant.jenkins.console(freestyle, 2) + plant.sidecar.log(10_000)
    assert HUSH not in everything
    for file in (plant.folder / "state").iterdir():
        assert HUSH.encode() not in file.read_bytes()


def test_the_console_of_a_build_that_cannot_start_tells_every_attempt(plant: Plant) -> None:
    plant.start(image="jenkins-provisioner-test/busybox:latest", retries=1)
    job = plant.job("no-java", plant.tools.freestyle_xml("true", label=plant.owner))
    assert plant.built(job)["result"] == "NOT_BUILT"
    told = [line for line in plant.jenkins.console(job).splitlines() if line.startswith("[provisioner] ")]
    assert sum("Launch failed: the instance ended with exit code 127" in line for line in told) == 2, told
    assert "[provisioner] Trying again with a new agent" in told
    assert "(attempt 2)" in told[told.index("[provisioner] Trying again with a new agent") + 1]


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_an_agent_whose_build_failed_is_held_until_it_is_released(plant: Plant, bridge: str) -> None:
    plant.start(bridge, hold_on_failure=1)
    fine = plant.job("fine", plant.tools.freestyle_xml("true", label=plant.owner))
    freestyle = plant.job("freestyle", plant.tools.freestyle_xml("false", label=plant.owner))
    pipeline = plant.job("pipeline", plant.tools.pipeline_xml(f"node('{plant.owner}') {{ sh 'false' }}"))
    assert plant.built(fine)["result"] == "SUCCESS"
    plant.until(lambda: not plant.agents(), "the agent of a build that went well goes")
    for job in (freestyle, pipeline):
        assert plant.built(job)["result"] == "FAILURE"
        (held,) = plant.until(lambda: [a for a in plant.agents() if a["held_until"]], f"{job} keeps its agent")
        assert held["hold_reason"] == "its build failed"
        inside = plant.engine.containers.get(held["name"]).exec_run(["ls", f"/home/jenkins/agent/workspace/{job}"])
        assert inside.exit_code == 0, inside.output
        assert f"provisioner release {held['name']}" in plant.verb("logs", held["name"])
        plant.verb("release", held["name"])
        plant.until(lambda: not plant.ours(), "a released agent goes")
