"""An agent that dies under its build: the console says why, and the build ends within seconds."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.jenkins.docker_plant import DockerPlant
from tests.jenkins.plant import provisioner_lines

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

#: The kernel's first choice is the agent, as it is where the agent has grown most.
EATS_ALL = (
    "for p in /proc/[0-9]*; do if grep -q java $p/comm; then echo 1000 > $p/oom_score_adj; fi; done; "
    "echo up; sleep 1; tail /dev/zero; sleep 300"
)


def start_build(plant: DockerPlant, kind: str, shell: str) -> str:
    job = plant.freestyle("f", shell) if kind == "freestyle" else plant.node_step("p", f"sh '{shell}'")
    plant.jenkins.queue_build(job)
    plant.sidecar.until(lambda: "\nup\n" in plant.jenkins.console(job), "the build runs")
    return job


def ends_with_the_reason(plant: DockerPlant, job: str, began: float, *, says: tuple[str, ...], slug: str) -> None:
    build: dict[str, Any] = plant.jenkins.wait_build(job, within_s=60)
    took_s = time.monotonic() - began
    assert build["result"] in {"FAILURE", "ABORTED"}
    plant.nothing_left()
    console = plant.jenkins.console(job)
    said = provisioner_lines(console)
    (reason,) = [line for line in said if line.startswith("The agent was lost: ")]
    assert any(words in reason for words in says), console
    assert reason.endswith(f"({slug})"), console
    assert any(line.startswith("What to do: ") for line in said), console
    assert took_s < 60, (
        f"{took_s:.1f} s\n{console}"
    )  # seconds where there is nothing else to do; Jenkins alone: minutes


@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_a_killed_container(plant: DockerPlant, kind: str) -> None:
    plant.start()
    job = start_build(plant, kind, "echo up; sleep 300")
    began = time.monotonic()
    plant.engine.containers.get(plant.node_of(job)).kill()
    ends_with_the_reason(plant, job, began, says=("exit code 137",), slug="agent_lost")


@pytest.mark.slow  # whom the kernel kills, and how fast, depends on the load of the machine
@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_a_container_out_of_memory(plant: DockerPlant, kind: str) -> None:
    plant.start(resources={"memory": "300m"})
    job = start_build(plant, kind, EATS_ALL)
    began = time.monotonic()
    ends_with_the_reason(plant, job, began, says=("out of memory",), slug="out_of_memory")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["freestyle", "pipeline"])
def test_a_container_that_somebody_removed(plant: DockerPlant, kind: str) -> None:
    plant.start()
    job = start_build(plant, kind, "echo up; sleep 300")
    began = time.monotonic()
    # an engine ends a container before it removes it, and may be asked in between
    plant.engine.api.remove_container(plant.node_of(job), force=True, v=True)
    ends_with_the_reason(plant, job, began, says=("was removed by somebody else", "exit code 137"), slug="agent_lost")


@pytest.mark.slow
def test_a_lost_connection_gives_a_pipeline_the_chance_to_go_on(plant: DockerPlant) -> None:
    plant.start()
    job = start_build(plant, "pipeline", "echo up; for i in 1 2 3 4 5 6 7 8; do sleep 1; done; echo survived")
    node = plant.node_of(job)
    plant.jenkins.script(f"jenkins.model.Jenkins.get().getComputer('{node}').channel.close()")
    build = plant.jenkins.wait_build(job, within_s=120)
    console = plant.jenkins.console(job)
    assert build["result"] == "SUCCESS", console
    assert "survived" in console
    assert not [line for line in provisioner_lines(console) if "was lost" in line]
    plant.nothing_left()
