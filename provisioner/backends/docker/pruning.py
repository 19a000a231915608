"""What was prepared for an engine and is of use to nobody any more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner.backends.contract import CACHE_KEY
from provisioner.backends.docker import class_data, jar_volumes
from provisioner.backends.docker.class_data import OF_KEY
from provisioner.backends.docker.engine import Engine, RefusedError, filters, name
from provisioner.backends.docker.reading import age_s
from provisioner.backends.docker.removal import remove_unless_used
from provisioner.model.errors import LaunchError

#: A preparation this old is what a dead sidecar left.
_LEFT_S = 900.0
#: What is this old and in no container is removed, for it may be of a controller that was upgraded since.
_OLD_S = 30 * 24 * 3600.0
#: Between two looks.
_EVERY_S = 900.0


class Pruning:
    """Prunes now and then; a look that is not due costs nothing.

    Args:
        engine: whose preparations are looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due = 0.0

    def __call__(self) -> None:
        """Prune, unless that was done a short while ago. Blocks; one caller at a time."""
        if time.monotonic() >= self._due:
            prune(self._engine)
            self._due = time.monotonic() + _EVERY_S


def prune(engine: Engine) -> None:
    """Remove preparations that dead sidecars left, and volumes that are old or whose image or runtime is gone.

    Blocks; what fails is left alone.
    """
    try:
        for kind in (class_data.KIND, jar_volumes.KIND):
            query = {"all": "1", **filters(label=f"{CACHE_KEY}={kind}")}
            found = engine.call("GET", "/containers/json", query=query).json()
            for container in found if isinstance(found, Sequence) else ():
                if time.time() - float(container["Created"]) > _LEFT_S:
                    remove_unless_used(engine, f"/containers/{container['Id']}", force=True)
            for volume in _volumes(engine, kind):
                if _is_useless(engine, volume):
                    remove_unless_used(engine, f"/volumes/{name(str(volume['Name']))}")
    except (RefusedError, LaunchError):
        pass


def _volumes(engine: Engine, kind: str) -> Iterator[Mapping[str, Any]]:
    answer = engine.call("GET", "/volumes", query=filters(label=f"{CACHE_KEY}={kind}")).json()
    listed = answer.get("Volumes") if isinstance(answer, Mapping) else None
    yield from listed if isinstance(listed, Sequence) else ()


def _is_useless(engine: Engine, volume: Mapping[str, Any]) -> bool:
    of = str((volume.get("Labels") or {}).get(OF_KEY, ""))
    return (age_s(volume.get("CreatedAt")) or 0.0) > _OLD_S or (bool(of) and _is_gone(engine, of))


def _is_gone(engine: Engine, of: str) -> bool:
    """Whether the image or the volume is no longer there."""
    try:
        engine.call("GET", f"/images/{name(of)}/json" if of.startswith("sha256:") else f"/volumes/{name(of)}")
    except RefusedError as refused:
        if refused.code == 404:
            return True
        raise
    return False
