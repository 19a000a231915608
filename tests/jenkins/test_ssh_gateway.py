"""Agents that a real controller dials through the gateway: no SSH server in the image, no network in the container."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.sidecar_process import SidecarProcess

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

JAVA = "jenkins-provisioner-test/agent:latest"
BUSYBOX = "jenkins-provisioner-test/busybox:latest"
OWNER_LABEL = "jenkins-provisioner.owner"
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
    client = docker.from_env(timeout=60)
    yield client
    client.close()


class Plant:
    """One controller, one engine, one sidecar with one template; its containers have no network at all."""

    def __init__(self, jenkins: Any, tools: Any, engine: docker.DockerClient, folder: Path) -> None:
        self.jenkins, self.tools, self.engine = jenkins, tools, engine
        self.owner = f"g{random.randrange(16**6):06x}"
        self.jobs: list[str] = []
        self.folder = folder

    def start(self, *, bridge: str = "auto", agents: int = 2, **template: Any) -> None:
        controller = {
            "name": "main",
            "url": self.jenkins.url,
            "user": self.jenkins.user,
            "token": {"env": "JENKINS_TOKEN"},
            "bridge": bridge,
        }
        one = {
            "name": "one",
            "labels": [self.owner],
            "providers": ["box"],
            "pull": "never",
            "image": JAVA,
            "transport": "ssh-gateway",
        }
        config = {
            "id": self.owner,
            "controllers": [controller],
            "providers": [{"name": "box", "backend": "docker", "network": "none", "max_agents": agents}],
            "templates": [one | template],
        }
        self.sidecar = SidecarProcess(self.folder, config, token=self.jenkins.token)
        self.sidecar.start()

    def queue(self, name: str, xml: str) -> str:
        job = f"{self.owner}-{name}"
        self.jenkins.create_job(job, xml)
        self.jobs.append(job)
        self.jenkins.queue_build(job)
        return job

    def gateway(self) -> int:
        """The process id of the gateway."""
        folder = str(self.folder / "state" / "gateway").encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"provisioner.gateway" in words and folder in words:
                    return int(entry.name)
        return 0

    def gateway_log(self) -> str:
        return (self.folder / "state" / "gateway" / "log").read_text()

    def ours(self) -> dict[str, list[str]]:
        mark = {"label": f"{OWNER_LABEL}={self.owner}"}
        entries = self.jenkins.get_json("credentials/store/system/domain/_/api/json?tree=credentials[id]")
        nodes = self.jenkins.get_json("computer/api/json?tree=computer[displayName]")["computer"]
        return {
            "containers": [c["Names"][0] for c in self.engine.api.containers(all=True, filters=mark)],
            "volumes": [v["Name"] for v in self.engine.api.volumes(filters=mark)["Volumes"] or []],
            "entries": [e["id"] for e in entries["credentials"] if f".{self.owner}." in e["id"]],
            "nodes": [n["displayName"] for n in nodes if n["displayName"].startswith("one-")],
        }

    def nothing_left(self) -> None:
        self.sidecar.until(
            lambda: not any(self.ours().values()) and self.sidecar.metric("agents") == 0, "nothing is left", within_s=90
        )

    def close(self) -> None:
        if hasattr(self, "sidecar"):
            self.sidecar.stop()
            if pid := self.gateway():
                os.kill(pid, signal.SIGTERM)
        for job in self.jobs:
            self.jenkins.delete_job(job)
        for name in self.ours()["containers"]:
            with contextlib.suppress(docker.errors.NotFound):
                self.engine.api.remove_container(name, force=True, v=True)


@pytest.fixture
def plant(
    real_jenkins: Any, jenkins_tools: Any, engine: docker.DockerClient, tmp_path: Path, dump_on_failure: list[Any]
) -> Iterator[Plant]:
    made = Plant(real_jenkins, jenkins_tools, engine, tmp_path)
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
    pipeline = plant.queue("p", plant.tools.pipeline_xml(script))
    freestyle = plant.queue("f", plant.tools.freestyle_xml("echo built by $(id -u)", label=plant.owner))
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
    assert (plant.folder / "state" / "gateway" / "log").read_text().count("session.ended") == 2


def test_a_build_runs_on_over_the_death_of_the_sidecar_and_not_of_the_gateway(plant: Plant) -> None:
    plant.start()
    slow = "echo begun; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1; done; echo done"
    lives = plant.queue("lives", plant.tools.freestyle_xml(slow, label=plant.owner))
    plant.sidecar.until(lambda: "begun" in _console(plant, lives), "it runs", within_s=90)
    gateway = plant.gateway()
    plant.sidecar.kill()
    time.sleep(1)
    plant.sidecar.start()
    assert plant.jenkins.wait_build(lives, within_s=120)["result"] == "SUCCESS"
    assert plant.gateway() == gateway
    dies = plant.queue("dies", plant.tools.freestyle_xml(slow, label=plant.owner))
    plant.sidecar.until(lambda: "begun" in _console(plant, dies), "it runs", within_s=90)
    os.kill(gateway, signal.SIGKILL)
    assert plant.jenkins.wait_build(dies, within_s=120)["result"] == "FAILURE"
    plant.nothing_left()
    after = plant.queue("after", plant.tools.freestyle_xml("true", label=plant.owner))
    assert plant.jenkins.wait_build(after, within_s=120)["result"] == "SUCCESS"
    assert plant.gateway() not in (0, gateway)
    plant.nothing_left()


def test_nothing_secret_is_seen_while_a_build_runs(plant: Plant) -> None:
    from provisioner.transports.keys import agent_keys

    plant.start()
    job = plant.queue("f", plant.tools.freestyle_xml("echo begun; sleep 15", label=plant.owner))
    plant.sidecar.until(lambda: "begun" in _console(plant, job), "it runs", within_s=90)
    (name,) = plant.ours()["nodes"]
    secret = plant.jenkins.script(f"print(jenkins.model.Jenkins.get().getComputer('{name}').jnlpMac)").strip()
    words = [secret, *agent_keys(secret).user.private.splitlines()[3:-1]]
    container = plant.engine.containers.get(name)
    seen = {"inspect": str(container.attrs), "top": str(container.top()), "console": _console(plant, job)}
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
    job = plant.queue("big", plant.tools.pipeline_xml(script))
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
    assert most < 160_000, f"{most} kB"
    plant.nothing_left()


def _console(plant: Plant, job: str) -> str:
    try:
        return str(plant.jenkins.console(job))
    except Exception:  # noqa: BLE001  (there is no build yet)
        return ""
