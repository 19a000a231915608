"""Where the demo's agents live: processes of this machine, or containers of its Docker engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from demo.engine import Engine
from demo.interrupts import DemoError
from demo.processes import marked
from provisioner.backends.process.proc import OWNER_VARIABLE

#: One less than the Pipeline and the others want at the same time, so that a build is seen waiting.
MAX_AGENTS = 2
_FAKE_JAVA = Path(__file__).resolve().parent.parent / "standin" / "java"
_NO_JAVA = "/opt/no-such-java/bin/java"
_NO_IMAGE = "jenkins-provisioner-demo/no-such-image:1"


class Place(Protocol):
    """A backend, as the demo uses it."""

    #: the backend, and what its instances consist of
    backend: str
    instances: str
    #: the reason for which the build without a Java or an image ends
    slug: str

    def prepare(self) -> str:
        """Make what agents need; what that was, or an empty text. Raises DemoError."""
        ...

    def providers(self) -> list[Mapping[str, object]]:
        """For the configuration."""
        ...

    def templates(self) -> list[Mapping[str, object]]:
        """For the configuration."""
        ...

    def left(self) -> list[str]:
        """Every instance of ours that exists."""
        ...

    def clear(self) -> list[str]:
        """Remove every instance of ours, and what `prepare` made; what is left all the same. Idempotent."""
        ...


class Processes:
    """Agents are processes; each has a folder of its own."""

    backend = "process"
    instances = "folders and processes"
    slug = "create_rejected"

    def __init__(self, folder: Path, owner: str, *, real_java: bool) -> None:
        self._folder = folder
        self._owner = owner
        self._real_java = real_java

    def prepare(self) -> str:
        """Nothing to make; Java must be there where the controller is a real one."""
        if self._real_java and shutil.which("java") is None:
            raise DemoError("there is no java on the PATH, and agents of a real controller need one; install a JRE 17")
        return ""

    def providers(self) -> list[Mapping[str, object]]:
        """One that works, one whose Java does not exist."""
        java = "java" if self._real_java else str(_FAKE_JAVA)
        both = {"backend": "process", "work_dir": str(self._folder / "agents")}
        return [
            {"name": "this-machine", "max_agents": MAX_AGENTS, "java": java, **both},
            {"name": "no-java", "max_agents": 1, "java": _NO_JAVA, **both},
        ]

    def templates(self) -> list[Mapping[str, object]]:
        """One for each provider."""
        # a Java leaves a file in /tmp otherwise, wherever TMPDIR points to
        env = {"JAVA_TOOL_OPTIONS": f"-XX:-UsePerfData -Djava.io.tmpdir={self._folder}/tmp"} if self._real_java else {}
        return [
            {"name": "demo", "labels": ["linux"], "providers": ["this-machine"], "env": env},
            {"name": "broken", "labels": ["broken"], "providers": ["no-java"], "retries": 0},
        ]

    def left(self) -> list[str]:
        """Folders of agents, and processes with the owner's mark."""
        folders = [str(path) for path in (self._folder / "agents" / self._owner).glob("*")]
        own = f"{OWNER_VARIABLE}={self._owner}".encode()
        of_agents = [p for p in marked(self._owner) if own in _environment(p.id.pid)]
        return folders + [f"process {one.id.pid}: {one.command[:80]}" for one in of_agents]

    def clear(self) -> list[str]:
        """Nothing is left to do: processes are ended by their mark, folders go with the demo's own."""
        return []


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


class Containers:
    """Agents are containers on the host's network: the demo's controller listens on loopback only."""

    backend = "docker"
    instances = "containers, volumes and networks"
    slug = "image_not_found"

    def __init__(self, owner: str, *, real_java: bool, image: str | None) -> None:
        self._engine = Engine(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock", owner)
        self._real_java = real_java
        self._wanted = image
        self._image = ""

    def prepare(self) -> str:
        """An image whose `java` runs the controller's agent.jar."""
        version = self._engine.connect()
        if self._real_java:
            self._image = self._engine.present(self._wanted or "jenkins-provisioner-test/agent:latest")
            return f"Docker {version}, image {self._image}"
        self._image = self._engine.make_image(_FAKE_JAVA, self._wanted)
        return f"Docker {version}, image {self._image} made from {self._wanted or 'the Python of this machine'}"

    def providers(self) -> list[Mapping[str, object]]:
        """One engine."""
        return [
            {
                "name": "this-engine",
                "backend": "docker",
                "endpoint": self._engine.endpoint,
                "network": "host",
                "max_agents": MAX_AGENTS,
            }
        ]

    def templates(self) -> list[Mapping[str, object]]:
        """One with the image, one with an image that does not exist."""
        both = {"providers": ["this-engine"], "pull": "never"}
        return [
            {"name": "demo", "labels": ["linux"], "image": self._image, **both},
            {"name": "broken", "labels": ["broken"], "image": _NO_IMAGE, "retries": 0, **both},
        ]

    def left(self) -> list[str]:
        """Containers, volumes and networks with the owner's label."""
        return self._engine.left()

    def clear(self) -> list[str]:
        """Remove them, the image and the volume of agent.jar."""
        return self._engine.clear()
