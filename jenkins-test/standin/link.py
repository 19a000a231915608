"""The connection to an agent: run a script there, see its output, stop it. Real or simulated."""

from __future__ import annotations

import asyncio
import base64
import codecs
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Write = Callable[[str], None]


class LinkLost(Exception):  # noqa: N818  (a fact about the world, not a fault of the program)
    """The agent went away."""


@dataclass(frozen=True, slots=True)
class Command:
    """A script to run. With a `durable` id it outlives the connection and may be picked up again."""

    script: str
    cwd: str
    env: Mapping[str, str]
    durable: str | None = None


class Link(Protocol):
    """One connected agent."""

    cookie: str

    async def run(self, command: Command, write: Write) -> int:
        """Raises LinkLost. Cancelling stops the script."""
        ...

    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Running:
    done: asyncio.Future[int]
    write: Write
    decoder: Any
    offset: int = 0


@dataclass(eq=False, slots=True)
class AgentLink:
    """A connected agent, whatever carries the messages."""

    send: Callable[[dict[str, Any]], Awaitable[None]]
    hang_up: Callable[[], None]
    cookie: str
    offsets: dict[str, int] = field(default_factory=dict)  # of durable scripts, kept by the world across links
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _running: dict[str, _Running] = field(default_factory=dict)
    _lost: bool = False

    async def run(self, command: Command, write: Write) -> int:
        if self._lost:
            raise LinkLost
        key = command.durable or f"s{next(self._ids)}"
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        running = _Running(asyncio.get_running_loop().create_future(), write, decoder)
        self._running[key] = running
        offset = self.offsets.get(key, 0)
        message = {
            "op": "run",
            "id": key,
            "script": command.script,
            "cwd": command.cwd,
            "env": dict(command.env),
            "durable": command.durable is not None,
            "offset": offset,
        }
        try:
            await self.send(message)
            code = await running.done
        except ConnectionError as error:
            raise LinkLost from error
        except asyncio.CancelledError:
            if not self._lost:
                await self.send({"op": "cancel", "id": key})
            raise
        else:
            self.offsets.pop(key, None)
            return code
        finally:
            self._running.pop(key, None)

    def receive(self, message: Mapping[str, Any]) -> None:
        running = self._running.get(str(message.get("id")))
        if running is None:
            return
        match message.get("op"):
            case "out":
                data = base64.b64decode(message["data"])
                key = str(message["id"])
                self.offsets[key] = self.offsets.get(key, 0) + len(data)
                running.write(running.decoder.decode(data))
            case "end":
                if not running.done.done():
                    running.done.set_result(int(message["code"]))

    def lost(self) -> None:
        """The transport is gone."""
        self._lost = True
        for running in list(self._running.values()):
            if not running.done.done():
                running.done.set_exception(LinkLost())

    @property
    def is_lost(self) -> bool:
        return self._lost

    def close(self) -> None:
        self.lost()
        self.hang_up()


class VirtualLink:
    """A simulated agent: builds take their time and use no process."""

    def __init__(self, build_s: float) -> None:
        self.build_s = build_s
        self.cookie = "virtual"
        self._gone: asyncio.Event = asyncio.Event()

    async def run(self, command: Command, write: Write) -> int:
        write(f"+ {command.script}\n")
        if self._gone.is_set():
            raise LinkLost
        if self.build_s <= 0:
            await asyncio.sleep(0)
            return 0
        try:
            async with asyncio.timeout(self.build_s):
                await self._gone.wait()
        except TimeoutError:
            return 0
        raise LinkLost

    def close(self) -> None:
        self._gone.set()
