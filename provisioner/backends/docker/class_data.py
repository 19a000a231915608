"""Class data prepared for the JVM of an image: it maps the agent's classes instead of reading and checking them.

A JVM makes such data of a list of classes and takes only its own, so each image needs data of its own. They are
made once per host, in the background, by a container of that image which has no network and runs no build; agents
mount them read-only. Data that do not fit are left alone by the JVM, which then starts as it would without.

`classes.txt` names the classes of the JDK that an agent uses, and its lambdas; a JVM skips what it has not. It was
recorded with `-XX:DumpLoadedClassList` from agents on Java 17 and 25. The agent's own classes come from agent.jar.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources

from provisioner.backends.contract import CACHE_KEY, Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import JAR_AT
from provisioner.backends.docker.engine import RefusedError
from provisioner.backends.docker.preparing import Preparing
from provisioner.backends.docker.reading import lacked_memory
from provisioner.backends.docker.shared import Shared, SharedVolumes, mount
from provisioner.model.errors import LaunchError, Reason
from provisioner.transports.java import FLAGS

CLASSES_AT = "/opt/jenkins-provisioner-classes"
KIND = "class data"
#: On a volume of class data: the image or the runtime whose JVM it is for.
OF_KEY = f"{CACHE_KEY}.of"

_LAYOUT = "1"  # to be raised when the data are made in another way
_DATA = f"{CLASSES_AT}/agent.jsa"
_LIST = f"{CLASSES_AT}/classes.txt"
_DONE = f"{CLASSES_AT}/done"
#: The weight of the preparation beside launches and builds, of 1024.
_CPU_SHARES = 64
_MEMORY_BYTES = 512 << 20
_KILLED = 137


@dataclass(frozen=True, kw_only=True, slots=True)
class Jvm:
    """What class data are made for."""

    of: str  # id of the image or name of the runtime's volume that has the JVM
    image: str
    java: str
    mounts: tuple[Shared, ...]  # agent.jar, and the runtime if it is ours


class ClassData:
    """The class data of one engine. Safe in any thread.

    Args:
        volumes: the shared volumes of the engine.
        preparing: who makes them.
    """

    def __init__(self, volumes: SharedVolumes, preparing: Preparing) -> None:
        self._volumes = volumes
        self._preparing = preparing

    def use(self, order: Order, jvm: Jvm) -> tuple[list[str], list[dict[str, object]]]:
        """Options and mounts for a start; none as long as there are no data, which are then prepared."""
        shared = _shared(jvm)
        there = self._preparing.there(shared.name, partial(self._ensure, shared, order.agent_jar, jvm))
        return ([f"-XX:SharedArchiveFile={_DATA}"], [mount(shared)]) if there else ([], [])

    def _ensure(self, shared: Shared, agent_jar: bytes, jvm: Jvm) -> bool:
        """Have the volume filled; whether this JVM made data."""
        program = [jvm.java, *FLAGS, "-Xshare:dump", f"-XX:SharedClassListFile={_LIST}"]
        body = {
            "Image": jvm.image,
            "Entrypoint": program[:1],
            "Cmd": [*program[1:], f"-XX:SharedArchiveFile={_DATA}", "-cp", f"{JAR_AT}/agent.jar"],
            "WorkingDir": "/",
            "User": "0:0",
            "Labels": {CACHE_KEY: KIND},
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "NetworkMode": "none",
                "CpuShares": _CPU_SHARES,
                "Memory": _MEMORY_BYTES,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": {"Type": "none"},
                "Mounts": [mount(one) for one in jvm.mounts],
            },
        }
        holder = self._volumes.hold(shared, body)
        try:
            if self._volumes.size(holder, _DONE) is None:
                self._make(holder, agent_jar)
            return self._volumes.size(holder, _DATA) is not None
        finally:
            self._volumes.remove(holder)

    def _make(self, holder: str, agent_jar: bytes) -> None:
        listed = Archive()
        listed.file(_LIST, class_list(agent_jar), uid=0, mode=0o444)
        self._volumes.put(holder, listed.content())
        engine = self._volumes.engine
        try:
            engine.call("POST", f"/containers/{holder}/start")
            ended = engine.call("POST", f"/containers/{holder}/wait").json()
            if isinstance(ended, Mapping) and ended["StatusCode"] == _KILLED and not self._lacked_memory(holder):
                raise LaunchError(
                    "the preparation of class data was ended from outside", reason=Reason.PROVIDER_UNREACHABLE
                )
        except RefusedError as refused:
            if refused.code not in (400, 404):  # 400, 404: the image has no such Java
                raise
        # also a JVM that made none is done: it would not the next time
        done = Archive()
        done.file(_DONE, b"", uid=0, mode=0o444)
        self._volumes.put(holder, done.content())

    def _lacked_memory(self, holder: str) -> bool:
        found = self._volumes.engine.call("GET", f"/containers/{holder}/json").json()
        return isinstance(found, Mapping) and lacked_memory(self._volumes.engine, found)


def _shared(jvm: Jvm) -> Shared:
    words = " ".join((_LAYOUT, jvm.of, jvm.java, *FLAGS, *(one.name for one in jvm.mounts)))
    digest = hashlib.sha256(words.encode()).hexdigest()[:32]
    return Shared(
        name=f"jenkins-provisioner-classes-{digest}", kind=KIND, at=CLASSES_AT, labels={OF_KEY: jvm.of}, slow=True
    )


def class_list(agent_jar: bytes) -> bytes:
    """The list for the JVM: the JDK's classes that an agent uses, and all of the agent's own."""
    common = (resources.files(__package__) / "classes.txt").read_text()
    names: list[str] = []
    lambdas: list[str] = []
    for line in common.splitlines():
        (lambdas if line.startswith("@") else names).append(line)
    with zipfile.ZipFile(io.BytesIO(agent_jar)) as jar:
        names += [
            entry.removesuffix(".class")
            for entry in jar.namelist()
            if entry.endswith(".class") and not entry.startswith("META-INF/")
        ]
    return "\n".join((*names, *lambdas, "")).encode()
