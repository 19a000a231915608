"""Credentials entries of ours at one controller that no record knows: removed when two passes in a row saw them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from provisioner.lifecycle.orphans import Orphan, age_s, why
from provisioner.lifecycle.sweep import FIRST_SWEEP_S, PASSES, SWEEP_EVERY_S
from provisioner.model.errors import ControllerError
from provisioner.transports import transport

if TYPE_CHECKING:
    from provisioner.lifecycle.desk import ControllerHandle, Desk

log = structlog.get_logger()

#: Where no template needs entries there are some only after a change of the configuration.
_RARELY_S = 600.0


class CredentialSweep:
    """The entries of one controller."""

    def __init__(self, desk: Desk, controller: ControllerHandle) -> None:
        self._desk = desk
        self._me = controller
        self._seen: dict[str, int] = {}

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """What the last pass found."""
        return tuple(
            Orphan(
                kind="credentials",
                id=name,
                agent=name,
                where=self._me.name,
                passes=passes,
                reason=why(self._desk, name, passes, ""),
                age_s=age_s(self._desk, name, 0.0),
            )
            for name, passes in self._seen.items()
        )

    async def run(self) -> None:
        """Look for ever."""
        pause_s, due = FIRST_SWEEP_S, 0.0
        while True:
            await self._desk.clock.sleep(pause_s)
            self._desk.tick(f"credentials {self._me.name}")
            now = self._desk.clock.monotonic()
            if not (self._me.up and self._me.seen) or now < due:
                continue
            pause_s = SWEEP_EVERY_S
            try:
                clean = await self.look()
            except ControllerError as error:
                log.info("sweep.failed", controller=self._me.name, problem=error.message)
                continue
            if not clean:
                pause_s = FIRST_SWEEP_S
            elif not self._needed():
                due = now + _RARELY_S

    async def look(self) -> bool:
        """One pass; whether nothing was found."""
        # An agent that is planned, or goes, while the answer is made must not look like an orphan.
        known = self._known()
        names = await self._me.port.credentials()
        known |= self._known()
        self._seen = {name: self._seen.get(name, 0) + 1 for name in names if name not in known}
        clean = not self._seen
        await self.remove_seen()
        return clean

    async def remove_seen(self) -> None:
        """Delete now what two passes in a row saw."""
        for name, passes in tuple(self._seen.items()):
            if passes < PASSES or name in self._known():
                continue
            try:
                await self._me.port.remove_credentials(name)
            except ControllerError as error:
                log.info("orphan.stays", kind="credentials", id=name, problem=error.message)
                continue
            self._seen.pop(name, None)
            self._desk.metrics.orphan_removed("credentials")
            log.info("orphan.removed", kind="credentials", id=name)

    def _known(self) -> set[str]:
        """Agents, and nodes that no record knows: a build may run there, and their sweep comes first."""
        return self._desk.agents.keys() | self._me.strangers

    def _needed(self) -> bool:
        return any(
            transport(t.transport.value).dialled for t in self._desk.settings.templates if t.serves(self._me.name)
        )
