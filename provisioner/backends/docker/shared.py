"""Volumes that all containers of an engine share, each filled once and named by its content.

Containers mount them read-only. Many threads and several sidecars may want one at the same time.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from provisioner.backends.contract import CACHE_KEY
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.model.errors import LaunchError, Reason

#: For so long a volume that was seen full is taken as full.
_TRUST_S = 10.0
#: A filler that takes longer is what a dead sidecar left.
_FILLING_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A shared volume."""

    name: str
    kind: str  # in words, for its label and for messages
    at: str  # where containers see it
    labels: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False  # takes minutes to fill on a busy machine


def mount(shared: Shared) -> dict[str, object]:
    """How a container mounts it, to read only."""
    return {**_writable(shared), "ReadOnly": True}


def _writable(shared: Shared) -> dict[str, object]:
    labels = {CACHE_KEY: shared.kind, **shared.labels}
    return {
        "Type": "volume",
        "Source": shared.name,
        "Target": shared.at,
        "VolumeOptions": {"NoCopy": True, "Labels": labels},
    }


class SharedVolumes:
    """The shared volumes of one engine. Every method blocks.

    Args:
        engine: where they are.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._full: dict[str, tuple[float, str]] = {}  # volume: when it was seen, and when it was made

    def ensure(
        self,
        shared: Shared,
        *,
        image: str,
        labels: Mapping[str, str],
        full: Callable[[str], bool],
        fill: Callable[[str], None],
    ) -> None:
        """Have the volume full.

        Args:
            shared: the volume.
            image: any image of the engine; nothing of it is run.
            labels: of the container that fills it.
            full: whether the volume of a container is full.
            fill: fills it.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: provider_unreachable, or another sidecar's filling does not end.
        """
        if self._trusted(shared.name):
            return
        with self._lock:
            lock = self._locks.setdefault(shared.name, threading.Lock())
        with lock:
            if self._trusted(shared.name) or self._still_there(shared.name):
                return
            body = {"Image": image, "Entrypoint": ["never-started"], "Labels": dict(labels)}
            holder = self.hold(shared, body)
            try:
                if not full(holder):
                    fill(holder)
            finally:
                self.remove(holder)
            self._full[shared.name] = (time.monotonic(), self._made_at(shared.name) or "")

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
            found = self.engine.call("GET", f"/volumes/{name(volume)}").json()
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise
        return str(found["CreatedAt"]) if isinstance(found, Mapping) else None

    def hold(self, shared: Shared, body: Mapping[str, object]) -> str:
        """Make the container by which the volume is filled, and give its id.

        Its name is the lock between sidecars: the engine makes only one of a name.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: provider_unreachable; another sidecar's filling does not end.
        """
        host = body.get("HostConfig")
        wanted = {
            **body,
            "HostConfig": {
                "NetworkMode": "none",
                **(host if isinstance(host, Mapping) else {}),
                "Mounts": [*(host.get("Mounts", ()) if isinstance(host, Mapping) else ()), _writable(shared)],
            },
        }
        stale_s = _FILLING_S * (10 if shared.slow else 1)
        deadline = time.monotonic() + 3 * stale_s
        other, since = "", time.monotonic()
        while True:
            try:
                query = {"name": f"{shared.name}-fill"}
                made = self.engine.call("POST", "/containers/create", query=query, body=wanted).json()
            except RefusedError as refused:
                if refused.code != 409:
                    raise
            else:
                return str(made["Id"]) if isinstance(made, Mapping) else ""
            found = self._id_of(f"{shared.name}-fill")
            if found != other:
                other, since = found, time.monotonic()
            elif found and time.monotonic() - since > stale_s:
                self.remove(found)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the volume {shared.name} ({shared.kind}) is being filled by another sidecar and does not get "
                    "ready; it is tried again",
                    reason=Reason.PROVIDER_UNREACHABLE,
                    retryable=True,
                )
            time.sleep(0.1)

    def _id_of(self, container: str) -> str:
        try:
            found = self.engine.call("GET", f"/containers/{name(container)}/json").json()
        except RefusedError as refused:
            if refused.code == 404:
                return ""
            raise
        return str(found["Id"]) if isinstance(found, Mapping) else ""

    def size(self, holder: str, path: str) -> int | None:
        """The size of a file; None if there is none."""
        try:
            answer = self.engine.call("HEAD", f"/containers/{holder}/archive", query={"path": path})
        except RefusedError as refused:
            if refused.code == 404:
                return None
            raise
        stat = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        return int(stat["size"])

    def put(self, holder: str, archive: bytes) -> None:
        """Unpack an archive below `/`."""
        self.engine.call("PUT", f"/containers/{holder}/archive", query={"path": "/"}, archive=archive)

    def remove(self, container: str) -> None:
        """Remove a filler; gone is done."""
        try:
            self.engine.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})
        except RefusedError as refused:
            if refused.code not in (404, 409):
                raise
