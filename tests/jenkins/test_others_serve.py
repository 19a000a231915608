"""A static node and a cloud that serve the same label as a template: who takes the build, and what of ours goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from tests.jenkins.bridge_rig import Agents
from tests.jenkins.docker_plant import JAVA, DockerPlant

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(400)]

CLOUD = """
import com.nirima.jenkins.plugins.docker.*
import io.jenkins.docker.client.DockerAPI
import io.jenkins.docker.connector.DockerComputerAttachConnector
import org.jenkinsci.plugins.docker.commons.credentials.DockerServerEndpoint
def base = new DockerTemplateBase('%(image)s')
base.setNetwork('host')
def template = new DockerTemplate(base, new DockerComputerAttachConnector('root'), '%(label)s', '/home/jenkins', '4')
template.setMode(hudson.model.Node.Mode.EXCLUSIVE)
template.setPullStrategy(DockerImagePullStrategy.PULL_NEVER)
template.setName('%(name)s')
def api = new DockerAPI(new DockerServerEndpoint('unix:///var/run/docker.sock', null))
jenkins.model.Jenkins.get().clouds.add(new DockerCloud('%(name)s', api, [template]))
println 'CLOUD IS IN'
"""


@pytest.fixture
def cloud(plant: DockerPlant, engine: docker.DockerClient) -> Iterator[Callable[[], str]]:
    """Puts docker-plugin's cloud in, for the plant's label; its name."""
    before = {c["Id"] for c in engine.api.containers(all=True)}
    name = f"cloud-{plant.owner}"

    def add() -> str:
        said = plant.jenkins.script(CLOUD % {"image": JAVA, "label": plant.owner, "name": name})
        assert "CLOUD IS IN" in said, said
        return name

    yield add
    plant.jenkins.script(f"def j = jenkins.model.Jenkins.get()\nj.clouds.removeAll {{ it.name == '{name}' }}")
    for node in plant.jenkins.nodes():
        if node.startswith(name):
            plant.jenkins.request("POST", f"computer/{node}/doDelete")
    for container in engine.api.containers(all=True):
        labels = container["Labels"] or {}
        of_cloud = any("nirima" in key or "DockerContainer" in key for key in labels)
        if container["Id"] not in before and of_cloud:
            engine.api.remove_container(container["Id"], force=True, v=True)


@pytest.fixture
def static(plant: DockerPlant, agents: Agents) -> Iterator[Callable[..., str]]:
    """Adds a static node with the plant's label, online or not; its name."""
    names: list[str] = []

    def add(*, online: bool) -> str:
        name = f"static-{plant.owner}"
        said = plant.jenkins.script(
            "import hudson.slaves.*\n"
            f"def node = new DumbSlave('{name}', '{agents.home(name)}', new JNLPLauncher(true))\n"
            f"node.labelString = '{plant.owner}'\n"
            "node.mode = hudson.model.Node.Mode.EXCLUSIVE\n"
            "node.launcher.webSocket = true\n"
            "def j = jenkins.model.Jenkins.get()\n"
            "j.addNode(node)\n"
            f"println 'SECRET ' + j.getComputer('{name}').jnlpMac"
        )
        names.append(name)
        if online:
            agents.start(name, said.split("SECRET ")[1].split()[0])
            deadline = time.monotonic() + 40
            while plant.jenkins.get_json(f"computer/{name}/api/json?tree=offline")["offline"]:
                assert time.monotonic() < deadline, "the static node does not connect"
                time.sleep(0.1)
        return name

    yield add
    for name in names:
        plant.jenkins.request("POST", f"computer/{name}/doDelete")


def built_on(plant: DockerPlant, job: str, number: int = 1) -> str:
    build: dict[str, Any] = plant.jenkins.wait_build(job, number, within_s=240)
    assert build["result"] == "SUCCESS", plant.jenkins.console(job, number)
    return str(build["builtOn"])


def test_with_a_head_start_the_static_node_takes_the_build_and_none_of_ours_is_made(
    plant: DockerPlant,
    static: Callable[..., str],
) -> None:
    plant.start(head_start="30s")
    name = static(online=True)
    job = plant.freestyle("f", "true")
    plant.jenkins.queue_build(job)
    assert built_on(plant, job) == name
    # busy, it still has the head start; then one of ours comes
    long = plant.freestyle("long", "sleep 130")
    plant.jenkins.queue_build(long)
    plant.sidecar.until(lambda: (plant.jenkins.build(long) or {}).get("building"), "the static node is busy")
    began = time.monotonic()
    plant.jenkins.queue_build(job)
    assert built_on(plant, job, 2).startswith("one-")
    assert 28 < time.monotonic() - began < 120
    assert "agent.planned" in plant.sidecar.log_file.read_text()
    assert plant.sidecar.log_file.read_text().count('"agent.planned"') == 1
    assert built_on(plant, long) == name
    plant.nothing_left()


def test_with_a_head_start_a_cloud_takes_the_build_and_without_one_whoever_is_first(
    plant: DockerPlant,
    cloud: Callable[[], str],
) -> None:
    name = cloud()
    plant.start(head_start="90s")
    job = plant.freestyle("f", "true")
    plant.jenkins.queue_build(job)
    where = built_on(plant, job)
    assert not where.startswith("one-"), "the cloud had the head start"
    assert '"agent.planned"' not in plant.sidecar.log_file.read_text()
    plant.sidecar.stop()
    # without a head start ours is there first, or the cloud's: in any case one of them, and nothing of ours stays
    plant.start()
    for number in range(2, 5):
        plant.jenkins.queue_build(job)
        built_on(plant, job, number)
    plant.nothing_left()
    assert name


def test_a_build_that_an_offline_node_could_serve_is_never_ended_by_us(
    plant: DockerPlant,
    static: Callable[..., str],
) -> None:
    """Its launches fail; Jenkins has a node for it that may come back."""
    name = static(online=False)
    plant.start(image="jenkins-provisioner-test/nowhere:none", pull="never", retries=0)
    job = plant.freestyle("f", "true")
    plant.jenkins.queue_build(job)
    plant.sidecar.until(lambda: '"outcome": "spared"' in plant.sidecar.log_file.read_text(), "it is spared")
    assert [item["task"]["name"] for item in plant.jenkins.queue_items()] == [job]
    assert plant.jenkins.build(job) is None
    assert name in plant.jenkins.nodes()
    for item in plant.jenkins.queue_items():
        plant.jenkins.cancel(item["id"])
    plant.nothing_left()
