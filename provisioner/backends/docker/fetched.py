"""The jars that an agent fetches from its controller, given to the next agent before it starts.

Without them every agent fetches the same 20 MB of the controller's classes, which is most of its work. They are
taken from an agent that ends. A build could have put anything there, so a file is taken only if its content has
the checksum that is its name: the agent loads a jar only by the checksum that the controller names, and no other
content can have it. Each agent gets files of its own, since the agent dates each jar that it uses, and must be
able to add those that are missing. They are kept in memory: a restarted sidecar learns them from its first agents.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner.backends.contract import Order
from provisioner.backends.docker.engine import Engine, RefusedError, name
from provisioner.model.errors import LaunchError

#: The date of the files that we give; an agent that uses one sets it to now.
GIVEN_MTIME = 1

_NAME = re.compile(r"[^/]+/([0-9A-F]{2})/([0-9A-F]{30}\.jar)")
_MOST_BYTES = 64 << 20
_MOST_JARS = 100
_MOST_SETS = 20
_MOST_AGENTS = 5000
_READ_S = 2.0
#: So many agents are looked at as they end, then one in this time.
_FIRST_LOOKS = 2
_LOOK_EVERY_S = 300.0
#: A jar that so many agents in a row had and did not use is given no more.
_UNUSED_LOOKS = 8


@dataclass(slots=True)
class _Set:
    """What the agents of one controller fetch."""

    jars: dict[str, bytes] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    looked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Started:
    """A started agent whose jars may be worth a look."""

    key: str
    at: str
    given: frozenset[str]


class FetchedJars:
    """What agents fetched before, by controller. Safe in any thread.

    Args:
        engine: where the agents are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._sets: dict[str, _Set] = {}
        self._started: dict[str, _Started] = {}

    def given(self, order: Order) -> Mapping[str, bytes]:
        """The jars for an agent about to start, by their path below its folder of jars."""
        if not (order.jars_at and order.agent_jar):
            return {}
        key = f"{order.jars_of} {hashlib.sha256(order.agent_jar).hexdigest()}"
        with self._lock:
            known = self._sets.get(key)
            jars = dict(known.jars) if known else {}
            while len(self._started) >= _MOST_AGENTS:
                del self._started[next(iter(self._started))]
            self._started[order.agent] = _Started(key, order.jars_at, frozenset(jars))
        return jars

    def look(self, agent: str, container: str | None) -> None:
        """Learn from an agent that is about to be removed, if it is time to; never fails. Blocks."""
        with self._lock:
            started = self._started.pop(agent, None)
            if started is None or container is None or not self._due(started.key):
                return
        if not self._looking.acquire(blocking=False):
            return  # one at a time: the others' ends are not delayed
        try:
            packed = self._engine.start_of(
                f"/containers/{name(container)}/archive",
                query={"path": started.at},
                most_bytes=2 * _MOST_BYTES,
                timeout_s=_READ_S,
            )
            self._learn(started, verified(packed))
        except (RefusedError, LaunchError):
            pass  # it never came so far, or is gone: another agent will do
        finally:
            self._looking.release()

    def _due(self, key: str) -> bool:
        known = self._sets.get(key)
        return known is None or known.looks < _FIRST_LOOKS or time.monotonic() - known.looked_at > _LOOK_EVERY_S

    def _learn(self, started: _Started, found: Mapping[str, tuple[bytes, bool]]) -> None:
        if not found:
            return
        with self._lock:
            while started.key not in self._sets and len(self._sets) >= _MOST_SETS:
                del self._sets[next(iter(self._sets))]
            known = self._sets.setdefault(started.key, _Set())
            known.looks += 1
            known.looked_at = time.monotonic()
            for path in started.given:
                used = path in found and found[path][1]
                known.unused[path] = 0 if used else known.unused.get(path, 0) + 1
                if known.unused[path] >= _UNUSED_LOOKS:
                    known.jars.pop(path, None)
            size = sum(map(len, known.jars.values()))
            for path, (content, _) in found.items():
                if path not in known.jars and path not in started.given:
                    size += len(content)
                    if size > _MOST_BYTES or len(known.jars) >= _MOST_JARS:
                        break
                    known.jars[path], known.unused[path] = content, 0


def verified(packed: bytes) -> dict[str, tuple[bytes, bool]]:
    """The jars in an archive whose content is what their name says, and whether the agent used each.

    The archive comes from a container in which a build may have done anything.
    """
    found: dict[str, tuple[bytes, bool]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            for entry in tar:
                match = _NAME.fullmatch(entry.name)
                if match is None or entry.type != tarfile.REGTYPE or not 0 < entry.size <= len(packed):
                    continue
                reader = tar.extractfile(entry)
                content = reader.read() if reader else b""
                if checksum(content) == match[1] + match[2].removesuffix(".jar"):
                    found[f"{match[1]}/{match[2]}"] = content, int(entry.mtime) != GIVEN_MTIME
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError):
        pass  # cut off where it was too large; what came before is as good
    return found


def checksum(content: bytes) -> str:
    """The name that remoting gives to a jar: its SHA-256 folded to one half."""
    first, second, third, fourth = struct.unpack(">4Q", hashlib.sha256(content).digest())
    return f"{first ^ third:016X}{second ^ fourth:016X}"
