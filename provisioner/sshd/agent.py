"""The agent's process and its streams: one at a time, ended with its channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from provisioner.sshd.commands import Launch

#: What the agent has to end by itself when its channel is gone.
_PATIENCE_S = 5.0


class Agent:
    """Starts the agent.

    Args:
        command: the program and its options as the sidecar says them; whatever Java the launcher asks for.
        root: its folder.
    """

    def __init__(self, command: Sequence[str], root: Path) -> None:
        self._command = tuple(command)
        self._root = root
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def serve(self, channel: asyncssh.SSHServerProcess[bytes], asked: Launch) -> int:
        """Run it on this channel until either ends; its exit code."""
        async with self._turn:
            await self._end()  # its connection may have broken without a word
            self._root.mkdir(parents=True, exist_ok=True)
            pipe = asyncio.subprocess.PIPE
            child = await asyncio.create_subprocess_exec(
                *self._command, *asked.arguments, cwd=self._root, stdin=pipe, stdout=pipe, stderr=pipe
            )
            self._child = child
        await channel.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        ended = asyncio.ensure_future(child.wait())
        closed = asyncio.ensure_future(channel.channel.wait_closed())
        try:
            await asyncio.wait({ended, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                if child.stdin is not None:
                    child.stdin.close()
                await _patiently(child)
            return await ended
        finally:
            closed.cancel()

    async def _end(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            await _patiently(self._child)


async def _patiently(child: asyncio.subprocess.Process) -> None:
    """Wait for its end, and make one if it does not come; what it has started lives on, for a Pipeline that returns."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
