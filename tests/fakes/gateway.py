"""The gateway's process in memory: it outlives sidecars, and its own death ends what it carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.gateway.admissions import Admissions
from provisioner.gateway.client import Gate
from provisioner.model.errors import LaunchError, Reason
from tests.fakes.engine import FakeEngine

GATE = Gate(host="10.0.0.9", port=2222, host_key="ssh-ed25519 gateway")


@dataclass
class FakeGateway:
    """The real book of admissions over fake engines."""

    engines: Mapping[str, FakeEngine]
    admissions: Admissions = field(default_factory=Admissions)
    opened: dict[str, str] = field(default_factory=dict)  # agent: engine

    @property
    def empty(self) -> bool:
        return not len(self.admissions)

    def die(self) -> list[str]:
        """`kill -9`: another one takes its place and knows nobody. Whose agents ended with it."""
        ended = []
        for agent, engine in self.opened.items():
            if self.engines[engine].hang_up(agent):
                ended.append(agent)
        for one in self.admissions.all():
            if one.ahead is not None:
                one.ahead.cancel()
        self.admissions, self.opened = Admissions(), {}
        return ended


class FakeGatewayClient:
    """A sidecar's way to it; `around` is called with the name of each act and what does it."""

    def __init__(self, gateway: FakeGateway, around: Callable[..., Any]) -> None:
        self._gateway = gateway
        self._around = around
        self.gate: Gate | None = GATE
        self.problem = ""
        self.needed: Callable[[], bool] = lambda: True

    async def admit(self, agent: str, *, root: str, jar: str, key: str) -> Gate:
        async def admit() -> None:
            self._gateway.admissions.admit(agent, root=root, jar=jar, key=key.encode())

        await self._around("admit", admit)
        return GATE

    async def open(self, agent: str, ids: Mapping[str, str], provider: Mapping[str, object]) -> None:
        engine = self._gateway.engines[str(provider["name"])]

        async def open_() -> None:
            admissions = self._gateway.admissions
            await admissions.open(agent, lambda: engine.open_channel(agent, ids), _no_code)
            if admissions is self._gateway.admissions:
                self._gateway.opened[agent] = str(provider["name"])
            else:  # it died meanwhile
                engine.hang_up(agent)
                raise LaunchError("the gateway went away", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)

        await self._around("open channel", open_)

    async def revoke(self, agent: str) -> None:
        async def revoke() -> None:
            await self._gateway.admissions.revoke(agent)
            self._gateway.opened.pop(agent, None)

        await self._around("revoke", revoke)

    async def agents(self) -> dict[str, str]:
        await asyncio.sleep(0)
        return {one.agent: one.stage.value for one in self._gateway.admissions.all()}

    async def tail(self, agent: str) -> tuple[str, ...]:
        return ()


async def _no_code() -> int | None:
    return None
