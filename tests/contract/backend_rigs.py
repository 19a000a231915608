"""What the backend contract suite needs to know about each backend, and cannot ask the backend itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import docker
import pytest

from provisioner.backends.catalogue import make_backend
from provisioner.backends.contract import (
    AGENT_KEY,
    OWNER_KEY,
    Backend,
    Checkpoint,
    InstanceState,
    Order,
    Progress,
    SecretFile,
)
from provisioner.model.agent import new_agent_name
from tests import leaks

BUSYBOX = "jenkins-provisioner-test/busybox:latest"
SECRET = "s3cret-" + uuid.uuid4().hex
JAR = b"not really a jar, but of the same use here\n" * 100


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Settings as `make_backend` wants them."""

    name: str = "here"
    backend: str
    endpoint: str | None = None
    network: str | None = None
    runtime: str | None = None
    java: str = "java"
    work_dir: str | None = None
    tls: None = None
    ssh: None = None
    ssh_host: str | None = None
    timeout_s: float = 30.0


class Rig(ABC):
    """One backend under test, with independent eyes on its provider."""

    provider: Provider

    def __init__(self) -> None:
        self.owner = leaks.new_owner()
        self.agents: list[str] = []
        self._open: list[Backend] = []

    async def backend(self) -> Backend:
        """A new object: a restarted sidecar."""
        backend = make_backend(self.provider)
        await backend.open()
        self._open.append(backend)
        return backend

    def order(self, script: str = "exec sleep 600", *, owner: str | None = None, **changes: object) -> Order:
        name = new_agent_name("tpl")
        self.agents.append(name)
        order = Order(
            agent=name,
            owner=owner or self.owner,
            image=BUSYBOX,
            command=("/bin/sh", "-c", script),
            remote_fs="/home/jenkins/agent",
            files=(SecretFile(name="secret", content=SECRET.encode()),),
            agent_jar=JAR,
            env={"GREETING": "hello"},
        )
        return replace(order, **changes)  # type: ignore[arg-type]

    async def close(self) -> None:
        if self._open:
            last = self._open[-1]
            for agent in self.agents:
                await last.stop(agent, {})
        for backend in self._open:
            await backend.close()
        left = [thing for agent in self.agents for thing in self.leftovers(agent)]
        assert not left

    @abstractmethod
    def leftovers(self, agent: str) -> list[str]:
        """Everything of an agent that exists, found without the backend's help."""

    @abstractmethod
    def seen_by_others(self, agent: str) -> str:
        """All that anybody may read about an instance: arguments, environment, inspect output."""

    @abstractmethod
    def kill(self, agent: str, ids: Mapping[str, str]) -> None:
        """Kill the instance behind the backend's back."""


