"""Which agents the gateway lets the controller reach: keys, the one session of each, the channel behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from provisioner.backends.contract import Channel
from provisioner.model.errors import LaunchError, Reason

log = structlog.get_logger()

#: How long a session waits for the channel of an instance that is still being started.
OPEN_WITHIN_S = 120.0
_LAST_GRACE_S = 3.0
_HEAR_S = 1.0


class Stage(StrEnum):
    """How far an agent's one session is."""

    EXPECTED = "expected"  # it may be dialled; nothing is behind it yet
    OPEN = "open"  # its command runs and waits for the controller
    SERVED = "served"  # the controller speaks with it
    ENDED = "ended"  # nobody comes in any more


@dataclass(slots=True, kw_only=True, eq=False)
class Admission:
    """One agent."""

    agent: str
    root: str
    jar: str  # SHA-256 of its agent.jar
    keys: set[bytes] = field(default_factory=set)  # public keys, any of which opens its one session
    stage: Stage = Stage.EXPECTED
    connection: object | None = None  # the only one that may use it now
    hang_up: Callable[[], None] = field(default=lambda: None)
    channel: Channel | None = None
    ahead: asyncio.Task[bytes] | None = None  # its first output: what the agent says before that is heard at once
    exit_code: Callable[[], Awaitable[int | None]] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    bytes_in: int = 0  # to the agent
    bytes_out: int = 0

    @property
    def over(self) -> bool:
        """Whether nobody comes in any more."""
        return self.stage is Stage.ENDED

    def welcome(self, key: bytes) -> bool:
        """Whether a connection with this key may begin now."""
        return self.stage in (Stage.EXPECTED, Stage.OPEN) and self.connection is None and key in self.keys

    def claim(self, connection: object, hang_up: Callable[[], None]) -> bool:
        """Give the session to a connection; False if another has it, or had it."""
        if self.connection is not None or self.stage not in (Stage.EXPECTED, Stage.OPEN):
            return False
        self.connection, self.hang_up = connection, hang_up
        return True

    def left(self, connection: object) -> None:
        """A connection is gone. One that never ran the agent may come again; one that did is the end."""
        if self.connection is connection:
            self.connection, self.hang_up = None, lambda: None

    async def opened(self) -> Channel:
        """The channel, as soon as it is open.

        Raises:
            LaunchError: agent_lost; it does not come, or has ended.
        """
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                while self.channel is None and self.stage is not Stage.ENDED:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        if self.channel is None or self.stage is Stage.ENDED:
            raise LaunchError(f"the agent {self.agent} is not there", reason=Reason.AGENT_LOST)
        return self.channel

    def serve(self) -> bool:
        """The agent's own command was asked for: once in its life."""
        if self.stage is not Stage.OPEN:
            return False
        self.stage = Stage.SERVED
        return True

    async def end(self, grace_s: float = _LAST_GRACE_S) -> None:
        """Nobody comes in any more, and the agent's command ends. Idempotent."""
        self.stage = Stage.ENDED
        self.changed.set()
        self.hang_up()
        if self.channel is not None:
            try:
                await self.channel.close(grace_s)
            except (LaunchError, OSError) as error:
                # the instance is removed by the sidecar in any case
                log.info("channel.not_closed", agent=self.agent, problem=str(error))
        if self.ahead is not None:  # it ends with the channel, unless that could not be closed
            await asyncio.wait({self.ahead}, timeout=_LAST_GRACE_S)
            self.ahead.cancel()

    async def last_words(self) -> tuple[str, ...]:
        """The last lines of its standard error, as far as they have come."""
        if self.channel is None:
            return ()
        if self.ahead is not None and self.stage is Stage.OPEN:
            await asyncio.wait({self.ahead}, timeout=_HEAR_S)
        return self.channel.last_words()


class Admissions:
    """All agents of one gateway."""

    def __init__(self) -> None:
        self._all: dict[str, Admission] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, agent: str) -> Admission | None:
        """One agent; None: the controller may not reach it."""
        return self._all.get(agent)

    def all(self) -> list[Admission]:
        """Every agent, in the order in which they came."""
        return list(self._all.values())

    def admit(self, agent: str, *, root: str, jar: str, key: bytes) -> Admission:
        """Let an agent be reached with a key; one more key for one that is known."""
        found = self._all.get(agent)
        if found is None:
            found = self._all[agent] = Admission(agent=agent, root=root, jar=jar)
            log.info("agent.admitted", agent=agent)
        found.keys.add(key)
        return found

    async def open(
        self,
        agent: str,
        open_channel: Callable[[], Awaitable[Channel]],
        exit_code: Callable[[], Awaitable[int | None]],
    ) -> None:
        """Open the channel of an agent, unless it is open.

        Raises:
            LaunchError: as `Backend.open_channel`; agent_lost, if it is not admitted or has ended.
        """
        async with self._opening.setdefault(agent, asyncio.Lock()):
            admission = self._all.get(agent)
            if admission is None or admission.over:
                raise LaunchError(f"the gateway's session of {agent} has ended", reason=Reason.AGENT_LOST)
            if admission.channel is not None:
                return
            channel = await open_channel()
            if admission.over:  # revoked meanwhile
                await channel.close(_LAST_GRACE_S)
                raise LaunchError(f"the gateway's session of {agent} has ended", reason=Reason.CANCELLED)
            admission.channel, admission.exit_code, admission.stage = channel, exit_code, Stage.OPEN
            admission.ahead = asyncio.create_task(channel.read(), name=f"first output {agent}")
            admission.changed.set()
            log.info("channel.open", agent=agent)

    async def revoke(self, agent: str) -> None:
        """End an agent's session and forget it; unknown is done."""
        admission = self._all.get(agent)
        if admission is not None:
            log.info("agent.revoked", agent=agent, stage=admission.stage.value)
            await admission.end()
            self._all.pop(agent, None)  # not before: a gateway without agents may end at any moment
        self._opening.pop(agent, None)
