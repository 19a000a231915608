"""Lets a stop overtake a start: the steps of a start run in threads, and no await can end a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from provisioner.model.errors import LaunchError, Reason

P = ParamSpec("P")
T = TypeVar("T")

#: How many stopped names are remembered; names are never used twice, so an old one cannot come back.
KEPT_NAMES = 20_000


class Turns:
    """Knows which agents were stopped, and which steps of their starts still run in a thread."""

    def __init__(self) -> None:
        self._stopped: dict[str, None] = {}
        self._underway: dict[str, set[Future[object]]] = {}

    def stopped(self, agent: str) -> bool:
        """Whether a stop of the agent was ever asked for. Safe in any thread."""
        return agent in self._stopped

    def check(self, agent: str) -> None:
        """Keep a start from going on after a stop. Safe in any thread.

        Raises:
            LaunchError: cancelled; the agent was stopped.
        """
        if agent in self._stopped:
            raise LaunchError(f"the start of {agent} was stopped", reason=Reason.CANCELLED)

    async def step(
        self, pool: ThreadPoolExecutor, agent: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one step of a start in a thread, unless the agent was stopped.

        Raises:
            LaunchError: cancelled; the agent was stopped before the thread came to it.
        """
        self.check(agent)

        def guarded() -> T:
            self.check(agent)  # the step may have waited long for a free thread
            return work(*args, **kwargs)

        future = pool.submit(guarded)
        running: set[Future[object]] = self._underway.setdefault(agent, set())
        running.add(future)  # type: ignore[arg-type]  # a future is only waited for here, never filled
        try:
            return await asyncio.wrap_future(future)
        finally:
            if future.done():  # else the await was cancelled and the thread goes on: `stopping` waits for it
                running.discard(future)
            if not running:
                self._underway.pop(agent, None)

    async def stopping(self, agent: str, *, patience_s: float) -> None:
        """Let no further step of the agent's start begin, and wait for those that run.

        A step that outlives the patience finds the stop itself and takes back what it made.
        """
        self._stopped[agent] = None
        while len(self._stopped) > KEPT_NAMES:
            del self._stopped[next(iter(self._stopped))]
        running = self._underway.pop(agent, None)
        if not running:
            return
        loop = asyncio.get_running_loop()
        ended = [loop.create_future() for _ in running]

        def tell(waiter: asyncio.Future[None], _ended: Future[object]) -> None:
            loop.call_soon_threadsafe(lambda: None if waiter.done() else waiter.set_result(None))

        for future, waiter in zip(tuple(running), ended, strict=True):
            future.add_done_callback(partial(tell, waiter))
        await asyncio.wait(ended, timeout=patience_s)
