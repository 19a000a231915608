"""The fake backend with the ways of a real engine: it goes away, hangs, is used by people, and outlives its user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from provisioner.backends.contract import (
    Channel,
    Checkpoint,
    Ended,
    Found,
    InstanceState,
    Listing,
    Order,
    Progress,
    Status,
)
from provisioner.model.errors import LaunchError, Reason
from tests.fakes.backend import FakeBackend, FakeInstance
from tests.fakes.channel import FakeChannel

_CALL_TIMEOUT_S = 30.0


@dataclass
class FakeEngine(FakeBackend):
    """A backend whose instances belong to the world, and whose tombstones belong to one sidecar's object."""

    name: str = "box"
    hanging: bool = False
    pull_s: float = 0.0
    exits_after_s: float | None = None  # every new instance ends by itself so soon
    exits_left: int = 0  # how many do
    volumes: set[str] = field(default_factory=set)  # what a start leaves if it is cut short
    launches: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def reborn(self) -> None:
        """Another sidecar: nothing of the last one's memory."""
        self._dead = set()
        self._ends = asyncio.Queue()

    def outage(self) -> None:
        self.down = LaunchError("the engine does not answer", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)

    def recover(self) -> None:
        self.down, self.hanging = None, False

    def vanish(self, agent: str) -> None:
        """A person removed it."""
        self.instances.pop(agent, None)
        self.volumes.discard(agent)
        self._ends.put_nowait(Ended(agent=agent))

    async def ready(self) -> None:
        """As every call: it may hang until the backend's own time-out."""
        if self.hanging:
            await asyncio.sleep(_CALL_TIMEOUT_S)
            raise LaunchError("the engine gave no answer", reason=Reason.PROVIDER_UNREACHABLE, retryable=True)
        self._check()

    async def open(self) -> None:
        await self.ready()

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        await self.ready()
        self._not_dead(order.agent)
        yield Checkpoint(key="volume", value=f"vol-{order.agent}")
        if self.pull_s:
            await asyncio.sleep(self.pull_s)
        await self.ready()
        if self.fail_with is not None:
            raise self.fail_with
        self._not_dead(order.agent)
        self.volumes.add(order.agent)
        yield Progress(text="Image is there")
        await self.ready()
        self._not_dead(order.agent)
        found = self.instances.get(order.agent)
        if found is None:
            self.instances[order.agent] = FakeInstance(order=order, status=Status(state=InstanceState.CREATED))
            self.most = max(self.most, len(self.instances))
        yield Checkpoint(key="container", value=f"id-{order.agent}")
        await self.ready()
        self._not_dead(order.agent)
        instance = self.instances.get(order.agent)
        if instance is None:
            raise LaunchError("its container was removed by somebody else", reason=Reason.CREATE_REJECTED)
        if instance.status.state is InstanceState.CREATED and not order.channel:
            self._begin(order.agent)

    def _begin(self, agent: str) -> None:
        instance = self.instances[agent]
        if instance.status.state is InstanceState.CREATED:
            instance.status = Status(state=InstanceState.RUNNING)
            self.launches.append(agent)
            if self.exits_left > 0 and self.exits_after_s is not None:
                self.exits_left -= 1
                asyncio.get_running_loop().call_later(self.exits_after_s, self._exit, agent)

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:
        await self.ready()
        instance = self.instances.get(agent)
        if instance is None or instance.status.state is not InstanceState.CREATED:
            raise LaunchError("its channel was opened before, or it is gone", reason=Reason.AGENT_LOST)
        self._begin(agent)
        return _EngineChannel(self, agent)

    def hang_up(self, agent: str) -> bool:
        """Whoever held the agent's input is gone; whether the agent ended with that."""
        instance = self.instances.get(agent)
        ends = instance is not None and instance.status.state is InstanceState.RUNNING
        if ends:
            self.end(agent, exit_code=0)
        return ends

    def _exit(self, agent: str) -> None:
        if agent in self.instances:
            self.end(agent, exit_code=3)

    def _not_dead(self, agent: str) -> None:
        if agent in self._dead:
            raise LaunchError("it was stopped before its start", reason=Reason.CANCELLED)

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        self._dead.add(agent)
        await self.ready()
        self.instances.pop(agent, None)
        self.volumes.discard(agent)
        self.stopped.append(agent)

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        await self.ready()
        return await super().status(agent, ids)

    async def listing(self, owner: str) -> Listing:
        await self.ready()
        containers = tuple(
            Found(kind="container", id=f"id-{name}", agent=name)
            for name, instance in self.instances.items()
            if instance.order.owner == owner
        )
        volumes = tuple(Found(kind="volume", id=f"vol-{name}", agent=name) for name in sorted(self.volumes))
        return Listing(found=containers + volumes if self.complete else (), complete=self.complete)

    async def remove_found(self, found: Found) -> None:
        await self.ready()
        if found.kind == "container":
            self.instances.pop(found.agent, None)
        else:
            self.volumes.discard(found.agent)

    async def events(self) -> AsyncIterator[Ended]:
        while True:
            if self.down is not None:
                raise self.down
            try:
                async with asyncio.timeout(5):
                    ended = await self._ends.get()
            except TimeoutError:
                continue
            yield ended

    @property
    def empty(self) -> bool:
        return not (self.instances or self.volumes)


class _EngineChannel(FakeChannel):
    """The streams of a fake instance: it ends with its input."""

    def __init__(self, engine: FakeEngine, agent: str) -> None:
        super().__init__()
        self._engine, self._agent = engine, agent

    async def close(self, grace_s: float = 5.0) -> None:
        self._engine.hang_up(self._agent)
        await super().close(grace_s)
