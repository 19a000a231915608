"""Sweeps: what carries our mark, belongs to no agent, and was seen so twice in a row."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import structlog

from provisioner.backends.contract import Found
from provisioner.controller.port import Snapshot
from provisioner.lifecycle.adoption import adopted
from provisioner.lifecycle.orphans import Orphan, age_s, why
from provisioner.lifecycle.providers import ProviderHandle
from provisioner.model.agent import Agent
from provisioner.model.errors import ControllerError, LaunchError, Reason
from provisioner.model.queue import NodeView

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import ControllerHandle, Desk

log = structlog.get_logger()

PASSES = 2
SWEEP_EVERY_S = 30.0
FIRST_SWEEP_S = 3.0
#: How long a Pipeline may take to resume on its agent after a restart of the controller.
RESUME_GRACE_S = 90.0


class NodeSweep:
    """Our nodes on one controller that no record knows; fed by every complete snapshot."""

    def __init__(self, desk: Desk, controller: ControllerHandle, adopt: Callable[[Agent], None]) -> None:
        self._desk = desk
        self._me = controller
        self._adopt = adopt
        self._seen: dict[str, int] = {}
        self._first: dict[str, float] = {}  # when each was first seen, monotonic
        self._held: dict[str, str] = {}  # why one is not removed yet
        self._last = float("-inf")
        self._session = ""
        self._resumed_at = 0.0  # till then Pipelines may come back for their idle nodes

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """What the last pass found."""
        now = self._desk.clock.monotonic()
        return tuple(
            Orphan(
                kind="node",
                id=name,
                agent=name,
                where=self._me.name,
                passes=passes,
                reason=why(self._desk, name, passes, self._held.get(name, "")),
                age_s=age_s(self._desk, name, now - self._first.get(name, now)),
            )
            for name, passes in self._seen.items()
        )

    def look(self, seen: Snapshot, known: Container[str]) -> None:
        """One pass; passes closer together than a sweep's first delay count as one."""
        strangers = {view.name: view for view in seen.nodes if view.name not in known}
        self._me.strangers = frozenset(strangers)
        now = self._desk.clock.monotonic()
        if now - self._last < FIRST_SWEEP_S:
            return
        self._last = now
        self._seen = {name: self._seen.get(name, 0) + 1 for name in strangers}
        if self._session != seen.info.session:
            self._session, self._resumed_at = seen.info.session, now + RESUME_GRACE_S
        self._first = {name: self._first.get(name, now) for name in strangers}
        resuming = {item.label for item in seen.items}
        self._held = {name: held for name, view in strangers.items() if (held := self._holds(view, resuming, now))}
        for name, passes in tuple(self._seen.items()):
            if passes < PASSES:
                continue
            kept = (strangers[name].busy or name in resuming) and self._keep(strangers[name])
            free = not strangers[name].busy and (name not in resuming or self._counted)
            if not kept and free and now >= self._resumed_at:
                self._desk.errand(self.remove(name), name=f"sweep {name}")

    def _holds(self, view: NodeView, resuming: Container[str | None], now: float) -> str:
        """Why a node that no record knows stays for now."""
        if view.busy:
            return "a build runs on it; it is adopted if a provider shows its instance, or goes when that ends"
        if now < self._resumed_at:
            return "a Pipeline may come back to it after a start of the controller or of the provisioner"
        if view.name in resuming and not self._counted:
            return "a Pipeline waits for it, and not every provider has shown what exists there"
        return ""

    @property
    def _counted(self) -> bool:
        return all(provider.up and provider.counted for provider in self._desk.providers.values())

    def _keep(self, view: NodeView) -> bool:
        """Adopt a node that runs a build, or is awaited by one: the state file was lost, its build was not."""
        agent = adopted(self._desk, self._me.name, view)
        if agent is None:
            return False  # no provider shows its instance; when its build has ended it is swept
        log.warning("agent.adopted", agent=agent.name, provider=agent.provider, controller=self._me.name)
        self._seen.pop(view.name, None)
        self._me.strangers -= {view.name}
        self._adopt(agent)
        return True

    async def remove(self, name: str) -> None:
        """Delete one orphan, unless a build got onto it meanwhile. Idempotent."""
        try:
            await self._bar(name)
            if any(view.name == name and view.busy for view in (await self._me.port.snapshot()).nodes):
                return  # the next pass adopts it
            if name in self._desk.agents:
                return
            await self._me.port.remove(name)
        except ControllerError as error:
            log.info("orphan.stays", kind="node", id=name, problem=error.message)
            return
        self._seen.pop(name, None)
        self._desk.metrics.orphan_removed("node")
        log.info("orphan.removed", kind="node", id=name)

    async def _bar(self, name: str) -> None:
        try:
            await self._me.port.bar(name)
        except ControllerError as error:
            if error.retryable:
                raise
            log.info("orphan.not_barred", id=name, problem=error.message)  # it is gone, or may not be changed

    async def remove_seen(self) -> None:
        """Delete now what two passes saw; never a node that runs a build, or that one may come back to."""
        for name, passes in tuple(self._seen.items()):
            resumed = self._desk.clock.monotonic() >= self._resumed_at
            if passes >= PASSES and resumed and name not in self._desk.agents and name not in self._held:
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
                reason=why(self._desk, f.agent, self._seen.get((f.kind, f.id), 0), self._held(f)),
                age_s=age_s(self._desk, f.agent, 0.0) if f.age_s is None else f.age_s,
            )
            for f in self._provider.found
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
                if error.reason is Reason.PROVIDER_UNREACHABLE:
                    self._provider.lost(error.message)  # a stream of events may hang with it and tell nothing
                continue
            pause_s = SWEEP_EVERY_S if clean else FIRST_SWEEP_S

    async def look(self) -> bool:
        """One pass; whether nothing was found. Deletes nothing after an incomplete listing."""
        # An agent that is planned, or goes, while the listing is made must not look like an orphan.
        known = frozenset(self._desk.agents)
        listing = await self._provider.backend.listing(self._desk.settings.id)
        if not listing.complete:
            log.info("sweep.incomplete", provider=self._provider.name)
            return False
        known |= self._desk.agents.keys()
        self._provider.counted = True
        self._provider.found = tuple(f for f in listing.found if f.agent not in known)
        self._found = tuple(f for f in self._provider.found if self._ours(f))
        self._seen = {(f.kind, f.id): self._seen.get((f.kind, f.id), 0) + 1 for f in self._found}
        clean = not self._provider.found
        for found in self._found:
            if self._seen[(found.kind, found.id)] >= PASSES:
                await self._remove(found)
        return clean

    async def remove_seen(self) -> None:
        """Remove now what two complete passes in a row saw."""
        for found in self._found:
            if self._seen.get((found.kind, found.id), 0) >= PASSES:
                await self._remove(found)

    def _held(self, found: Found) -> str:
        if self._ours(found):
            return ""
        there = found.agent in self._desk.strangers
        return "its node is still there, and goes first" if there else "a controller has not shown its nodes yet"

    def _ours(self, found: Found) -> bool:
        """Only once its node is gone from every controller: a record may have been lost, and a build run on it."""
        return found.agent not in self._desk.strangers and all(c.seen for c in self._desk.controllers.values())

    async def _remove(self, found: Found) -> None:
        if found.agent in self._desk.agents:
            return
        try:
            await self._provider.backend.remove_found(found)
        except LaunchError as error:
            log.info("orphan.stays", kind=found.kind, id=found.id, problem=error.message)
            return
        self._found = tuple(f for f in self._found if f != found)
        self._provider.found = tuple(f for f in self._provider.found if f != found)
        self._desk.metrics.orphan_removed(found.kind)
        log.info("orphan.removed", kind=found.kind, id=found.id, agent=found.agent, provider=self._provider.name)
