"""A real controller and a real engine with a sidecar of their own: one template, whose agents are containers."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from controller import RealController

from tests.jenkins.owned_jobs import OwnedJobs
from tests.leaks import OWNER_LABEL, new_owner
from tests.seen_processes import end_gateways, gateways
from tests.sidecar_process import SidecarProcess

JAVA = "jenkins-provisioner-test/agent:latest"
BUSYBOX = "jenkins-provisioner-test/busybox:latest"
MUSL = "jenkins-provisioner-test/musl:latest"
SSHD = "jenkins-provisioner-test/sshd:latest"
#: The controllers of these tests listen on loopback alone; who is dialled needs no way to them.
NETWORKS = {"ssh": "bridge", "ssh-gateway": "none"}


def engine_with(*images: str) -> docker.DockerClient:
    """This machine's engine; skips the test where it or one of the images is missing."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
        for image in images:
            client.images.get(image)
    except docker.errors.ImageNotFound as error:
        pytest.skip(f"{error.explanation}; run jenkins-test/images.sh")
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine here: {error}")
    return client


def make_without_java(engine: docker.DockerClient) -> str:
    """A new image: a Debian without Java, whose own command and entry point do something else."""
    name = f"jenkins-provisioner-test/without-java:{random.randrange(16**8):08x}"
    remove = ["sh", "-c", "rm -rf /usr/lib/jvm /usr/bin/java /etc/alternatives/java"]
    made = engine.containers.create(JAVA, remove, user="0")
    try:
        made.start()
        assert made.wait()["StatusCode"] == 0
        made.commit(*name.rsplit(":", 1), changes=['ENTRYPOINT ["/bin/false"]', 'CMD ["nothing"]', "USER jenkins"])
    finally:
        made.remove(force=True)
    return name


#: A shell step that lasts until its test lets it go.
WAITS = "until [ -e /tmp/go ]; do sleep 0.2; done"


class DockerPlant(OwnedJobs):
    """Jobs, builds and leftovers of one owner."""

    def __init__(self, jenkins: RealController, engine: docker.DockerClient, folder: Path) -> None:
        super().__init__(jenkins, new_owner())
        self.engine, self.folder = engine, folder
        self.sidecar: SidecarProcess

    def start(
        self,
        *,
        network: str | None = None,
        bridge: str = "auto",
        max_agents: int = 4,
        provider: Mapping[str, Any] | None = None,
        **template: Any,
    ) -> None:
        main = {"name": "main", "url": self.jenkins.url, "user": self.jenkins.user, "token": {"env": "JENKINS_TOKEN"}}
        box = {"name": "box", "backend": "docker", "max_agents": max_agents}
        box["network"] = network or NETWORKS.get(template.get("transport", ""), "host")
        one = {"name": "one", "labels": [self.owner], "providers": ["box"], "image": JAVA, "pull": "missing"}
        config = {
            "id": self.owner,
            "controllers": [{**main, "bridge": bridge}],
            "providers": [{**box, **(provider or {})}],
            "templates": [one | template],
        }
        self.sidecar = SidecarProcess(self.folder, config, token=self.jenkins.token)
        self.sidecar.start()

    def console(self, job: str) -> str:
        """So far; empty before the build has begun."""
        return str(self.jenkins.console(job)) if self.jenkins.build(job) else ""

    def says(self, job: str, words: str, *, within_s: float = 120.0) -> None:
        """Wait until the build's console has these words."""
        self.sidecar.until(lambda: words in self.console(job), f"the console of {job} says {words}", within_s=within_s)

    def ended(self, job: str, *, within_s: float = 300.0) -> str:
        """The console of a build that succeeds."""
        build = self.jenkins.wait_build(job, within_s=within_s)
        console: str = self.jenkins.console(job)
        assert build["result"] == "SUCCESS", f"{console}\n{self.sidecar.log()}"
        return console

    def ours(self) -> dict[str, list[str]]:
        """What carries our mark."""
        mark = {"label": f"{OWNER_LABEL}={self.owner}"}
        entries = self.jenkins.get_json("credentials/store/system/domain/_/api/json?tree=credentials[id]")
        return {
            "containers": [c["Names"][0] for c in self.engine.api.containers(all=True, filters=mark)],
            "volumes": [v["Name"] for v in self.engine.api.volumes(filters=mark)["Volumes"] or []],
            "entries": [e["id"] for e in entries["credentials"] if f".{self.owner}." in e["id"]],
            "nodes": self.nodes(),
        }

    def nothing_left(self, *, within_s: float = 90.0) -> None:
        deadline = time.monotonic() + within_s
        while any((left := self.ours()).values()) or (self.sidecar.runs and self.sidecar.metric("agents")):
            assert time.monotonic() < deadline, f"{left}\n{self.sidecar.log()}"
            time.sleep(0.1)

    def let_go(self, node: str) -> None:
        """Have a build on that node end whose shell is `WAITS`."""
        with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
            self.engine.containers.get(node).exec_run(["touch", "/tmp/go"])

    def let_go_of_barred(self) -> None:
        """The same for every node that takes no other build any more."""
        tree = "computer/api/json?tree=computer[displayName,temporarilyOffline]"
        barred = {c["displayName"] for c in self.jenkins.get_json(tree)["computer"] if c["temporarilyOffline"]}
        for node in barred.intersection(self.nodes()):
            self.let_go(node)

    def node_of(self, job: str, number: int = 1) -> str:
        """Which agent ran it."""
        console = self.jenkins.console(job, number)
        found = re.search(r"(?:Building remotely on|Running on) (one-[a-z0-9]+)", console)
        assert found, console
        return found[1]

    def gateway(self) -> int:
        """The process id of the gateway; 0: there is none."""
        return next(iter(gateways(self.folder)), 0)

    def gateway_log(self) -> str:
        return (self.folder / "state" / "gateway" / "log").read_text()

    def close(self) -> None:
        if hasattr(self, "sidecar"):
            self.sidecar.stop()
            end_gateways(self.folder)
        self.end_jobs()
        left = self.ours()
        for name in left["nodes"]:  # of a test that failed; others count the nodes of the same controller
            self.jenkins.request("POST", f"computer/{name}/doDelete")
        for name in left["containers"]:
            with contextlib.suppress(docker.errors.NotFound):  # a removal under way ended
                self.engine.api.remove_container(name, force=True, v=True)
        for name in left["volumes"]:
            with contextlib.suppress(docker.errors.NotFound):
                self.engine.api.remove_volume(name)
        caches = {"label": "jenkins-provisioner.cache"}  # they outlive their agents, and carry no mark of an owner
        for volume in self.engine.api.volumes(filters=caches)["Volumes"] or []:
            if f"-{self.owner}-" in volume["Name"]:
                self.engine.api.remove_volume(volume["Name"])