class ProcessRig(Rig):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.work_dir = folder / "agents"
        self.provider = Provider(backend="process", work_dir=str(self.work_dir))

    def processes(self, agent: str) -> list[int]:
        """Living processes with the agent's mark (a zombie shows no environment)."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"JENKINS_PROVISIONER_AGENT={agent}".encode() in environ.split(b"\0"):
                    found.append(int(entry.name))
        return found

    def leftovers(self, agent: str) -> list[str]:
        folders = [str(path) for path in self.work_dir.glob(f"*/{agent}")]
        return folders + [f"process {pid}" for pid in self.processes(agent)]

    def seen_by_others(self, agent: str) -> str:
        return "".join(
            (Path("/proc") / str(pid) / name).read_bytes().decode(errors="replace")
            for pid in self.processes(agent)
            for name in ("cmdline", "environ")
        )

    def kill(self, agent: str, ids: Mapping[str, str]) -> None:
        assert self.processes(agent)
        # the launcher may be about to make its child: until nobody is left, zombies apart
        while pids := self.processes(agent):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class DockerRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.client = docker.APIClient(version="auto", timeout=30)
        self.provider = Provider(backend="docker")

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self.client.close()

    def leftovers(self, agent: str) -> list[str]:
        mark = {"label": f"{AGENT_KEY}={agent}"}
        found = [f"container {c['Names']}" for c in self.client.containers(all=True, filters=mark)]
        found += [f"volume {v['Name']}" for v in self.client.volumes(filters=mark)["Volumes"] or ()]
        found += [f"network {n['Name']}" for n in self.client.networks(filters=mark)]
        return found

    def seen_by_others(self, agent: str) -> str:
        return json.dumps(
            [
                self.client.inspect_container(agent),
                self.client.volumes(filters={"label": f"{OWNER_KEY}={self.owner}"}),
                self.client.top(agent),
            ]
        )

    def kill(self, agent: str, ids: Mapping[str, str]) -> None:
        self.client.kill(ids["container"])


def docker_answers() -> bool:
    try:
        client = docker.APIClient(version="auto", timeout=5)
    except docker.errors.DockerException:
        return False
    client.close()
    return True


def make_busybox() -> None:
    """Import the tiny image from this machine's own static busybox, if it is missing."""
    client = docker.APIClient(version="auto", timeout=60)
    try:
        if client.images(BUSYBOX):
            return
        program = shutil.which("busybox")
        if program is None:
            pytest.skip("no busybox here to make the test image from (Debian: busybox-static)")
        content = Path(program).read_bytes()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for folder in ("bin", "tmp", "etc", "home/jenkins"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                tar.addfile(entry)
            entry = tarfile.TarInfo("bin/busybox")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
            for applet in ("sh", "sleep", "cat", "ls", "id", "stat", "env", "touch", "head", "tail", "wc", "mkdir"):
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        repository, tag = BUSYBOX.rsplit(":", 1)
        client.import_image_from_data(packed.getvalue(), repository=repository, tag=tag, changes=["ENV PATH=/bin"])
    finally:
        client.close()


def remove_jar_volume() -> None:
    """The volume of our JAR, unless another run uses it now."""
    client = docker.APIClient(version="auto", timeout=30)
    try:
        client.remove_volume(f"jenkins-provisioner-jar-{hashlib.sha256(JAR).hexdigest()[:32]}")
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise
    finally:
        client.close()


async def run(
    backend: Backend, order: Order, *, steps: int | None = None
) -> tuple[dict[str, str], list[Checkpoint | Progress]]:
    """Drive a start as the lifecycle does; `steps`: drop it after so many yields, as a crash would."""
    ids: dict[str, str] = {}
    told: list[Checkpoint | Progress] = []
    started = backend.start(order)
    if steps == 0:
        return ids, told
    async for step in started:
        told.append(step)
        if isinstance(step, Checkpoint):
            ids[step.key] = step.value
        if len(told) == steps:
            break
    await started.aclose()  # type: ignore[attr-defined]
    return ids, told


async def until(backend: Backend, agent: str, ids: Mapping[str, str], state: InstanceState) -> None:
    """Wait until the instance is in a state."""
    async with asyncio.timeout(20):
        while (found := await backend.status(agent, ids)).state is not state:
            assert found.state is not InstanceState.MISSING, found
            await asyncio.sleep(0.01)


async def output(backend: Backend, agent: str, ids: Mapping[str, str]) -> tuple[str, ...]:
    """Wait until the instance ended, and give its output."""
    await until(backend, agent, ids, InstanceState.EXITED)
    return await backend.log_tail(agent, ids, 50)


async def crash(rig: Rig, order: Order, steps: int | None) -> list[dict[str, str]]:
    """A sidecar of its own process starts the order and is killed with SIGKILL after so many yields."""
    job = {
        "provider": asdict(rig.provider),
        "order": {
            **{key: value for key, value in asdict(order).items() if key not in ("files", "agent_jar")},
            "files": {file.name: file.content.decode() for file in order.files},
            "agent_jar": order.agent_jar.decode(),
        },
        "steps": steps,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("crashing_sidecar.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await child.communicate(json.dumps(job).encode())
    assert child.returncode == -9
    return [json.loads(line) for line in answer.decode().splitlines()]
