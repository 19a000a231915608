"""The jars that agents fetch, in a volume from which each agent copies them before its Java starts.

An agent dates the jars that it uses and adds others, so it needs files of its own; copied inside the container they
cost a fraction of what it takes to send them through the engine. The volume brings a shell and `cp` of this machine,
with their loader and libraries, so that nothing of the image is used.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from provisioner.backends.contract import CACHE_KEY, Order
from provisioner.backends.docker.archive import Archive
from provisioner.backends.docker.engine import name
from provisioner.backends.docker.fetched import GIVEN_MTIME
from provisioner.backends.docker.preparing import Preparing
from provisioner.backends.docker.relocated import Bringing
from provisioner.backends.docker.removal import remove_unless_used
from provisioner.backends.docker.shared import Shared, SharedVolumes, mount
from provisioner.model.errors import LaunchError, Reason

JARS_AT = "/opt/jenkins-provisioner-jars"
KIND = "jars"

_LAYOUT = "1"  # to be raised when the volume is made in another way
_SHELL, _COPY = f"{JARS_AT}/bin/sh", f"{JARS_AT}/bin/cp"
_JARS = f"{JARS_AT}/jars"
#: What the agent lacks of them it fetches, so that a copy which fails does no harm.
_SCRIPT = '"$0" -R --preserve=timestamps "$1"/?? "$2" 2>/dev/null; shift 2; exec "$@"'
#: A volume that was replaced so long ago is in no start any more that is under way.
_REPLACED_S = 600.0
_BRINGING = Bringing(key="the volume of jars", what="shell", instead="nothing, since it works without")


@dataclass(frozen=True, kw_only=True, slots=True)
class Copying:
    """How an agent copies its jars."""

    words: tuple[str, ...]  # to come before its command
    mount: Mapping[str, object]


class JarVolumes:
    """The volumes of jars of one engine. Safe in any thread.

    Args:
        volumes: the shared volumes of the engine.
        preparing: who fills them.
    """

    def __init__(self, volumes: SharedVolumes, preparing: Preparing) -> None:
        self._volumes = volumes
        self._preparing = preparing
        self._lock = threading.Lock()
        self._current: dict[str, str] = {}  # of the agents of a controller
        self._replaced: dict[str, float] = {}

    def use(self, order: Order, jars: Mapping[str, bytes]) -> Copying | None:
        """How an agent comes to these jars by itself; None as long as that is not prepared, or cannot be.

        Raises:
            RefusedError: the engine's own words.
        """
        if not jars or order.work_as is not None:  # the files would belong to whom its command runs as
            return None
        shared = _shared(jars)
        self._replace(order.jars_of, shared.name)
        make = partial(self._make, shared, order.image or "", jars)
        if not self._preparing.there(shared.name, make):
            return None
        if not self._volumes.is_full(shared):  # somebody pruned it
            self._preparing.forget(shared.name)
            self._preparing.there(shared.name, make)
            return None
        return Copying(words=(_SHELL, "-c", _SCRIPT, _COPY, _JARS, order.jars_at), mount=mount(shared))

    def doubt(self) -> None:
        """A container that was to copy did not start: look again for the volumes."""
        with self._lock:
            for volume in self._current.values():
                self._volumes.forget(volume)
                self._preparing.forget(volume)

    def _replace(self, key: str, volume: str) -> None:
        with self._lock:
            before = self._current.get(key)
            self._current[key] = volume
            if before is not None and before != volume:
                self._replaced[before] = time.monotonic()
            self._replaced.pop(volume, None)

    def _make(self, shared: Shared, image: str, jars: Mapping[str, bytes]) -> bool:
        def pack() -> bytes:
            _BRINGING.check_machine(self._volumes)
            return _pack(jars)

        self._volumes.ensure_packed(shared, image=image, labels={CACHE_KEY: KIND}, pack=pack)
        self._preparing.later(self._remove_replaced)
        return True

    def _remove_replaced(self) -> None:
        with self._lock:
            over = [one for one, since in self._replaced.items() if time.monotonic() - since > _REPLACED_S]
            over = [one for one in over if one not in self._current.values()]
        for volume in over:
            if remove_unless_used(self._volumes.engine, f"/volumes/{name(volume)}"):
                with self._lock:
                    self._replaced.pop(volume, None)


def _shared(jars: Mapping[str, bytes]) -> Shared:
    words = " ".join((_LAYOUT, platform.machine(), *sorted(jars)))
    digest = hashlib.sha256(words.encode()).hexdigest()[:32]
    return Shared(name=f"jenkins-provisioner-jars-{digest}", kind=KIND, at=JARS_AT, slow=True)


def _pack(jars: Mapping[str, bytes]) -> bytes:
    shell, copy = _program("sh"), _program("cp")
    libraries = [_libraries(program) for program in (shell, copy)]
    archive = Archive()
    for at, program, needed in ((_SHELL, shell, libraries[0]), (_COPY, copy, libraries[1])):
        loader = f"{JARS_AT}/lib/{needed[0].name}"
        content = _BRINGING.relocated(program, loader=loader, libraries=f"{JARS_AT}/lib")
        archive.file(at, content, uid=0, mode=0o555)
    for library in sorted({library for needed in libraries for library in needed}):
        archive.file(f"{JARS_AT}/lib/{library.name}", library.read_bytes(), uid=0, mode=0o555)
    for path, content in jars.items():
        archive.file(f"{_JARS}/{path}", content, uid=0, mode=0o644, mtime=GIVEN_MTIME)
    return archive.content()


def _program(program: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise LaunchError(f"this machine has no `{program}` to bring", reason=Reason.INTERNAL_ERROR)
    return Path(found).resolve()


def _libraries(program: Path) -> Sequence[Path]:
    return _BRINGING.libraries(program, [program], search="", within=Path("/nonexistent"))
