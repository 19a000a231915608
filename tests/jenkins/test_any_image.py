"""Builds in images as they are: with a Java of their own, and with none, not even a C library."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from provisioner.backends.docker import runtime
from tests.sidecar_process import SidecarProcess

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

JAVA = "jenkins-provisioner-test/agent:latest"
BUSYBOX = "jenkins-provisioner-test/busybox:latest"
OWNER_LABEL = "jenkins-provisioner.owner"
SHELL = "id -u; if command -v java; then echo has java; else echo has none; fi"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env(timeout=60)
        client.ping()
        for image in (JAVA, BUSYBOX):
            client.images.get(image)
    except docker.errors.ImageNotFound as error:
        pytest.skip(f"{error.explanation}; run jenkins-test/images.sh")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine here: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def without_java(engine: docker.DockerClient) -> Iterator[str]:
    """A Debian without Java, whose own command and entry point do something else."""
    name = f"jenkins-provisioner-test/without-java:{random.randrange(16**6):06x}"
    remove = ["sh", "-c", "rm -rf /usr/lib/jvm /usr/bin/java /etc/alternatives/java"]
    made = engine.containers.create(JAVA, remove, user="0")
    try:
        made.start()
        assert made.wait()["StatusCode"] == 0
        made.commit(*name.rsplit(":", 1), changes=['ENTRYPOINT ["/bin/false"]', 'CMD ["nothing"]', "USER jenkins"])
    finally:
        made.remove(force=True)
    yield name
    engine.images.remove(name, force=True)


class Plant:
    """One controller, one engine, one sidecar with one template."""

    def __init__(self, jenkins: Any, tools: Any, engine: docker.DockerClient, folder: Path) -> None:
        self.jenkins = jenkins
        self.tools = tools
        self.engine = engine
        self.folder = folder
        self.owner = f"t{random.randrange(16**6):06x}"
        self.jobs: list[str] = []
        self.sidecar: SidecarProcess

    def start(self, **template: Any) -> None:
        controller = {
            "name": "main",
            "url": self.jenkins.url,
            "user": self.jenkins.user,
            "token": {"env": "JENKINS_TOKEN"},
        }
        config = {
            "id": self.owner,
            "controllers": [controller],
            "providers": [{"name": "box", "backend": "docker", "network": "host", "max_agents": 2}],
            "templates": [{"name": "one", "labels": [self.owner], "providers": ["box"], "pull": "never"} | template],
        }
        self.sidecar = SidecarProcess(self.folder, config, token=self.jenkins.token)
        self.sidecar.start()

    def queue(self, name: str, xml: str) -> str:
        job = f"{self.owner}-{name}"
        self.jenkins.create_job(job, xml)
        self.jobs.append(job)
        self.jenkins.queue_build(job)
        return job

    def ours(self) -> list[str]:
        mark = {"label": f"{OWNER_LABEL}={self.owner}"}
        containers = [c["Names"][0] for c in self.engine.api.containers(all=True, filters=mark)]
        return containers + [v["Name"] for v in self.engine.api.volumes(filters=mark)["Volumes"] or []]

    def close(self) -> None:
        if hasattr(self, "sidecar"):
            self.sidecar.stop()
        for job in self.jobs:
            self.jenkins.delete_job(job)
        for name in self.ours():
            with contextlib.suppress(docker.errors.NotFound):  # a removal under way ended
                self.engine.api.remove_container(name, force=True, v=True)


@pytest.fixture
def plant(real_jenkins: Any, jenkins_tools: Any, engine: docker.DockerClient, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(real_jenkins, jenkins_tools, engine, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("image", "java", "run_as", "uid"),
    [
        ("busybox", "injected", None, 0),
        ("busybox", "injected", "1000:1000", 1000),
        ("without-java", "injected", None, 1000),
        ("without-java", "injected", "4711:4711", 4711),
        ("java", "injected", None, 1000),
        ("java", "image", None, 1000),
        ("java", "image", "0:0", 0),
    ],
)
def test_freestyle_and_pipeline_run_in_any_image(
    plant: Plant, without_java: str, image: str, java: str, run_as: str | None, uid: int
) -> None:
    if java == "injected" and (missing := runtime.problem()) is not None:
        pytest.skip(missing)
    name = {"busybox": BUSYBOX, "without-java": without_java, "java": JAVA}[image]
    plant.start(image=name, java=java, **({"run_as": run_as} if run_as else {}))
    freestyle = plant.queue("f", plant.tools.freestyle_xml(SHELL, label=plant.owner))
    pipeline = plant.queue(
        "p",
        plant.tools.pipeline_xml(
            f"node('{plant.owner}') {{\n"
            f"  sh '{SHELL}'\n"
            "  sh 'head -c 5000000 /dev/urandom > big.bin && wc -c < big.bin'\n"
            "  stash 'big'\n"
            "  archiveArtifacts 'big.bin'\n"
            "}\n"
            f"node('{plant.owner}') {{\n"
            "  unstash 'big'\n"
            "  sh 'echo again $(wc -c < big.bin)'\n"
            "}\n"
        ),
    )
    for job in (freestyle, pipeline):
        build = plant.jenkins.wait_build(job)
        console = plant.jenkins.console(job)
        assert build["result"] == "SUCCESS", f"{console}\n{plant.sidecar.log()}"
        assert re.search(rf"^{uid}$", console, re.MULTILINE), console
        assert ("has java" in console) == (image == "java"), console
    assert "again 5000000" in plant.jenkins.console(pipeline)
    artifact = plant.jenkins.request("GET", f"job/{pipeline}/1/artifact/big.bin")
    assert len(artifact.body) == 5_000_000
    deadline = time.monotonic() + 30
    while plant.ours():
        assert time.monotonic() < deadline, plant.ours()
        time.sleep(0.1)


def test_the_second_agent_is_given_what_the_first_one_fetched(plant: Plant) -> None:
    plant.start(image=JAVA)
    seen = []
    for number in range(3):
        job = plant.queue(
            f"f{number}",
            plant.tools.freestyle_xml(
                "cd /home/jenkins/agent/remoting/jarCache\n"
                "find . -name '*.jar' | sort\n"
                "tr '\\0' ' ' </proc/$(pgrep -o java)/cmdline; echo",
                label=plant.owner,
            ),
        )
        assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
        seen.append(plant.jenkins.console(job))
        plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 0, "the agent is gone")
    jars = [set(re.findall(r"^\./(\S+\.jar)$", console, re.MULTILINE)) for console in seen]
    assert jars[1] >= jars[0] > set()
    assert "-XX:SharedArchiveFile=" in seen[2]
