"""Volumes that all containers of an engine share, each filled once and named by its content.

Containers mount them read-only. Many threads and several sidecars may want one at the same time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from provisioner.backends.contract import CACHE_KEY
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.backends.docker.removal import remove_unless_used
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
        self._held: set[str] = set()

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
            self._full[shared.name] = (time.monotonic(), self._made_at(shared.name))

    def ensure_packed(
        self, shared: Shared, *, image: str, labels: Mapping[str, str], pack: Callable[[], bytes]
    ) -> None:
        """Have a volume full whose content is packed only if it must be; a file that comes last says that it is full.

        Args:
            shared: the volume.
            image: any image of the engine; nothing of it is run.
            labels: of the container that fills it.
            pack: gives the archive, to be unpacked below `/`.

        Raises:
            RefusedError: the engine's own words.
            LaunchError: what `pack` raises; provider_unreachable, or another sidecar's filling does not end.
        """
        last = f"{shared.at}/full"

        def fill(holder: str) -> None:
            self.put(holder, pack())
            done = Archive()
            done.file(last, b"", uid=0, mode=0o444)
            self.put(holder, done.content())

        self.ensure(
            shared, image=image, labels=labels, full=lambda holder: self.size(holder, last) is not None, fill=fill
        )

    def is_full(self, shared: Shared) -> bool:
        """Whether it was seen full and is still there. Raises RefusedError."""
        return self._trusted(shared.name) or self._still_there(shared.name)

    def forget(self, volume: str) -> None:
        """Look at it again before the next use."""
        self._full.pop(volume, None)

    def _trusted(self, volume: str) -> bool:
        seen = self._full.get(volume)
        return seen is not None and time.monotonic() - seen[0] < _TRUST_S

    def _still_there(self, volume: str) -> bool:
        """Whether it is the one we saw full: somebody may have pruned it, and the engine made an empty one."""
        seen = self._full.get(volume)
        made = self._made_at(volume)
        if seen is None or not made or seen[1] != made:
            return False
        self._full[volume] = (time.monotonic(), seen[1])
        return True

    def _made_at(self, volume: str) -> str:
        return self._told(f"/volumes/{name(volume)}", "CreatedAt")

    def _told(self, path: str, field: str) -> str:
        """What the engine says of a thing; empty: there is none."""
        try:
            found = self.engine.call("GET", path).json()
        except RefusedError as refused:
            if refused.code == 404:
                return ""
            raise
        return str(found[field]) if isinstance(found, Mapping) else ""

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
                holder = str(made["Id"]) if isinstance(made, Mapping) else ""
                self._held.add(holder)
                return holder
            found = self._told(f"/containers/{name(shared.name)}-fill/json", "Id")
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
        remove_unless_used(self.engine, f"/containers/{container}", force=True)
        self._held.discard(container)

    def let_go(self, timeout_s: float) -> None:
        """Remove the fillers under way, for nobody will wait for them; what cannot be removed now is pruned later.

        Args:
            timeout_s: the longest wait for each.
        """
        for holder in tuple(self._held):
            with contextlib.suppress(RefusedError, LaunchError):
                remove_unless_used(self.engine, f"/containers/{holder}", force=True, timeout_s=timeout_s)
