"""The providers: opened, reopened after an outage, and watched for instances that end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from provisioner.backends.contract import Backend, Found
from provisioner.capacity.plant import StaticRoom
from provisioner.lifecycle.clock import Clock
from provisioner.model.errors import LaunchError, Reason

log = structlog.get_logger()

_REOPEN_FIRST_S = 1.0
_REOPEN_MOST_S = 30.0
_TICK_S = 10.0


@dataclass(slots=True, kw_only=True)
class ProviderHandle:
    """One provider and what is known of it now."""

    name: str
    kind: str
    backend: Backend
    max_agents: int
    agent_url: str | None = None
    up: bool = False
    drained: bool = False
    problem: str = "not reached yet"
    found: tuple[Found, ...] = ()  # what the last complete listing showed that belongs to no agent
    counted: bool = False  # there was a complete listing: what exists is known, and capacity can be
    count: Callable[[], Awaitable[object]] | None = None
    look: Callable[[], Awaitable[object]] | None = None  # at static nodes, before anything is started elsewhere
    room: Callable[[], StaticRoom] | None = None  # of static nodes: what may be had now
    on_change: Callable[[], None] = field(default=lambda: None)
    on_lost: Callable[[], None] = field(default=lambda: None)  # as often as it is told in the log
    on_ended: Callable[[str], None] = field(default=lambda _agent: None)
    _again: asyncio.Event = field(default_factory=asyncio.Event)

    def lost(self, message: str) -> None:
        """A call found the provider out of reach; the watch brings it back."""
        if self.up or self.problem != message:  # one that was never reached is told as well, once for each problem
            log.warning("provider.lost", provider=self.name, problem=message)
            self.on_lost()
        self.up, self.problem = False, message
        self._again.set()
        self.on_change()

    async def watch(self, clock: Clock, tick: Callable[[], None]) -> None:
        """Keep the provider open for ever and report instances that end."""
        pause_s = _REOPEN_FIRST_S
        while True:
            tick()
            self._again.clear()
            try:
                await self.backend.open()
                await self._take_stock()
                log.info("provider.open", provider=self.name, backend=self.kind)
                self.up, self.problem, pause_s = True, "", _REOPEN_FIRST_S
                self.on_change()
                await self._follow(tick)
            except LaunchError as error:
                self.lost(error.message)
            await clock.sleep(pause_s)
            pause_s = min(_REOPEN_MOST_S, pause_s * 2)

    async def _take_stock(self) -> None:
        """Nothing is placed before it is known what exists already; the records may have been lost."""
        if self.counted or self.count is None:
            return
        await self.count()
        if not self.counted:
            raise LaunchError(
                f"provider {self.name} does not show everything that exists there; it is asked again",
                reason=Reason.PROVIDER_UNREACHABLE,
                retryable=True,
            )

    async def _follow(self, tick: Callable[[], None]) -> None:
        """Report ends until the stream breaks or a call elsewhere found the provider lost."""
        following = asyncio.create_task(self._report())
        lost = asyncio.create_task(self._again.wait())
        try:
            while not (following.done() or lost.done()):
                tick()
                await asyncio.wait({following, lost}, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
                self.lost("its event stream ended")
        finally:
            following.cancel()
            lost.cancel()
            await asyncio.gather(following, lost, return_exceptions=True)

    async def _report(self) -> None:
        async for ended in self.backend.events():
            self.on_ended(ended.agent)
