"""Time that passes only when nothing else can happen: hours of an agent's life in milliseconds, always the same.

A `VirtualLoop` never sleeps. Where another loop would wait for its next timer it moves its own time there,
so every `asyncio.timeout`, `sleep` and `Clock` in it agrees.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_START = datetime(2024, 1, 1, tzinfo=UTC)


class _Leap(selectors.DefaultSelector):
    """Asks for what is ready and never waits for it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits, and for no time: nothing can happen any more")
        if not ready and timeout:
            self.loop.seconds += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop over virtual time."""

    def __init__(self) -> None:
        selector = _Leap()
        selector.loop = self
        self.seconds = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.seconds

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one thing to its end, and whatever else there is beside it."""
        return self.run_until_complete(work)

    def pass_s(self, seconds: float) -> None:
        """Let that much time pass."""
        self.run(asyncio.sleep(seconds))

    def end(self) -> None:
        """Cancel what is left and close."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        for _ in range(5):  # what is cancelled may start something to clean up
            left = asyncio.all_tasks(self)
            if left:
                self.run_until_complete(asyncio.wait(left, timeout=1))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


class VirtualClock:
    """The clock of a `VirtualLoop`; the wall clock can be set, monotonic time cannot."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_s = 0.0

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._loop.time() + self.skew_s)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
