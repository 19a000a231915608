"""A backend in memory; `gate` holds a start at a checkpoint until the test lets it go on."""

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
    Stats,
    Status,
)
from provisioner.model.errors import LaunchError, NoRoom, Reason
from provisioner.transports.dialling import Address
from tests.fakes.channel import FakeChannel


@dataclass
class FakeInstance:
    order: Order
    status: Status


@dataclass
class FakeBackend:
    """What exists is in `instances`; `most` is the largest number that ever existed at once."""

    instances: dict[str, FakeInstance] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    fail_with: LaunchError | None = None
    fits: int | None = None  # beyond, it refuses for want of room
    refused: int = 0
    down: LaunchError | None = None
    most: int = 0
    gate: asyncio.Event | None = None
    complete: bool = True
    _ends: asyncio.Queue[Ended] = field(default_factory=asyncio.Queue)
    _dead: set[str] = field(default_factory=set)

    def end(self, agent: str, *, exit_code: int = 1, out_of_memory: bool = False) -> None:
        self.instances[agent].status = Status(
            state=InstanceState.EXITED, exit_code=exit_code, out_of_memory=out_of_memory
        )
        self._ends.put_nowait(Ended(agent=agent))

    async def open(self) -> None:
        self._check()

    async def close(self) -> None:
        return None

    async def ping(self) -> str:
        self._check()
        return "fake 1"

    async def verify(self, order: Order) -> tuple[str, ...]:
        return ()

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:
        return remote_fs

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        self._check()
        yield Progress(text="Image is there")
        if self.fail_with is not None:
            raise self.fail_with
        if self.fits is not None and len(self.instances) >= self.fits:
            self.refused += 1
            raise NoRoom(f"the engine cannot start {order.agent}: no address", lacks="no address is free")
        self.instances[order.agent] = FakeInstance(order=order, status=Status(state=InstanceState.CREATED))
        self.most = max(self.most, len(self.instances))
        yield Checkpoint(key="container", value=f"id-{order.agent}")
        if self.gate is not None:
            await self.gate.wait()
        if order.agent in self._dead:
            self.instances.pop(order.agent, None)
            return
        self.instances[order.agent].status = Status(state=InstanceState.RUNNING)

    def java(self, source: str) -> str:
        return "java"

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:
        self._check()
        instance = self.instances.get(agent)
        if instance is None or not instance.order.channel:
            raise LaunchError("there is no channel", reason=Reason.AGENT_LOST)
        return FakeChannel()

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:
        self._check()
        return Address(host="10.0.0.1", port=22022) if agent in self.instances else None

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        self._check()
        self._dead.add(agent)
        self.instances.pop(agent, None)
        self.stopped.append(agent)

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        self._check()
        found = self.instances.get(agent)
        return found.status if found else Status(state=InstanceState.MISSING)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        return Stats()

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:
        return ("last words",) if agent in self.instances else ()

    async def listing(self, owner: str) -> Listing:
        self._check()
        found = tuple(
            Found(kind="container", id=f"id-{name}", agent=name)
            for name, instance in self.instances.items()
            if instance.order.owner == owner
        )
        return Listing(found=found, complete=self.complete)

    async def remove_found(self, found: Found) -> None:
        self.instances.pop(found.agent, None)

    async def events(self) -> AsyncIterator[Ended]:
        while True:
            yield await self._ends.get()

    def _check(self) -> None:
        if self.down is not None:
            raise self.down
