"""Workspaces that outlive their agents: a volume for each job, and more where builds of a job run side by side.

Jenkins gives builds that run side by side workspaces of their own (`app`, `app@2`); agents do the same with whole
volumes. Which are taken is read from the containers that exist, so that nothing has to be given back.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from provisioner.backends.contract import Order
from provisioner.backends.docker.container import WORKSPACE_KEY, Workspace
from provisioner.backends.docker.engine import Engine, filters


class Workspaces:
    """The workspace volumes of one engine. Every method blocks.

    Args:
        engine: where they are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, order: Order) -> Iterator[Workspace | None]:
        """A workspace that no other agent has; none where the order wants none.

        Until the end of the block nobody else takes one of that job: by then the container is to exist.

        Raises:
            RefusedError: the engine's own words.
        """
        if not order.workspace_of:
            yield None
            return
        key = hashlib.sha256(order.workspace_of.encode()).hexdigest()[:16]
        base = f"jenkins-provisioner-workspace-{order.owner}-{key}"
        with self._lock:
            lock = self._locks.setdefault(base, threading.Lock())
        with lock:
            used = self._used(base, order.agent)
            number = next(n for n in range(1, len(used) + 2) if f"{base}-{n}" not in used)
            yield Workspace(volume=f"{base}-{number}", base=base, of=order.workspace_of)

    def _used(self, base: str, agent: str) -> set[str]:
        """The volumes that containers have, those of this agent's earlier start apart."""
        query = {"all": "1", **filters(label=f"{WORKSPACE_KEY}={base}")}
        found = self._engine.call("GET", "/containers/json", query=query).json()
        return {
            str(mount.get("Name"))
            for one in (found if isinstance(found, Sequence) else ())
            if f"/{agent}" not in (one.get("Names") or ())
            for mount in one.get("Mounts") or ()
            if isinstance(mount, Mapping)
        }
