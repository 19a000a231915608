"""The channel of a command: the two named pipes of its folder, held by whoever opened them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

from provisioner.backends.process.folder import Folder
from provisioner.backends.process.proc import members
from provisioner.model.errors import LaunchError, Reason

_PIECE_BYTES = 256 * 1024
_PIPE_BYTES = 1 << 20
_LINES = 20
_KILL_EVERY_S = 0.05


class PipeChannel:
    """Reads and writes without a thread.

    Args:
        folder: the agent's.
        read: the end that the command writes to, not blocking.
        write: the end that the command reads from, not blocking.
        guard: a second end of the latter for reading, so that nothing is lost before the command is there.
        kill: ends the command and everything of it.
    """

    def __init__(self, folder: Folder, *, read: int, write: int, guard: int, kill: Callable[[], bool]) -> None:
        self._folder = folder
        self._read, self._write, self._guard = read, write, guard
        self._kill = kill
        self._begun = False  # a pipe that nobody has opened yet reads as if it had ended
        self._over = asyncio.Event()  # nothing is waited for any more
        self._waiting: set[asyncio.Event] = set()
        self._reading = asyncio.Lock()  # `close` reads, too

    async def read(self) -> bytes:
        """Next output."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            while not self._over.is_set():
                try:
                    data = os.read(self._read, _PIECE_BYTES) if self._begun else None
                except BlockingIOError:
                    data = None
                if data is None:
                    await self._ready(self._read, loop.add_reader, loop.remove_reader)
                    self._begun = True
                    continue
                self._guard = _closed(self._guard)  # the command has opened both pipes
                if not data:
                    self._over.set()
                return data
            return b""

    async def write(self, data: bytes) -> None:
        """Into the pipe, at the command's pace."""
        loop = asyncio.get_running_loop()
        left = memoryview(data)
        while left:
            if self._write < 0 or self._over.is_set():
                raise BrokenPipeError(f"the channel of {self._folder.agent} is closed")
            try:
                left = left[os.write(self._write, left) :]
            except BlockingIOError:
                await self._ready(self._write, loop.add_writer, loop.remove_writer)

    def said(self) -> tuple[str, ...]:
        """The log's first lines: standard error goes there."""
        return self._folder.head(_LINES)

    def last_words(self) -> tuple[str, ...]:
        """The log's last lines."""
        return self._folder.tail(_LINES)

    async def close(self, grace_s: float = 5.0) -> None:
        """End its input, then the command."""
        if self._write >= 0:
            asyncio.get_running_loop().remove_writer(self._write)
        self._write, self._guard = _closed(self._write), _closed(self._guard)
        try:
            async with asyncio.timeout(grace_s):
                while await self.read():
                    continue
        except TimeoutError:
            pass
        try:
            while await asyncio.to_thread(self._kill):  # noqa: ASYNC110  (the kernel tells nobody)
                await asyncio.sleep(_KILL_EVERY_S)
        finally:
            self._over.set()
            for wake in self._waiting:
                wake.set()
            async with self._reading:
                self._read = _closed(self._read)

    async def _ready(
        self, handle: int, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]
    ) -> None:
        """Wait until a pipe is ready, or nothing is waited for any more."""
        wake = asyncio.Event()
        self._waiting.add(wake)
        add(handle, wake.set)
        try:
            await wake.wait()
        finally:
            self._waiting.discard(wake)
            remove(handle)


def open_pipes(folder: Folder) -> PipeChannel:
    """Let the command begin.

    Raises:
        LaunchError: agent_lost; it was opened before, or the agent is gone.
    """
    if not folder.claim_channel():
        raise LaunchError(
            f"the channel of {folder.agent} cannot be opened: it was opened before, or its process is gone",
            reason=Reason.AGENT_LOST,
        )
    opened: list[int] = []

    def end(path: Path, how: int) -> int:
        opened.append(os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC))
        return opened[-1]

    try:
        guard = end(folder.input, os.O_RDWR)  # never waits, and lets the next one not fail
        channel = PipeChannel(
            folder,
            write=end(folder.input, os.O_WRONLY),
            read=end(folder.output, os.O_RDONLY),
            guard=guard,
            kill=lambda: _kill(folder),
        )
    except OSError as error:
        for handle in opened:
            os.close(handle)
        raise LaunchError(f"the process of {folder.agent} is gone", reason=Reason.AGENT_LOST) from error
    for handle in opened:
        try:
            fcntl.fcntl(handle, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # the user's share is used up; a small pipe works as well
            break
    return channel


def _kill(folder: Folder) -> bool:
    """Kill whoever lives of the agent; whether anybody did. The launcher is spared: it writes the exit code."""
    launcher = folder.process()
    living = [one.id for one in members(folder.agent, launcher) if launcher is None or one.id != launcher]
    for one in living:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return bool(living)


def _closed(handle: int) -> int:
    if handle >= 0:
        os.close(handle)
    return -1
