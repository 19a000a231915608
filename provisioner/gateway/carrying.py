"""The agent's streams between an SSH channel and an instance, at the pace of the slower side."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import structlog

from provisioner.backends.contract import Channel
from provisioner.gateway.admissions import Admission
from provisioner.model.errors import LaunchError

log = structlog.get_logger()

#: More than this is not taken from the controller before the instance took it.
MOST_QUEUED = 1 << 20
_STATUS_S = 5.0
_UNKNOWN = 255


class Wire(Protocol):
    """The SSH channel."""

    def send(self, data: bytes) -> None:
        """Send output."""
        ...

    def send_error(self, data: bytes) -> None:
        """Send standard error."""
        ...

    async def drained(self) -> None:
        """Wait until the other side takes more."""
        ...

    def hold(self) -> None:
        """Take no more from the other side."""
        ...

    def go_on(self) -> None:
        """Take from the other side again."""
        ...

    def exit(self, code: int) -> None:
        """End the channel with an exit code."""
        ...


class Carrying:
    """One agent's session.

    Args:
        admission: the agent.
        wire: the SSH channel.
    """

    def __init__(self, admission: Admission, wire: Wire) -> None:
        self._admission = admission
        self._wire = wire
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._held = False
        self._input_over = False
        self._news = asyncio.Event()

    def received(self, data: bytes) -> None:
        """The controller sent this."""
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > MOST_QUEUED and not self._held:
            self._held = True
            self._wire.hold()
        self._news.set()

    def input_ended(self) -> None:
        """The controller sends no more."""
        self._input_over = True
        self._news.set()

    async def run(self) -> None:
        """Carry until one side ends; then the other is ended, too."""
        admission = self._admission
        try:
            channel = await admission.opened()
        except LaunchError as error:
            self._refuse(error.message)
            return
        if self._input_over:  # it went before the agent was there, and may come again
            self._refuse("nobody is there any more")
            return
        if not admission.serve():
            self._refuse(f"the agent {admission.agent} had its one session")
            return
        log.info("session.begun", agent=admission.agent)
        code = _UNKNOWN
        try:
            await self._carry(channel)
            self._wire.send_error("".join(f"{line}\n" for line in channel.last_words()).encode())
            code = await self._exit_code()
        finally:
            passed = {"bytes_in": admission.bytes_in, "bytes_out": admission.bytes_out}
            log.info("session.ended", agent=admission.agent, exit_code=code, **passed)
            self._wire.exit(code)
            await admission.end()

    def _refuse(self, why: str) -> None:
        self._wire.send_error(f"{why}\n".encode())
        self._wire.exit(_UNKNOWN)

    async def _carry(self, channel: Channel) -> None:
        up = asyncio.create_task(self._output(channel), name=f"output {self._admission.agent}")
        down = asyncio.create_task(self._input(channel), name=f"input {self._admission.agent}")
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if not up.done():
                # the controller hung up: the agent's input ends, and with it the agent
                await channel.close()
                await up
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _output(self, channel: Channel) -> None:
        ahead = self._admission.ahead
        while data := await (channel.read() if ahead is None else ahead):
            ahead = None
            self._admission.bytes_out += len(data)
            self._wire.send(data)
            await self._wire.drained()

    async def _input(self, channel: Channel) -> None:
        while True:
            while self._queue:
                data = self._queue.popleft()
                try:
                    await channel.write(data)
                except OSError:
                    await asyncio.Event().wait()  # it ended: the output tells, after its last words
                self._queued -= len(data)
                self._admission.bytes_in += len(data)
                if self._held and self._queued <= MOST_QUEUED // 2:
                    self._held = False
                    self._wire.go_on()
            if self._input_over:
                return
            self._news.clear()
            await self._news.wait()

    async def _exit_code(self) -> int:
        """The command's exit code, as soon as it is known."""
        ask = self._admission.exit_code
        try:
            async with asyncio.timeout(_STATUS_S):
                while ask is not None:
                    if (code := await ask()) is not None:
                        return code
                    await asyncio.sleep(0.05)
        except (TimeoutError, LaunchError):
            pass
        return _UNKNOWN
