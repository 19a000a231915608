"""Class data prepared for the JVM of an image: it maps the agent's classes instead of reading and checking them.

A JVM makes such data of a list of classes and takes only its own, so each image needs data of its own. They are
made once per host, in the background, by a container of that image which has no network and runs no build; agents
mount them read-only. Data that do not fit are left alone by the JVM, which then starts as it would without.

`classes.txt` names the classes of the JDK that an agent uses, and its lambdas; a JVM skips what it has not. It was
recorded with `-XX:DumpLoadedClassList` from agents on Java 17 and 25. The agent's own classes come from agent.jar.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources

from provisioner.backends.contract import CACHE_KEY, Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import JAR_AT
from provisioner.backends.docker.engine import Engine, RefusedError, filters, name
from provisioner.backends.docker.reading import age_s
from provisioner.backends.docker.shared import Shared, SharedVolumes, mount
from provisioner.model.errors import LaunchError
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
_TRUST_S = 600.0
_AGAIN_S = 300.0
#: A preparation this old is what a dead sidecar left.
_LEFT_S = 900.0
#: Class data this old that no container uses are removed, for they may be of a controller that was upgraded since.
_OLD_S = 30 * 24 * 3600.0


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
    """

    def __init__(self, volumes: SharedVolumes) -> None:
        self._volumes = volumes
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="docker-prepare")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}  # volume: until when it is trusted, and whether it has data
        self._under_way: set[str] = set()

    def use(self, order: Order, jvm: Jvm) -> tuple[list[str], list[dict[str, object]]]:
        """Options and mounts for a start; none as long as there are no data, which are then prepared."""
        shared = _shared(jvm)
        with self._lock:
            until, there = self._known.get(shared.name, (0.0, False))
            if until < time.monotonic() and shared.name not in self._under_way:
                self._under_way.add(shared.name)
                self._submit(shared, order.agent_jar, jvm)
        return ([f"-XX:SharedArchiveFile={_DATA}"], [mount(shared)]) if there else ([], [])

    def _submit(self, shared: Shared, agent_jar: bytes, jvm: Jvm) -> None:
        try:
            self._threads.submit(self._prepare, shared, agent_jar, jvm)
        except RuntimeError:
            self._under_way.discard(shared.name)  # the backend was closed

    def _prepare(self, shared: Shared, agent_jar: bytes, jvm: Jvm) -> None:
        known = (time.monotonic() + _AGAIN_S, False)
        try:
            there = self._ensure(shared, agent_jar, jvm)
            known = (time.monotonic() + _TRUST_S, there)
        except (RefusedError, LaunchError):
            pass  # agents start without; it is tried again later
        finally:
            with self._lock:
                self._known[shared.name] = known
                self._under_way.discard(shared.name)

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
            engine.call("POST", f"/containers/{holder}/wait")
        except RefusedError as refused:
            if refused.code not in (400, 404):  # 400, 404: the image has no such Java
                raise
        # also a JVM that made none is done: it would not the next time
        done = Archive()
        done.file(_DONE, b"", uid=0, mode=0o444)
        self._volumes.put(holder, done.content())

    def prune(self) -> None:
        """Remove class data whose image or runtime is gone. Never fails; for a thread in the background."""
        with contextlib.suppress(RuntimeError):  # the backend was closed
            self._threads.submit(prune, self._volumes.engine)

    def close(self) -> None:
        """Let go of the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def prune(engine: Engine) -> None:
    """Remove preparations that dead sidecars left, and class data that are old or whose image or runtime is gone.

    Blocks; what fails is left alone.
    """
    try:
        query = {"all": "1", **filters(label=f"{CACHE_KEY}={KIND}")}
        found = engine.call("GET", "/containers/json", query=query).json()
        for container in found if isinstance(found, Sequence) else ():
            if time.time() - float(container["Created"]) > _LEFT_S:
                _remove(engine, f"/containers/{container['Id']}", {"force": "1", "v": "1"})
        answer = engine.call("GET", "/volumes", query=filters(label=f"{CACHE_KEY}={KIND}")).json()
        listed = answer.get("Volumes") if isinstance(answer, Mapping) else None
        for volume in listed if isinstance(listed, Sequence) else ():
            if (age_s(volume.get("CreatedAt")) or 0.0) > _OLD_S:
                _remove(engine, f"/volumes/{name(str(volume['Name']))}", {})
                continue
            of = str((volume.get("Labels") or {}).get(OF_KEY, ""))
            path = f"/images/{name(of)}/json" if of.startswith("sha256:") else f"/volumes/{name(of)}"
            try:
                engine.call("GET", path)
            except RefusedError as refused:
                if refused.code == 404:
                    _remove(engine, f"/volumes/{name(str(volume['Name']))}", {})
    except (RefusedError, LaunchError):
        pass


def _remove(engine: Engine, path: str, query: Mapping[str, str]) -> None:
    try:
        engine.call("DELETE", path, query=query)
    except RefusedError as refused:
        if refused.code not in (404, 409):  # gone, or in use
            raise


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
