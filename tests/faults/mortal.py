"""A sidecar that dies at a chosen point, and of which nothing has any effect after that.

`kill -9` runs no `finally`. Cancelling tasks does, so every way to the outside (records, controllers, backends)
goes through a `Life`: once that is over, each of them raises `Killed` before it does anything. A `point` lies
before and after every act, and each can be the last thing the process ever did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from provisioner.backends.contract import (
    Backend,
    Channel,
    Checkpoint,
    Ended,
    Found,
    Listing,
    Order,
    Progress,
    Stats,
    Status,
)
from provisioner.controller.port import (
    AgentPort,
    Controller,
    ControllerInfo,
    Dial,
    FailOutcome,
    FateOf,
    NodeOrder,
    Observation,
    Registration,
    Snapshot,
)
from provisioner.model.queue import QueueItem, RequestKey
from provisioner.records.store import Store
from provisioner.transports.dialling import Address


class Killed(BaseException):
    """The process is dead; nobody handles this."""


class Death(StrEnum):
    """How a process ends at a point."""

    NOT = "not"
    NOW = "now"
    LATE = "late"  # what it has just asked for is still under way and takes effect later, in the next one's life


#: Called at every point with its name.
Reaper = Callable[[str], Death]


def immortal(_point: str) -> Death:
    return Death.NOT


class Life:
    """One process; `reaper` says at every point whether it is the last one."""

    def __init__(self, reaper: Reaper = immortal, *, late_s: float = 3.0) -> None:
        self.points: list[str] = []
        self.over = False
        self.end = asyncio.Event()
        self.orphaned: list[asyncio.Future[Any]] = []
        self._reaper = reaper
        self._late_s = late_s

    def spare(self) -> None:
        """It does not die any more."""
        self._reaper = immortal

    def check(self) -> None:
        if self.over:
            raise Killed

    def point(self, name: str, work: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.check()
        self.points.append(name)
        death = self._reaper(name)
        if death is not Death.NOT:
            self.kill()
            if death is Death.LATE and work is not None:
                asyncio.get_running_loop().call_later(self._late_s, self._land, work)
            raise Killed

    def _land(self, work: Callable[[], Awaitable[Any]]) -> None:
        """The controller or the engine gets to what a process asked for that is dead by now."""
        landed = asyncio.ensure_future(work())
        landed.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody hears the answer
        self.orphaned.append(landed)

    def kill(self) -> None:
        self.over = True
        self.end.set()

    async def act(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """One call to the outside: it can be cut short before it has an effect, and after."""
        self.point(f"before {name}", work)
        await asyncio.sleep(0)
        self.check()
        done = await work()
        await asyncio.sleep(0)
        self.point(f"after {name}")
        return done

    async def ask(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """One question: it changes nothing, so that before and after it are the same point."""
        self.point(f"before {name}")
        answer = await work()
        self.check()
        return answer


class MortalStore(Store):
    """The records of one life; a point before and after each thing that is written."""

    def __init__(self, life: Life, *args: Any) -> None:
        self.life = life
        self.writes_fail: Callable[[], Exception | None] = lambda: None
        super().__init__(*args)

    def _write(self, name: str, work: Callable[[], Any]) -> Any:
        self.life.point(f"before {name}")
        if (error := self.writes_fail()) is not None:
            raise error
        done = work()
        self.life.point(f"after {name}")
        return done

    def save_agent(self, agent: Any, at: Any) -> None:
        self._write(f"save agent {agent.state.value}", lambda: super(MortalStore, self).save_agent(agent, at))

    def save_request(self, request: Any) -> None:
        self._write(f"save request {request.state.value}", lambda: super(MortalStore, self).save_request(request))

    def forget_request(self, key: RequestKey) -> None:
        self._write("forget request", lambda: super(MortalStore, self).forget_request(key))

    def set_meta(self, key: str, value: str) -> None:
        self._write(f"save {key}", lambda: super(MortalStore, self).set_meta(key, value))

    def add_lines(self, *args: Any) -> None:
        self.life.check()
        if (error := self.writes_fail()) is not None:
            raise error
        super().add_lines(*args)

    def prune(self, *args: Any, **kwargs: Any) -> int:
        self.life.check()
        return super().prune(*args, **kwargs)

    @contextmanager
    def together(self) -> Iterator[None]:
        self.life.check()
        with super().together():
            yield
        self.life.check()


class MortalController:
    """The hands of one life on a controller."""

    def __init__(self, life: Life, port: Controller) -> None:
        self._life = life
        self._port = port

    @property
    def info(self) -> ControllerInfo | None:
        return self._port.info

    async def open(self) -> ControllerInfo:
        self._life.check()
        return await self._port.open()

    async def close(self) -> None:
        return None

    async def watch(self) -> AsyncIterator[Observation]:
        async for seen in self._port.watch():
            self._life.check()
            yield seen

    async def snapshot(self) -> Snapshot:
        found: Snapshot = await self._life.ask("snapshot", self._port.snapshot)
        return found

    async def register(self, order: NodeOrder) -> Registration:
        done: Registration = await self._life.act("register", lambda: self._port.register(order))
        return done

    async def adopt(self, order: NodeOrder) -> bool:
        return bool(await self._life.act("adopt", lambda: self._port.adopt(order)))

    async def dial(self, order: NodeOrder, dial: Dial) -> None:
        await self._life.act("dial", lambda: self._port.dial(order, dial))

    async def remove(self, name: str, lines: Sequence[str] = (), *, credentials: bool = False) -> None:
        await self._life.act("remove node", lambda: self._port.remove(name, lines, credentials=credentials))

    async def credentials(self) -> tuple[str, ...]:
        self._life.check()
        return await self._port.credentials()

    async def remove_credentials(self, name: str) -> None:
        await self._life.act("remove credentials", lambda: self._port.remove_credentials(name))

    async def launch_tail(self, name: str, lines: int = 20) -> tuple[str, ...]:
        self._life.check()
        return await self._port.launch_tail(name, lines)

    async def tell(self, name: str | None, request: QueueItem | None, lines: Sequence[str]) -> None:
        await self._life.ask("tell", lambda: self._port.tell(name, request, lines))

    async def bar(self, name: str) -> None:
        await self._life.act("bar", lambda: self._port.bar(name))

    async def let_return(self, name: str) -> None:
        await self._life.act("let_return", lambda: self._port.let_return(name))

    async def give(self, name: str, request: QueueItem) -> None:
        await self._life.act("give", lambda: self._port.give(name, request))

    async def others(self, request: QueueItem) -> bool:
        return bool(await self._life.ask("others", lambda: self._port.others(request)))

    async def fail(self, request: QueueItem, reason: str, message: str, lines: Sequence[str]) -> FailOutcome:
        done: FailOutcome = await self._life.act("fail", lambda: self._port.fail(request, reason, message, lines))
        return done

    async def fate(self, key: RequestKey) -> FateOf:
        found: FateOf = await self._life.ask("fate", lambda: self._port.fate(key))
        return found

    async def outcome(self, build_url: str) -> str | None:
        found: str | None = await self._life.ask("outcome", lambda: self._port.outcome(build_url))
        return found

    async def agent_port(self, agent_url: str) -> AgentPort:
        self._life.check()
        return await self._port.agent_port(agent_url)

    async def agent_jar(self) -> bytes:
        self._life.check()
        return await self._port.agent_jar()

    def requests_made(self) -> Mapping[tuple[str, str], int]:
        return self._port.requests_made()


class MortalBackend:
    """The hands of one life on a provider; works over every backend that keeps the contract."""

    def __init__(self, life: Life, backend: Backend) -> None:
        self._life = life
        self._backend = backend

    async def open(self) -> None:
        self._life.check()
        await self._backend.open()

    async def close(self) -> None:
        await self._backend.close()

    async def ping(self) -> str:
        self._life.check()
        return await self._backend.ping()

    async def verify(self, order: Order) -> tuple[str, ...]:
        return await self._backend.verify(order)

    def remote_root(self, owner: str, agent: str, remote_fs: str) -> str:
        self._life.check()
        return self._backend.remote_root(owner, agent, remote_fs)

    async def start(self, order: Order) -> AsyncIterator[Checkpoint | Progress]:
        steps = self._backend.start(order)
        number = 0
        while True:
            number += 1
            step = await self._life.act(f"start step {number}", lambda: anext(steps, None))
            if step is None:
                return
            yield step

    def java(self, source: str) -> str:
        return self._backend.java(source)

    async def address(self, agent: str, ids: Mapping[str, str]) -> Address | None:
        self._life.check()
        return await self._backend.address(agent, ids)

    async def open_channel(self, agent: str, ids: Mapping[str, str]) -> Channel:
        found: Channel = await self._life.act("open channel", lambda: self._backend.open_channel(agent, ids))
        return found

    async def stop(self, agent: str, ids: Mapping[str, str]) -> None:
        await self._life.act("stop", lambda: self._backend.stop(agent, ids))

    async def status(self, agent: str, ids: Mapping[str, str]) -> Status:
        self._life.check()
        return await self._backend.status(agent, ids)

    async def stats(self, agent: str, ids: Mapping[str, str]) -> Stats:
        self._life.check()
        return await self._backend.stats(agent, ids)

    async def log_tail(self, agent: str, ids: Mapping[str, str], lines: int = 20) -> tuple[str, ...]:
        self._life.check()
        return await self._backend.log_tail(agent, ids, lines)

    async def listing(self, owner: str) -> Listing:
        self._life.check()
        return await self._backend.listing(owner)

    async def remove_found(self, found: Found) -> None:
        await self._life.act(f"remove found {found.kind}", lambda: self._backend.remove_found(found))

    async def events(self) -> AsyncIterator[Ended]:
        async for ended in self._backend.events():
            self._life.check()
            yield ended
