"""Agents that a real controller dials through the gateway: no SSH server in the image, no network in the container."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from controller import RealController

from tests.jenkins.docker_plant import BUSYBOX, JAVA, DockerPlant, engine_with

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SIZE = 100 << 20

PIPELINE = """
node('LABEL') {
    sh 'id -u; head -c SIZE /dev/zero > big.bin; echo small > small.txt; wc -c < big.bin'
    stash name: 'kept', includes: 'small.txt'
    archiveArtifacts 'big.bin'
    deleteDir()
    unstash 'kept'
    sh 'cat small.txt; ls'
}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = engine_with(JAVA, BUSYBOX)
    yield client
    client.close()


class Plant(DockerPlant):
    """Its containers have no network at all."""

    def start(self, **template: Any) -> None:
        super().start(**({"image": JAVA, "transport": "ssh-gateway"} | template))


@pytest.fixture
def plant(
    real_jenkins: RealController, engine: docker.DockerClient, tmp_path: Path, dump_on_failure: list[Any]
) -> Iterator[Plant]:
    made = Plant(real_jenkins, engine, tmp_path)
    dump_on_failure.append(made.gateway_log)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("image", "java", "run_as", "uid"),
    [
        (JAVA, "image", None, 1000),
        (BUSYBOX, "injected", None, 0),
        (BUSYBOX, "injected", "1000:1000", 1000),
    ],
)
def test_pipeline_and_freestyle_builds(plant: Plant, image: str, java: str, run_as: str | None, uid: int) -> None:
    plant.start(image=image, java=java, **({"run_as": run_as} if run_as else {}))
    script = PIPELINE.replace("LABEL", plant.owner).replace("SIZE", str(SIZE))
    pipeline = plant.queued(plant.pipeline("p", script))
    freestyle = plant.queued(plant.freestyle("f", "echo built by $(id -u)"))
    for job in (pipeline, freestyle):
        result = plant.jenkins.wait_build(job, within_s=240)["result"]
        console = plant.jenkins.console(job)
        assert result == "SUCCESS", console + plant.sidecar.log()
    assert f"built by {uid}" in plant.jenkins.console(freestyle)
    assert f"\n{SIZE}\n" in plant.jenkins.console(pipeline)
    artifact = plant.jenkins.get_json(f"job/{pipeline}/1/api/json?tree=artifacts[fileName]")["artifacts"]
    assert [one["fileName"] for one in artifact] == ["big.bin"]
    assert "The controller dials 127.0.0.1 port" in plant.jenkins.console(freestyle)
    plant.nothing_left()
    plant.sidecar.until(lambda: plant.gateway_log().count("session.ended") == 2, "the gateway tells both ends")


def test_a_build_runs_on_over_the_death_of_the_sidecar_and_not_of_the_gateway(plant: Plant) -> None:
    plant.start()
    slow = "echo begun; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1; done; echo done"
    lives = plant.queued(plant.freestyle("lives", slow))
    plant.sidecar.until(lambda: "begun" in plant.console(lives), "it runs", within_s=90)
    gateway = plant.gateway()
    plant.sidecar.kill()
    time.sleep(1)
    plant.sidecar.start()
    assert plant.jenkins.wait_build(lives, within_s=120)["result"] == "SUCCESS"
    assert plant.gateway() == gateway
    dies = plant.queued(plant.freestyle("dies", slow))
    plant.sidecar.until(lambda: "begun" in plant.console(dies), "it runs", within_s=90)
    os.kill(gateway, signal.SIGKILL)
    assert plant.jenkins.wait_build(dies, within_s=120)["result"] == "FAILURE"
    plant.nothing_left()
    after = plant.queued(plant.freestyle("after", "true"))
    assert plant.jenkins.wait_build(after, within_s=120)["result"] == "SUCCESS"
    assert plant.gateway() not in (0, gateway)
    plant.nothing_left()


def test_nothing_secret_is_seen_while_a_build_runs(plant: Plant) -> None:
    from provisioner.transports.keys import agent_keys

    plant.start()
    job = plant.queued(plant.freestyle("f", "echo begun; sleep 15"))
    plant.sidecar.until(lambda: "begun" in plant.console(job), "it runs", within_s=90)
    (name,) = plant.ours()["nodes"]
    secret = plant.jenkins.script(f"print(jenkins.model.Jenkins.get().getComputer('{name}').jnlpMac)").strip()
    words = [secret, *agent_keys(secret).user.private.splitlines()[3:-1]]
    container = plant.engine.containers.get(name)
    seen = {"inspect": str(container.attrs), "top": str(container.top()), "console": plant.console(job)}
    for path in (plant.folder / "state").rglob("*"):
        if path.is_file() and path.name not in ("token", "host_key"):
            seen[str(path)] = path.read_bytes().decode(errors="replace")
    seen["log"] = plant.sidecar.log(10**6)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            seen[entry.name] = (entry / "cmdline").read_bytes().decode(errors="replace")
    for word in words:
        assert [place for place, content in seen.items() if word in content] == []
    assert plant.jenkins.wait_build(job, within_s=120)["result"] == "SUCCESS"


@pytest.mark.slow
def test_a_gigabyte_streams_through(plant: Plant) -> None:
    """Past the point at which both sides make new keys."""
    plant.start()
    size = 1200 << 20
    script = f"""
node('{plant.owner}') {{
    sh 'head -c {size} /dev/urandom > big.bin; sha256sum big.bin'
    archiveArtifacts 'big.bin'
}}
"""
    job = plant.queued(plant.pipeline("big", script))
    plant.sidecar.until(plant.gateway, "the gateway is there")
    status = Path(f"/proc/{plant.gateway()}/status")
    most = 0
    deadline = time.monotonic() + 600
    while (build := plant.jenkins.build(job)) is None or build["building"]:
        rss = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        most = max(most, rss)
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert plant.jenkins.wait_build(job)["result"] == "SUCCESS", plant.jenkins.console(job)
    kept = next(Path(plant.jenkins.home).glob(f"jobs/{job}/builds/1/archive/big.bin"))
    digest = hashlib.sha256()
    with kept.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    assert digest.hexdigest() in plant.jenkins.console(job)
    print(f"the gateway had {most / 1024:.0f} MiB at most")
    assert most < 160_000, f"{most} kB"
    plant.nothing_left()
