"""Builds over every transport in every kind of image, with a real controller and a real engine.

Each cell is a freestyle and a Pipeline job: a shell step, a stash that crosses to another agent, an artifact. One cell
of each transport runs in the suite, with a small artifact; all of them, with 100 MB, are slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from provisioner.backends.docker import runtime, ssh_server
from provisioner.transports.keys import agent_keys
from tests.sidecar_process import SidecarProcess

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

JAVA = "jenkins-provisioner-test/agent:latest"
BUSYBOX = "jenkins-provisioner-test/busybox:latest"
SSHD = "jenkins-provisioner-test/sshd:latest"
OWNER = "jenkins-provisioner.owner"
IMAGES: dict[str, dict[str, Any]] = {
    "debian without java": {"java": "injected"},
    "musl": {"java": "injected"},
    "static busybox": {"java": "injected"},
    "with java": {"java": "image"},
    "uid 1000": {"java": "injected", "run_as": "1000:1000"},
}
TRANSPORTS = ("ssh", "ssh-gateway", "tcp", "websocket")
QUICK = {("websocket", "with java"), ("tcp", "static busybox"), ("ssh", "uid 1000"), ("ssh-gateway", "musl")}
CELLS = [
    pytest.param(transport, image, id=f"{transport}, {image}", marks=() if quick else pytest.mark.slow)
    for transport in TRANSPORTS
    for image in IMAGES
    for quick in [(transport, image) in QUICK]
]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env(timeout=60)
        client.ping()
        for image in (JAVA, BUSYBOX, SSHD):
            client.images.get(image)
    except docker.errors.ImageNotFound as error:
        pytest.skip(f"{error.explanation}; run jenkins-test/images.sh")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine here: {error}")
    yield client
    client.close()


class Images:
    """The images of the matrix; what is made for it goes with it."""

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._made: dict[str, str] = {}

    def get(self, kind: str) -> str:
        if kind in ("static busybox", "uid 1000"):
            return BUSYBOX
        if kind == "with java":
            return JAVA
        if kind not in self._made:
            self._made[kind] = self._musl() if kind == "musl" else self._without_java()
        return self._made[kind]

    def _without_java(self) -> str:
        """A Debian whose own command and entry point do something else."""
        made = self._engine.containers.create(
            JAVA, ["sh", "-c", "rm -rf /usr/lib/jvm /usr/bin/java /etc/alternatives/java"], user="0"
        )
        changes = ['ENTRYPOINT ["/bin/false"]', 'CMD ["nothing"]', "USER jenkins"]
        return self._commit(made, changes, run=True)

    def _musl(self) -> str:
        """As Alpine: busybox, and musl as the only C library."""
        if shutil.which("apt-get") is None:
            pytest.skip("musl comes from Debian's package, and there is no apt-get here")
        got = subprocess.run(
            ["apt-get", "download", "musl"], cwd=self._folder, capture_output=True, text=True, check=False
        )
        if got.returncode != 0:
            pytest.skip(f"Debian's package musl cannot be had: {got.stderr.strip()[-200:]}")
        root = self._folder / "musl"
        subprocess.run(["dpkg-deb", "-x", str(next(self._folder.glob("musl_*.deb"))), str(root)], check=True)
        packed = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout
        made = self._engine.containers.create(BUSYBOX, ["true"])
        made.put_archive("/", packed)
        return self._commit(made, ["USER jenkins"])

    def _commit(self, made: Any, changes: list[str], *, run: bool = False) -> str:
        name = f"jenkins-provisioner-test/matrix:{random.randrange(16**8):08x}"
        try:
            if run:
                made.start()
                assert made.wait()["StatusCode"] == 0
            made.commit(*name.rsplit(":", 1), changes=changes)
        finally:
            made.remove(force=True)
        return name

    def remove(self) -> None:
        for name in self._made.values():
            self._engine.images.remove(name, force=True)


@pytest.fixture(scope="module")
def images(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    made = Images(engine, tmp_path_factory.mktemp("images"))
    yield made
    made.remove()


class Plant:
    """One controller, one engine, one sidecar with one template."""

    def __init__(self, jenkins: Any, tools: Any, engine: docker.DockerClient, folder: Path) -> None:
        self.jenkins, self.tools, self.engine, self.folder = jenkins, tools, engine, folder
        self.owner = f"t{random.randrange(16**6):06x}"
        self.jobs: list[str] = []
        self.sidecar: SidecarProcess

    def start(self, *, network: str, bridge: str = "auto", **template: Any) -> None:
        main = {"name": "main", "url": self.jenkins.url, "user": self.jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
        config = {
            "id": self.owner,
            "controllers": [{**main, "bridge": bridge, "poll_interval": 0.3}],
            "providers": [{"name": "box", "backend": "docker", "network": network, "max_agents": 2}],
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

    def ended(self, job: str, within_s: float = 300.0) -> str:
        build = self.jenkins.wait_build(job, within_s=within_s)
        console: str = self.jenkins.console(job)
        assert build["result"] == "SUCCESS", f"{console}\n{self.sidecar.log()}"
        return console

    def ours(self) -> list[str]:
        mark = {"label": f"{OWNER}={self.owner}"}
        containers = [c["Names"][0] for c in self.engine.api.containers(all=True, filters=mark)]
        volumes = [v["Name"] for v in self.engine.api.volumes(filters=mark)["Volumes"] or []]
        path = "credentials/store/system/domain/_/api/json?tree=credentials[id]"
        entries = [e["id"] for e in self.jenkins.get_json(path)["credentials"] if f".{self.owner}." in e["id"]]
        return containers + volumes + entries

    def nothing_left(self) -> None:
        deadline = time.monotonic() + 60
        while left := self.ours():
            assert time.monotonic() < deadline, f"{left}\n{self.sidecar.log()}"
            time.sleep(0.1)

    def end_gateway(self) -> None:
        """It outlives its sidecar on purpose."""
        folder = str(self.folder / "state" / "gateway").encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"provisioner.gateway" in words and folder in words:
                    os.kill(int(entry.name), signal.SIGTERM)

    def close(self) -> None:
        if hasattr(self, "sidecar"):
            self.sidecar.stop()
            self.end_gateway()
        for job in self.jobs:
            self.jenkins.delete_job(job)
        for name in self.ours():
            with contextlib.suppress(docker.errors.NotFound):
                self.engine.api.remove_container(name, force=True, v=True)


@pytest.fixture
def plant(real_jenkins: Any, jenkins_tools: Any, engine: docker.DockerClient, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(real_jenkins, jenkins_tools, engine, tmp_path)
    yield made
    made.close()


def network_of(transport: str) -> str:
    """The controllers of these tests listen on loopback alone; who is dialled needs no way to them."""
    return {"ssh": "bridge", "ssh-gateway": "none"}.get(transport, "host")


def script(label: str, megabytes: int) -> str:
    return (
        f"node('{label}') {{\n"
        f"  sh 'id -u; head -c {megabytes * 1_000_000} /dev/urandom > big.bin; wc -c < big.bin; echo small > s'\n"
        "  stash includes: 's', name: 's'\n"
        "  archiveArtifacts 'big.bin'\n"
        "}\n"
        f"node('{label}') {{\n  unstash 's'\n  sh 'echo again $(cat s)'\n}}\n"
    )


@pytest.mark.parametrize(("transport", "image"), CELLS)
def test_builds_run_over_every_transport_in_every_image(
    plant: Plant, images: Images, transport: str, image: str
) -> None:
    for problem in (runtime.problem(), ssh_server.problem() if transport == "ssh" else None):
        if problem is not None:
            pytest.skip(problem)
    megabytes = 100 if os.environ.get("SLOW") else 2
    plant.start(network=network_of(transport), image=images.get(image), transport=transport, **IMAGES[image])
    began = time.monotonic()
    freestyle = plant.queue("f", plant.tools.freestyle_xml("id -u; echo built on $NODE_NAME", label=plant.owner))
    console = plant.ended(freestyle)
    assert "built on one-" in console
    freestyle_s = time.monotonic() - began
    began = time.monotonic()
    pipeline = plant.queue("p", plant.tools.pipeline_xml(script(plant.owner, megabytes)))
    assert "again small" in plant.ended(pipeline, within_s=600)
    artifact = plant.jenkins.request("GET", f"job/{pipeline}/1/artifact/big.bin")
    assert len(artifact.body) == megabytes * 1_000_000
    print(f"{transport}, {image}: freestyle {freestyle_s:.1f} s, Pipeline {time.monotonic() - began:.1f} s")
    plant.nothing_left()


def test_the_image_s_own_openssh_server_works_too(plant: Plant, images: Images) -> None:
    plant.start(network="bridge", image=SSHD, transport="ssh", java="image", ssh={"server": "image", "user": "jenkins"})
    freestyle = plant.queue("f", plant.tools.freestyle_xml("id -un; echo built on $NODE_NAME", label=plant.owner))
    assert "jenkins\n" in plant.ended(freestyle)
    plant.nothing_left()


@pytest.mark.slow
def test_no_key_is_anywhere_but_where_it_belongs(plant: Plant, images: Images) -> None:
    plant.start(network="bridge", image=images.get("uid 1000"), transport="ssh", java="injected")
    job = plant.queue("f", plant.tools.freestyle_xml("env; sleep 40", label=plant.owner))
    plant.sidecar.until(lambda: plant.sidecar.metric("agents", state="running") == 1, "the build runs", within_s=240)
    (container,) = plant.engine.containers.list(filters={"label": f"{OWNER}={plant.owner}"})
    ask = f"print(Jenkins.get().getComputer('{container.name}').jnlpMac)"
    secret = plant.jenkins.request("POST", "scriptText", form={"script": ask}).text.strip()[:64]
    keys = agent_keys(secret)
    words = [secret, *(pair.private.splitlines()[3] for pair in (keys.user, keys.host))]
    assert all(len(word) >= 40 for word in words)
    held = plant.engine.api.exec_create(container.id, ["cat", "/run/jenkins-provisioner/host_key"])
    assert plant.engine.api.exec_start(held["Id"]).decode() == keys.host.private  # so these are the right words
    places = {
        "inspect": json.dumps(plant.engine.api.inspect_container(container.id)),
        "container's log": container.logs().decode(),
        "console": plant.jenkins.console(job),
        "sidecar's log": plant.sidecar.log(10_000),
        "node": plant.jenkins.request("GET", f"computer/{container.name}/config.xml").text,
    }
    for path in plant.folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for entry in Path("/proc").glob("[0-9]*"):
        for kind in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                places[f"{entry}/{kind}"] = (entry / kind).read_bytes().decode(errors="replace")
    assert [place for place, text in places.items() if any(word in text for word in words)] == []
    plant.ended(job)
    plant.nothing_left()
