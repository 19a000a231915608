"""What a build may ask for, what it waits for, and agents on standby, on a real controller with a real engine."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.jenkins.docker_plant import JAVA, WAITS, DockerPlant
from tests.jenkins.plant import provisioner_lines

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

OVERRIDES: dict[str, Any] = {
    "image": {"parameter": "AGENT_IMAGE", "allow": ["jenkins-provisioner-test/*"]},
    "memory": {"parameter": "AGENT_MEMORY", "max": "1g"},
}


def idle(plant: DockerPlant) -> str:
    """The agent that waits, connected."""
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="idle") == 1, "an agent waits")
    (name,) = plant.ours()["nodes"]
    return name


def test_an_agent_on_standby_is_given_to_a_build_and_goes_with_the_sidecar(plant: DockerPlant) -> None:
    plant.start(standby=1)
    first = idle(plant)
    job = plant.freestyle("f", "echo hello")
    plant.jenkins.queue_build(job)
    build = plant.jenkins.wait_build(job)
    assert (build["result"], build["builtOn"]) == ("SUCCESS", first)
    said = provisioner_lines(plant.jenkins.console(job))
    assert any("ahead of any build" in line for line in said), said
    assert any(f"The agent {first} was connected and waited for" in line for line in said), said
    plant.sidecar.until(lambda: first not in plant.jenkins.nodes(), "it is gone")
    second = idle(plant)
    assert second != first
    pipeline = plant.node_step("p", "sh 'echo hello'")
    plant.jenkins.queue_build(pipeline)
    assert plant.jenkins.wait_build(pipeline)["result"] == "SUCCESS"
    assert plant.node_of(pipeline) == second
    # wholly: what a stop finds half removed is left to the next start
    plant.sidecar.until(
        lambda: plant.sidecar.metric("agents") == plant.sidecar.metric("agents", state="idle") == 1,
        "it is gone, and the next one waits",
    )
    plant.sidecar.stop()
    plant.nothing_left()


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_a_build_gets_what_its_parameters_ask_for_within_what_is_allowed(plant: DockerPlant, bridge: str) -> None:
    plant.start(bridge=bridge, overrides=OVERRIDES)
    wishes = {"AGENT_IMAGE": "", "AGENT_MEMORY": ""}
    job = plant.freestyle("f", "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
                          parameters=wishes)  # fmt: skip
    plant.jenkins.queue_build(job, {"AGENT_IMAGE": JAVA, "AGENT_MEMORY": "700m"})
    assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
    assert re.search(rf"^{700 << 20}$", plant.jenkins.console(job), re.MULTILINE)
    plant.nothing_left()  # without the bridge a build that comes between two polls could be given the same agent
    plant.jenkins.queue_build(job, {"AGENT_IMAGE": "jenkins-provisioner-test:5000/evil"})
    if bridge == "off":
        plant.sidecar.until(lambda: plant.sidecar.said("override_refused"), "the refusal is told")
        assert not plant.jenkins.queue_items()
    else:
        assert plant.jenkins.wait_build(job, 2)["result"] == "NOT_BUILT"
        said = provisioner_lines(plant.jenkins.console(job, 2))
        assert any(
            "parameter AGENT_IMAGE asks for image 'jenkins-provisioner-test:5000/evil', which template one does not "
            "allow; allowed: jenkins-provisioner-test/* (override_refused)" in line
            for line in said
        ), said
    plant.nothing_left()


def test_a_label_with_a_place_holder_names_the_image_and_a_refused_one_fails_the_node_step(plant: DockerPlant) -> None:
    plant.start(overrides=OVERRIDES, labels=[plant.owner, "image={image}"])
    body = 'node(\'{label} && "image={image}"\') {{ sh "echo hello" }}'
    for name, image, result in (("good", JAVA, "SUCCESS"), ("bad", "evil:1", "FAILURE")):
        job = plant.queued(plant.pipeline(name, body.format(label=plant.owner, image=image)))
        assert plant.jenkins.wait_build(job)["result"] == result, plant.jenkins.console(job)
        if result == "FAILURE":
            assert "its label asks for image 'evil:1'" in plant.jenkins.console(job)
    plant.nothing_left()


def test_a_node_step_that_waits_says_in_its_log_what_for(plant: DockerPlant) -> None:
    plant.start(max_agents=1)
    first = plant.freestyle("f", WAITS)
    plant.jenkins.queue_build(first)
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "it runs")
    second = plant.node_step("p", "sh 'true'")
    plant.jenkins.queue_build(second)
    waits = "[provisioner] It has waited for "
    plant.sidecar.until(lambda: waits in plant.jenkins.console(second), "the wait is told")
    assert "provider box is full (1 of 1 agents)" in plant.jenkins.console(second)
    plant.let_go(plant.node_of(first))
    assert plant.jenkins.wait_build(second)["result"] == "SUCCESS"
    assert plant.jenkins.console(second).count(waits) == 1
    plant.nothing_left()


@pytest.mark.parametrize("bridge", ["auto", "off"])
def test_a_label_that_is_mended_while_its_build_waits_is_served(plant: DockerPlant, bridge: str) -> None:
    plant.start(bridge=bridge)
    job = plant.freestyle("f", "echo hello", label=f"{plant.owner}-misspelt")
    item = plant.jenkins.queue_build(job)

    def explained() -> bool:
        try:
            return "misspelt" in plant.sidecar.verb("explain", str(item))
        except AssertionError:  # not seen yet
            return False

    plant.sidecar.until(explained, "it is seen, and no template serves it")
    assert not plant.ours()["nodes"]
    plant.jenkins.script(
        f"def job = jenkins.model.Jenkins.get().getItemByFullName('{job}')\n"
        f"job.assignedLabel = hudson.model.Label.get('{plant.owner}')"
    )
    assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
    plant.nothing_left()
