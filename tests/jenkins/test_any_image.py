"""Builds in images as they are: with a Java of their own, and with none, not even a C library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from provisioner.backends.docker import runtime
from provisioner.backends.docker.jar_volumes import JARS_AT
from tests.jenkins.docker_plant import BUSYBOX, JAVA, DockerPlant, engine_with

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

SHELL = "id -u; if command -v java; then echo has java; else echo has none; fi"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = engine_with(JAVA, BUSYBOX)
    yield client
    client.close()


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
    plant: DockerPlant, without_java: str, image: str, java: str, run_as: str | None, uid: int
) -> None:
    if java == "injected" and (missing := runtime.problem()) is not None:
        pytest.skip(missing)
    name = {"busybox": BUSYBOX, "without-java": without_java, "java": JAVA}[image]
    template: dict[str, Any] = {"image": name, "java": java} | ({"run_as": run_as} if run_as else {})
    plant.start(**template)
    freestyle = plant.queued(plant.freestyle("f", SHELL))
    pipeline = plant.queued(
        plant.pipeline(
            "p",
            f"node('{plant.owner}') {{\n"
            f"  sh '{SHELL}'\n"
            "  sh 'head -c 5000000 /dev/urandom > big.bin && wc -c < big.bin'\n"
            "  stash 'big'\n"
            "  archiveArtifacts 'big.bin'\n"
            "}\n"
            f"node('{plant.owner}') {{\n"
            "  unstash 'big'\n"
            "  sh 'echo again $(wc -c < big.bin)'\n"
            "}\n",
        )
    )
    for job in (freestyle, pipeline):
        console = plant.ended(job)
        assert re.search(rf"^{uid}$", console, re.MULTILINE), console
        assert ("has java" in console) == (image == "java"), console
    assert "again 5000000" in plant.jenkins.console(pipeline)
    artifact = plant.jenkins.request("GET", f"job/{pipeline}/1/artifact/big.bin")
    assert len(artifact.body) == 5_000_000
    plant.nothing_left()


def test_later_agents_are_given_what_the_first_one_fetched(plant: DockerPlant) -> None:
    """Soon, not at once: much is made in the background, and a look at jars that takes long is given up."""
    plant.start(image=JAVA)
    seen: list[str] = []
    while len(seen) < 2 or (len(seen) < 30 and not _given(seen)):
        job = plant.queued(
            plant.freestyle(
                f"f{len(seen)}",
                "find /home/jenkins/agent/remoting -name '*.jar' | sort\n"
                "find /opt -name cp\n"
                "tr '\\0' ' ' </proc/$(pgrep -o java)/cmdline; echo",
            )
        )
        assert plant.jenkins.wait_build(job)["result"] == "SUCCESS"
        seen.append(plant.jenkins.console(job))
        plant.sidecar.until(lambda: plant.sidecar.metric("agents") == 0, "the agent is gone")
    assert _given(seen), seen


def _given(seen: list[str]) -> bool:
    jars = [set(re.findall(r"^\S+/jarCache/(\S+\.jar)$", console, re.MULTILINE)) for console in seen]
    fetched = next((some for some in jars[:-1] if some), set())
    copied = f"\n{JARS_AT}/bin/cp\n" in seen[-1]
    return jars[-1] >= fetched > set() and copied and "-XX:SharedArchiveFile=" in seen[-1]
