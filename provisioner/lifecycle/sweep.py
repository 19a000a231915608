"""Sweeps: what carries our mark, belongs to no agent, and was seen so twice in a row."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from provisioner.backends.contract import Found
from provisioner.controller.port import Snapshot
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.model.errors import ControllerError, LaunchError

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import ControllerHandle, Desk

log = structlog.get_logger()

PASSES = 2
SWEEP_EVERY_S = 30.0
FIRST_SWEEP_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """One thing of ours that belongs to no agent."""

    kind: str
    id: str
    agent: str
    where: str  # controller or provider
    passes: int
    age_s: float | None = None


class NodeSweep:
    """Our nodes on one controller that no record knows; fed by every complete snapshot."""

    def __init__(self, desk: Desk, controller: ControllerHandle) -> None:
        self._desk = desk
        self._me = controller
        self._seen: dict[str, int] = {}
        self._last = float("-inf")

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """What the last pass found."""
        return tuple(
            Orphan(kind="node", id=name, agent=name, where=self._me.name, passes=passes)
            for name, passes in self._seen.items()
        )

    def look(self, seen: Snapshot, known: Container[str]) -> None:
        """One pass; passes closer together than a sweep's first delay count as one."""
        now = self._desk.clock.monotonic()
        if now - self._last < FIRST_SWEEP_S:
            return
        self._last = now
        strangers = {view.name: view for view in seen.nodes if view.name not in known}
        self._seen = {name: self._seen.get(name, 0) + 1 for name in strangers}
        self._me.busy_strangers = frozenset(name for name, view in strangers.items() if view.busy)
        for name, passes in self._seen.items():
            # A node that runs a build is never deleted: the state file was lost, its build was not.
            if passes >= PASSES and not strangers[name].busy:
                self._desk.errand(self.remove(name), name=f"sweep {name}")

    async def remove(self, name: str) -> None:
        """Delete one orphan. Idempotent."""
        try:
            await self._me.port.remove(name)
        except ControllerError as error:
            log.info("orphan.stays", kind="node", id=name, problem=error.message)
            return
        self._seen.pop(name, None)
        self._desk.metrics.orphan_removed("node")
        log.info("orphan.removed", kind="node", id=name)

    async def remove_seen(self) -> None:
        """Delete now what two passes saw; never a node that runs a build."""
        for name, passes in tuple(self._seen.items()):
            if passes >= PASSES and name not in self._me.busy_strangers and name not in self._desk.agents:
                await self.remove(name)


class InstanceSweep:
    """Our instances and leftovers at one provider that no record knows."""

    def __init__(self, desk: Desk, provider: ProviderHandle) -> None:
        self._desk = desk
        self._provider = provider
        self._seen: dict[tuple[str, str], int] = {}
        self._found: tuple[Found, ...] = ()

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """What the last complete pass found."""
        return tuple(
            Orphan(
                kind=f.kind,
                id=f.id,
                agent=f.agent,
                where=self._provider.name,
                passes=self._seen.get((f.kind, f.id), 0),
                age_s=f.age_s,
            )
            for f in self._found
        )

    async def run(self) -> None:
        """Look for ever."""
        pause_s = FIRST_SWEEP_S
        while True:
            await self._desk.clock.sleep(pause_s)
            self._desk.tick(f"sweep {self._provider.name}")
            if not self._provider.up:
                continue
            try:
                clean = await self.look()
            except LaunchError as error:
                log.info("sweep.failed", provider=self._provider.name, problem=error.message)
                continue
            pause_s = SWEEP_EVERY_S if clean else FIRST_SWEEP_S

    async def look(self) -> bool:
        """One pass; whether nothing was found. Deletes nothing after an incomplete listing."""
        # Taken before the listing: an agent that is planned meanwhile must not look like an orphan.
        listing = await self._provider.backend.listing(self._desk.settings.id)
        if not listing.complete:
            log.info("sweep.incomplete", provider=self._provider.name)
            return False
        self._found = tuple(f for f in listing.found if f.agent not in self._desk.agents and self._ours(f))
        self._seen = {(f.kind, f.id): self._seen.get((f.kind, f.id), 0) + 1 for f in self._found}
        clean = not self._found
        for found in self._found:
            if self._seen[(found.kind, found.id)] >= PASSES:
                await self._remove(found)
        return clean

    async def remove_seen(self) -> None:
        """Remove now what two complete passes in a row saw."""
        for found in self._found:
            if self._seen.get((found.kind, found.id), 0) >= PASSES:
                await self._remove(found)

    def _ours(self, found: Found) -> bool:
        """Not while a controller has not shown yet which of its nodes are busy: a record may have been lost."""
        busy = self._desk.busy_strangers
        return found.agent not in busy and all(c.seen for c in self._desk.controllers.values())

    async def _remove(self, found: Found) -> None:
        if found.agent in self._desk.agents:
            return
        try:
            await self._provider.backend.remove_found(found)
        except LaunchError as error:
            log.info("orphan.stays", kind=found.kind, id=found.id, problem=error.message)
            return
        self._found = tuple(f for f in self._found if f != found)
        self._desk.metrics.orphan_removed(found.kind)
        log.info("orphan.removed", kind=found.kind, id=found.id, agent=found.agent, provider=self._provider.name)
