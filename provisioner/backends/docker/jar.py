"""agent.jar as a volume of the engine, shared by all containers and named by its content."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Mapping

from provisioner.backends.contract import CACHE_KEY, Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.container import JAR_AT, marks
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.model.errors import LaunchError, Reason

#: For so long a volume that was seen full is taken as full.
_TRUST_S = 10.0
#: A filler that takes longer is what a dead sidecar left.
_FILLING_S = 20.0


class JarVolumes:
    """Fills a volume once; many threads and several sidecars may want it at the same time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._full: dict[str, tuple[float, str]] = {}  # volume: when it was seen, and when it was made

    def ensure(self, order: Order) -> str:
        """The name of a volume that holds the order's agent.jar. Blocks.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: provider_unreachable, or another sidecar's filling does not end.
        """
        volume = f"jenkins-provisioner-jar-{hashlib.sha256(order.agent_jar).hexdigest()[:32]}"
        if self._trusted(volume):
            return volume
        with self._lock:
            if not self._trusted(volume) and not self._still_there(volume):
                self._fill(volume, order)
                self._full[volume] = (time.monotonic(), self._made_at(volume) or "")
        return volume

    def _trusted(self, volume: str) -> bool:
        seen = self._full.get(volume)
        return seen is not None and time.monotonic() - seen[0] < _TRUST_S

    def _still_there(self, volume: str) -> bool:
        """Whether it is the one we saw full: somebody may have pruned it, and the engine made an empty one."""
        seen = self._full.get(volume)
        if seen is None or seen[1] != self._made_at(volume):
            return False
        self._full[volume] = (time.monotonic(), seen[1])
        return True

    def _made_at(self, volume: str) -> str | None:
        try:
            found = self._engine.call("GET", f"/volumes/{name(volume)}").json()
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise
        return str(found["CreatedAt"]) if isinstance(found, Mapping) else None

    def _fill(self, volume: str, order: Order) -> None:
        """Put the file in, by way of a container that is never started.

        Its name is the lock between sidecars: the engine makes only one of a name. It carries the agent's
        mark, so that the agent's `stop` removes it if we die here.
        """
        holder = self._hold(volume, order)
        try:
            if self._size(holder) != len(order.agent_jar):
                archive = Archive()
                archive.file(f"{JAR_AT}/agent.jar", order.agent_jar, uid=0, mode=0o444)
                self._engine.call(
                    "PUT", f"/containers/{holder}/archive", query={"path": "/"}, archive=archive.content()
                )
        finally:
            self._remove(holder)

    def _hold(self, volume: str, order: Order) -> str:
        body = {
            "Image": order.image,
            "Entrypoint": ["never-started"],
            "Labels": marks(order.owner, order.agent),
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": volume,
                        "Target": JAR_AT,
                        "VolumeOptions": {"NoCopy": True, "Labels": {CACHE_KEY: "agent.jar"}},
                    }
                ],
            },
        }
        deadline = time.monotonic() + 3 * _FILLING_S
        other, since = "", time.monotonic()
        while True:
            try:
                made = self._engine.call(
                    "POST", "/containers/create", query={"name": f"{volume}-fill"}, body=body
                ).json()
            except RefusedError as refused:
                if refused.code != 409:
                    raise
            else:
                return str(made["Id"]) if isinstance(made, Mapping) else ""
            found = self._id_of(f"{volume}-fill")
            if found != other:
                other, since = found, time.monotonic()
            elif found and time.monotonic() - since > _FILLING_S:
                self._remove(found)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the volume {volume} for agent.jar is being filled by another sidecar and does not get ready",
                    reason=Reason.PROVIDER_UNREACHABLE,
                    retryable=True,
                )
            time.sleep(0.1)

    def _id_of(self, container: str) -> str:
        try:
            found = self._engine.call("GET", f"/containers/{name(container)}/json").json()
        except RefusedError as refused:
            if refused.code == 404:
                return ""
            raise
        return str(found["Id"]) if isinstance(found, Mapping) else ""

    def _size(self, holder: str) -> int | None:
        """The size of the file; it is full only at its full size, since it is written from front to end."""
        try:
            answer = self._engine.call("HEAD", f"/containers/{holder}/archive", query={"path": f"{JAR_AT}/agent.jar"})
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise
        stat = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        return int(stat["size"])

    def _remove(self, container: str) -> None:
        try:
            self._engine.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})
        except RefusedError as refused:
            if refused.code not in (404, 409):
                raise
