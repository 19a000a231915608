"""Texts of a job that try to be code: in its name, label, parameters and the image that it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from controller import freestyle_xml, pipeline_xml

from tests.jenkins.docker_plant import JAVA, DockerPlant
from tests.jenkins.plant import provisioner_lines

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

OVERRIDES: dict[str, Any] = {
    "image": {"parameter": "AGENT_IMAGE", "allow": ["jenkins-provisioner-test/*"]},
    "memory": {"parameter": "AGENT_MEMORY", "max": "1g"},
}


def attempts(canary: Path) -> list[str]:
    """Each would make the file if anything took it for Groovy, for words of a shell or for more of its JSON."""
    groovy = f"new File('{canary}').createNewFile()"
    return [
        f"x${{{groovy}}}",
        f"x'; {groovy}; '",
        f'x"; {groovy}; "',
        f"x'''\n{groovy}\n'''",
        f"x$(touch {canary}) `touch {canary}`; touch {canary} | touch {canary}",
        f'x"}}, {{"op": "remove", "name": "{canary}"}}',
        f"x\n[provisioner] not from us\r\n--volume /:/host\n{canary}",
        "x\u2028\u202e\x1b[31m{image}{0}%s%n\\u0022",
    ]


def job_of(plant: DockerPlant, kind: str) -> str:
    """A job with a name that is no name, which takes all that it asks for from its parameters.

    No `sh` in the Pipeline: that of Jenkins never ends in a workspace with a quote in its path, whatever the agent.
    """
    given = {"AGENT_IMAGE": "", "AGENT_MEMORY": "", "WHERE": plant.owner}
    xml = (
        freestyle_xml("echo ran", label=plant.owner, parameters=given)
        if kind == "freestyle"
        else pipeline_xml("node(params.WHERE) { echo 'ran' }", parameters=given)
    )
    return plant.add(f"{kind} '{{x}}' \"ü\" (1) ~`", xml)


@pytest.mark.parametrize("bridge", ["script", "off"])
def test_no_text_of_a_job_becomes_code(plant: DockerPlant, bridge: str) -> None:
    canary = Path(f"/tmp/{plant.owner}")  # short, as long wishes are cut in messages
    plant.start(bridge=bridge, overrides=OVERRIDES, labels=[plant.owner, "image={image}"], retries=0)
    evil = attempts(canary)
    for kind in ("freestyle", "pipeline"):
        job = job_of(plant, kind)
        for number, text in enumerate(evil, start=1):
            plant.jenkins.queue_build(job, {"AGENT_IMAGE": text})
            _refused(plant, job, number, text, bridge=bridge, kind=kind)
        # and one that is allowed, by the same job
        plant.jenkins.queue_build(job, {"AGENT_IMAGE": JAVA})
        last = len(evil) + 1 if bridge == "script" or kind == "pipeline" else 1
        assert plant.jenkins.wait_build(job, last)["result"] == "SUCCESS", plant.jenkins.console(job, last)
        plant.nothing_left()  # without the bridge another build may slip in on its agent
    for number, text in enumerate(evil, start=last + 1):
        wish = text.replace("\\", "").replace('"', "").replace("\n", " ").replace("\r", " ")  # a label has neither
        plant.jenkins.queue_build(job, {"WHERE": f'{plant.owner} && "image={wish}"'})
        _refused(plant, job, number, wish, bridge=bridge, kind="pipeline")
    plant.nothing_left()
    assert not canary.exists()
    assert plant.sidecar.metric("errors_total", reason="internal_error") == 0


def _refused(plant: DockerPlant, job: str, number: int, text: str, *, bridge: str, kind: str) -> None:
    """The build ends by its own fault, and what it asked for stands there as text."""
    if bridge == "off" and kind == "freestyle":
        plant.sidecar.until(lambda: not plant.jenkins.queue_items(), "the item is cancelled")
        return
    build = plant.jenkins.wait_build(job, number)
    expected = "ABORTED" if bridge == "off" else {"freestyle": "NOT_BUILT", "pipeline": "FAILURE"}[kind]
    assert build["result"] == expected, f"{job} {number}, {text!r}\n{plant.jenkins.console(job, number)}"
    told = plant.jenkins.console(job, number) if bridge == "script" else build["description"]
    said = provisioner_lines(told)
    assert any("asks for image" in line for line in said), told
    assert any(line.endswith("(override_refused)") for line in said), told
    assert "ran" not in told.splitlines()
    if bridge == "script":
        assert not any(line.startswith("[provisioner] not from us") for line in told.splitlines()), told
    if text.isprintable():
        assert text.replace("\\", "")[:60] in told.replace("\\", ""), told
