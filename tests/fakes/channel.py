"""A command's streams in memory: what is written to it comes back, until it ends."""

from __future__ import annotations

import asyncio
from collections import deque

MOST = 256 * 1024


class FakeChannel:
    """An echo; holds no more than a pipe would."""

    def __init__(self, greeting: bytes = b"", said: tuple[str, ...] = ()) -> None:
        self._pieces: deque[bytes] = deque([greeting] if greeting else [])
        self._size = len(greeting)
        self._changed = asyncio.Condition()
        self._said = said
        self.ended = False
        self.closed = 0
        self.most = 0

    async def read(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._pieces or self.ended)
            if not self._pieces:
                return b""
            data = self._pieces.popleft()
            self._size -= len(data)
            self._changed.notify_all()
            return data

    async def write(self, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < MOST or self.ended)
            if self.ended:
                raise BrokenPipeError
            self._pieces.append(bytes(data))
            self._size += len(data)
            self.most = max(self.most, self._size)
            self._changed.notify_all()

    def said(self) -> tuple[str, ...]:
        return self._said

    def last_words(self) -> tuple[str, ...]:
        return self._said[-3:]

    async def end(self) -> None:
        """The command ends by itself."""
        async with self._changed:
            self.ended = True
            self._changed.notify_all()

    async def close(self, grace_s: float = 5.0) -> None:
        self.closed += 1
        await self.end()
